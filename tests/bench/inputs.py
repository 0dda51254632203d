"""The inputs: checkpoints of the published form and files made from them, each written when it is first asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.formats.torch.writer import Entry, lay_out
from converter.io.local import LocalFile
from converter.io.parts import Part
from converter.io.zip_records import Archive
from converter.opening import open_checkpoint
from converter.sample import write_sample

PROGRAMS = Path(__file__).with_name("programs.py")
_PIECE = 1 << 20  # bytes


class Inputs:
    """Files by size and kind: ("590M", "bin"), ("13B", "sparse"), ("100000", "many").

    `by_torch` has the checkpoints saved again by torch; `given` are folders that stand for a size.
    """

    def __init__(self, work: Path, *, by_torch: bool = False, given: dict[str, Path] | None = None) -> None:
        self._work, self._by_torch, self._given = work, by_torch, given or {}
        self._made: dict[tuple[str, str], Path] = {}

    def get(self, size: str, kind: str) -> Path:
        """The path."""
        if (size, kind) not in self._made:
            print(f"  writing {size} {kind}", file=sys.stderr)
            self._made[size, kind] = _MAKERS[kind](self, size)
            os.sync()  # otherwise it is still being written while something else is measured
        return self._made[size, kind]

    def _folder(self, size: str) -> Path:
        if size in self._given:
            return self._given[size].absolute()
        folder = self._work / size
        write_sample(folder, size)
        if self._by_torch:
            _program("torch_save", folder / "pytorch_model.bin", folder / "pytorch_model.bin")
        return folder

    def _bin(self, size: str) -> Path:
        return self.get(size, "folder") / "pytorch_model.bin"

    def _sparse(self, size: str) -> Path:
        folder = self._work / f"{size}-sparse"
        write_sample(folder, size, sparse=True)
        return folder

    def _contiguous(self, size: str) -> Path:
        """The same storages under tensors whose rows lie one after the other, as the 13B has them."""
        source = open_checkpoint(self.get(size, "bin"))
        storages = {name: tensor.storage for name, tensor in source.items()}
        entries = [Entry(name, t.dtype, t.shape, _row_major(t.shape)) for name, t in source.items()]

        def tiles(entry: Entry) -> Iterator[memoryview]:
            storage = storages[entry.name]
            for start in range(0, storage.nbytes, _PIECE):
                piece = memoryview(bytearray(min(_PIECE, storage.nbytes - start)))
                storage.readinto(start, piece)
                yield piece

        path = self._work / f"{size}-contiguous" / "pytorch_model.bin"
        path.parent.mkdir()
        with open(path, "wb") as file:
            for piece in lay_out("archive", entries).pieces(lambda entry: Part(entry.nbytes, lambda _: tiles(entry))):
                file.writelines(piece.tiles())
        return path

    def _many(self, count: str) -> Path:
        """A checkpoint of many small tensors, each with a storage of its own."""
        path = self._work / f"{count}.bin"
        _program("torch_many", count, path)
        return path

    def _pickle(self, size: str) -> Path:
        """Only the data.pkl of a checkpoint."""
        archive = Archive(LocalFile(self.get(size, "many" if size.isdigit() else "bin")))
        path = self._work / f"{size}.pkl"
        path.write_bytes(archive.read("data.pkl", 1 << 30))
        return path

    def _converted(self, size: str, name: str, **options: Any) -> Path:
        path = self._work / f"{size}-{name}"
        convert(open_checkpoint(self.get(size, "folder")), path, **options)
        return path

    def _gguf(self, size: str) -> Path:
        return self._converted(size, "f32.gguf", dtype="f32", no_tokenizer=True)

    def _safetensors(self, size: str) -> Path:
        return self._converted(size, "model.safetensors")

    def _parameters(self, size: str) -> Path:
        path = self._work / f"{size}-parameters"
        extract(open_checkpoint(self.get(size, "folder")), path)
        return path

    def _llama(self, size: str) -> Path:
        """A folder whose config.json has the fields that llama.cpp's converter needs."""
        source, folder = self.get(size, "folder"), self._work / f"{size}-llama"
        folder.mkdir()
        config = json.loads((source / "config.json").read_text())
        config |= {"architectures": ["GPT2LMHeadModel"], "n_ctx": config["n_positions"]}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "pytorch_model.bin").symlink_to(source / "pytorch_model.bin")
        return folder


_MAKERS: dict[str, Callable[[Inputs, str], Path]] = {
    "folder": Inputs._folder, "bin": Inputs._bin, "sparse": Inputs._sparse, "contiguous": Inputs._contiguous,
    "many": Inputs._many, "pickle": Inputs._pickle, "gguf": Inputs._gguf, "safetensors": Inputs._safetensors,
    "parameters": Inputs._parameters, "llama": Inputs._llama,
}  # fmt: skip


def _program(*words: str | Path) -> None:
    subprocess.run([sys.executable, "-P", PROGRAMS, *words], check=True)


def warm(path: Path) -> None:
    """Read a file, or all of a folder's, so that they lie in the page cache."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        # The holes of a sparse file would take memory, and nothing reads them.
        if file.stat().st_blocks * 512 >= file.stat().st_size:
            with open(file, "rb", buffering=0) as opened:
                while opened.read(_PIECE):
                    pass


def nbytes(path: Path) -> int:
    """The bytes of a file, or of a folder's weights."""
    return path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.glob("*.bin"))


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= length
    return tuple(reversed(stride))
