"""safetensors: a header of JSON, then the tensors row by row. The reader is strict; the writer plans, and streams.

Sources: the format's README; safetensors/src/tensor.rs `read_metadata`, `validate` and `prepare`. The reader also refuses
what the library lets pass: names that stand twice, unknown fields, entries that are lists, metadata that are null. Like the
library, and unlike the README, it allows white space before the header's `{`.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from converter import numbers
from converter.buffers import to_drop
from converter.documents import strict_json
from converter.dtypes import BY_SAFETENSORS, Dtype
from converter.errors import FormatError, LayoutError, LimitError, ManifestError, OutputError, UnsupportedError
from converter.limits import LIMITS
from converter.publish import Piece, PlannedFile, literal
from converter.tensors import Catalogue, File, Other, Storage, Tensor, row_major

if TYPE_CHECKING:
    from converter.models import Recognition
    from converter.sources import Source

NAME: Final = "safetensors"
TIED: Final = "cerebras_tool.tied"  # the key of the metadata that says which name a left-out one is tied to
SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_METADATA: Final = "__metadata__"
_FIELDS: Final = {"dtype", "shape", "data_offsets"}
_HEADER: Final = 100_000_000  # bytes of a header that is written: the library reads no more
_ALIGNED: Final = 8  # bytes; the data start at a multiple
_LARGEST: Final = 1 << 63
_BITS: Final = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6} | {
    name: 8 * dtype.itemsize for name, dtype in BY_SAFETENSORS.items() if dtype.packed == 1
}
# The library's order, by which it sorts the tensors of a file, the last first: so each is aligned.
_ORDER: Final = (
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"),
)
_SMALL: Final = 64 << 20  # bytes that any view may have


def read(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    """Read the header. Tensors are in the order of their bytes; names that our writer left out as tied come back.

    An F4 tensor's shape counts pairs, as PyTorch's does: the file's last dimension is twice as long. Raises FormatError
    for a header that breaks the rules, LayoutError where tensors don't fill the file without holes and overlaps.
    """
    if root is not None:
        raise FormatError(f"`{source.name}` is a safetensors file: its names have no root to choose")
    header, start = _load(source)
    metadata = _metadata(header.pop(_METADATA, {}), source.name)
    entries = sorted(
        (_entry(name, value, source.name) for name, value in header.items()), key=lambda entry: (entry.begin, entry.end)
    )
    _check_whole(entries, source, start)
    tensors: dict[str, Tensor] = {}
    storages, unsupported = [], []
    for entry in entries:
        storage = Storage(source, start + entry.begin, entry.end - entry.begin, entry.name, shard)
        storages.append(storage)
        dtype = BY_SAFETENSORS.get(entry.dtype)
        shape = entry.shape
        if dtype is not None and dtype.packed > 1:
            if not shape or shape[-1] % dtype.packed:
                dtype = None
            else:
                shape = (*shape[:-1], shape[-1] // dtype.packed)
        if dtype is None:
            unsupported.append(Other(entry.name, entry.dtype, list(entry.shape)))
        else:
            tensors[entry.name] = Tensor(dtype, shape, row_major(shape), 0, storage)
    _tie(tensors, metadata, {other.name for other in unsupported}, source.name)
    return Catalogue(
        tensors,
        location=source.name,
        format=NAME,
        files=[File(source.name, source.size)],
        storages=storages,
        unsupported=unsupported,
        metadata=metadata,
        sources=[source],
    )


@dataclass(frozen=True, slots=True)
class Conversion:
    """What will be written: the files of weights, and what they leave out.

    `dropped` are masks, `tied` names that are kept under another name. `losses` is filled while the files are written,
    by tensor, where the dtype changes.
    """

    files: tuple[PlannedFile, ...]
    dropped: tuple[str, ...]
    tied: Mapping[str, str]
    converted: tuple[str, ...]
    losses: Mapping[str, numbers.Loss]


def plan(
    catalogue: Catalogue,
    recognition: Recognition | None,
    *,
    dtype: Dtype | None = None,
    max_shard_size: int | None = None,
    keep_buffers: bool = False,
    single_file: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> Conversion:
    """Plan the weight files: one, or shards of at most `max_shard_size` bytes of tensors each with an index.

    Floating-point tensors become `dtype`, if one is given. With `single_file` the plan's one file is the target itself;
    `metadata` goes into each file beside our own. Nothing is read but masks. Raises UnsupportedError, naming the tensor,
    for what safetensors can't hold and for masks that are none; OutputError where one file would have to be cut.
    """
    if not catalogue and not catalogue.unsupported:
        raise UnsupportedError(f"`{catalogue.location}` holds no tensors to convert")
    for other in catalogue.unsupported:
        raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}, which can't be carried over")
    dropped = to_drop(catalogue, recognition, keep=keep_buffers)
    tied = _left_out(catalogue, recognition, dropped)
    kept = {name: tensor for name, tensor in catalogue.items() if name not in dropped and name not in tied}
    if not kept:
        raise UnsupportedError(f"`{catalogue.location}` holds masks and nothing else")
    check_expansion(kept)
    targets = {name: _target(name, tensor, dtype) for name, tensor in kept.items()}
    sizes = {name: tensor.size * targets[name].itemsize for name, tensor in kept.items()}
    shards = _shards(sizes, max_shard_size)
    if single_file and len(shards) > 1:
        raise OutputError(
            f"one file can't hold {sum(sizes.values()):,} bytes in shards of {max_shard_size:,}: name a folder as the output"
        )
    losses: dict[str, numbers.Loss] = {}
    files: list[PlannedFile] = []
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        path = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        ordered = sorted(names, key=lambda name: (-_ORDER.index(targets[name].safetensors or ""), name.encode()))
        held = frozenset(names)
        here = {left: name for left, name in tied.items() if name in held}
        header = _header(kept, targets, ordered, _written_metadata(metadata, here))
        pieces = [
            Piece(name, sizes[name], _tiles(name, kept[name], targets[name], losses), targets[name].name)
            for name in ordered
        ]
        files.append(PlannedFile("" if single_file else path, (literal("header", header), *pieces)))
        weight_map |= dict.fromkeys(names, path)
    catalogue.expect(kept[piece.name] for file in files for piece in file.pieces[1:])
    if len(shards) > 1:
        buffers = set(recognition.buffers) if recognition else set()
        parameters = sum(tensor.size * tensor.dtype.packed for name, tensor in kept.items() if name not in buffers)
        totals = {"total_parameters": parameters, "total_size": sum(sizes.values())}
        index = json.dumps({"metadata": totals, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
        files.append(PlannedFile(INDEX, (literal("index", index.encode()),)))
    return Conversion(
        files=tuple(files),
        dropped=tuple(name for name in catalogue if name in dropped),
        tied=tied,
        converted=tuple(name for name, tensor in kept.items() if targets[name] != tensor.dtype),
        losses=losses,
    )


def check_expansion(tensors: Mapping[str, Tensor]) -> None:
    """Raise UnsupportedError where views repeat the storages' bytes so often that a small file would fill a disk."""
    held = sum({id(tensor.storage): tensor.storage.nbytes for tensor in tensors.values()}.values())
    wanted = sum(tensor.nbytes for tensor in tensors.values())
    if wanted > LIMITS.expansion * held + _SMALL:
        name = max(tensors, key=lambda name: tensors[name].nbytes)
        raise UnsupportedError(
            f"the tensors are views that repeat {held:,} bytes until they are {wanted:,}, `{name}` above all: more than "
            f"{LIMITS.expansion} times what the file holds is not gone through"
        )


