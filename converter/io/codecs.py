"""Compressed files: how each kind is recognised, and which library inflates it. Optional libraries are imported only here.

They are imported when a file needs them, because most files are not compressed.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from converter.errors import ArchiveError, UnsupportedError

if TYPE_CHECKING:
    from converter.io.source import Source

_READ: Final = 64 << 10  # bytes that a library is given at a time
_TRIED: Final = 512  # bytes that are read and inflated at a time while it is unknown whether a file is compressed
_WRITTEN: Final = 1 << 20  # bytes that a library returns at a time, at most
# Bytes before the stream in joblib's old form (joblib/numpy_pickle_compat.py, `read_zfile`).
_OLD_HEADER: Final = 2 + 19
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
    """A kind of compression. `inflater` is None if no library is installed. `padding` may lie between two streams.

    If there is a `trial`, files that are not compressed can start in the same way: the trial inflates at least the
    first byte, and raises an error for such files.
    """

    title: str
    inflater: Callable[[], Inflater] | None
    padding: bytes = b""
    trial: Callable[[], Inflater] | None = None


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


class _FirstChanged:
    """A decompressor whose first piece of input is changed before it is read: `change` gives the new one."""

    def __init__(self, inner: Inflater, change: Callable[[bytes], bytes]) -> None:
        self._inner = inner
        self._change: Callable[[bytes], bytes] | None = change

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return self._inner.needs_input

    def decompress(self, data: bytes, max_length: int = _WRITTEN) -> bytes:
        if self._change is not None:
            data, self._change = self._change(data), None
        return self._inner.decompress(data, max_length)


def _old_joblib() -> Inflater:
    """The zlib stream in a file of joblib before 0.10. Before it come `ZF`, its length in 19 characters, and perhaps a blank."""
    return _FirstChanged(_Zlib(zlib.MAX_WBITS), lambda data: data[_OLD_HEADER:].removeprefix(b" "))


def _small_dictionary() -> Inflater:
    """An lzma stream, read with the smallest dictionary whatever its header asks for: enough to read its first byte."""
    import lzma

    inner = lzma.LZMADecompressor(lzma.FORMAT_ALONE)
    return _FirstChanged(inner, lambda data: data[:1] + (4096).to_bytes(4, "little") + data[5:])


def _zlib(head: bytes) -> bool:
    # joblib takes anything that starts with 0x78; zlib itself requires the two bytes to be a multiple of 31.
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
    for title, matches, make, padding, trial in _CODECS:
        if matches(head):
            return Codec(title, make(), padding, trial)
    return None


_Row: TypeAlias = tuple[
    str,
    Callable[[bytes], bool],
    Callable[[], Callable[[], Inflater] | None],
    bytes,
    Callable[[], Inflater] | None,
]

# joblib goes by the first two bytes of lzma (0x5d, 0), zlib (0x78), gzip and bzip2 files, and of its own old form.
_CODECS: Final[tuple[_Row, ...]] = (
    ("a gzip file", _starts(b"\x1f\x8b\x08"), lambda: lambda: _Zlib(31), b"\0", None),
    ("a bzip2 file", _starts(b"BZh"), _bzip2, b"", None),
    ("an xz file", _starts(b"\xfd7zXZ\0"), _xz, b"\0", None),
    ("an lzma file", _starts(b"\x5d\0"), _lzma, b"", _small_dictionary),
    ("a zlib stream", _zlib, lambda: lambda: _Zlib(15), b"", lambda: _Zlib(15)),
    ("a file of joblib before 0.10", _starts(b"ZF"), lambda: _old_joblib, b"", _old_joblib),
    ("a Zstandard file", _starts(b"\x28\xb5\x2f\xfd"), _zstandard, b"", None),
    ("an lz4 file", _starts(b"\x04\x22\x4d\x18", b"\x02\x21\x4c\x18"), _lz4, b"", None),
    ("a file that starts with a frame to be skipped (lz4 or Zstandard)", _skippable, lambda: None, b"", None),
)

TITLES: Final = frozenset(title for title, *_ in _CODECS)


def inflated(source: Source, kind: Codec, *, step: int = _READ, most: int = 1) -> Iterator[bytes]:
    """Yield what a file inflates to, all its streams one after another, in pieces of at most 1 MiB.

    Raises ArchiveError if it is broken or cut off, or if something else follows the last stream. Everything that could
    be inflated is yielded first, except the last piece. `step` bytes are read at a time, and `most` bytes are asked for
    in the first piece.
    """
    if kind.inflater is None:
        raise UnsupportedError(f"no library that inflates {kind.title} is installed")
    position, waiting, inner, streams, fresh = 0, b"", kind.inflater(), 0, True
    while True:
        if inner.needs_input and not waiting and position < source.size:
            waiting = bytes(source.read(position, min(step, source.size - position)))
            position += len(waiting)
        ended = not waiting and position >= source.size
        try:
            data, waiting = inner.decompress(waiting, most), b""
        except Exception as error:  # each library raises errors of its own
            if streams:
                raise ArchiveError(f"something follows the end of {kind.title}, before byte {position:,}") from error
            raise ArchiveError(f"{kind.title} can't be inflated up to byte {position:,}: {error!s:.100}") from error
        if data:
            # What a call has inflated before an error is lost, so the calls ask for little at first.
            fresh, most = False, min(2 * most, _WRITTEN)
            yield data
        if inner.eof:
            streams += 1
            waiting = inner.unused_data.lstrip(kind.padding) if kind.padding else inner.unused_data
            while kind.padding and not waiting and position < source.size:
                waiting = bytes(source.read(position, min(step, source.size - position)))
                position, waiting = position + len(waiting), waiting.lstrip(kind.padding)
            if not waiting and position >= source.size:
                return
            inner, fresh = kind.inflater(), True
        elif ended and not data and inner.needs_input:
            if streams and fresh:
                raise ArchiveError(f"something follows the end of {kind.title}, before byte {position:,}")
            raise ArchiveError(f"{kind.title} is cut off")


def is_compressed(source: Source, kind: Codec) -> bool:
    """Whether a file that starts like `kind` is of that kind: at least one byte can be inflated, however late it comes."""
    make = kind.trial or kind.inflater
    try:
        # No loader takes smaller steps. So if any loader gets data from the file, this does too, whatever follows the data.
        return make is not None and any(inflated(source, replace(kind, inflater=make), step=_TRIED, most=_TRIED))
    except ArchiveError:
        return False
