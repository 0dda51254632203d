"""From a place to a catalogue: a file, a folder, the Hub, a URL or a store."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ConverterError, ModelError, NoWeightsError, SourceError
from converter.formats import canonical, names_in_file, of, open_file
from converter.formats.marks import SHARD
from converter.io.strict_json import config_beside
from converter.limits import Limits, using
from converter.steps import step
from converter.text import os_reason
from converter.words import check_root, option

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_ABSENT: Final = "no such file or folder"


def open_checkpoint(
    location: str | Path, *, root: Root = None, weights: str | None = None, limits: Limits | None = None
) -> Catalogue:
    """Read a checkpoint's names and layouts; tensors are read when they are asked for.

    `location` is a file, an index, a folder, `hf://owner/name[@revision][/path]`, `owner/name`, a URL, or an address in a
    store (`s3://bucket/key`). Raises a ConverterError that says in a sentence what is wrong. `root` is the key below which
    names start. `weights` is the kind of weights that is taken from a folder with several. `limits` bound what the
    checkpoint may ask for; without them, the limits in force do.
    """
    check_root(root)
    if location == "":
        raise SourceError("an empty name was given: if it came from a variable, the variable is not set")
    with using(limits), step("open", str(location)):
        try:
            catalogue = _opened(location, root, weights)
        except NoWeightsError as error:
            if not error.folders:
                raise
            from converter.formats.folders import only_folders

            # The message names the place as the user did.
            raise only_folders(str(location), error.folders) from None
        if catalogue.config is None and catalogue.others:
            from converter.models.inner_config import with_inner_config

            catalogue = with_inner_config(catalogue)
        return replace(catalogue, meant=meant)


def _opened(location: str | Path, root: Root, weights: str | None) -> Catalogue:
    path = Path(location)
    if isinstance(location, str) and "/" in location and not os.path.lexists(path):
        from converter.hub.locations import hint, is_remote
        from converter.hub.stores import store_of

        if store_of(location) is not None:
            from converter.hub.store_folder import open_store

            return open_store(location, root=root, weights=weights)
        if is_remote(location):
            from converter.hub.repository import open_remote

            return open_remote(location, root=root, weights=weights)
        if more := hint(location):
            raise SourceError(f"{_ABSENT}: `{location}`{more}")
    try:
        if path.is_dir():
            from converter.formats import folders

            return folders.read(path, root=root, weights=weights)
        if not path.exists() and not path.is_symlink():
            raise SourceError(f"{_ABSENT}: `{location}`{_perhaps(path)}")
    except OSError as error:  # the name is too long, or a folder in the path may not be entered
        raise SourceError(f"`{location}` can't be opened: {os_reason(error)}") from error
    if weights is not None:
        raise SourceError(f"`{location}` is one file: {option('weights')} chooses among the files of a folder")
    if path.suffix == ".json":
        from converter.formats import folders

        if folders.is_index(path.name):
            return folders.read_index(path, root=root)
    catalogue = open_file(path, root=root)
    if of(catalogue).portion(catalogue) is not None:
        from converter.formats import folders

        catalogue = folders.with_others(path, catalogue, root=root)
    elif SHARD.fullmatch(path.name) is not None:
        from converter.formats.shards import part_note

        if (note := part_note(str(location), path)) is not None:
            catalogue = catalogue.with_origin(notes=(*catalogue.origin.notes, note))
    return catalogue.with_config(*config_beside(path.parent))


def meant(catalogue: Catalogue, name: str) -> list[str]:
    """The tensors that a name means in any form of the model: its own, GGUF's, without the prefix."""
    from converter.models.recognition import recognise
    from converter.models.selection import meant as fitting

    try:
        return fitting(name, spelt(catalogue, recognise(catalogue, catalogue.config)))
    except ConverterError:  # this is called while a message is made
        return []


def spelt(catalogue: Catalogue, recognition: Recognition | None) -> dict[str, tuple[str, ...]]:
    """All names of each tensor, by the one in the catalogue."""
    from converter.models.selection import spellings

    known = canonical(catalogue)
    files = names_in_file(known, catalogue)
    ours = spellings(known, files, recognition)
    return {name: (name,) for name in catalogue} | {files[name]: spelled for name, spelled in ours.items()}


def check_exists(location: str) -> None:
    """Raise SourceError if a location is a path that leads nowhere. Nothing remote is looked up."""
    from converter.hub.locations import is_remote

    if not os.path.lexists(location) and not is_remote(location):
        raise SourceError(f"{_ABSENT}: `{location}`{_perhaps(Path(location))}")


def _perhaps(path: Path) -> str:
    """What a path that leads nowhere was perhaps meant to be."""
    from difflib import get_close_matches

    from converter.models.declared import find

    with contextlib.suppress(ModelError):
        find(str(path))
        return f"; `cerebras-tool download {path}` fetches the model of that name"
    with contextlib.suppress(OSError):
        beside = {entry.name: entry for entry in path.parent.iterdir()}
        if near := get_close_matches(path.name, beside, 3):
            return f"; did you mean {' or '.join(f'`{beside[name]}`' for name in near)}?"
    return ""


def folder_beside(catalogue: Catalogue, *, with_code: bool = False) -> Path | None:
    """The folder that a checkpoint lies in, or is. For one on the Hub, the folder of the cache that has its small files."""
    if "://" in catalogue.location:
        from converter.hub.stores import store_of

        if store_of(catalogue.location) is not None:
            from converter.hub.store_folder import stored_companions

            return stored_companions(catalogue.location, with_code=with_code)
        from converter.hub.download import companions

        return companions(catalogue.location, with_code=with_code)
    path = catalogue.path
    return path if path.is_dir() else path.parent if path.exists() else None