# ---- reading ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes of the data
    end: int


def _load(source: Source) -> tuple[dict[str, Any], int]:
    """Give the header as an object, and where the data start."""
    what = f"`{source.name}`"
    if source.size < 8:
        raise FormatError(f"{what} has {source.size} bytes, too few for a safetensors file")
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > source.size - 8:
        raise FormatError(
            f"{what} says its header has {length:,} bytes; {source.size - 8:,} follow: it is cut off, or no safetensors file"
        )
    if length > LIMITS.header_bytes:
        raise LimitError(f"{what} has a header of {length:,} bytes: at most {LIMITS.header_bytes:,} are read")
    raw = bytes(source.read(8, length))
    try:
        header = strict_json(raw.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: the header is no valid JSON: {str(error)[:200]}") from error
    if type(header) is not dict:
        raise FormatError(f"{what}: the header is no JSON object")
    return header, 8 + length


def _metadata(value: object, file: str) -> dict[str, str]:
    if type(value) is not dict or any(type(text) is not str for text in value.values()):
        raise FormatError(f"`{file}`: `{_METADATA}` is no object of strings")
    try:
        for text in value.values():
            text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"`{file}`: `{_METADATA}` holds half of a surrogate pair") from error
    return value


def _entry(name: str, value: object, file: str) -> _Entry:
    """Check one tensor's entry by itself."""
    what = f"`{file}`: the entry of `{name:.200}`"
    if type(value) is not dict or value.keys() != _FIELDS:
        raise FormatError(f"{what} is no object of `dtype`, `shape` and `data_offsets`")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if type(dtype) is not str or not dtype.isascii() or len(dtype) > 32:
        raise FormatError(f"{what} has a `dtype` that is no name")
    if type(shape) is not list or not all(type(size) is int and 0 <= size < _LARGEST for size in shape):
        raise FormatError(f"{what} has a `shape` that is no list of whole numbers")
    if len(shape) > LIMITS.rank:
        raise LayoutError(f"{what} has {len(shape):,} dimensions: at most {LIMITS.rank} are read")
    if (
        type(offsets) is not list
        or len(offsets) != 2
        or not all(type(at) is int and 0 <= at < _LARGEST for at in offsets)
    ):
        raise FormatError(f"{what} has `data_offsets` that are no two whole numbers")
    begin, end = offsets
    bits = _BITS.get(dtype)
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise LayoutError(
            f"{what}: {dtype} of shape {shape!s:.300} does not take the {end - begin:,} bytes of its `data_offsets`"
        )
    if end < begin:
        raise LayoutError(f"{what} ends before it begins, at {end:,} and {begin:,}")
    return _Entry(name, dtype, tuple(shape), begin, end)


