"""The files of a GGUF output: header, keys, tensors one after another; and how a large model is cut into several.

Sources: ggml/docs/gguf.md; tools/gguf-split/gguf-split.cpp, whose parts these are to the byte.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from converter.dtypes import BY_NAME as DTYPES
from converter.dtypes import F32
from converter.errors import FormatError, OutputError, UnsupportedError
from converter.formats.gguf.encodings import ALONE, WEIGHED_ONLY, Encoding
from converter.formats.gguf.imatrix import Entry, Importance
from converter.formats.gguf.keys import packed_text, scalar
from converter.formats.gguf.metadata import SPLIT_COUNT, SPLIT_NUMBER, SPLIT_TENSORS
from converter.formats.gguf.names import EMBEDDING
from converter.formats.marks import GGUF_MAGIC
from converter.io.parts import Buffers, Part, known
from converter.io.publish import Piece, PlannedFile, literal
from converter.io.source import STEP
from converter.tensors.casting import converted
from converter.tensors.losses import Loss, Losses
from converter.tensors.parts import storage_parts, tensor_parts
from converter.tensors.tensor import Storage
from converter.text import plural
from converter.words import option, rule

if TYPE_CHECKING:
    from converter.tensors.tensor import Tensor

_VERSION: Final = 3
_STEP: Final = 1 << 20  # bytes that are read and quantised at once: the fewer steps, the less of the time is Python's
_MOST: Final = 0xFFFF  # parts that a u16 can count


@dataclass(frozen=True, slots=True)
class Written:
    """A tensor to write. `tensor` is the view whose row-major bytes GGUF stores.

    `free`: llama.cpp computes with any encoding of it, so it has the one that the caller chose. With an encoded vector or norm,
    llama.cpp aborts. `blocks` are bytes to copy, if the source holds the tensor in this encoding already. `importance` is that
    of each column, for each expert in turn.
    """

    name: str
    source: str
    tensor: Tensor
    encoding: Encoding
    free: bool
    blocks: Storage | None = None
    importance: Entry | None = None

    @property
    def nbytes(self) -> int:
        """Bytes in the file, without padding."""
        return self.encoding.size(self.tensor.size)


def weighed(tensors: Sequence[Written], importance: Importance, notes: list[str]) -> list[Written]:
    """The same tensors with their importance. Raises FormatError if the importance belongs to another model.

    As in llama-quantize, an embedding whose importance does not fit goes without.
    """
    found, without = [], []
    for written in tensors:
        entry = importance.entries.get(written.name)
        shape = written.tensor.shape
        if written.encoding.block == 1 or written.blocks is not None:
            entry = None
        elif entry is None:
            without.append(written.name)
        elif entry.count != shape[-1] * math.prod(shape[:-2]):
            if written.name != EMBEDDING:
                raise FormatError(
                    f"`{importance.path}` has {plural(entry.count, 'number')} for `{written.name}`, "
                    f"which has {plural(shape[-1], 'column')}: "
                    "it was made for another model"
                )
            entry = None
        found.append(replace(written, importance=entry))
    if not any(written.importance for written in found):
        raise FormatError(
            f"`{importance.path}` has no entry for any matrix that is quantised here: leave {option('imatrix')} out, or make it "
            "from this model"
        )
    if without:
        are = "is" if len(without) == 1 else "are"
        notes.append(
            f"{plural(len(without), 'matrix', 'matrices')} {are} not in the importance matrix, and {are} quantised "
            f"without: {first(without)}"
        )
    return found


def check_makeable(tensors: Sequence[Written]) -> None:
    """Raise UnsupportedError for a type that needs a library that is not there, or importance that was not given."""
    made = {one.encoding.name: one for one in tensors if one.encoding.name in ALONE and one.blocks is None}
    if not made:
        return
    from converter.formats.gguf.quantising import missing  # this imports numpy, which plans do without

    for name in made:
        if missing(name):
            raise UnsupportedError(
                f"{name} is made by ggml's own library: install it with `pip install 'cerebras-tool[llama-cpp]'`, or choose q4_k"
            )
    for one in tensors:
        if one.encoding.name in WEIGHED_ONLY and one.blocks is None and one.importance is None:
            raise UnsupportedError(
                f"{one.encoding.name} needs the importance of columns, and there is none for `{one.source}`: give an "
                f"{option('imatrix', 'FILE')} that has it, or another type with {rule('tensor-type', one.source, 'q4_k')}"
            )


def first(names: list[str]) -> str:
    """A few names for a sentence."""
    return ", ".join(f"`{name}`" for name in names[:4]) + (", …" if len(names) > 4 else "")


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
            f"a GGUF file in several parts needs a folder to lie in: name a folder, or leave {option('max-shard-size')} out"
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
        raise OutputError(
            f"{plural(len(shards), 'file')}: GGUF counts up to {_MOST:,}; choose a larger {option('max-shard-size')}"
        )
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

    def made(
        view: Tensor, tiles: Iterator[memoryview], buffers: Buffers, *, expert: int | None = None
    ) -> Iterator[memoryview]:
        loss = Loss(dtype=target.name)
        values = converted(tiles, tensor.dtype, target, loss)
        if encoding.block > 1:
            from converter.formats.gguf.quantising import quantised  # this imports numpy, which plans do without

            weights = None
            if written.importance is not None and expert is not None:
                columns = tensor.shape[-1]
                weights = written.importance.read()[expert * columns : (expert + 1) * columns]
            values = quantised(values, encoding, written.source, weights)
        yield from values
        if loss or loss.nan:
            losses.add(written.source, loss)

    if written.blocks is not None:
        yield from storage_parts(written.blocks)
    elif written.importance is None:
        step = _STEP if encoding.block > 1 else STEP
        yield from tensor_parts(tensor, size=encoding.size, made=made, step=step)
    else:
        for expert, matrix in enumerate(_matrices(tensor)):
            yield from tensor_parts(
                matrix, rows=True, size=encoding.size, made=partial(made, expert=expert), step=_STEP
            )
    if padding := bytes(_padded(written.nbytes, alignment) - written.nbytes):
        yield known(padding)


def _matrices(tensor: Tensor) -> Iterator[Tensor]:
    """The matrices that a tensor consists of, one for each expert."""
    if len(tensor.shape) == 2:
        yield tensor
        return
    for index in range(tensor.shape[0]):
        yield from _matrices(replace(tensor.rows(index, index + 1), shape=tensor.shape[1:], stride=tensor.stride[1:]))


def _padded(nbytes: int, alignment: int) -> int:
    return -(-nbytes // alignment) * alignment
