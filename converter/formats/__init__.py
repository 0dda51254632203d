"""The formats, a package each with a record in `records`; and which one a file or a folder is."""

from __future__ import annotations

import gc
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ArchiveError, CutOffError, ForeignFileError, FormatError
from converter.formats.foreign import HEAD, spread, what
from converter.formats.format import Format
from converter.formats.marks import could_begin
from converter.formats.readings import check_single
from converter.formats.records import FORMATS as FORMATS
from converter.formats.records import WRITABLE as WRITABLE
from converter.io.local import LocalFile
from converter.steps import step

if TYPE_CHECKING:
    from converter.io.source import Source
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_BY_NAME: Final = {format.name: format for format in FORMATS}


def named(name: str) -> Format:
    """The format of this name. A catalogue that was made in memory gets a format without abilities."""
    return _BY_NAME.get(name) or Format(name, name)


def of(catalogue: Catalogue) -> Format:
    """The format that a catalogue was read from."""
    return named(catalogue.format)


def canonical(catalogue: Catalogue) -> Catalogue:
    """The catalogue with the names, shapes and config.json of its family, whatever its format calls them."""
    if catalogue.canonical:
        return catalogue
    return replace(of(catalogue).canonical(catalogue), canonical=True)


def names_in_file(known: Catalogue, catalogue: Catalogue) -> dict[str, str]:
    """The names in a file by the family's names, which `known` has. Tensors that were made for the format are left out."""
    left_out = set(known.facts.get("left_out", ()))
    return dict(zip(known, (name for name in catalogue if name not in left_out), strict=True))


def alone(catalogue: Catalogue) -> str | None:
    """A sentence if a catalogue's file is only a part of a model and the other parts were not read; else None."""
    portion = of(catalogue).portion(catalogue)
    if portion and len(catalogue.origin.files) < portion.parts:
        return portion.said(catalogue.location)
    found = spread(posixpath.basename(catalogue.location))
    return None if found is None else f"`{catalogue.location}` is one file of {found}"


def of_folder(path: Path) -> Format | None:
    """The format of a folder as a whole, or None if it holds files of weights."""
    return next((format for format in FORMATS if format.marker and (path / format.marker).is_file()), None)


def marked(path: Path, head: bytes) -> Format | None:
    """The format of the folder around a file, if that file, which has these first bytes, is what marks the folder."""
    return next((format for format in FORMATS if format.marker == path.name and format.marks(head)), None)


def identify(head: bytes, name: str) -> Format:
    """The format that a file's first HEAD bytes show.

    Raises ForeignFileError, which says what it is instead, or CutOffError if it is too short to be anything.
    """
    for format in FORMATS:
        if format.matches(head):
            return format
    raise (CutOffError if could_begin(head) else ForeignFileError)(f"`{name}` is {what(head)}")


def open_file(path: str | Path, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read one local checkpoint file."""
    return open_source(LocalFile(path), root=root, shard=shard)


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's garbage collector: everything that a pickle makes stays, so it would only search a growing heap."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


def read(format: Format, source: Source, head: bytes, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read one checkpoint file of the format that its first HEAD bytes show.

    Raises AmbiguousError if the file is also of another format.
    """
    if format.read is None:
        raise FormatError(f"`{source.name}`: a {format.title} is not a file")
    # A tar that only packs other files ends like the last of them, and could pass for two formats. So its reader goes
    # first, and says that it is no checkpoint.
    packs = format.contents == "members"
    if not packs:
        check_single(source, head, format.title, format.contents)
    catalogue = format.read(source, root=root, shard=shard)
    if packs:
        check_single(source, head, format.title, format.contents)
    return catalogue


def open_source(source: Source, *, root: Root = None, shard: int | None = None) -> Catalogue:
    """Read one checkpoint from its bytes, wherever they are."""
    head = bytes(source.read(0, min(HEAD, source.size)))
    format = identify(head, source.name)
    try:
        with step("read", source.name), uncollected():
            return read(format, source, head, root=root, shard=shard)
    except ArchiveError as error:  # perhaps several archives, one after another
        if (found := spread(posixpath.basename(source.name))) is None:
            raise
        raise FormatError(f"`{source.name}` is one file of {found}") from error
