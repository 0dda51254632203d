"""Writes checkpoints in the published form without torch: the declared models, and tiny ones of every family."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from converter.dtypes import BF16, BY_NAME, F32
from converter.errors import ModelError, OutputError
from converter.formats.torch.writer import Entry, lay_out
from converter.formats.torch.writer import Layout as FileLayout
from converter.io.parts import Buffers, Part, hole, known, portions
from converter.io.publish import Plan, PlannedFile, add, literal
from converter.io.writer import Progress
from converter.models.declared import Layout, Model, ModelFile, find
from converter.models.families import Family, families
from converter.models.rows import Parameter, Row, evaluated
from converter.models.ties import TIED
from converter.models.tokenizers.files import files
from converter.models.tokenizers.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, Kind, Token, Tokenizer
from converter.words import option

_TINY_SIZES: Final = {"n_layer": 4, "n_head": 4, "n_embd": 64, "n_inner": 256, "n_positions": 64, "vocab_size": 257}
_WIDE_MODEL: Final = 768  # from this hidden size on, noise with a deviation of 0.02 makes predictions differ
_END_OF_TEXT: Final = "<|endoftext|>"
_NEVER: Final = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))  # bytes that UTF-8 doesn't use: 13
_MERGES: Final = (
    *(("h", "e"), ("i", "n"), ("r", "e"), ("o", "n"), ("e", "r"), ("a", "n"), ("a", "t"), ("n", "d"), ("e", "n")),
    *(("o", "r"), ("t", "he"), ("in", "g"), ("Ġ", "the")),
)
# The same words for a tokenizer of characters, as SentencePiece trains one: merged pieces, and then characters.
_PIECES: Final = (
    *("▁t", "he", "in", "er", "an", "▁a", "on", "re", "at", "en", "or", "nd", "▁the", "▁and", "ing"),
    *("▁", "e", "t", "a", "o", "i", "n", "s", "r", "h", "d", "g", "l", "u"),
)
_MARKS: Final = ("<unk>", "<s>", "</s>")
_ROLES: Final = {"<s>": "bos", "</s>": "eos", "<pad>": "pad", "<unk>": "unk"}
_USUAL: Final = "pytorch_model.bin"


class _Words(NamedTuple):
    """What a tokenizer.json holds: a kind of tokenizer, llama.cpp's name for the cut into words, and special tokens."""

    kind: Kind
    pre: str | None = None
    marks: tuple[str, ...] = ()


