"""Compressed files: how each kind is recognised, and which library inflates it. Optional libraries are imported only here.

They are imported when a file needs them, because most files are not compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol

from converter.errors import ArchiveError, UnsupportedError

if TYPE_CHECKING:
    from converter.io.source import Source

_READ: Final = 64 << 10  # bytes that a library is given at a time
_WRITTEN: Final = 1 << 20  # bytes that it returns at a time, at most
_DICTIONARY: Final = 128 << 20  # bytes of memory that an xz or lzma stream may use


class Inflater(Protocol):
    """Inflates one stream. When the stream has ended, `eof` is true and `unused_data` has the bytes after it."""

    @property
    def eof(self) -> bool:
        """Whether the stream has ended."""
        ...

    @property
    def unused_data(self) -> bytes:
        """The bytes after the stream."""
        ...

    @property
    def needs_input(self) -> bool:
        """Whether everything that was handed over is used up."""
        ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes:
        """At most `max_length` bytes, inflated from `data` and from what was handed over before."""
        ...


@dataclass(frozen=True, slots=True)
class Codec:
    """A kind of compression. `matches` looks at the first bytes of a file; `inflater` is None if no library is installed.

    `padding` may stand between two streams. `loose`: files that are not compressed can start in the same way.
    """

    title: str
    matches: Callable[[bytes], bool]
    inflater: Callable[[], Inflater] | None
    padding: bytes = b""
    loose: bool = False


class _Zlib:
    """zlib's decompressor with the interface of the others; zlib itself leaves unread input to its caller."""

    def __init__(self, bits: int) -> None:
        self._inner = zlib.decompressobj(bits)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int = _WRITTEN) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def _zlib(head: bytes) -> bool:
    # joblib takes anything that starts with 0x78; zlib itself wants the two bytes to be a multiple of 31.
    return head[:1] == b"\x78" and len(head) > 1 and (head[0] * 256 + head[1]) % 31 == 0


def _starts(*magics: bytes) -> Callable[[bytes], bool]:
    return lambda head: head.startswith(magics)


def _skippable(head: bytes) -> bool:
    """Whether the data starts with a frame that lz4 and Zstandard skip, so that the next frame decides."""
    return head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F


def _installed(*ways: tuple[str, str]) -> Callable[[], Inflater] | None:
    """The first of these (module, name) that is installed. None of the names comes from a file."""
    for module, name in ways:
        try:
            found: Any = vars(import_module(module))[name]
        except (ImportError, KeyError):
            continue
        return found  # type: ignore[no-any-return]
    return None


def _bzip2() -> Callable[[], Inflater]:
    from bz2 import BZ2Decompressor

    return BZ2Decompressor


def _xz() -> Callable[[], Inflater]:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _DICTIONARY)


def _lzma() -> Callable[[], Inflater]:
    import lzma

    return lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, _DICTIONARY)


def _zstandard() -> Callable[[], Inflater] | None:
    return _installed(("compression.zstd", "ZstdDecompressor"), ("backports.zstd", "ZstdDecompressor"))


def _lz4() -> Callable[[], Inflater] | None:
    return _installed(("lz4.frame", "LZ4FrameDecompressor"))


def codec(head: bytes) -> Codec | None:
    """The kind of compression that the first bytes of a file show."""
    for title, matches, make, padding in _CODECS:
        if matches(head):
            return Codec(title, matches, make(), padding, loose=matches is _zlib)
    return None


_CODECS: Final[tuple[tuple[str, Callable[[bytes], bool], Callable[[], Callable[[], Inflater] | None], bytes], ...]] = (
    ("a gzip file", _starts(b"\x1f\x8b\x08"), lambda: lambda: _Zlib(31), b"\0"),
    ("a bzip2 file", _starts(b"BZh"), _bzip2, b""),
    ("an xz file", _starts(b"\xfd7zXZ\0"), _xz, b"\0"),
    ("an lzma file", _starts(b"\x5d\0\0"), _lzma, b""),
    ("a zlib stream", _zlib, lambda: lambda: _Zlib(15), b""),
    ("a Zstandard file", lambda head: head.startswith(b"\x28\xb5\x2f\xfd"), _zstandard, b""),
    ("an lz4 file", _starts(b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"), _lz4, b""),
    ("a file that starts with a frame to be skipped (lz4 or Zstandard)", _skippable, lambda: None, b""),
)


def inflated(source: Source, kind: Codec) -> Iterator[bytes]:
    """Yield what a file inflates to, all its streams one after another, in pieces of at most 1 MiB.

    Raises ArchiveError if it is broken or cut off, or if something else follows the last stream. Everything that could
    be inflated is yielded first.
    """
    if kind.inflater is None:
        raise UnsupportedError(f"no library that inflates {kind.title} is installed")
    position, waiting, inner, streams, fresh = 0, b"", kind.inflater(), 0, True
    while True:
        if inner.needs_input and not waiting and position < source.size:
            waiting = bytes(source.read(position, min(_READ, source.size - position)))
            position += len(waiting)
        ended = not waiting and position >= source.size
        try:
            data, waiting = inner.decompress(waiting, _WRITTEN), b""
        except Exception as error:  # each library raises errors of its own
            if streams:
                raise ArchiveError(f"something follows the end of {kind.title}, before byte {position:,}") from error
            raise ArchiveError(f"{kind.title} can't be inflated up to byte {position:,}: {error!s:.100}") from error
        if data:
            fresh = False
            yield data
        if inner.eof:
            streams += 1
            waiting = inner.unused_data.lstrip(kind.padding) if kind.padding else inner.unused_data
            while kind.padding and not waiting and position < source.size:
                waiting = bytes(source.read(position, min(_READ, source.size - position)))
                position, waiting = position + len(waiting), waiting.lstrip(kind.padding)
            if not waiting and position >= source.size:
                return
            inner, fresh = kind.inflater(), True
        elif ended and not data and inner.needs_input:
            if streams and fresh:
                raise ArchiveError(f"something follows the end of {kind.title}, before byte {position:,}")
            raise ArchiveError(f"{kind.title} is cut off")


def beginning(head: bytes, kind: Codec) -> bytes:
    """What the first bytes of a file inflate to; empty if they can't be inflated."""
    if kind.inflater is None:
        return b""
    try:
        return kind.inflater().decompress(head, _READ)
    except Exception:  # each library raises errors of its own
        return b""
