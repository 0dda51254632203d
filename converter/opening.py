"""From a place to a catalogue: a file, a folder, the Hub or a URL."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from converter.errors import ModelError, SourceError
from converter.formats import of, open_file
from converter.io.strict_json import config_beside
from converter.limits import Limits, using
from converter.text import os_reason

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_ABSENT: Final = "no such file or folder"


def open_checkpoint(
    location: str | Path, *, root: Root = None, weights: str | None = None, limits: Limits | None = None
) -> Catalogue:
    """Read a checkpoint's names and layouts; tensors are read when they are asked for.

    `location` is a file, an index, a folder, `hf://owner/name[@revision][/path]`, `owner/name`, or a URL. Raises a
    ConverterError that says in a sentence what is wrong. `root` is the key below which names start. `weights` is the kind
    of weights that is taken from a folder with several. `limits` bound what the checkpoint may ask for; without them, the
    limits in force do.
    """
    with using(limits):
        return _opened(location, root, weights)


def _opened(location: str | Path, root: Root, weights: str | None) -> Catalogue:
    path = Path(location)
    if isinstance(location, str) and "/" in location and not os.path.lexists(path):
        from converter.hub.locations import hint, is_remote

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
        raise SourceError(f"`{location}` is one file: --weights chooses among the files of a folder")
    if path.suffix == ".json":
        from converter.formats import folders

        if folders.is_index(path.name):
            return folders.read_index(path, root=root)
    catalogue = open_file(path, root=root)
    if of(catalogue).portion(catalogue) is not None:
        from converter.formats import folders

        catalogue = folders.with_others(path, catalogue, root=root)
    return catalogue.with_config(*config_beside(path.parent))


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
        from converter.hub.download import companions

        return companions(catalogue.location, with_code=with_code)
    location = Path(catalogue.location)
    return location if location.is_dir() else location.parent if location.exists() else None