class _Sample(NamedTuple):
    """A model to write. Without `words` there are vocab.json and merges.txt, if there is a tokenizer at all.

    The state dict lies `below` a key if there is one, and the key `config` beside it stands for config.json.
    """

    model: Model
    words: _Words | None = None
    below: str | None = None
    config: str | None = None


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What was written: the files and their sizes in bytes, the weights first."""

    model: str
    files: tuple[tuple[Path, int], ...]
    seed: int
    sparse: bool


def expected_nbytes(model: Model, file: ModelFile) -> int:
    """The size of a weight file of the published form: without `lm_head.weight`, as torch 1.12 lays it out."""
    return _laid_out(_Sample(model))[file.name].nbytes


def sample_nbytes(name: str) -> int:
    """The bytes of all files of a sample. Raises ModelError if there is no such model."""
    sample = _sample(name)
    return sum(layout.nbytes for layout in _laid_out(sample).values()) + sum(map(len, _documents(sample).values()))


def samples() -> list[str]:
    """The names of the tiny models: three in the published form of Cerebras-GPT, and one of each family."""
    return ["tiny", "tiny-13B", "tiny-13B-prefixed", *_kinds()]


def write_sample(
    folder: Path,
    model: str = "tiny",
    *,
    seed: int = 1234,
    sparse: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> SampleReport:
    """Write config.json and weights in the published form: noise, or if `sparse`, zeros that take no room on the disk.

    Masks have their right values either way. In a sparse sample only they take room, 4 MiB a layer.

    `model` is a declared model or one of `samples`. These get a tokenizer as well, with a token for each byte of a text
    and a few merges. A seed gives the same weights in every run with one version of numpy. Raises
    ModelError if there is no such model, and OutputError if the sample can't be written; the folder is then as it was.
    """
    sample = _sample(model)
    written = sample.model
    values = {entry.name: parameter for entry, parameter in _state_dict(written)}
    free = (lambda entry: hole(entry.nbytes)) if sparse else _Noise(written, seed).part
    made = partial(_part, written, values, free)
    files = [PlannedFile(name, layout.pieces(made)) for name, layout in _laid_out(sample).items()]
    files += [PlannedFile(name, (literal(name, document),)) for name, document in _documents(sample).items()]
    names = [file.path for file in files]
    plan = Plan(tuple(files), folder=True)
    add(plan, folder, check=partial(_check_free, folder, names, force=force), progress=progress)
    return SampleReport(written.name, tuple((folder / file.path, file.nbytes) for file in files), seed, sparse)


def _sample(name: str) -> _Sample:
    tiny = {"tiny": _tiny, "tiny-13b": _tiny_13b, "tiny-13b-prefixed": _prefixed}.get(name.casefold())
    if tiny is not None:
        return _Sample(tiny())
    try:
        return _Sample(find(name))
    except ModelError as error:
        known = _kinds()
        kind = name.casefold().replace("-", "_")
        if kind not in known:
            raise ModelError(f"{error}, {', '.join(samples())}") from None
        return _of_family(known[kind], kind)


def _kinds() -> dict[str, Family]:
    """The families that have a tiny model, by their name in config.json and by variant."""
    found: dict[str, Family] = {}
    for family in families():
        if family.sample:
            also = (kind for kind, computed in family.also.items() if computed is not None)
            found |= dict.fromkeys((family.name, *also, *family.variants), family)
    return found


def _of_family(family: Family, kind: str) -> _Sample:
    """A tiny model in the form of the files that people have of its family."""
    variant = family.variants.get(kind, {})
    said = {**family.published, **variant.get("published", {})}
    words, shards = said.get("tokenizer"), said.get("shards", 1)
    config = {**family.sample, **variant.get("sample", {})}
    if kind in family.also:
        config |= {"model_type": kind, "architectures": [family.also[kind]]}
    layout = Layout(
        said.get("prefix", family.prefixes[-1]),
        said.get("mask_dtype", "BOOL"),
        transposed=False,
        order="module",
        dtype=said.get("dtype", "F32"),
        without=tuple(said.get("without", ())),
    )
    model = Model(kind, family.name, "", "", config, 0, layout, (), ())
    names = [entry.name for entry, _ in _state_dict(model)]
    files = [_file(said.get("name", _USUAL), len(names), "archive")]
    if shards > 1:
        starts = [len(names) * number // shards for number in range(shards)]
        stops = [*starts[1:], len(names)]
        roots = [f"pytorch_model-{number + 1:05}-of-{shards:05}" for number in range(shards)]
        files = [
            _file(f"{root}.bin", stop - start, root, names[start])
            for root, start, stop in zip(roots, starts, stops, strict=True)
        ]
    index = f"{_USUAL}.index.json" if shards > 1 else None
    model = replace(model, files=tuple(files), index=index)
    marks = tuple(words.get("marks", ())) if words else ()
    return _Sample(model, words and _Words(**{**words, "marks": marks}), said.get("below"), said.get("config"))


def _tiny() -> Model:
    """The form of the six single files, with about a megabyte."""
    like = find("111M")
    return _miniature("tiny", {**like.config, **_TINY_SIZES}, like.layout, _file(_USUAL, 60, "archive"))


def _tiny_13b() -> Model:
    """The form of the 13B, which is cut inside a layer."""
    like = find("13B")
    config = {**like.config, **_TINY_SIZES, "bos_token_id": 256, "eos_token_id": 256}
    one, two = (file.root for file in like.files)
    cut = "h.2.mlp.c_proj.weight"
    files = (_file(f"{one}.bin", 42, one, "wte.weight"), _file(f"{two}.bin", 18, two, cut))
    return _miniature("tiny-13B", config, like.layout, *files, index=like.index)


def _prefixed() -> Model:
    """The same with the longer names that other people's conversions of the 13B have."""
    model = _tiny_13b()
    prefix = model.family.prefixes[-1]
    files = tuple(replace(file, first=file.first and prefix + file.first) for file in model.files)
    return replace(model, name="tiny-13B-prefixed", layout=replace(model.layout, prefix=prefix), files=files)


def _miniature(
    name: str, config: Mapping[str, Any], layout: Layout, *files: ModelFile, index: str | None = None
) -> Model:
    companions = ("config.json", "vocab.json", "merges.txt")
    return Model(name, "gpt2", "", "", config, 220_608, layout, files, companions, index)


def _file(name: str, storages: int, root: str, first: str | None = None) -> ModelFile:
    return ModelFile(name, "", "", storages, root, first=first)


def _state_dict(model: Model) -> list[tuple[Entry, Parameter]]:
    known, layout = model.family, model.layout
    rows = known.rows(known.sizes(model.config), layout.order, model.config)
    left_out = {row.name for row, _ in known.each(1) if row.name in layout.without or not _stored(known, row, model)}
    named = zip(known.each(known.sizes(model.config)[known.layers], layout.order), rows, strict=True)
    return [(_entry(parameter, layout), parameter) for (row, _), parameter in named if row.name not in left_out]


