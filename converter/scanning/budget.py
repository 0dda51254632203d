"""How much may still be run and read in one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from converter.errors import LimitError
from converter.limits import limits

_ROOM: Final = 64 << 20  # bytes that may come out of any compressed file, however small it is
_RATIO: Final = 100  # times its size that may come out besides: weights shrink by a tenth, text to a tenth
_SPARE: Final = 16 << 20  # bytes that may be read behind the headers of a broken archive, however small it is


@dataclass(slots=True)
class Budget:
    """What was spent on one file, and what the limits leave of it."""

    pickles: int = 0  # that are listed
    run_nbytes: int = 0  # of pickles that were run
    salvage_nbytes: int = 0  # that were read behind the headers of a broken archive
    inflated_nbytes: int = 0  # that came out of what is compressed

    @property
    def pickle_nbytes(self) -> int:
        """How many bytes of pickles may still be run."""
        return limits().pickle_bytes - self.run_nbytes

    def inflate(self, nbytes: int, size: int) -> None:
        """Count what comes out of a compressed file of `size` bytes. Raises LimitError where that is too much for it."""
        self.inflated_nbytes += nbytes
        most = _ROOM + _RATIO * size
        if self.inflated_nbytes > most:
            raise LimitError(
                f"{size:,} bytes that inflate to more than {most:,}: what comes after them was not looked into"
            )

    def may_salvage(self, size: int) -> bool:
        """Whether more may be read behind the headers of a broken archive of `size` bytes."""
        return self.salvage_nbytes <= min(limits().pickle_bytes, 8 * size + _SPARE)
