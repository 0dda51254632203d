"""GGUF version 3, written in two passes: everything about the file is known from shapes, then the tensors stream.

Sources: ggml/docs/gguf.md; what llama.cpp asks of the architecture `gpt2`: src/llama-model.cpp, src/models/gpt2.cpp.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BY_NAME as DTYPES
from converter.dtypes import F32
from converter.errors import ManifestError, ModelError, OutputError, UnsupportedError
from converter.formats.gguf.blocks import BY_NAME, Encoding, quantised
from converter.formats.gguf.reader import ALIGNMENT, ARRAY, MAGIC, STRING, TYPES
from converter.io.parts import Buffers, Part, known
from converter.io.publish import Piece, PlannedFile, literal
from converter.models.masks import droppable
from converter.models.recognition import Parameter, Recognition, recognise
from converter.models.vocabulary import END_OF_TEXT, Vocabulary, load
from converter.resources import schemas
from converter.tensors.casting import Loss, Losses, can_convert, converted
from converter.tensors.guards import check_expansion
from converter.tensors.parts import tensor_parts

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

CHOICES: Final = ("keep", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
_VERSION: Final = 3
_QUANTISATION: Final = 2  # GGML_QNT_VERSION
_TANH: Final = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast")
_ERF: Final = ("gelu", "gelu_python")
_CONTROL: Final = re.compile(r"<\|.*\|>")
_NORMAL_TOKEN, _CONTROL_TOKEN, _UNUSED_TOKEN = 1, 3, 5  # llama_token_type
_U32: Final = 1 << 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor of the output: what it is called here and there, its row-major shape, and where its bytes will lie."""

    name: str
    source: str
    encoding: str
    shape: tuple[int, ...]
    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Conversion:
    """GGUF files to be. `dropped` are masks, `notes` sentences for a person.

    `losses` is filled while the files are written, by tensor of the source, where F16 or BF16 is made of more; what
    blocks lose is their nature and not counted.
    """

    files: tuple[PlannedFile, ...]
    entries: tuple[Entry, ...]
    dropped: tuple[str, ...]
    notes: tuple[str, ...]
    losses: Mapping[str, Loss]


def plan(
    catalogue: Catalogue,
    *,
    config: Mapping[str, Any] | None = None,
    encoding: str = "keep",
    path: str = "",
    tokenizer: Path | None = None,
    max_shard_size: int | None = None,
    name: str | None = None,
    source_sha256: str | None = None,
) -> Conversion:
    """Plan a GPT-2 as GGUF. Nothing is read but masks, which are left out, and the tokenizer.

    `catalogue` has the names of Hugging Face. `encoding` is one of CHOICES, for matrices; vectors, norms and positions are
    F32 always, as llama.cpp wants them. `path` is the file's, below the target; with `max_shard_size` (bytes) the files
    are `<stem>-00001-of-00003.gguf` beside where it would have been. Without `tokenizer` (a folder with vocab.json and
    merges.txt) the model takes token ids only.

    Raises UnsupportedError for other architectures and what GGUF has no place for, ModelError for a GPT-2 that is not
    whole or contradicts its config.json.
    """
    for other in catalogue.unsupported:
        raise UnsupportedError(f"`{other.name}` is a tensor of the kind {other.kind}, which can't be carried over")
    recognition = _recognised(catalogue, config)
    settings: Mapping[str, Any] = config or (recognition.model.config if recognition.model else {})
    notes = _notes(settings, tokenizer)
    dropped = _droppable(catalogue, recognition)
    tensors = _tensors(catalogue, recognition, encoding, notes)
    check_expansion({written.source: written.tensor for written in tensors})
    metadata = [
        *_general(recognition, tensors, encoding, name, source_sha256),
        *_architecture(recognition, settings),
        *_tokenizer(recognition, settings, load(tokenizer) if tokenizer is not None else None, notes),
    ]
    losses = Losses()
    catalogue.expect(written.tensor for written in tensors)
    files, entries = _files(tensors, metadata, path, max_shard_size, losses)
    return Conversion(tuple(files), tuple(entries), dropped, tuple(notes), losses)


# ---- what is written ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Written:
    """A tensor on its way: `tensor` is the view whose row-major bytes GGUF wants."""

    name: str
    source: str
    tensor: Tensor
    encoding: Encoding

    @property
    def nbytes(self) -> int:
        return self.encoding.size(self.tensor.size)

    @property
    def padded(self) -> int:
        return _padded(self.nbytes)