def _stored(known: Family, row: Row, model: Model) -> bool:
    """Whether files have a row. A tied head is absent, and so is a row that a setting leaves out."""
    if row.tied_to:
        return known.setting(TIED, model.config) is False
    if row.present_if:
        return known.says_present(row, model.config) is True
    return not row.optional or not row.gguf_zeros


def _entry(parameter: Parameter, layout: Layout) -> Entry:
    shape, stride = parameter.shape, []
    step = 1
    for length in reversed(shape):
        stride.append(step)
        step *= length
    strides = tuple(reversed(stride))
    if parameter.gguf_transposed and layout.transposed:
        strides = (1, shape[0])
    dtype = F32 if parameter.kind == "buffer" else BY_NAME[layout.dtype]
    if parameter.value == "causal":
        dtype = BY_NAME[layout.mask_dtype]
    return Entry(parameter.named(layout.prefix), dtype, shape, strides)


def _shards(model: Model) -> dict[str, list[Entry]]:
    """The entries of each file. A file begins with its declared first tensor, and ends where the next file begins."""
    entries = [entry for entry, _ in _state_dict(model)]
    names = [entry.name for entry in entries]
    starts = [names.index(file.first) if file.first else 0 for file in model.files]
    stops = [*starts[1:], len(entries)]
    return {file.name: entries[start:stop] for file, start, stop in zip(model.files, starts, stops, strict=True)}


def _laid_out(sample: _Sample) -> dict[str, FileLayout]:
    model = sample.model
    shards = _shards(model)
    beside = {} if sample.config is None else {sample.config: model.config}
    return {file.name: lay_out(file.root, shards[file.name], below=sample.below, beside=beside) for file in model.files}


