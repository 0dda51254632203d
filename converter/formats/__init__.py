"""The formats: one module each, listed in one tuple; and which one a file is, by its first bytes alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from converter.errors import FormatError
from converter.io.local import LocalFile
from converter.io.source import Source
from converter.tensors.catalogue import Catalogue

HEAD: Final = 512  # bytes that tell every kind of file from the others


class Reader(Protocol):
    """Reads a checkpoint's names and layouts from its bytes."""

    def __call__(self, source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
        """`root` is the key that names start below; `shard` counts from 1."""
        ...


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of checkpoint file. `matches` looks at the first HEAD bytes."""

    name: str
    title: str
    matches: Callable[[bytes], bool]
    read: Reader


def _torch(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    from converter.formats.torch import reader as torch

    return torch.read(source, root=root, shard=shard)


def _legacy(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    from converter.formats.torch import legacy

    return legacy.read(source, root=root, shard=shard)


def _gguf(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    from converter.formats.gguf import reader as gguf

    return gguf.read(source, root=root, shard=shard)


def _safetensors(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    from converter.formats.safetensors import reader as safetensors

    return safetensors.read(source, root=root, shard=shard)


# The magic number of torch before 1.6, by pickle protocol: 2 is torch's own choice, the others its caller's.
_MAGIC: Final = 0x1950A86A20F9469CFC6C
_PICKLED: Final = b"\x8a\x0a" + _MAGIC.to_bytes(10, "little") + b"."
_LEGACY: Final = (
    *(bytes([0x80, protocol]) + _PICKLED for protocol in (2, 3)),
    *(bytes([0x80, protocol, 0x95]) + len(_PICKLED).to_bytes(8, "little") + _PICKLED for protocol in (4, 5)),
    b"L%dL\n." % _MAGIC,
)

# A reader is imported when there is something for it to read.
FORMATS: Final = (
    # A zip's local header: PyTorch itself looks no further.
    Format("torch-zip", "PyTorch checkpoint (zip)", lambda head: head.startswith(b"PK\3\4"), _torch),
    Format(
        "torch-legacy",
        "PyTorch checkpoint (legacy stream, before torch 1.6)",
        lambda head: head.startswith(_LEGACY),
        _legacy,
    ),
    Format("gguf", "GGUF", lambda head: head.startswith(b"GGUF"), _gguf),
    # A header's length, of which no more than 6 bytes are used, and the header's `{`.
    Format(
        "safetensors",
        "safetensors",
        lambda head: head[6:8] == b"\0\0" and head[8:].lstrip(b" \t\r\n")[:1] == b"{",
        _safetensors,
    ),
)

_FOREIGN: Final = (  # first bytes, and what has them
    (b"version https://git-lfs", "a Git LFS pointer, not the file it stands for: run `git lfs pull`"),
    (b"<!doctype html", "an HTML page, probably an error page of the server it was downloaded from"),
    (b"<html", "an HTML page, probably an error page of the server it was downloaded from"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: take the checkpoint out of it first"),
    (b"\x1f\x8b", "a gzip file: unpack it first"),
    (b"BZh", "a bzip2 file: unpack it first"),
    (b"\xfd7zXZ", "an xz file: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file: unpack it first"),
    (b"\x93NUMPY", "a numpy array (npy)"),
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


def open_source(source: Source, *, root: str | None = None, shard: int | None = None) -> Catalogue:
    """Read one checkpoint from its bytes, wherever they are."""
    format = identify(bytes(source.read(0, min(HEAD, source.size))), source.name)
    with uncollected():
        return format.read(source, root=root, shard=shard)


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