def _recognised(catalogue: Catalogue, config: Mapping[str, Any] | None) -> Recognition:
    """Tell what it is. Raises UnsupportedError or ModelError unless it is a whole model of a known architecture."""
    recognition = recognise(catalogue, config)
    if recognition is None:
        known = ", ".join(sorted(path.stem for path in (schemas() / "architectures").glob("*.json")))
        raise UnsupportedError(
            f"`{catalogue.location}` is of no architecture that is written as GGUF here ({known}): choose safetensors"
        )
    if recognition.contradictions:
        raise ModelError(recognition.contradictions[0])
    if recognition.missing:
        more = f", nor {len(recognition.missing) - 1:,} more" if len(recognition.missing) > 1 else ""
        raise ModelError(f"`{catalogue.location}` has no `{recognition.missing[0]}`{more}: GGUF wants every parameter")
    for wrong in recognition.mismatched:
        raise ModelError(f"`{wrong.name}` has the shape {wrong.found}: {wrong.expected} was expected")
    if recognition.unexpected:
        more = f" and {len(recognition.unexpected) - 1:,} more" if len(recognition.unexpected) > 1 else ""
        raise UnsupportedError(
            f"`{recognition.unexpected[0]}`{more}: no part of {recognition.architecture.name}, and llama.cpp takes no more"
        )
    if "n_head" not in recognition.sizes:
        raise ModelError(
            "the number of heads can't be told from the tensors: put the model's `config.json` beside them"
        )
    return recognition


def _notes(settings: Mapping[str, Any], tokenizer: Path | None) -> list[str]:
    """Say what llama.cpp will do otherwise. Raises UnsupportedError for what it would get wrong."""
    activation = settings.get("activation_function", _TANH[0])
    if activation not in (*_TANH, *_ERF):
        raise UnsupportedError(f"`config.json` has the activation {activation!r:.80}: llama.cpp's GPT-2 has GELU alone")
    for key, meant in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False)):
        if settings.get(key, meant) is not meant:
            raise UnsupportedError(
                f"`config.json` says `{key}` is {settings[key]!r:.80}: llama.cpp's GPT-2 has {meant}"
            )
    notes = []
    if activation in _ERF:
        notes.append(
            "the model was trained with the exact GELU; llama.cpp computes the tanh form, so logits differ by about 0.001"
        )
    if tokenizer is None:
        notes.append("without a tokenizer: the model takes and gives token ids")
    return notes


def _droppable(catalogue: Catalogue, recognition: Recognition) -> tuple[str, ...]:
    masks = droppable(catalogue, recognition)
    strange = sorted(set(recognition.buffers) - set(masks))
    if strange:
        raise UnsupportedError(
            f"`{strange[0]}` is not the causal mask that {recognition.architecture.name} has there, and GGUF has no place "
            "for another"
        )
    return tuple(masks)


def _tensors(catalogue: Catalogue, recognition: Recognition, choice: str, notes: list[str]) -> list[_Written]:
    """Give the tensors in the order of the layers."""
    if choice not in CHOICES:
        raise UnsupportedError(f"`{choice}` is no encoding of GGUF here: choose {', '.join(CHOICES)}")
    written, fallen = [], []
    for row in recognition.architecture.rows(recognition.sizes):
        if row.gguf is None or (row.tied_to and recognition.tied_head != "untied"):
            continue
        source = row.named(recognition.prefix)
        tensor = catalogue[source].t() if row.gguf_transposed else catalogue[source]
        if not can_convert(tensor.dtype, F32):
            raise UnsupportedError(f"`{source}` is {tensor.dtype.name}: GGUF holds floating-point parameters")
        encoding = _encoding(row, tensor, choice)
        if tensor.shape[-1] % encoding.block:
            fallen.append(row.gguf)
            encoding = BY_NAME["F16"]
        written.append(_Written(row.gguf, source, tensor, encoding))
    if fallen:
        listed = ", ".join(f"`{name}`" for name in fallen[:4]) + (", …" if len(fallen) > 4 else "")
        notes.append(
            f"{len(fallen):,} matrices have rows that are no whole blocks of {choice.upper()} and become F16: {listed}"
        )
    return written


def _encoding(row: Parameter, tensor: Tensor, choice: str) -> Encoding:
    # llama.cpp aborts on a vector or norm that is not F32.
    if len(row.shape) < 2 or row.gguf == "position_embd.weight":
        return BY_NAME["F32"]
    if choice == "keep":
        return BY_NAME[tensor.dtype.name if tensor.dtype.name in ("F16", "BF16") else "F32"]
    return BY_NAME[choice.upper()]


# ---- metadata -------------------------------------------------------------------------------------------------------


def _general(
    recognition: Recognition, tensors: list[_Written], choice: str, name: str | None, source_sha256: str | None
) -> Iterator[bytes]:
    model = recognition.model
    yield _string("general.architecture", recognition.architecture.name)
    yield _string("general.type", "model")
    if name or model:
        yield _string("general.name", name or (model.name if model else ""))
    size = model.short if model else _size_label(sum(written.tensor.size for written in tensors))
    yield _string("general.size_label", size)
    if model:
        repository = model.url("").partition("/resolve/")[0]
        yield _string("general.license", model.licence)
        yield _string("general.repo_url", repository)
        yield _string("general.source.repo_url", repository)
    matrices = {
        w.encoding.name: w.encoding for w in tensors if len(w.tensor.shape) == 2 and w.name != "position_embd.weight"
    }
    mostly = (
        BY_NAME[choice.upper()]
        if choice.upper() in matrices
        else max(matrices.values(), key=lambda encoding: sum(w.nbytes for w in tensors if w.encoding == encoding))
    )
    yield _scalar("general.file_type", "u32", mostly.file_type or 0)
    yield _scalar("general.quantization_version", "u32", _QUANTISATION)
    if source_sha256:
        yield _string("cerebras_tool.source_sha256", source_sha256)


