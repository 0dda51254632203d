"""Writes checkpoints in the published form without torch: the declared models, and two tiny ones to try things on."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from converter.dtypes import BY_NAME, F32
from converter.errors import ModelError, OutputError
from converter.formats.torch.writer import Entry, lay_out
from converter.formats.torch.writer import Layout as FileLayout
from converter.io.parts import Buffers, Part, hole, known
from converter.io.publish import Plan, PlannedFile, add, literal
from converter.io.writer import Progress
from converter.models.architecture import Parameter
from converter.models.declared import Layout, Model, ModelFile, find

_TILE: Final = 1 << 20  # bytes of noise that are made at once: they fit in the processor's cache
_TINY_SIZES: Final = {"n_layer": 4, "n_head": 4, "n_embd": 64, "n_inner": 256, "n_positions": 64, "vocab_size": 257}
_WIDE_MODEL: Final = 768  # from this hidden size on, noise with a deviation of 0.02 makes a model say different tokens
_END_OF_TEXT: Final = "<|endoftext|>"
_NEVER: Final = frozenset((0xC0, 0xC1, *range(0xF5, 0x100)))  # bytes that UTF-8 doesn't use: 13
_MERGES: Final = (
    *(("h", "e"), ("i", "n"), ("r", "e"), ("o", "n"), ("e", "r"), ("a", "n"), ("a", "t"), ("n", "d"), ("e", "n")),
    *(("o", "r"), ("t", "he"), ("in", "g"), ("Ġ", "the")),
)


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What was written: the files and their sizes in bytes, the weights first."""

    model: str
    files: tuple[tuple[Path, int], ...]
    seed: int
    sparse: bool


def expected_nbytes(model: Model, file: ModelFile) -> int:
    """The size of a weight file of the published form: without `lm_head.weight`, as torch 1.12 lays it out."""
    return _laid_out(model)[file.name].nbytes