def _documents(sample: _Sample) -> dict[str, bytes]:
    """The files beside the weights."""
    model = sample.model
    documents = {} if sample.config is not None else {"config.json": _json(dict(model.config))}
    if model.index:
        shards = _shards(model)
        total = sum(entry.nbytes for entries in shards.values() for entry in entries)
        weight_map = {entry.name: name for name, entries in shards.items() for entry in entries}
        documents[model.index] = _json(
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        )
    rows = model.family.sizes(model.config).get("vocab_size", 0)
    if sample.words is not None:
        documents |= files(_TOKENIZERS[sample.words.kind](sample.words, rows))
    elif rows == _TINY_SIZES["vocab_size"]:
        documents["vocab.json"] = json.dumps(_vocabulary()).encode()
        merges = [f"{left} {right}\n" for left, right in _MERGES]
        documents["merges.txt"] = "".join(["#version: 0.2\n", *merges]).encode()
    return documents


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _vocabulary() -> dict[str, int]:
    """GPT-2's 256 tokens for bytes, as encoder.py `bytes_to_unicode` spells and orders them, and its last token.

    Bytes that never occur in UTF-8 have no token. The tokens that merges make have their places.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = 256 - len(printable)
    made = map("".join, _MERGES)
    spelled = [next(made) if code in _NEVER else chr(code) for code in (*printable, *range(256, 256 + hidden))]
    return {token: number for number, token in enumerate([*spelled, _END_OF_TEXT])}


def _byte_pairs(words: _Words, size: int) -> Tokenizer:
    tokens = [Token(text) for text in [*words.marks, *_vocabulary()][:size]]
    if not words.marks:
        tokens[-1] = tokens[-1]._replace(type=CONTROL)
    special = {"bos": size - 1, "eos": size - 1}
    return _marked(Tokenizer(words.kind, dict(enumerate(tokens)), _MERGES, pre=words.pre, special=special), words.marks)


def _characters(words: _Words, size: int) -> Tokenizer:
    types = (UNKNOWN, CONTROL, CONTROL)
    tokens = [Token(text, type) for text, type in zip(_MARKS, types, strict=True)]
    tokens += [Token(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    tokens += [Token(text, NORMAL, -float(number)) for number, text in enumerate(_PIECES)]
    special = {"unk": 0, "bos": 1, "eos": 2}
    found = dict(enumerate(tokens[:size]))
    return Tokenizer(words.kind, found, special=special, adds={"bos": True}, space_prefix=True)


def _unigram(words: _Words, size: int) -> Tokenizer:
    """Pieces and characters by how likely they are; the remaining rows of the embedding get names that no text has."""
    texts = dict.fromkeys((*words.marks, *_PIECES, *map(chr, range(ord("!"), ord("~") + 1))))
    tokens = [Token(text, NORMAL, -float(number)) for number, text in enumerate(texts)]
    tokens += [Token(f"<madeupword{number}>") for number in range(size - len(tokens))]
    return _marked(Tokenizer(words.kind, dict(enumerate(tokens)), space_prefix=True), words.marks)


def _marked(tokenizer: Tokenizer, marks: tuple[str, ...]) -> Tokenizer:
    """The tokenizer whose first tokens are these marks."""
    if not marks:
        return tokenizer
    types = {number: UNKNOWN if mark == "<unk>" else CONTROL for number, mark in enumerate(marks)}
    tokens = {number: token._replace(type=types.get(number, token.type)) for number, token in tokenizer.tokens.items()}
    return replace(tokenizer, tokens=tokens, special={_ROLES[mark]: number for number, mark in enumerate(marks)})


_TOKENIZERS: Final[Mapping[Kind, Callable[[_Words, int], Tokenizer]]] = {
    "byte-pair": _byte_pairs,
    "scored-pair": _characters,
    "unigram": _unigram,
}


def _part(model: Model, rows: Mapping[str, Parameter], free: Callable[[Entry], Part], entry: Entry) -> Part:
    """An entry's storage: a buffer's values, or `free` for a tensor whose values are free."""
    row = rows[entry.name]
    if row.value == "causal":
        return Part(entry.nbytes, lambda buffers: _causal(entry, _window(model, row)))
    if row.value == "rotary":
        return known(_frequencies(model))
    if isinstance(row.value, int | float):
        return known(struct.pack("<f", row.value))
    return free(entry)


def _window(model: Model, row: Parameter) -> int | None:
    """How far back a layer looks; None if it looks at everything."""
    forward = model.family.forward
    if forward is None or forward.local is None or row.layer is None:
        return None
    kinds = model.family.setting(forward.local, model.config)
    window = model.family.setting(forward.window or "", model.config)
    return int(window) if kinds[row.layer] == "local" else None


def _frequencies(model: Model) -> bytes:
    """By how much a position turns each pair of elements."""
    family = model.family
    rotary = family.computed().rotary
    look_up = family.known(family.sizes(model.config), model.config)
    size, base = (evaluated(text, look_up) for text in (rotary.size, rotary.base)) if rotary else (0, 1)
    return struct.pack(f"<{size // 2}f", *(base ** (-2 * pair / size) for pair in range(size // 2)))


class _Noise:
    """The values of a sample's parameters."""

    def __init__(self, model: Model, seed: int) -> None:
        width = model.family.dimensions(model.family.sizes(model.config)).width
        self._deviation = 0.02 if width is not None and width >= _WIDE_MODEL else 0.2
        self._seed = seed % (1 << 64)
        self._drawn_at_once = portions().noise

    def part(self, entry: Entry) -> Part:
        """An entry's storage."""
        return Part(entry.nbytes, partial(self._drawn, entry))

    def _drawn(self, entry: Entry, buffers: Buffers) -> Iterator[memoryview]:
        import numpy as np

        own = np.random.SeedSequence([self._seed, int.from_bytes(entry.name.encode(), "little")])
        generator = np.random.Generator(np.random.SFC64(own))
        norm = len(entry.shape) == 1 and entry.name.endswith(".weight")
        step = min(entry.size, self._drawn_at_once // F32.itemsize)
        with buffers.lent(step * F32.itemsize) as buffer:
            for start in range(0, entry.size, step):
                tile = buffer[: min(step, entry.size - start) * F32.itemsize]
                values = np.frombuffer(tile, np.float32)
                generator.standard_normal(dtype=np.float32, out=values)
                values *= np.float32(self._deviation)
                if norm:
                    values += np.float32(1)
                if entry.dtype is F32:
                    yield tile
                elif entry.dtype is BF16:
                    yield (values.view(np.uint32) >> 16).astype("<u2").data.cast("B")
                else:
                    yield values.astype(entry.dtype.numpy).data.cast("B")


def _causal(entry: Entry, window: int | None) -> Iterator[memoryview]:
    import numpy as np

    positions = entry.shape[-1]
    mask = np.tri(positions, dtype=np.uint8)
    if window is not None:
        mask -= np.tri(positions, k=-window, dtype=np.uint8)
    yield mask.astype(entry.dtype.numpy, copy=False).reshape(-1).view(np.uint8).data


def _check_free(folder: Path, files: Iterable[str], *, force: bool) -> None:
    """Raise OutputError if a file is in the way."""
    for name in files:
        path = folder / name
        if path.is_dir():
            raise OutputError(f"`{path}` is a folder, where a file should be written")
        if os.path.lexists(path) and not force:
            raise OutputError(f"`{path}` exists: give {option('force', True)} to replace it")
    for path in sorted(folder.glob("pytorch_model*")):
        if path.name not in files:
            raise OutputError(f"`{folder}` holds `{path.name}` of another checkpoint: choose another folder")