def _architecture(recognition: Recognition, settings: Mapping[str, Any]) -> Iterator[bytes]:
    for row in recognition.architecture.metadata:
        value = recognition.sizes.get(row.value, settings.get(row.value, row.default))
        whole = row.type == "u32"
        if type(value) not in ((int,) if whole else (int, float)) or not 0 < value < _U32:
            raise ModelError(f"`{row.value}` is {value!r:.80}: a positive number was expected for `{row.key}`")
        yield _scalar(row.key, row.type, value)
    yield _string("cerebras_tool.activation_function", settings.get("activation_function", _TANH[0]))


def _tokenizer(
    recognition: Recognition, settings: Mapping[str, Any], vocabulary: Vocabulary | None, notes: list[str]
) -> Iterator[bytes]:
    rows = recognition.sizes["vocab_size"]
    special = {
        name: settings[f"{name}_token_id"]
        for name in ("bos", "eos")
        if type(settings.get(f"{name}_token_id")) is int and 0 <= settings[f"{name}_token_id"] < rows
    }
    if vocabulary is None:
        yield _string("tokenizer.ggml.model", "none")
    else:
        end = vocabulary.ids.get(END_OF_TEXT)
        if end is not None:
            special = {"bos": end, "eos": end} | special
        tokens, types = _tokens(vocabulary, rows, set(special.values()))
        yield _string("tokenizer.ggml.model", "gpt2")
        yield _string("tokenizer.ggml.pre", "gpt-2")
        yield _strings("tokenizer.ggml.tokens", tokens)
        yield _head("tokenizer.ggml.token_type", ARRAY) + struct.pack(f"<IQ{rows}i", TYPES["i32"][0], rows, *types)
        yield _strings("tokenizer.ggml.merges", [f"{left} {right}" for left, right in vocabulary.merges])
        if not special:
            notes.append(f"the tokenizer has no `{END_OF_TEXT}`: llama.cpp takes token 11 for the end of text")
    for name, number in special.items():
        yield _scalar(f"tokenizer.ggml.{name}_token_id", "u32", number)


def _tokens(vocabulary: Vocabulary, rows: int, special: set[int]) -> tuple[list[str], list[int]]:
    """Give every row of the embedding its token: rows that the vocabulary does not know are padding."""
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
    """Give a count with two digits or more, as gguf-py does: 1.3B, 111M."""
    scale, suffix = next(
        ((s, letter) for s, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if parameters > s), (1e3, "K")
    )
    return f"{parameters / scale:.{1 if round(parameters / scale) < 10 else 0}f}{suffix}"


def _head(key: str, type: int) -> bytes:
    return _text(key) + struct.pack("<I", type)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "replace")  # JSON can hold half a surrogate pair
    return struct.pack("<Q", len(data)) + data


def _string(key: str, value: str) -> bytes:
    return _head(key, STRING) + _text(value)


def _strings(key: str, values: Sequence[str]) -> bytes:
    return _head(key, ARRAY) + struct.pack("<IQ", STRING, len(values)) + b"".join(map(_text, values))


def _scalar(key: str, type: str, value: float) -> bytes:
    number, packed = TYPES[type]
    return _head(key, number) + struct.pack(packed, value)


# ---- files ----------------------------------------------------------------------------------------------------------


def _files(
    tensors: list[_Written], metadata: list[bytes], path: str, most: int | None, losses: Losses
) -> tuple[list[PlannedFile], list[Entry]]:
    shards = _shards(tensors, sum(map(len, metadata)), most)
    if len(shards) > 1 and not path.endswith(".gguf"):
        raise OutputError(
            "a GGUF file in several parts needs a folder to lie in: name a folder, or leave --max-shard-size out"
        )
    files, entries = [], []
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
        offset = len(header)
        for written in shard:
            pieces.append(Piece(written.name, _parts(written, losses), written.encoding.name))
            shape = written.tensor.shape
            entries.append(
                Entry(written.name, written.source, written.encoding.name, shape, name, offset, written.nbytes)
            )
            offset += written.padded
        files.append(PlannedFile(name, tuple(pieces)))
    return files, entries


def _shards(tensors: list[_Written], keys: int, most: int | None) -> list[list[_Written]]:
    """Divide the tensors so that a file has at most `most` bytes, unless one tensor alone has more."""
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
    header = b"".join([MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(keys)), *keys, *infos])
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