def sample_nbytes(name: str) -> int:
    """The bytes of all files of a sample. Raises ModelError if there is no such model."""
    model = _model(name)
    return sum(layout.nbytes for layout in _laid_out(model).values()) + sum(map(len, _documents(model).values()))


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

    `model` is a declared model, `tiny` or `tiny-13B`. These two get vocab.json and merges.txt as well, with a token for
    each byte of a text and a few merges. A seed gives the same weights in every run with one version of numpy. Raises
    ModelError if there is no such model, and OutputError if the sample can't be written; the folder is then as it was.
    """
    written = _model(model)
    values = {entry.name: parameter.value for entry, parameter in _state_dict(written)}
    free = _zeros if sparse else _Noise(written, seed).part
    files = [
        PlannedFile(name, layout.pieces(partial(_part, values, free))) for name, layout in _laid_out(written).items()
    ]
    files += [PlannedFile(name, (literal(name, document),)) for name, document in _documents(written).items()]
    names = [file.path for file in files]
    plan = Plan(tuple(files), folder=True)
    add(plan, folder, check=partial(_check_free, folder, names, force=force), progress=progress)
    return SampleReport(written.name, tuple((folder / file.path, file.nbytes) for file in files), seed, sparse)


def _model(name: str) -> Model:
    tiny = {"tiny": _tiny, "tiny-13b": _tiny_13b}.get(name.casefold())
    if tiny is not None:
        return tiny()
    try:
        return find(name)
    except ModelError as error:
        raise ModelError(f"{error}, tiny or tiny-13B") from None


def _tiny() -> Model:
    """The form of the six single files, with about a megabyte."""
    like = find("111M")
    return _miniature("tiny", {**like.config, **_TINY_SIZES}, like.layout, _file("pytorch_model.bin", 60, "archive"))


def _tiny_13b() -> Model:
    """The form of the 13B, which is cut inside a layer."""
    like = find("13B")
    config = {**like.config, **_TINY_SIZES, "bos_token_id": 256, "eos_token_id": 256}
    one, two = (file.root for file in like.files)
    cut = "h.2.mlp.c_proj.weight"
    files = (_file(f"{one}.bin", 42, one, "wte.weight"), _file(f"{two}.bin", 18, two, cut))
    return _miniature("tiny-13B", config, like.layout, *files, index=like.index)


def _miniature(
    name: str, config: Mapping[str, Any], layout: Layout, *files: ModelFile, index: str | None = None
) -> Model:
    companions = ("config.json", "vocab.json", "merges.txt")
    return Model(name, "gpt2", "", "", config, 220_608, layout, files, companions, index)


def _file(name: str, storages: int, root: str, first: str | None = None) -> ModelFile:
    return ModelFile(name, "", "", storages, root, first=first)


def _state_dict(model: Model) -> list[tuple[Entry, Parameter]]:
    known, layout = model.family, model.layout
    return [
        (_entry(parameter, layout), parameter)
        for parameter in known.rows(known.sizes(model.config), layout.order)
        if not parameter.optional
    ]


def _entry(parameter: Parameter, layout: Layout) -> Entry:
    shape, stride = parameter.shape, []
    step = 1
    for length in reversed(shape):
        stride.append(step)
        step *= length
    strides = tuple(reversed(stride))
    if parameter.gguf_transposed and layout.transposed:
        strides = (1, shape[0])
    dtype = BY_NAME[layout.mask_dtype] if parameter.value == "causal" else F32
    return Entry(parameter.named(layout.prefix), dtype, shape, strides)


def _shards(model: Model) -> dict[str, list[Entry]]:
    """The entries of each file. A file begins with its declared first tensor, and ends where the next file begins."""
    entries = [entry for entry, _ in _state_dict(model)]
    names = [entry.name for entry in entries]
    starts = [names.index(file.first) if file.first else 0 for file in model.files]
    stops = [*starts[1:], len(entries)]
    return {file.name: entries[start:stop] for file, start, stop in zip(model.files, starts, stops, strict=True)}


def _laid_out(model: Model) -> dict[str, FileLayout]:
    shards = _shards(model)
    return {file.name: lay_out(file.root, shards[file.name]) for file in model.files}


def _documents(model: Model) -> dict[str, bytes]:
    """The files beside the weights."""
    documents = {"config.json": _json(dict(model.config))}
    if model.index:
        shards = _shards(model)
        total = sum(entry.nbytes for entries in shards.values() for entry in entries)
        weight_map = {entry.name: name for name, entries in shards.items() for entry in entries}
        documents[model.index] = _json(
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        )
    if model.config["vocab_size"] == _TINY_SIZES["vocab_size"]:
        documents["vocab.json"] = json.dumps(_vocabulary()).encode()
        merges = [f"{left} {right}\n" for left, right in _MERGES]
        documents["merges.txt"] = "".join(["#version: 0.2\n", *merges]).encode()
    return documents


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _vocabulary() -> dict[str, int]:
    """GPT-2's 256 tokens for bytes, as encoder.py `bytes_to_unicode` spells and orders them, and its last token.

    What is merged takes the place of the bytes that no text has in UTF-8.
    """
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = 256 - len(printable)
    made = map("".join, _MERGES)
    spelled = [next(made) if code in _NEVER else chr(code) for code in (*printable, *range(256, 256 + hidden))]
    return {token: number for number, token in enumerate([*spelled, _END_OF_TEXT])}


def _part(values: Mapping[str, str | float | None], free: Callable[[Entry], Part], entry: Entry) -> Part:
    """An entry's storage: a mask's values, or `free` for a tensor whose values are free."""
    value = values[entry.name]
    if value == "causal":
        return Part(entry.nbytes, lambda buffers: _causal(entry.shape[-1]))
    if isinstance(value, int | float):
        return known(struct.pack("<f", value))
    return free(entry)


class _Noise:
    """The values of a sample's parameters."""

    def __init__(self, model: Model, seed: int) -> None:
        self._deviation = 0.02 if model.config["n_embd"] >= _WIDE_MODEL else 0.2
        self._seed = seed % (1 << 64)

    def part(self, entry: Entry) -> Part:
        """An entry's storage."""
        return Part(entry.nbytes, partial(self._drawn, entry))

    def _drawn(self, entry: Entry, buffers: Buffers) -> Iterator[memoryview]:
        import numpy as np

        own = np.random.SeedSequence([self._seed, int.from_bytes(entry.name.encode(), "little")])
        generator = np.random.Generator(np.random.SFC64(own))
        norm = len(entry.shape) == 1 and entry.name.endswith(".weight")
        step = min(entry.size, _TILE // F32.itemsize)
        with buffers.lent(step * F32.itemsize) as buffer:
            for start in range(0, entry.size, step):
                tile = buffer[: (entry.size - start) * F32.itemsize]
                values = np.frombuffer(tile, np.float32)
                generator.standard_normal(dtype=np.float32, out=values)
                values *= np.float32(self._deviation)
                if norm:
                    values += np.float32(1)
                yield tile


def _zeros(entry: Entry) -> Part:
    return hole(entry.nbytes)


def _causal(positions: int) -> Iterator[memoryview]:
    import numpy as np

    yield np.tri(positions, dtype=np.uint8).data.cast("B")


def _check_free(folder: Path, files: Iterable[str], *, force: bool) -> None:
    """Raise OutputError if a file is in the way."""
    for name in files:
        path = folder / name
        if path.is_dir():
            raise OutputError(f"`{path}` is a folder, where a file should be written")
        if os.path.lexists(path) and not force:
            raise OutputError(f"`{path}` exists: give --force to replace it")
    for path in sorted(folder.glob("pytorch_model*")):
        if path.name not in files:
            raise OutputError(f"`{folder}` holds `{path.name}` of another checkpoint: choose another folder")
