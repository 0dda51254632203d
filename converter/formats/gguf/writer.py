"""Writes GGUF version 3 in two passes: everything about the file is planned from shapes, then the tensors stream.

Sources: ggml/docs/gguf.md; src/llama-model.cpp for what llama.cpp needs of every architecture.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BY_NAME as DTYPES
from converter.dtypes import F32
from converter.errors import ManifestError, ModelError, OutputError, UnsupportedError
from converter.formats.format import VALUES, Options, Planned
from converter.formats.gguf.blocks import BY_NAME, Encoding, quantised
from converter.formats.gguf.metadata import ALIGNMENT, ARRAY, STRING, TYPES
from converter.formats.gguf.names import ACTIVATION, TOKENIZER
from converter.formats.marks import GGUF_MAGIC
from converter.io.parts import Buffers, Part, known
from converter.io.publish import Piece, PlannedFile, literal
from converter.models.families import runnable
from converter.models.masks import droppable
from converter.models.recognition import Recognition
from converter.models.vocabulary import Vocabulary, load
from converter.tensors.casting import Loss, Losses, can_convert, converted
from converter.tensors.guards import check_expansion
from converter.tensors.parts import tensor_parts

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_VERSION: Final = 3
_QUANTISATION: Final = 2  # GGML_QNT_VERSION
_CONTROL: Final = re.compile(r"<\|.*\|>")
_NORMAL_TOKEN, _CONTROL_TOKEN, _UNUSED_TOKEN = 1, 3, 5  # llama_token_type


def plan(catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
    """Plan a model as GGUF. Only the tokenizer is read, and masks, which are left out.

    `dtype` is for matrices; vectors, norms and positions are always F32, because llama.cpp needs that. With
    `max_shard_size` the files are `<stem>-00001-of-00003.gguf`. Without `tokenizer` (a folder with vocab.json and
    merges.txt) the model takes token ids only. `losses` counts what F16 and BF16 lose; the losses of blocks are not
    counted.

    Raises UnsupportedError for a family that is not written as GGUF and for a tensor that GGUF has no place for, and
    ModelError for a model that is incomplete or contradicts its config.json.
    """
    for other in catalogue.unsupported:
        raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}, which can't be carried over")
    recognition = _recognised(catalogue, recognition)
    settings: Mapping[str, Any] = catalogue.config or (recognition.model.config if recognition.model else {})
    notes = recognition.family.gguf_notes(settings)
    _check_whole(catalogue, recognition)
    tokenizer = options.tokenizer
    if tokenizer is None:
        notes.append("without a tokenizer: the model takes and gives token ids")
    dropped = _droppable(catalogue, recognition)
    tensors = _tensors(catalogue, recognition, options, notes)
    check_expansion({written.source: written.tensor for written in tensors})
    metadata = [
        *_general(recognition, tensors, options.dtype),
        *_architecture(recognition, settings),
        *_tokenizer(recognition, settings, load(tokenizer) if tokenizer is not None else None, notes),
        *(_value(VALUES + name, value) for name, value in options.values.items()),
    ]
    losses = Losses()
    catalogue.expect(written.tensor for written in tensors)
    model = recognition.model.name if recognition.model else "model"
    path = options.name or f"{model}-{'F32' if options.dtype == 'keep' else options.dtype.upper()}.gguf"
    files = _files(tensors, metadata, path, options.max_shard_size, losses)
    return Planned(tuple(files), len(tensors), dropped=dropped, notes=tuple(notes), losses=losses)


# ---- what is written ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    """A tensor to write. `tensor` is the view whose row-major bytes GGUF stores.

    A `chosen` tensor gets the encoding that the caller chose. Others are F32, because llama.cpp aborts on any other
    vector or norm.
    """

    name: str
    source: str
    tensor: Tensor
    encoding: Encoding
    chosen: bool

    @property
    def nbytes(self) -> int:
        return self.encoding.size(self.tensor.size)

    @property
    def padded(self) -> int:
        return _padded(self.nbytes)


def _recognised(catalogue: Catalogue, recognition: Recognition | None) -> Recognition:
    """Raise UnsupportedError if the family is not known."""
    if recognition is None:
        known = ", ".join(runnable())
        raise UnsupportedError(
            f"`{catalogue.location}` has no architecture that can be written as GGUF ({known}): choose safetensors"
        )
    return recognition


def _check_whole(catalogue: Catalogue, recognition: Recognition) -> None:
    """Raise UnsupportedError or ModelError unless it is a complete model without anything else."""
    if recognition.contradictions:
        raise ModelError(recognition.contradictions[0])
    if recognition.missing:
        more = f", nor {len(recognition.missing) - 1:,} more" if len(recognition.missing) > 1 else ""
        raise ModelError(f"`{catalogue.location}` has no `{recognition.missing[0]}`{more}: GGUF needs every parameter")
    for wrong in recognition.mismatched:
        raise ModelError(f"`{wrong.name}` has the shape {wrong.found}: {wrong.expected} was expected")
    if recognition.unexpected:
        more = f" and {len(recognition.unexpected) - 1:,} more" if len(recognition.unexpected) > 1 else ""
        raise UnsupportedError(
            f"`{recognition.unexpected[0]}`{more}: not part of {recognition.family.title}, and llama.cpp accepts no other tensors"
        )
    if (unknown := recognition.family.unknown(recognition.sizes)) is not None:
        raise ModelError(f"the {unknown} can't be told from the tensors: put the model's `config.json` beside them")


def _droppable(catalogue: Catalogue, recognition: Recognition) -> tuple[str, ...]:
    masks = droppable(catalogue, recognition)
    strange = sorted(set(recognition.buffers) - set(masks))
    if strange:
        raise UnsupportedError(
            f"`{strange[0]}` is not the causal mask that {recognition.family.title} has there, and GGUF has no place "
            "for another"
        )
    return tuple(masks)


def _tensors(catalogue: Catalogue, recognition: Recognition, options: Options, notes: list[str]) -> list[_Written]:
    """The tensors in the order of the layers."""
    written: list[_Written] = []
    fallen: dict[str, list[str]] = {}  # by the dtype that was asked for
    fixed: list[str] = []
    for row in recognition.family.rows(recognition.sizes):
        if row.gguf is None or (row.tied_to and recognition.tied_head != "untied"):
            continue
        source = row.named(recognition.prefix)
        tensor = catalogue[source].t() if row.gguf_transposed else catalogue[source]
        if not can_convert(tensor.dtype, F32):
            raise UnsupportedError(f"`{source}` is {tensor.dtype.name}: GGUF holds floating-point parameters")
        chosen, choice = len(row.shape) > 1 and not row.gguf_f32, options.dtype_of(source)
        encoding = _encoding(tensor, choice)
        if not chosen:
            if source in options.types and encoding is not BY_NAME["F32"]:
                fixed.append(row.gguf)
            encoding = BY_NAME["F32"]
        if tensor.shape[-1] % encoding.block:
            fallen.setdefault(encoding.name, []).append(row.gguf)
            encoding = BY_NAME["F16"]
        written.append(_Written(row.gguf, source, tensor, encoding, chosen))
    for name, rows in fallen.items():
        notes.append(
            f"{len(rows):,} matrices have rows that can't be divided into blocks of {name} and become F16: {_first(rows)}"
        )
    if fixed:
        notes.append(
            f"{len(fixed):,} of the tensors that --tensor-type names stay F32, as llama.cpp needs: {_first(fixed)}"
        )
    return written


def _first(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names[:4]) + (", …" if len(names) > 4 else "")


def _encoding(tensor: Tensor, choice: str) -> Encoding:
    if choice == "keep":
        return BY_NAME[tensor.dtype.name if tensor.dtype.name in ("F16", "BF16") else "F32"]
    return BY_NAME[choice.upper()]


# ---- metadata -------------------------------------------------------------------------------------------------------


def _general(recognition: Recognition, tensors: list[_Written], choice: str) -> Iterator[bytes]:
    model = recognition.model
    yield _string("general.architecture", recognition.family.gguf_name or recognition.family.name)
    yield _string("general.type", "model")
    if model:
        yield _string("general.name", model.name)
    size = model.short if model else _size_label(sum(written.tensor.size for written in tensors))
    yield _string("general.size_label", size)
    if model:
        repository = model.url("").partition("/resolve/")[0]
        yield _string("general.license", model.licence)
        yield _string("general.repo_url", repository)
        yield _string("general.source.repo_url", repository)
    matrices = {w.encoding.name: w.encoding for w in tensors if w.chosen}
    mostly = (
        BY_NAME[choice.upper()]
        if choice.upper() in matrices
        else max(matrices.values(), key=lambda encoding: sum(w.nbytes for w in tensors if w.encoding == encoding))
    )
    yield _scalar("general.file_type", "u32", mostly.file_type or 0)
    yield _scalar("general.quantization_version", "u32", _QUANTISATION)


def _architecture(recognition: Recognition, settings: Mapping[str, Any]) -> Iterator[bytes]:
    family = recognition.family
    for datum, value in family.gguf_metadata(recognition.sizes, settings):
        yield _scalar(datum.key, datum.type, value)
    if family.activation is not None:
        yield _string(ACTIVATION, family.setting(family.activation.setting, settings))


def _tokenizer(
    recognition: Recognition, settings: Mapping[str, Any], vocabulary: Vocabulary | None, notes: list[str]
) -> Iterator[bytes]:
    family, rows = recognition.family, recognition.sizes["vocab_size"]
    special = {
        key: settings[key]
        for key in family.special_tokens
        if type(settings.get(key)) is int and 0 <= settings[key] < rows
    }
    if vocabulary is None or family.tokenizer is None:
        yield _string("tokenizer.ggml.model", "none")
    else:
        end = vocabulary.ids.get(family.tokenizer.end_of_text)
        if end is not None:
            special = dict.fromkeys(family.special_tokens, end) | special
        tokens, types = _tokens(vocabulary, rows, set(special.values()))
        yield _string("tokenizer.ggml.model", family.tokenizer.gguf_model)
        yield _string("tokenizer.ggml.pre", family.tokenizer.gguf_pre)
        yield _strings("tokenizer.ggml.tokens", tokens)
        yield _head("tokenizer.ggml.token_type", ARRAY) + struct.pack(f"<IQ{rows}i", TYPES["i32"][0], rows, *types)
        yield _strings("tokenizer.ggml.merges", [f"{left} {right}" for left, right in vocabulary.merges])
        if not special:
            notes.append(
                f"the tokenizer has no `{family.tokenizer.end_of_text}`: llama.cpp takes token 11 for the end of text"
            )
    for key, number in special.items():
        yield _scalar(TOKENIZER + key, "u32", number)


def _tokens(vocabulary: Vocabulary, rows: int, special: set[int]) -> tuple[list[str], list[int]]:
    """A token for every row of the embedding. Rows without a token in the vocabulary are padding."""
    highest = max(vocabulary.ids.values(), default=-1)
    if highest >= rows:
        raise ManifestError(
            f"the tokenizer has {len(vocabulary.ids):,} tokens up to the id {highest:,} and the embedding {rows:,} rows: "
            "it belongs to another model"
        )
    tokens = [f"[PAD{number}]" for number in range(rows)]
    types = [_UNUSED_TOKEN] * rows
    for token, number in vocabulary.ids.items():
        tokens[number] = token
        types[number] = _CONTROL_TOKEN if number in special or _CONTROL.fullmatch(token) else _NORMAL_TOKEN
    return tokens, types


def _size_label(parameters: int) -> str:
    """A count with two digits or more, as gguf-py writes it: 1.3B, 111M."""
    scale, suffix = next(
        ((s, letter) for s, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if parameters > s), (1e3, "K")
    )
    return f"{parameters / scale:.{1 if round(parameters / scale) < 10 else 0}f}{suffix}"


def _head(key: str, type: int) -> bytes:
    return _text(key) + struct.pack("<I", type)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "replace")  # JSON can hold half of a surrogate pair
    return struct.pack("<Q", len(data)) + data


def _string(key: str, value: str) -> bytes:
    return _head(key, STRING) + _text(value)


def _strings(key: str, values: Sequence[str]) -> bytes:
    return _head(key, ARRAY) + struct.pack("<IQ", STRING, len(values)) + b"".join(map(_text, values))


def _scalar(key: str, type: str, value: float) -> bytes:
    number, packed = TYPES[type]
    return _head(key, number) + struct.pack(packed, value)


def _value(key: str, value: Any) -> bytes:
    """A value of JSON: a number or a text as such, all else as JSON's text."""
    if type(value) is int and not -1 << 63 <= value < 1 << 63:
        value = str(value)
    types = {bool: "bool", int: "i64", float: "f64"}
    if type(value) in types:
        return _scalar(key, types[type(value)], value)
    return _string(key, value if type(value) is str else json.dumps(value))


