"""Standard input as a source. It is copied to a temporary file without a name, because a source is read at any offset."""

from __future__ import annotations

import sys
from typing import Final

from converter.errors import LimitError, SourceError
from converter.io.source import STEP, Source
from converter.io.spool import Spool
from converter.limits import limits
from converter.text import os_reason

NAME: Final = "standard input"


class StandardInput(Source):
    """Everything that standard input gives, up to its end.

    Raises LimitError if it is longer than the limit `stdin_bytes`, SourceError if it can't be read or copied.
    """

    name = NAME

    def __init__(self) -> None:
        if sys.stdin is None or sys.stdin.closed:
            raise SourceError(f"there is no {NAME} to read")
        if sys.stdin.isatty():
            raise SourceError(f"{NAME} is a terminal: send a file to it, as in `cerebras-tool inspect - < FILE`")
        self._spool, self._closed = Spool(), False
        self.size, most = 0, limits().stdin_bytes
        try:
            # Read one byte more than allowed, to see whether there are more.
            while piece := sys.stdin.buffer.read(min(STEP, most + 1 - self.size)):
                self.size += len(piece)
                if self.size > most:
                    raise LimitError(f"{NAME} has more than {most:,} bytes, the limit `stdin_bytes`")
                self._spool.append([piece])
        except OSError as error:
            self.close()
            raise SourceError(f"{NAME} can't be kept in a temporary file: {os_reason(error)}") from error
        except LimitError:
            self.close()
            raise

    def check_open(self) -> None:
        """Raise SourceError if it was closed."""
        if self._closed:
            raise SourceError(f"{NAME} was closed")

    def close(self) -> None:
        """Remove the temporary file; later reads fail."""
        self._closed = True
        self._spool.close()

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self.check_open()
        self._spool.readinto(offset, buffer, self.name)
