"""Writes safetensors: everything is planned from shapes, then the tensors stream.

Source: safetensors/src/tensor.rs `prepare`, for the order of tensors.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import Dtype
from converter.errors import OutputError, UnsupportedError
from converter.formats.format import VALUES
from converter.formats.planned import Options, Planned
from converter.formats.safetensors.reader import FRAMEWORK, METADATA, TIED, Texts
from converter.io.publish import Piece, PlannedFile, literal
from converter.models.masks import to_drop
from converter.models.recognition import Recognition, buffers
from converter.tensors.casting import becomes, can_convert, parts_of
from converter.tensors.guards import check_expansion, without_tensors
from converter.tensors.losses import Losses
from converter.tensors.tensor import Tensor
from converter.text import plural
from converter.words import option

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

SINGLE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_HEADER: Final = 100_000_000  # bytes of a header that we write, at most; the library refuses a longer one
_ALIGNED: Final = 8  # bytes; the data start at a multiple of this
# The dtypes in the library's order. It sorts a file's tensors by it, the last dtype first, so that each tensor is
# aligned.
_ORDER: Final = (
    *("BOOL", "F4", "F6_E2M3", "F6_E3M2", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"),
    *("I16", "U16", "F16", "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"),
)


def plan(catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
    """Plan the weight files: one, or shards of at most `max_shard_size` bytes of tensors with an index.

    Floating-point tensors become `dtype`. Only masks are read. Raises UnsupportedError for a tensor that safetensors
    can't hold and for a mask with other values, and OutputError if one file would have to be cut.
    """
    single_file, max_shard_size = options.name is not None, options.max_shard_size
    if not catalogue and not catalogue.unsupported:
        raise UnsupportedError(without_tensors(catalogue))
    for other in catalogue.unsupported:
        raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}, which can't be carried over")
    dropped = to_drop(catalogue, recognition, keep=options.keep_buffers)
    tied = _left_out(catalogue, recognition, dropped)
    kept = {name: tensor for name, tensor in catalogue.items() if name not in dropped and name not in tied}
    if not kept:
        raise UnsupportedError(f"`{catalogue.location}` holds masks and nothing else")
    check_expansion(kept)
    targets = {name: _target(name, tensor, options.dtype_of(name)) for name, tensor in kept.items()}
    sizes = {name: tensor.size * targets[name].itemsize for name, tensor in kept.items()}
    shards = _shards(sizes, max_shard_size)
    if single_file and len(shards) > 1:
        raise OutputError(
            f"one file can't hold {plural(sum(sizes.values()), 'byte')} in shards of {max_shard_size:,}: "
            "name a folder as the output"
        )
    own = catalogue.metadata if isinstance(catalogue.metadata, Texts) else {}
    losses = Losses()
    files: list[PlannedFile] = []
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        path = SINGLE if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        ordered = sorted(names, key=lambda name: (-_ORDER.index(targets[name].safetensors or ""), name.encode()))
        held = frozenset(names)
        here = {left: name for left, name in tied.items() if name in held}
        said = _written_metadata(here, own if number == 1 else {}, options.values if number == 1 else {})
        header = _header(kept, targets, ordered, said)
        pieces = [
            Piece(name, parts_of(name, kept[name], targets[name], losses), targets[name].name) for name in ordered
        ]
        files.append(PlannedFile("" if single_file else path, (literal("header", header), *pieces)))
        weight_map |= dict.fromkeys(names, path)
    catalogue.expect(kept[piece.name] for file in files for piece in file.pieces[1:])
    if len(shards) > 1:
        untrained = buffers(catalogue, recognition)
        parameters = sum(tensor.size * tensor.dtype.packed for name, tensor in kept.items() if name not in untrained)
        totals = {"total_parameters": parameters, "total_size": sum(sizes.values())}
        index = json.dumps({"metadata": totals, "weight_map": weight_map}, indent=2, sort_keys=True) + "\n"
        files.append(PlannedFile(INDEX, (literal("index", index.encode()),)))
    return Planned(
        tuple(files),
        len(kept),
        dropped=tuple(name for name in catalogue if name in dropped),
        tied=tied,
        losses=losses,
    )


def _left_out(catalogue: Catalogue, recognition: Recognition | None, dropped: set[str]) -> dict[str, str]:
    """The tied names to leave out, each with the name that is kept: the architecture's, else the first."""
    followers = recognition.followers if recognition is not None else {}
    left: dict[str, str] = {}
    for group in catalogue.tied():
        names = [name for name in group if name not in dropped]
        if names:
            kept = next((name for name in names if name not in followers), names[0])
            left |= {name: kept for name in names if name != kept}
    return left


def _target(name: str, tensor: Tensor, word: str) -> Dtype:
    """The dtype that a tensor is written in."""
    target = becomes(tensor.dtype, word)
    if not can_convert(tensor.dtype, target):
        raise UnsupportedError(f"`{name:.200}` is {tensor.dtype.name}, which can't be converted to {target.name}")
    if target.safetensors is None:
        raise UnsupportedError(
            f"`{name:.200}` is {target.name}, a dtype that safetensors does not have: choose npz, or leave it out with "
            f"{option('exclude')}"
        )
    if target.packed > 1 and not tensor.shape:
        raise UnsupportedError(f"`{name:.200}` is a single pair of {target.name}, which has no shape in safetensors")
    if name == METADATA:
        raise UnsupportedError(f"a tensor can't be called `{METADATA}` in safetensors: rename it")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UnsupportedError(f"`{name[:200]!a}` is not Unicode text, so it can't be a name in safetensors") from error
    return target


def _shards(sizes: Mapping[str, int], most: int | None) -> list[list[str]]:
    """Cut the tensors, in their order, into runs of at most `most` bytes. A larger tensor is a run of its own."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, nbytes in sizes.items():
        if most is not None and shards[-1] and filled + nbytes > most:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    return shards


def _written_metadata(tied: Mapping[str, str], own: Mapping[str, str], values: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of a file: `own` is the metadata of the file that this is a copy of."""
    metadata = {TIED: json.dumps(tied, sort_keys=True)} if tied else {}
    metadata |= {name: text for name, text in own.items() if name != TIED}
    metadata |= {VALUES + name: json.dumps(value) for name, value in values.items()}
    return metadata if FRAMEWORK in metadata else metadata | {FRAMEWORK: "pt"}


def _header(
    tensors: Mapping[str, Tensor], targets: Mapping[str, Dtype], names: Sequence[str], metadata: Mapping[str, str]
) -> bytes:
    """The length and the header, as the library would write them."""
    header: dict[str, Any] = {METADATA: metadata}
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
            f"the header would take {plural(len(text), 'byte')}; safetensors allows {_HEADER:,}: cut it into shards"
        )
    return struct.pack("<Q", len(text)) + text
