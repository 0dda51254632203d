"""A line on the terminal that shows which file a scan has reached. It imports nothing but typer."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from typing import Final, TextIO

from converter.text import cells, safe_text

_REFRESH: Final = 0.1  # seconds


class Following:
    """A line on the terminal with the number of files done and the file that is being scanned."""

    def __init__(self, what: str, out: TextIO | None) -> None:
        self._what, self._out = what, out
        self._done = self._total = 0
        self._shown = 0.0  # the time of the last update, in seconds

    def start(self, total: int) -> None:
        """Set the number of files."""
        self._total = total

    def __call__(self, name: str) -> None:
        """Show the file that is scanned next."""
        if self._out is not None and time.monotonic() - self._shown >= _REFRESH:
            self._shown = time.monotonic()
            said = f"{self._what} {self._done:,}/{self._total:,} "
            width = shutil.get_terminal_size().columns - len(said) - 1
            self._out.write(f"\r\x1b[K{said}{in_columns(safe_text(name, 8000), width)}")
            self._out.flush()
        self._done += 1

    def end(self) -> None:
        """Remove the line."""
        if self._out is not None and self._shown:
            self._out.write("\r\x1b[K")
            self._out.flush()


@contextlib.contextmanager
def following(what: str, *, quiet: bool = False) -> Iterator[Following]:
    """Show on stderr how far a scan has come; nothing if stderr is not a terminal."""
    progress = Following(what, None if quiet or not sys.stderr.isatty() else sys.stderr)
    try:
        yield progress
    finally:
        progress.end()


def shortened(text: str, width: int = 200) -> str:
    """Cut a text to `width` characters in its middle, because the two ends of a name say the most."""
    if len(text) <= width:
        return text
    behind = (width - 1) * 2 // 3
    return f"{text[: width - 1 - behind]}…{text[len(text) - behind :]}"


def in_columns(text: str, width: int) -> str:
    """Cut a text in its middle to `width` columns of a terminal. Some characters take two columns."""
    if cells(text) <= width:
        return text
    return shortened(text, max(width // 2 if cells(text) > len(text) else width, 1))
