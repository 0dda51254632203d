"""Reads GGUF, versions 2 and 3, little-endian: strictly, and only names and layouts.

Sources: ggml/docs/gguf.md; ggml/src/gguf.cpp, whose rules for offsets and limits are followed.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Final

from converter.dtypes import BY_NAME as DTYPES
from converter.dtypes import F32
from converter.errors import CutOffError, FormatError, LayoutError, LimitError
from converter.formats.gguf.cursor import Cursor
from converter.formats.gguf.encodings import BY_ID, Encoding, title, way_out
from converter.formats.gguf.metadata import ALIGNMENT, read_keys
from converter.formats.marks import GGUF, GGUF_MAGIC
from converter.io.source import STEP, Derived, Source
from converter.limits import limits
from converter.tensors.catalogue import Catalogue, File, Origin, Unsupported
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.text import plural
from converter.words import Root

_LONGEST_NAME: Final = 63  # bytes: ggml keeps names in 64, with a zero at the end
_DIMENSIONS: Final = 4  # GGML_MAX_DIMS


def read(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read names, layouts and metadata; no tensor's bytes. Shapes are row-major: GGUF's, in reverse.

    Blocks are decoded when they are read: such a tensor is F32, and its storage's `encoding` says what the file holds.
    """
    if root is not None:
        raise FormatError(f"`{source.name}` is a GGUF file: it holds one set of names, and no other to choose")
    cursor = Cursor(source, len(GGUF_MAGIC))
    version = cursor.number("<I")
    if version and version & 0xFFFF == 0:
        raise FormatError(f"`{source.name}` is a big-endian GGUF file: turn it into a little-endian one first")
    if version not in (2, 3):
        raise FormatError(f"`{source.name}` is a GGUF file of version {version}: 2 and 3 are read")
    tensors, keys = cursor.number("<Q"), cursor.number("<Q")
    # A key takes at least 8 + 1 + 4 + 1 bytes, and a tensor at least 8 + 1 + 4 + 4 + 8.
    for count, least, most, what in (
        (keys, 14, limits().gguf_keys, "keys"),
        (tensors, 25, limits().entries, "tensors"),
    ):
        if count * least > cursor.left:
            raise CutOffError(f"`{source.name}` has no room for the {count:,} {what} that it announces")
        if count > most:
            raise LimitError(f"`{source.name}` has {count:,} {what}: at most {most:,} are read")
    said = read_keys(cursor, keys)
    alignment = said.get("general.alignment", ALIGNMENT)
    infos = _infos(cursor, tensors)
    contents = _Contents(source, shard, cursor.position, alignment)
    for info, following in zip(infos, [*infos[1:], None], strict=False):
        contents.add(info, following)
    return Catalogue(
        contents.tensors,
        Origin(source.name, GGUF, (File(source.name, source.size),), (source,)),
        storages=tuple(tensor.storage for tensor in contents.tensors.values()),
        unsupported=tuple(contents.unsupported),
        problems=tuple(contents.problems()),
        metadata=said,
    )


