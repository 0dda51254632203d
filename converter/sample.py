"""Checkpoints of the published form, written without torch: the declared models, and two tiny ones to try things on."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from converter.dtypes import BY_NAME, F32
from converter.errors import ModelError, OutputError
from converter.formats.torch.writer import Entry, lay_out
from converter.formats.torch.writer import Layout as FileLayout
from converter.models.architecture import Parameter
from converter.models.declared import Layout, Model, ModelFile, find
from converter.text import os_reason

Progress = Callable[[int], None]  # called with the bytes written since the last call

_TILE: Final = 1 << 20  # bytes of noise made at once: what the cache holds
_TINY_SIZES: Final = {"n_layer": 4, "n_head": 4, "n_embd": 64, "n_inner": 256, "n_positions": 64, "vocab_size": 257}
_WIDE_MODEL: Final = 768  # hidden size from which on 0.02 is loud enough to say different tokens
_END_OF_TEXT: Final = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class SampleReport:
    """What was written: the files with their sizes in bytes, the weights first."""

    model: str
    files: tuple[tuple[Path, int], ...]
    seed: int
    sparse: bool


def expected_nbytes(model: Model, file: ModelFile) -> int:
    """Give the size of a weight file of the published form: without `lm_head.weight`, as torch 1.12 lays it out."""
    return _laid_out(model)[file.name].nbytes


def sample_nbytes(name: str) -> int:
    """Give the bytes of all weight files of a sample. Raises ModelError where there is no such model."""
    return sum(layout.nbytes for layout in _laid_out(_model(name)).values())


def write_sample(
    folder: Path,
    model: str = "tiny",
    *,
    seed: int = 1234,
    sparse: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> SampleReport:
    """Write config.json and weights of the published form, which are noise; or zeros that take no disk, if `sparse`.

    Masks are what they have to be either way: of a sparse sample they alone take room, 4 MiB a layer.

    `model` is a declared model, `tiny` or `tiny-13B`; these two have vocab.json and merges.txt, too: a token a byte.
    A seed gives the same weights with every run (of one version of numpy). Raises ModelError where there is no such
    model, OutputError where it can't be written; then the folder is as it was.
    """
    written = _model(model)
    layouts = _laid_out(written)
    documents = _documents(written)
    files = {**{name: layout.nbytes for name, layout in layouts.items()}, **{n: len(d) for n, d in documents.items()}}
    noise = _Noise(written, seed, sparse, progress)

    def fill(name: str, file: BinaryIO) -> None:
        if name in documents:
            file.write(documents[name])
            return
        layouts[name].write(file, noise.tiles)
        if progress is not None:
            progress(layouts[name].overhead)

    try:
        with _opened(folder) as descriptor:
            _check_free(folder, files, force=force)
            _check_room(folder, 0 if sparse else sum(files.values()))
            _publish(folder, files, fill)
            os.fsync(descriptor)
    except OSError as error:
        raise OutputError(f"`{folder}` can't be written: {os_reason(error)}") from error
    return SampleReport(written.name, tuple((folder / name, nbytes) for name, nbytes in files.items()), seed, sparse)


def _model(name: str) -> Model:
    tiny = {"tiny": _tiny, "tiny-13b": _tiny_13b}.get(name.casefold())
    if tiny is not None:
        return tiny()
    try:
        return find(name)
    except ModelError as error:
        raise ModelError(f"{error}; and of samples `tiny` and `tiny-13B`") from None


def _tiny() -> Model:
    """Give the form of the six single files at sizes of a megabyte."""
    like = find("111M")
    return _miniature("tiny", {**like.config, **_TINY_SIZES}, like.layout, _file("pytorch_model.bin", 60, "archive"))


def _tiny_13b() -> Model:
    """Give the 13B's form, cut inside a layer as that is."""
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
    """Give the entries of each file. Where a file says its first tensor, it has those up to the next file's."""
    entries = [entry for entry, _ in _state_dict(model)]
    names = [entry.name for entry in entries]
    starts = [names.index(file.first) if file.first else 0 for file in model.files]
    stops = [*starts[1:], len(entries)]
    return {file.name: entries[start:stop] for file, start, stop in zip(model.files, starts, stops, strict=True)}


def _laid_out(model: Model) -> dict[str, FileLayout]:
    shards = _shards(model)
    return {file.name: lay_out(file.root, shards[file.name]) for file in model.files}


def _documents(model: Model) -> dict[str, bytes]:
    """Give what lies beside the weights."""
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
        documents["merges.txt"] = b"#version: 0.2\n"
    return documents


def _json(document: dict[str, Any]) -> bytes:
    return (json.dumps(document, indent=2) + "\n").encode()


