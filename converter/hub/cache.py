"""The local cache of huggingface_hub."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants, try_to_load_from_cache
from huggingface_hub.file_download import repo_folder_name

from converter.hub.locations import Place


def in_cache(repository: str, files: Iterable[str]) -> dict[str, Path]:
    """The files of a repository that the cache has for the revision `main`."""
    found = {file: cached(repository, file, "main") for file in files}
    return {file: path for file, path in found.items() if path is not None}


def cached(repository: str, file: str, revision: str) -> Path | None:
    """The path of a file in the cache; None if the file is not there."""
    found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def snapshot(place: Place) -> Path | None:
    """The folder of the cache with a revision; None if there is none."""
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=place.repository, repo_type="model"))
    ref = folder / "refs" / place.revision
    commit = ref.read_text("utf-8").strip() if ref.is_file() else place.revision
    found = folder / "snapshots" / commit
    return found if found.parent.name == "snapshots" and found.is_dir() else None
