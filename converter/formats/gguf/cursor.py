"""The bytes of a GGUF file's header, from front to back."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from converter.errors import CutOffError, FormatError, LimitError
from converter.io.source import STEP
from converter.limits import limits
from converter.text import plural

if TYPE_CHECKING:
    from converter.io.source import Source

_SIZE: Final = struct.Struct("<Q")


class Cursor:
    """Reads a source from front to back through a window."""

    def __init__(self, source: Source, position: int) -> None:
        self.source = source
        self._start, self._window = position, b""
        self._at = 0  # within the window

    @property
    def position(self) -> int:
        """Where the next byte lies in the file."""
        return self._start + self._at

    @property
    def left(self) -> int:
        """Bytes up to the end of the file."""
        return self.source.size - self.position

    def take(self, size: int, what: str) -> bytes:
        """The next `size` bytes. Raises FormatError if the file ends before them; `what` is what they belong to."""
        self._need(size, what)
        self._at += size
        return self._window[self._at - size : self._at]

    def number(self, packed: str, what: str = "the header") -> int:
        """The next number."""
        value: int = struct.unpack(packed, self.take(struct.calcsize(packed), what))[0]
        return value

    def text(self, most: int, what: str) -> str:
        """The next string. Raises FormatError unless it is UTF-8, and LimitError beyond `most` bytes."""
        (size,) = _SIZE.unpack(self.take(8, what))
        self._fits(size, what)
        if size > most:
            raise LimitError(
                f"`{self.source.name}` has a text of {plural(size, 'byte')} in {what}: at most {most:,} are read"
            )
        try:
            return self.take(size, what).decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"`{self.source.name}` has a text in {what} that is not UTF-8: {error.reason}") from error

    def skip(self, size: int, what: str) -> None:
        """Skip `size` bytes."""
        self._fits(size, what)
        if self._at + size <= len(self._window):
            self._at += size
        else:
            self._start, self._window, self._at = self.position + size, b"", 0

    def skip_texts(self, count: int, what: str) -> None:
        """Skip strings without reading them."""
        for _ in range(count):
            if self._at + 8 > len(self._window):
                self._need(8, what)
            (size,) = _SIZE.unpack_from(self._window, self._at)
            self._at += 8
            if self._at + size <= len(self._window):
                self._at += size
            else:
                self.skip(size, what)

    def _fits(self, size: int, what: str) -> None:
        if size > self.left:
            raise CutOffError(
                f"`{self.source.name}` ends inside {what}: {plural(size, 'byte')} should follow, but there are only {self.left:,}"
            )
        if self.position + size > limits().gguf_bytes:
            raise LimitError(f"`{self.source.name}` has more than {limits().gguf_bytes:,} bytes of metadata")

    def _need(self, size: int, what: str) -> None:
        if self._at + size > len(self._window):
            self._fits(size, what)
            self._start, self._at = self.position, 0
            self._window = bytes(self.source.read(self._start, min(max(size, STEP), self.left)))
