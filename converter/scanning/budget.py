"""How much may still be run and read in one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from converter.limits import limits

_SPARE: Final = 16 << 20  # bytes that may be read behind the headers of a broken archive, however small it is


@dataclass(slots=True)
class Budget:
    """What was spent on one file, and what the limits leave of it."""

    pickles: int = 0  # that are listed
    run_nbytes: int = 0  # of pickles that were run
    salvage_nbytes: int = 0  # that were read behind the headers of a broken archive

    @property
    def pickle_nbytes(self) -> int:
        """How many bytes of pickles may still be run."""
        return limits().pickle_bytes - self.run_nbytes

    def may_salvage(self, size: int) -> bool:
        """Whether more may be read behind the headers of a broken archive of `size` bytes."""
        return self.salvage_nbytes <= min(limits().pickle_bytes, 8 * size + _SPARE)
