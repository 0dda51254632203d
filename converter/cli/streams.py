"""Versions of stdout and stderr on which no line can be a command to the runner of a CI."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final, TextIO

from converter.text import encodable, without_commands

_HELD: Final = 1 << 16  # characters of an unfinished line that are kept


class Over(io.TextIOBase):
    """A text stream that writes to another one, in its encoding and to its terminal."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The encoding of the underlying stream."""
        return self._stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        """How the underlying stream treats characters that it can't encode."""
        return self._stream.errors

    def isatty(self) -> bool:
        """Whether the underlying stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """The descriptor of the underlying stream."""
        return self._stream.fileno()

    def writable(self) -> bool:
        """True, because this stream is only written to."""
        return True


class Lines(Over):
    """A text stream that escapes commands in whole lines, even if a line was wrapped or written in pieces.

    Characters that the underlying stream can't encode become similar ones, or escapes.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._held = ""  # the beginning of a line

    def write(self, text: str) -> int:
        """Write whole lines. The beginning of the last line is kept until its end comes, or until `flush`."""
        lines, end, rest = text.rpartition("\n")
        if end:
            said, self._held = without_commands(self._held + lines + end), rest
            self._put(said)
        else:
            self._held += text
        # A terminal shows text without a line end, such as a progress bar, at once.
        if len(self._held) > _HELD or self.isatty():
            self._let_go()
        return len(text)

    def flush(self) -> None:
        """Write the text that is kept, and flush the underlying stream."""
        self._let_go()
        self._stream.flush()

    def _let_go(self) -> None:
        said, self._held = without_commands(self._held), ""
        if said:
            self._put(said)

    def _put(self, text: str) -> None:
        self._stream.write(encodable(text, self._stream.encoding or "utf-8"))


@contextmanager
def without_commands_on_streams() -> Iterator[None]:
    """Replace `sys.stdout` and `sys.stderr` by such streams for the body of a `with`."""
    before = sys.stdout, sys.stderr
    with ExitStack() as opened:
        # A stream that was closed is None. The next file that is opened would have its descriptor, so nothing is put there.
        there = [
            opened.enter_context(open(os.devnull, "w", encoding="utf-8")) if stream is None else stream
            for stream in before
        ]
        sys.stdout, sys.stderr = map(Lines, there)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