def _vocabulary() -> dict[str, int]:
    """Give GPT-2's first 256 tokens, the bytes, as encoder.py `bytes_to_unicode` spells and orders them; and the last."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = 256 - len(printable)
    spelled = [chr(code) for code in (*printable, *range(256, 256 + hidden))]
    return {token: number for number, token in enumerate([*spelled, _END_OF_TEXT])}


class _Noise:
    """The values of a sample's tensors."""

    def __init__(self, model: Model, seed: int, sparse: bool, progress: Progress | None) -> None:
        self._parameters = {entry.name: parameter for entry, parameter in _state_dict(model)}
        self._deviation = 0.02 if model.config["n_embd"] >= _WIDE_MODEL else 0.2
        self._seed = seed % (1 << 64)
        self._sparse = sparse
        self._progress = progress

    def tiles(self, entry: Entry) -> Iterable[memoryview] | None:
        """Give an entry's storage, piece by piece, in one buffer; None where a hole will do."""
        value = self._parameters[entry.name].value
        if self._sparse and value is None:
            self._tell(entry.nbytes)
            return None
        return self._told(self._tiles(entry, value))

    def _told(self, tiles: Iterable[memoryview]) -> Iterator[memoryview]:
        for tile in tiles:
            yield tile
            self._tell(len(tile))

    def _tell(self, nbytes: int) -> None:
        if self._progress is not None:
            self._progress(nbytes)

    def _tiles(self, entry: Entry, value: str | float | None) -> Iterable[memoryview]:
        import numpy as np

        if value == "causal":
            return [np.tri(entry.shape[-1], dtype=np.uint8).data.cast("B")]
        if isinstance(value, int | float):
            return [memoryview(struct.pack("<f", value))]
        return self._drawn(entry)

    def _drawn(self, entry: Entry) -> Iterator[memoryview]:
        """Draw a piece while the one before it is written: both take about as long."""
        from concurrent.futures import ThreadPoolExecutor

        import numpy as np

        own = np.random.SeedSequence([self._seed, int.from_bytes(entry.name.encode(), "little")])
        generator = np.random.Generator(np.random.SFC64(own))
        norm = len(entry.shape) == 1 and entry.name.endswith(".weight")
        step = min(entry.size, _TILE // F32.itemsize)
        buffers = np.empty((2, step), np.float32)

        def draw(start: int) -> memoryview:
            piece = buffers[start // step % 2, : entry.size - start]
            generator.standard_normal(dtype=np.float32, out=piece)
            piece *= np.float32(self._deviation)
            if norm:
                piece += np.float32(1)
            return piece.data.cast("B")

        with ThreadPoolExecutor(1) as worker:
            drawn = worker.submit(draw, 0)
            for following in range(step, entry.size + step, step):
                piece = drawn.result()
                if following < entry.size:
                    drawn = worker.submit(draw, following)
                yield piece


def _check_free(folder: Path, files: Iterable[str], *, force: bool) -> None:
    """Raise OutputError where a file is in the way."""
    for name in files:
        path = folder / name
        if path.is_dir():
            raise OutputError(f"`{path}` is a folder, where a file should be written")
        if os.path.lexists(path) and not force:
            raise OutputError(f"`{path}` exists: give --force to replace it")
    for path in sorted(folder.glob("pytorch_model*")):
        if path.name not in files:
            raise OutputError(f"`{folder}` holds `{path.name}` of another checkpoint: choose another folder")


def _check_room(folder: Path, nbytes: int) -> None:
    disk = os.statvfs(folder)
    room = disk.f_bavail * disk.f_frsize
    if nbytes > room:
        raise OutputError(f"`{folder}` needs {nbytes:,} bytes and there is room for {room:,} on its disk")


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    """Open the folder, locked against a second run; made if it was missing, and taken away again if it stays empty."""
    made = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if isinstance(error, BlockingIOError):
                raise OutputError(f"`{folder}` is being written by another run: wait for it to end") from error
            # NFS locks no folders: there nothing warns of a second run.
        yield descriptor
    except BaseException:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise
    finally:
        os.close(descriptor)


def _publish(folder: Path, files: Iterable[str], fill: Callable[[str, BinaryIO], None]) -> None:
    """Write all files beside their places, then rename them: each is absent, old or complete."""
    partials = {folder / f".{name}.partial": folder / name for name in files}
    try:
        for partial, target in partials.items():
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            with open(os.open(partial, flags, 0o666), "wb") as file:
                fill(target.name, file)
                file.flush()
                os.fsync(file.fileno())
        for partial, target in partials.items():
            partial.replace(target)
    except BaseException:
        for partial in partials:
            partial.unlink(missing_ok=True)
        raise