# ---- files ----------------------------------------------------------------------------------------------------------


def _files(
    tensors: list[_Written], metadata: list[bytes], path: str, most: int | None, losses: Losses
) -> list[PlannedFile]:
    shards = _shards(tensors, sum(map(len, metadata)), most)
    if len(shards) > 1 and not path.endswith(".gguf"):
        raise OutputError(
            "a GGUF file in several parts needs a folder to lie in: name a folder, or leave --max-shard-size out"
        )
    files = []
    for number, shard in enumerate(shards):
        name, keys = path, list(metadata) if number == 0 else []
        if len(shards) > 1:
            name = f"{path.removesuffix('.gguf')}-{number + 1:05}-of-{len(shards):05}.gguf"
            keys += [
                _scalar("split.no", "u16", number),
                _scalar("split.count", "u16", len(shards)),
                _scalar("split.tensors.count", "i32", len(tensors)),
            ]
        header = _header(shard, keys)
        pieces = [literal("header", header)]
        pieces += [Piece(written.name, _parts(written, losses), written.encoding.name) for written in shard]
        files.append(PlannedFile(name, tuple(pieces)))
    return files


def _shards(tensors: list[_Written], keys: int, most: int | None) -> list[list[_Written]]:
    """Divide the tensors among files of at most `most` bytes; a file with one larger tensor has more."""
    shards: list[list[_Written]] = [[]]
    room = 256  # the fixed part of the header, split.* and padding
    used = room + keys
    for written in tensors:
        nbytes = written.padded + len(_info(written, 0))
        if most is not None and shards[-1] and used + nbytes > most:
            shards.append([])
            used = room
        shards[-1].append(written)
        used += nbytes
    if len(shards) > 0xFFFF:
        raise OutputError(f"{len(shards):,} files: GGUF counts up to 65,535; choose a larger --max-shard-size")
    return shards


def _header(tensors: list[_Written], keys: list[bytes]) -> bytes:
    infos, offset = [], 0
    for written in tensors:
        infos.append(_info(written, offset))
        offset += written.padded
    header = b"".join([GGUF_MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(keys)), *keys, *infos])
    return header.ljust(_padded(len(header)), b"\0")


def _info(written: _Written, offset: int) -> bytes:
    shape = written.tensor.shape
    return _text(written.name) + struct.pack(
        f"<I{len(shape)}QIQ", len(shape), *reversed(shape), written.encoding.ggml, offset
    )


def _parts(written: _Written, losses: Losses) -> tuple[Part, ...]:
    tensor, encoding = written.tensor, written.encoding
    target = DTYPES.get(encoding.name, F32)

    def made(view: Tensor, tiles: Iterator[memoryview], buffers: Buffers) -> Iterator[memoryview]:
        loss = Loss()
        values = converted(tiles, tensor.dtype, target, loss)
        yield from values if encoding.block == 1 else quantised(values, encoding, written.source)
        if loss or loss.nan:
            losses.add(written.source, loss)

    padding = bytes(written.padded - written.nbytes)
    return (*tensor_parts(tensor, size=encoding.size, made=made), *((known(padding),) if padding else ()))


def _padded(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