class _Decoded(Derived):
    """The F32 elements, as bytes, of a tensor that a file holds in blocks."""

    def __init__(self, source: Source, offset: int, elements: int, encoding: Encoding) -> None:
        super().__init__(source, source.name, elements * F32.itemsize)
        self._offset, self._encoding = offset, encoding
        self._block = encoding.block * F32.itemsize  # bytes of a block's elements

    def _fill(self, offset: int, buffer: memoryview) -> None:
        import numpy as np

        from converter.formats.gguf.decoding import dequantise

        block, done = self._block, 0
        while done < len(buffer):
            first, inside = divmod(offset + done, block)
            count = min(-(-(inside + len(buffer) - done) // block), STEP // block)
            encoded = self.base.read(self._offset + first * self._encoding.nbytes, count * self._encoding.nbytes)
            values = np.empty(count * self._encoding.block, "<f4")
            dequantise(np.frombuffer(encoded, "u1"), self._encoding, values)
            piece = values.view("u1").data[inside : inside + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        first, last = offset // self._block, -(-(offset + size) // self._block)
        return self._offset + first * self._encoding.nbytes, (last - first) * self._encoding.nbytes


@dataclass(frozen=True, slots=True)
class _Info:
    name: str
    shape: tuple[int, ...]
    ggml: int
    offset: int  # bytes from the start of the data


def _infos(cursor: Cursor, count: int) -> list[_Info]:
    infos: list[_Info] = []
    seen: set[str] = set()
    for _ in range(count):
        size = cursor.number("<Q", "a tensor's name")
        if size > _LONGEST_NAME:
            raise FormatError(
                f"the name of tensor {len(infos):,} has {plural(size, 'byte')}: ggml reads at most {_LONGEST_NAME}"
            )
        raw = cursor.take(size, "a tensor's name")
        try:
            name = raw.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"the name of tensor {len(infos):,} is not UTF-8") from error
        if not name or "\0" in name:
            raise FormatError(f"the name of tensor {len(infos):,} is empty or holds a zero byte")
        if name in seen:
            raise FormatError(f"two tensors are both called `{name}`")
        seen.add(name)
        what = f"the entry of `{name}`"
        rank = cursor.number("<I", what)
        if rank > _DIMENSIONS:
            raise FormatError(f"`{name}` has {plural(rank, 'dimension')}: ggml has at most {_DIMENSIONS}")
        *sizes, type, offset = struct.unpack(f"<{rank}QIQ", cursor.take(8 * rank + 12, what))
        infos.append(_Info(name, tuple(reversed(sizes)), type, offset))
    return infos


class _Contents:
    """The tensors. Each entry is checked: data must be in order, one after another, padded, and within the file."""

    def __init__(self, source: Source, shard: int | None, end: int, alignment: int) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.unsupported: list[Unsupported] = []
        self._source, self._shard, self._alignment = source, shard, alignment
        self._start = _padded(end, alignment)
        self._next: int | None = 0  # where the next tensor must start; None after a tensor of unknown size
        self._least = 0

    def add(self, info: _Info, following: _Info | None) -> None:
        """Check a tensor's entry, and give the tensor its place. A tensor of an unknown type ends where the next one starts."""
        name, elements = info.name, math.prod(info.shape)
        encoding = BY_ID.get(info.ggml)
        if elements >= 1 << 63 or max(info.shape, default=0) >= 1 << 63:
            raise LayoutError(f"`{name}` has more elements than 63 bits can count: {info.shape}")
        if encoding is not None and info.shape and info.shape[-1] % encoding.block:
            raise LayoutError(
                f"`{name}` has rows of {plural(info.shape[-1], 'element')}, which are not whole blocks of {encoding.name}: "
                f"{plural(encoding.block, 'element')} each"
            )
        if encoding is not None and not info.shape and encoding.block > 1:
            raise LayoutError(f"`{name}` is a single element, which is not a whole block of {encoding.name}")
        if info.offset % self._alignment or info.offset < self._least or self._next not in (None, info.offset):
            expected = "a padded one beyond the last" if self._next is None else f"{self._next:,}"
            raise LayoutError(f"`{name}` starts at byte {info.offset:,} of the data: {expected} was expected")
        nbytes = encoding.size(elements) if encoding is not None else 0
        if elements and self._start + info.offset + nbytes > self._source.size:
            raise CutOffError(
                f"`{name}` ends at byte {self._start + info.offset + nbytes:,} of `{self._source.name}`, "
                f"which has {self._source.size:,}"
            )
        self._least = info.offset + _padded(nbytes, self._alignment)
        self._next = None if encoding is None else self._least
        end = self._source.size - self._start if following is None else following.offset
        self._keep(info, encoding, nbytes if encoding is not None else max(0, end - info.offset))

    def problems(self) -> list[str]:
        """Say what is unusual, though all tensors can be read."""
        found = []
        beyond = self._source.size - self._start - self._least
        if beyond > 0 and self._next is not None:
            found.append(f"`{self._source.name}` has {plural(beyond, 'byte')} after its last tensor")
        return found

    def _keep(self, info: _Info, encoding: Encoding | None, nbytes: int) -> None:
        source, start = self._source, self._start + info.offset
        if encoding is None:
            kind, way = title(info.ggml), way_out(info.ggml)
            held = Storage(source, start, nbytes, info.name, self._shard, encoding=kind)
            self.unsupported.append(
                Unsupported(info.name, "quantised", kind, info.shape, nbytes, way, storage=held, code=info.ggml)
            )
            return
        if encoding.name in DTYPES:
            dtype = DTYPES[encoding.name]
            storage = Storage(source, start, nbytes, info.name, self._shard)
        else:
            dtype, decoded = F32, _Decoded(source, start, math.prod(info.shape), encoding)
            storage = Storage(decoded, 0, decoded.size, info.name, self._shard, encoding=encoding.name)
        self.tensors[info.name] = Tensor(dtype, info.shape, row_major(info.shape), 0, storage)


def _padded(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment
