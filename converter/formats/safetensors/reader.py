"""Reads safetensors: a header of JSON, then the tensors row by row.

Sources: the format's README; safetensors/src/tensor.rs `read_metadata`, `validate` and `prepare`. The reader also
refuses some things that the library accepts: names that occur twice, unknown fields, entries that are lists, metadata
that are null. Like the library, and unlike the README, it allows white space before the header's `{`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.dtypes import BY_SAFETENSORS
from converter.errors import CutOffError, FormatError, LayoutError, LimitError, ManifestError
from converter.formats.format import VALUES
from converter.formats.marks import SAFETENSORS
from converter.io.strict_json import strict_json
from converter.limits import limits
from converter.tensors.catalogue import Catalogue, File, Origin, Unsupported
from converter.tensors.tensor import Storage, Tensor, row_major
from converter.text import plural
from converter.words import Root

if TYPE_CHECKING:
    from converter.io.source import Source

TIED: Final = "cerebras_tool.tied"  # the metadata key that says which name a left-out name is tied to
METADATA: Final = "__metadata__"
FRAMEWORK: Final = "format"  # the metadata key that names the program that the tensors are for
_FIELDS: Final = {"dtype", "shape", "data_offsets"}
_TYPELESS: Final = "typeless"  # the dtype that we show for an empty text
_LARGEST: Final = 1 << 63
_INTEGERS: Final = frozenset({int})  # not bool
_BITS: Final = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6} | {
    name: 8 * dtype.itemsize for name, dtype in BY_SAFETENSORS.items() if dtype.packed == 1
}


def read(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read the header. Tensors are in the order of their bytes. Tied names that our writer left out come back.

    An F4 tensor's shape counts pairs, as PyTorch's does: the file's last dimension is twice as long. Raises FormatError
    for a header that breaks the rules, and LayoutError if tensors don't fill the file without holes and overlaps.
    """
    if root is not None:
        raise FormatError(f"`{source.name}` is a safetensors file: it holds one set of names, and no other to choose")
    header, start = _load(source)
    metadata = _metadata(header.pop(METADATA, {}), source.name)
    rank = limits().rank
    entries = [_entry(name, value, source.name, rank) for name, value in header.items()]
    entries.sort(key=_PLACE)
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
            unsupported.append(Unsupported(entry.name, entry.dtype or _TYPELESS, shape=entry.shape))
        else:
            tensors[entry.name] = Tensor(dtype, shape, row_major(shape), 0, storage)
    _tie(tensors, metadata, {other.name for other in unsupported}, source.name)
    return Catalogue(
        tensors,
        Origin(source.name, SAFETENSORS, (File(source.name, source.size),), (source,)),
        storages=tuple(storages),
        unsupported=tuple(unsupported),
        metadata=metadata,
    )


class Texts(dict[str, str]):
    """The texts of `__metadata__`, which a copy keeps."""


def joined(parts: Sequence[Mapping[str, str]]) -> Texts:
    """The metadata of several files, as one file would have it. If a name has two texts, the first one counts."""
    return Texts((name, text) for part in reversed(parts) for name, text in part.items())


def remarks(catalogue: Catalogue) -> dict[str, Any]:
    """What `__metadata__` says about the model. Values that a conversion carried into it come back as they were."""
    found: dict[str, Any] = {}
    for name, text in catalogue.metadata.items():
        if name.startswith(VALUES):
            try:
                found[name.removeprefix(VALUES)] = strict_json(text)
            except (ValueError, RecursionError):
                found[name] = text
        elif name not in (TIED, FRAMEWORK):
            found[name] = text
    return found


class _Entry(NamedTuple):
    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int  # bytes of the data
    end: int


_PLACE: Final = attrgetter("begin", "end")


def _load(source: Source) -> tuple[dict[str, Any], int]:
    """The header as an object, and where the data start."""
    what = f"`{source.name}`"
    if source.size < 8:
        raise CutOffError(f"{what} has {plural(source.size, 'byte')}, too few for a safetensors file")
    (length,) = struct.unpack("<Q", source.read(0, 8))
    if length > source.size - 8:
        raise CutOffError(
            f"{what} says its header has {length:,} bytes; {source.size - 8:,} follow: it is cut off, or not a safetensors file"
        )
    if length > limits().header_bytes:
        raise LimitError(f"{what} has a header of {plural(length, 'byte')}: at most {limits().header_bytes:,} are read")
    raw = bytes(source.read(8, length))
    if raw.endswith(b"\0") and (document := raw.rstrip(b"\0")):
        raise FormatError(
            f"{what}: its header is padded with {length - len(document):,} zero bytes, where safetensors requires blanks: "
            "write the file again with a program that pads with blanks"
        )
    try:
        header = strict_json(raw.decode())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what}: the header is not valid JSON: {str(error)[:200]}") from error
    if type(header) is not dict:
        raise FormatError(f"{what}: the header is not a JSON object")
    return header, 8 + length


