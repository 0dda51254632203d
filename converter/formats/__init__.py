"""The formats, a package each with a record in `records`; and which one a file or a folder is."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import CutOffError, ForeignFileError, FormatError
from converter.formats.foreign import HEAD, what
from converter.formats.format import Format
from converter.formats.records import FORMATS as FORMATS
from converter.formats.records import WRITABLE as WRITABLE
from converter.io.local import LocalFile

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue

_LEAST: Final = 8  # bytes: no checkpoint has fewer

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