def _check_whole(entries: Sequence[_Entry], source: Source, start: int) -> None:
    """Refuse holes, overlaps, and bytes that belong to no tensor: nothing can be hidden in the file."""
    end = 0
    for entry in entries:
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a hole before it"
            raise LayoutError(f"`{source.name}`: `{entry.name:.200}` {what}: it begins at {entry.begin:,}, not {end:,}")
        end = entry.end
    if end != source.size - start:
        raise LayoutError(f"`{source.name}` has {source.size - start:,} bytes of data; its tensors take {end:,}")


def _tie(tensors: dict[str, Tensor], metadata: Mapping[str, str], others: set[str], file: str) -> None:
    """Give the tied names back that the writer left out."""
    if TIED not in metadata:
        return
    try:
        tied = strict_json(metadata[TIED])
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"`{file}`: `{TIED}` in the metadata is no valid JSON: {str(error)[:200]}") from error
    kept = dict(tensors)
    if type(tied) is not dict:
        raise ManifestError(f"`{file}`: `{TIED}` in the metadata is no object")
    for left, name in tied.items():
        if type(name) is not str or name not in kept or left in kept or left in others:
            raise ManifestError(
                f"`{file}`: `{TIED}` ties `{left:.200}` to {name!r:.200}, which contradicts the tensors"
            )
        tensors[left] = kept[name]


# ---- planning -----------------------------------------------------------------------------------------------------


def _left_out(catalogue: Catalogue, recognition: Recognition | None, dropped: set[str]) -> dict[str, str]:
    """Give the tied names to leave out, and the one that each is kept as: the architecture's, else the first."""
    followers = set()
    if recognition is not None:
        followers = {row.named(recognition.prefix) for row in recognition.architecture.row_table if row.tied_to}
    left: dict[str, str] = {}
    for group in catalogue.tied():
        names = [name for name in group if name not in dropped]
        if names:
            kept = next((name for name in names if name not in followers), names[0])
            left |= {name: kept for name in names if name != kept}
    return left


def _target(name: str, tensor: Tensor, dtype: Dtype | None) -> Dtype:
    """Give the dtype that a tensor is written in."""
    target = dtype if dtype is not None and tensor.dtype.floating else tensor.dtype
    if not numbers.can_convert(tensor.dtype, target):
        raise UnsupportedError(f"`{name:.200}` is {tensor.dtype.name}, which can't be converted to {target.name}")
    if target.safetensors is None:
        raise UnsupportedError(f"`{name:.200}` is {target.name}, a dtype that safetensors does not have")
    if target.packed > 1 and not tensor.shape:
        raise UnsupportedError(f"`{name:.200}` is a single pair of {target.name}, which has no shape in safetensors")
    if name == _METADATA:
        raise UnsupportedError(f"a tensor can't be called `{_METADATA}` in safetensors: rename it")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedError(f"`{name[:200]!a}` is no Unicode text, and so no name in safetensors") from error
    return target


def _shards(sizes: Mapping[str, int], most: int | None) -> list[list[str]]:
    """Cut the tensors, in their order, into runs of at most so many bytes; one that is larger stands alone."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, nbytes in sizes.items():
        if most is not None and shards[-1] and filled + nbytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    return shards


def _written_metadata(given: Mapping[str, str] | None, tied: Mapping[str, str]) -> dict[str, str]:
    metadata = {key: text for key, text in (given or {}).items() if key != TIED}
    if tied:
        metadata[TIED] = json.dumps(tied, sort_keys=True)
    return dict(sorted((metadata | {"format": "pt"}).items()))


def _header(
    tensors: Mapping[str, Tensor], targets: Mapping[str, Dtype], names: Sequence[str], metadata: Mapping[str, str]
) -> bytes:
    """Give the length and the header, as the library would write them."""
    header: dict[str, Any] = {_METADATA: metadata}
    end = 0
    for name in names:
        target, shape = targets[name], list(tensors[name].shape)
        begin, end = end, end + tensors[name].size * target.itemsize
        if target.packed > 1:
            shape[-1] *= target.packed
        header[name] = {"dtype": target.safetensors, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    if len(text) > _HEADER:
        raise UnsupportedError(
            f"the header would take {len(text):,} bytes; safetensors allows {_HEADER:,}: cut it into shards"
        )
    return struct.pack("<Q", len(text)) + text


def _tiles(
    name: str, tensor: Tensor, target: Dtype, losses: dict[str, numbers.Loss]
) -> Callable[[], Iterator[memoryview]]:
    if target == tensor.dtype:
        return tensor.tiles

    def tiles() -> Iterator[memoryview]:
        losses[name] = numbers.Loss()
        return numbers.converted(tensor.tiles(), tensor.dtype, target, losses[name])

    return tiles