def _metadata(value: object, file: str) -> Texts:
    if type(value) is not dict or any(type(text) is not str for text in value.values()):
        raise FormatError(f"`{file}`: `{METADATA}` is not an object of strings")
    try:
        for text in value.values():
            text.encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"`{file}`: `{METADATA}` holds half of a surrogate pair") from error
    return Texts(value)


def _entry(name: str, value: object, file: str, rank: int) -> _Entry:
    """Check one tensor's entry by itself. It may have `rank` dimensions."""
    if type(value) is not dict or value.keys() != _FIELDS:
        raise FormatError(f"{_entry_of(name, file)} is not an object of `dtype`, `shape` and `data_offsets`")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    bits = _BITS.get(dtype) if type(dtype) is str else None
    if bits is None and (type(dtype) is not str or not dtype.isascii() or len(dtype) > 32):
        raise FormatError(f"{_entry_of(name, file)} has a `dtype` that is not a name")
    if not _whole(shape):
        raise FormatError(f"{_entry_of(name, file)} has a `shape` that is not a list of whole numbers")
    if len(shape) > rank:
        raise LayoutError(f"{_entry_of(name, file)} has {plural(len(shape), 'dimension')}: at most {rank} are read")
    if not _whole(offsets) or len(offsets) != 2:
        raise FormatError(f"{_entry_of(name, file)} has `data_offsets` that are not two whole numbers")
    begin, end = offsets
    if bits is not None and math.prod(shape) * bits != (end - begin) * 8:
        raise LayoutError(
            f"{_entry_of(name, file)}: {dtype} of shape {shape!s:.300} does not take the {plural(end - begin, 'byte')} of its "
            "`data_offsets`"
        )
    if end < begin:
        raise LayoutError(f"{_entry_of(name, file)} ends before it begins, at {end:,} and {begin:,}")
    return _Entry(name, dtype, tuple(shape), begin, end)


def _entry_of(name: str, file: str) -> str:
    return f"`{file}`: the entry of `{name:.200}`"


def _whole(numbers: Any) -> bool:
    """Whether it is a list of whole numbers that fit into 63 bits. Few calls, because a header can have many lists."""
    if type(numbers) is not list or not _INTEGERS.issuperset(map(type, numbers)):
        return False
    return not numbers or (min(numbers) >= 0 and max(numbers) < _LARGEST)


def _check_whole(entries: Sequence[_Entry], source: Source, start: int) -> None:
    """Refuse holes, overlaps, and bytes that belong to no tensor, so that nothing can be hidden in the file."""
    end = 0
    for entry in entries:
        if entry.begin != end:
            what = "overlaps the tensor before it" if entry.begin < end else "leaves a hole before it"
            raise LayoutError(f"`{source.name}`: `{entry.name:.200}` {what}: it begins at {entry.begin:,}, not {end:,}")
        end = entry.end
    if end != source.size - start:
        cause = LayoutError if end < source.size - start else CutOffError
        raise cause(f"`{source.name}` has {plural(source.size - start, 'byte')} of data; its tensors take {end:,}")


def _tie(tensors: dict[str, Tensor], metadata: Mapping[str, str], others: set[str], file: str) -> None:
    """Put back the tied names that the writer left out."""
    if TIED not in metadata:
        return
    try:
        tied = strict_json(metadata[TIED])
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"`{file}`: `{TIED}` in the metadata is not valid JSON: {str(error)[:200]}") from error
    kept = dict(tensors)
    if type(tied) is not dict:
        raise ManifestError(f"`{file}`: `{TIED}` in the metadata is not an object")
    for left, name in tied.items():
        if type(name) is not str or name not in kept or left in kept or left in others:
            raise ManifestError(
                f"`{file}`: `{TIED}` ties `{left:.200}` to {name!r:.200}, which contradicts the tensors"
            )
        tensors[left] = kept[name]
