"""The formats: one module each, listed in one tuple; and which one a file is, by its first bytes alone."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from converter.errors import CutOffError, ForeignFileError
from converter.formats.foreign import HEAD, what
from converter.io.local import LocalFile
from converter.io.source import Source
from converter.tensors.catalogue import Catalogue


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

_LEAST: Final = 8  # bytes: no checkpoint has fewer


def identify(head: bytes, name: str) -> Format:
    """The format that a file's first HEAD bytes show.

    Raises ForeignFileError that says what it is instead, or CutOffError where it is too short to be anything.
    """
    for format in FORMATS:
        if format.matches(head):
            return format
    cause = ForeignFileError if len(head) >= _LEAST else CutOffError
    raise cause(f"`{name}` is {what(head)}")


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
