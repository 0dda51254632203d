"""The files of a GGUF output: header, keys, tensors one after another; and how a large model is cut into several.

Sources: ggml/docs/gguf.md; tools/gguf-split/gguf-split.cpp, whose parts these are to the byte.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from converter.dtypes import BY_NAME as DTYPES
from converter.dtypes import F32
from converter.errors import OutputError
from converter.formats.gguf.blocks import quantised
from converter.formats.gguf.encodings import Encoding
from converter.formats.gguf.keys import packed_text, scalar
from converter.formats.gguf.metadata import SPLIT_COUNT, SPLIT_NUMBER, SPLIT_TENSORS
from converter.formats.marks import GGUF_MAGIC
from converter.io.parts import Buffers, Part, known
from converter.io.publish import Piece, PlannedFile, literal
from converter.tensors.casting import Loss, Losses, converted
from converter.tensors.parts import storage_parts, tensor_parts
from converter.tensors.tensor import Storage

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor

_VERSION: Final = 3
_MOST: Final = 0xFFFF  # parts that a u16 can count


@dataclass(frozen=True, slots=True)
class Written:
    """A tensor to write. `tensor` is the view whose row-major bytes GGUF stores.

    A `free` one has the encoding that the caller chose; llama.cpp aborts if a vector or a norm has one. `blocks` are bytes to
    copy: those of a tensor that its file holds in this encoding already.
    """

    name: str
    source: str
    tensor: Tensor
    encoding: Encoding
    free: bool
    blocks: Storage | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        return self.encoding.size(self.tensor.size)


def planned_files(
    tensors: Sequence[Written],
    keys: Mapping[str, bytes],
    path: str,
    *,
    alignment: int,
    most: int | None,
    losses: Losses,
) -> list[PlannedFile]:
    """One file, or parts with at most `most` bytes of tensors each: `<stem>-00001-of-00003.gguf`.

    `keys` are packed; the first part has them. Raises OutputError if `path` can't be the name of several files.
    """
    shards = _shards(tensors, alignment, most)
    if len(shards) > 1 and not path.endswith(".gguf"):
        raise OutputError(
            "a GGUF file in several parts needs a folder to lie in: name a folder, or leave --max-shard-size out"
        )
    files = []
    for number, shard in enumerate(shards):
        name, here = path, dict(keys) if number == 0 else {}
        if len(shards) > 1:
            name = f"{path.removesuffix('.gguf')}-{number + 1:05}-of-{len(shards):05}.gguf"
            # In this order: llama-gguf-split sets the count last.
            here |= [
                scalar(SPLIT_NUMBER, "u16", number),
                scalar(SPLIT_TENSORS, "i32", len(tensors)),
                scalar(SPLIT_COUNT, "u16", len(shards)),
            ]
        pieces = [literal("header", _header(shard, list(here.values()), alignment))]
        pieces += [Piece(one.name, tuple(_parts(one, alignment, losses)), one.encoding.name) for one in shard]
        files.append(PlannedFile(name, tuple(pieces)))
    return files


def _shards(tensors: Sequence[Written], alignment: int, most: int | None) -> list[list[Written]]:
    """Divide the tensors, in their order, among parts of at most `most` bytes; a larger tensor has a part of its own."""
    shards: list[list[Written]] = [[]]
    used = 0
    for written in tensors:
        nbytes = _padded(written.nbytes, alignment)
        if most is not None and shards[-1] and used + nbytes > most:
            shards.append([])
            used = 0
        shards[-1].append(written)
        used += nbytes
    if len(shards) > _MOST:
        raise OutputError(f"{len(shards):,} files: GGUF counts up to {_MOST:,}; choose a larger --max-shard-size")
    return shards


def _header(tensors: Sequence[Written], keys: Sequence[bytes], alignment: int) -> bytes:
    infos, offset = [], 0
    for written in tensors:
        shape = written.tensor.shape
        sizes = struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), written.encoding.ggml, offset)
        infos.append(packed_text(written.name) + sizes)
        offset += _padded(written.nbytes, alignment)
    header = b"".join([GGUF_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(keys)), *keys, *infos])
    return header.ljust(_padded(len(header), alignment), b"\0")


def _parts(written: Written, alignment: int, losses: Losses) -> Iterator[Part]:
    tensor, encoding = written.tensor, written.encoding
    target = DTYPES.get(encoding.name, F32)

    def made(view: Tensor, tiles: Iterator[memoryview], buffers: Buffers) -> Iterator[memoryview]:
        loss = Loss()
        values = converted(tiles, tensor.dtype, target, loss)
        yield from values if encoding.block == 1 else quantised(values, encoding, written.source)
        if loss or loss.nan:
            losses.add(written.source, loss)

    if written.blocks is not None:
        yield from storage_parts(written.blocks)
    else:
        yield from tensor_parts(tensor, size=encoding.size, made=made)
    if padding := bytes(_padded(written.nbytes, alignment) - written.nbytes):
        yield known(padding)


def _padded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment
