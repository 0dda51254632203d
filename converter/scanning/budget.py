"""How much may still be run and read for one file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from converter.errors import LimitError
from converter.limits import limits
from converter.text import plural

_ROOM: Final = 64 << 20  # bytes that any compressed file may inflate to, however small it is
_RATIO: Final = 100  # further bytes that each compressed byte may become: weights shrink by a tenth, text to a tenth
_ANYWAY: Final = 1000  # pickles that any file may have, however small they are
_USUAL: Final = 64  # bytes that each further pickle has on average; a pickle takes as long as reading them
_SPARE: Final = 16 << 20  # bytes that may be read after the headers of any broken archive, however small it is


@dataclass(slots=True)
class Budget:
    """What was spent on one file, and what the limits leave."""

    pickles: int = 0  # listed so far
    texts: int = 0  # texts that were run so far, because they may be pickles
    run_nbytes: int = 0  # bytes of pickles that were run
    salvage_nbytes: int = 0  # bytes read after the headers of a broken archive
    inflated_nbytes: int = 0  # bytes that compressed data inflated to

    @property
    def pickle_nbytes(self) -> int:
        """How many bytes of pickles may still be run."""
        return limits().pickle_bytes - self.run_nbytes

    @property
    def most_pickles(self) -> int:
        """How many pickles, and texts that may be pickles, are run for one file."""
        return min(limits().scan_pickles, _ANYWAY + self.run_nbytes // _USUAL)

    @property
    def pickles_left(self) -> int:
        """How many of them may still be run."""
        return self.most_pickles - self.pickles - self.texts

    def inflate(self, nbytes: int, size: int) -> None:
        """Count the bytes that a compressed file of `size` bytes inflates to. Raises LimitError if they are too many for it."""
        self.inflated_nbytes += nbytes
        most = _ROOM + _RATIO * size
        if self.inflated_nbytes > most:
            raise LimitError(
                f"{plural(size, 'byte that inflates', 'bytes that inflate')} to more than {most:,}: "
                "what comes after was not looked into"
            )

    def may_salvage(self, size: int) -> bool:
        """Whether more may be read after the headers of a broken archive of `size` bytes."""
        return self.salvage_nbytes <= min(limits().pickle_bytes, 8 * size + _SPARE)
