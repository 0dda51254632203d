"""Downloads from one commit: into a folder, written like any output, or through huggingface_hub into its cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants, errors, hf_hub_download
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils.tqdm import tqdm

from converter.errors import SourceError
from converter.hub.cache import snapshot
from converter.hub.client import Client, httpx
from converter.hub.locations import check_online, offline, parse
from converter.hub.repository import Entry, Repository, look_up, refusal
from converter.hub.unlogged import unlogged
from converter.io.local import LocalFile
from converter.io.publish import Piece, Plan, PlannedFile, literal, publish
from converter.io.source import STEP
from converter.models import declared as models
from converter.steps import step
from converter.tensors.parts import storage_parts
from converter.tensors.tensor import Storage


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was downloaded. `checked` says what its SHA-256 was compared with: `declared`, `the Hub's`, or None."""

    path: Path
    nbytes: int
    checked: str | None


def download(
    name: str,
    target: Path | None = None,
    *,
    with_code: bool = False,
    starting: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Downloaded]:
    """Download a model with its companions, into `target` or into the local cache.

    `name` is a declared model, `owner/name[@revision]`, or a folder of a repository, whose files then lie in `target` itself.

    `with_code` fetches the code of the repository, too. `starting` is called with the bytes of all files, `progress` with
    the bytes since its last call. An interrupted download is continued.

    Raises SourceError for a file that can't be downloaded, or whose SHA-256 is neither the
    declared one nor, if none is declared, the Hub's; OutputError if `target` can't be written.
    """
    declared = models.find(name) if "/" not in name else None
    place = parse(declared.repository if declared is not None else name)
    if isinstance(place, str):
        raise SourceError(f"`{name}` is not a repository: a declared model or `owner/name` was expected")
    check_online(str(place))
    if declared is None and place.file is None:
        declared = next((model for model in models.declared() if model.repository == place.repository), None)
    repository = look_up(Client(), place)
    if place.file is not None and not repository.is_folder:
        repository.entry(place.file)
        raise SourceError(f"`{name}` is one file: give the repository, or a folder of it with all files of a model")
    weights = repository.weights()
    if declared is not None:
        weights = [*(file.name for file in declared.files), *([declared.index] if declared.index else [])]
    hashes = {file.name: file.sha256 for file in declared.files} if declared is not None else {}
    done = []
    entries = {
        file: repository.entry(file) for file in dict.fromkeys((*weights, *repository.companions(with_code=with_code)))
    }
    if starting is not None:
        starting(sum(entry.nbytes or 0 for entry in entries.values()))
    for file, entry in entries.items():
        wanted, whose = (hashes[file], "declared") if hashes.get(file) else (entry.sha256, "the Hub's")
        with step("download", file):
            if target is None:
                path = _fetched(repository, file, progress)
            else:
                path = target / file.removeprefix(repository.folder)
                if not _is_there(path, entry, wanted):
                    _write(repository, file, path, progress)
        if wanted is not None and (found := _sha256(path)) != wanted:
            raise SourceError(f"`{path}` has the SHA-256 {found}; {whose} is {wanted}: remove it and download it again")
        done.append(Downloaded(path, path.stat().st_size, whose if wanted is not None else None))
    if target is None:
        _remember(repository)
    return done


def companions(location: str, *, with_code: bool = False) -> Path | None:
    """The folder of the local cache with a repository's small files; with `with_code`, its code, too.

    None if there are none: at a URL outside the Hub, or in a repository without them.
    """
    place = parse(location)
    if isinstance(place, str):
        return None
    if offline():
        found = snapshot(place)
        path = found and found / (place.file or "")
        return path if path is None or path.is_dir() else path.parent
    repository = look_up(Client(), place)
    paths = {name: _fetched(repository, name, None) for name in repository.companions(with_code=with_code)}
    first = next(iter(paths), None)
    if first is None:
        return None
    inner = first.removeprefix(repository.folder).count("/")
    return paths[first].parents[inner]


def _is_there(path: Path, entry: Entry, wanted: str | None) -> bool:
    """Whether a file was downloaded before, by its size and SHA-256."""
    if wanted is None or path.is_symlink() or not path.is_file() or path.stat().st_size != entry.nbytes:
        return False
    return _sha256(path) == wanted


def _write(repository: Repository, file: str, path: Path, progress: Callable[[int], None] | None) -> None:
    """Write a file of the commit to a path. Bytes that an interrupted run wrote are kept."""
    source = repository.open(file)
    source.arrange([(0, source.size)])
    piece = Piece(file, storage_parts(Storage(source, 0, source.size, file)))
    plan = Plan((PlannedFile("", (piece,)),), folder=False, identity=f"{repository.name}/{file}")
    try:
        publish(plan, path, force=True, resume=True, progress=progress, check=source.check_unchanged, threads=1)
    finally:
        source.close()


def _remember(repository: Repository) -> None:
    """Note in the cache which commit the revision is, so that it is found by that name without a network."""
    place = repository.place
    if place.revision == repository.commit:
        return
    folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=place.repository, repo_type="model"))
    document = literal("commit", repository.commit.encode())
    publish(Plan((PlannedFile("", (document,)),), folder=False), folder / "refs" / place.revision, force=True)


def _fetched(repository: Repository, file: str, progress: Callable[[int], None] | None) -> Path:
    """Download a file through huggingface_hub into its cache."""

    class Bar(tqdm):
        """A progress bar for huggingface_hub that shows nothing and passes the bytes on."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> None:
            if progress is not None and n:
                progress(int(n))

    repository.entry(file)
    try:
        with unlogged():
            path = hf_hub_download(
                repository.place.repository,
                file,
                revision=repository.commit,  # not the revision, which may have moved to another commit
                endpoint=repository.client.endpoint,
                tqdm_class=Bar,
            )
        return Path(path)
    except errors.HfHubHTTPError as error:
        answer = error.response
        raise refusal(repository.client, repository.place, answer.status_code, answer.headers) from None
    except (errors.LocalEntryNotFoundError, httpx.HTTPError):
        raise SourceError(f"`{repository.name}/{file}` can't be downloaded: the connection failed") from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SourceError(f"`{repository.name}/{file}` can't be downloaded: {reason}") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with step("hash", str(path)), LocalFile(path) as file:
        buffer = memoryview(bytearray(min(STEP, file.size)))
        for offset in range(0, file.size, STEP):
            piece = buffer[: min(STEP, file.size - offset)]
            file.readinto(offset, piece)
            digest.update(piece)
    return digest.hexdigest()
