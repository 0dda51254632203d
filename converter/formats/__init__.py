"""The formats: a package each, listed in one tuple; and which one a file or a folder is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, FormatError
from converter.formats.format import Format
from converter.formats.gguf import GGUF
from converter.formats.npz import NPY, NPZ
from converter.formats.parameters import PARAMETERS
from converter.formats.safetensors import SAFETENSORS
from converter.formats.torch import TORCH_LEGACY, TORCH_ZIP
from converter.io.local import LocalFile

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

HEAD: Final = 512  # bytes that tell every kind of file from the others

# The order decides where a file could be of two.
FORMATS: Final = (NPZ, TORCH_ZIP, TORCH_LEGACY, GGUF, SAFETENSORS, PARAMETERS, NPY)
WRITABLE: Final = tuple(format for format in (SAFETENSORS, GGUF, PARAMETERS, NPZ) if format.plan is not None)
_BY_NAME: Final = {format.name: format for format in FORMATS}


def named(name: str) -> Format:
    """The format of this name; one that can do nothing for catalogues that were made in memory."""
    return _BY_NAME.get(name) or Format(name, name)


def of(catalogue: Catalogue) -> Format:
    """The format that a catalogue was read from."""
    return named(catalogue.format)


def canonical(catalogue: Catalogue) -> Catalogue:
    """The catalogue with the names, shapes and config.json of its family, whatever its format calls them."""
    return of(catalogue).canonical(catalogue)


def of_folder(path: Path) -> Format | None:
    """The format that a folder is of as a whole, or None where it holds files of weights."""
    return next((format for format in FORMATS if format.is_folder(path)), None)


def ends_early(path: Path) -> bool:
    """Whether a file or a folder that can't be read ends too early, as a download that broke off does."""
    if path.is_dir():
        if (format := of_folder(path)) is not None:
            return format.truncated(path)
        return any(
            ends_early(file) for format in FORMATS for ending in format.endings for file in path.glob(f"*{ending}")
        )
    try:
        source = LocalFile(path)
        head = bytes(source.read(0, min(HEAD, source.size)))
    except (ConverterError, OSError):
        return False
    found = next((format for format in FORMATS if format.matches(head)), None)
    return len(head) < 8 if found is None else found.truncated(path)


_FOREIGN: Final = (  # first bytes, and what has them
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page, probably an error page of the server it was downloaded from"),
    (b"<html", "an HTML page, probably an error page of the server it was downloaded from"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: take the checkpoint out of it first"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it first"),
    (b"\x89HDF", "an HDF5 file, as Keras writes them"),
    (b"lmgg", "a GGML file of before GGUF"),
    (b"fmgg", "a GGML file of before GGUF"),
    (b"tjgg", "a GGML file of before GGUF"),
    (b"PK\5\6", "an empty zip archive"),
    (b"PK\7\10", "one part of a split zip archive: join the parts first"),
)


def identify(head: bytes, name: str) -> Format:
    """Give the format that a file's first HEAD bytes show. Raises FormatError that says what it is instead."""
    for format in FORMATS:
        if format.matches(head):
            return format
    raise FormatError(f"`{name}` is {what(head)}")


def open_file(path: str | Path, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    """Read one local checkpoint file."""
    return open_source(LocalFile(path), root=root, shard=shard)


@contextmanager
def uncollected() -> Iterator[None]:
    """Let Python's collector rest. All that a pickle makes stays: it would look through a growing heap for nothing."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read(format: Format, source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    """Read one checkpoint file of a format."""
    if format.read is None:
        raise FormatError(f"`{source.name}`: a {format.title} is no file")
    return format.read(source, root=root, shard=shard)


def open_source(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    """Read one checkpoint from its bytes, wherever they are."""
    format = identify(bytes(source.read(0, min(HEAD, source.size))), source.name)
    with uncollected():
        return read(format, source, root=root, shard=shard)


def what(head: bytes) -> str:
    """Say what a file that is no checkpoint is, by its first HEAD bytes."""
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "a file that starts with zeros: a download that reserved its room and never finished, perhaps"
    for start, what in _FOREIGN:
        if head[: len(start)].lower() == start.lower():
            return what
    if head[257:262] == b"ustar":
        return "a tar archive: torch of before 0.1.10 wrote such checkpoints; load it with torch and save it again"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a bare pickle, not a file of torch.save; `scan` tells what is in it"
    if head.lstrip()[:1] in (b"{", b"["):
        return "a JSON document, not a checkpoint"
    return f"no checkpoint this program knows (its first bytes are {head[:8].hex(' ')})"
