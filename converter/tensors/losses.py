"""What conversions between floating-point formats lose."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock


@dataclass(slots=True)
class Loss:
    """What conversions lost, in elements, each counted once.

    `nan` counts NaNs that went into F16 or BF16, or came from F64: they stay NaNs, but lose some of their bits.
    """

    nan: int = 0
    overflowed: int = 0  # finite, and became infinite
    underflowed: int = 0  # not zero, and became zero
    rounded: int = 0
    dtype: str = field(default="", compare=False)  # the name of the dtype that the numbers got

    def __bool__(self) -> bool:
        """Whether any number became another one."""
        return bool(self.overflowed or self.underflowed or self.rounded)


class Losses(dict[str, Loss]):
    """Losses by the names of tensors. Several threads add the losses of a tensor's parts."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = Lock()

    def add(self, name: str, loss: Loss) -> None:
        """Add what a part of a tensor lost."""
        with self._lock:
            known = self.setdefault(name, Loss(dtype=loss.dtype))
            known.nan += loss.nan
            known.overflowed += loss.overflowed
            known.underflowed += loss.underflowed
            known.rounded += loss.rounded
