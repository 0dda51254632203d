"""Opens checkpoints on the Hub or at a URL: lists the files, and chooses those that belong to the checkpoint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import hf_hub_url

from converter.errors import ConverterError, ManifestError, SourceError
from converter.formats import folders
from converter.formats.companions import CONFIG
from converter.formats.folders import Choice
from converter.formats.shards import whole
from converter.hub.cache import cached, snapshot
from converter.hub.client import Client
from converter.hub.locations import Place, check_online, is_plain, offline, parse, shown, why_offline
from converter.hub.remote_folder import RemoteFolder, read_source
from converter.hub.remote_object import RemoteObject
from converter.io.local import LocalFile
from converter.io.ranges import FETCHING, Fetching
from converter.io.source import Source
from converter.io.strict_json import lenient_json, parse_json
from converter.limits import limits
from converter.text import listed
from converter.words import option

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def open_remote(
    location: str, *, root: Root = None, weights: str | None = None, fetching: Fetching = FETCHING
) -> Catalogue:
    """Read a checkpoint's names and layouts from the Hub or a URL; tensors are read when they are asked for.

    `weights` is the kind of weights that is taken from a folder with several. Files in the local cache are read from there.
    Raises SourceError if there is no such checkpoint or it can't be reached.
    """
    place = parse(location)
    if isinstance(place, str):
        check_online(place)
        _refuse(weights, shown(place))
        return _open_url(Client(fetching), place, root)
    if offline():
        return _open_cached(place, root, weights)
    client = Client(fetching)
    repository = look_up(client, place)
    if not repository.is_folder:
        _refuse(weights, str(place))
    catalogue = repository.whole(root, weights) if repository.is_folder else _file(repository, root)
    catalogue = catalogue.with_origin(location=repository.location, folder=repository.is_folder)
    if catalogue.config is None:
        catalogue = catalogue.with_config(*repository.config())
    beside = tuple((name, repository.files[repository.folder + name].nbytes) for name in repository.beside)
    return _ready(replace(catalogue, facts={**catalogue.facts, "files beside": beside}), client)


def _file(repository: Repository, root: Root) -> Catalogue:
    path = repository.place.file or ""
    repository.entry(path)
    return repository.model(path.removeprefix(repository.folder), root)


def _refuse(weights: str | None, location: str) -> None:
    """Raise SourceError if a kind of weights is asked for where there is only one file."""
    if weights is not None:
        raise SourceError(f"`{location}` is one file: {option('weights')} chooses among the files of a folder")


def open_files(location: str, *, fetching: Fetching = FETCHING) -> Iterator[Source]:
    """Yield every file of a repository, or the one that the location names, as a source of bytes."""
    place = parse(location)
    check_online(str(place) if isinstance(place, str) else place.repository)
    client = Client(fetching)
    if isinstance(place, str):
        yield _at(client, place).opened()
        return
    repository = look_up(client, place)
    for file in sorted(repository.within) if repository.is_folder else [place.file or ""]:
        yield repository.open(file)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a repository as the Hub lists it."""

    nbytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Repository(RemoteFolder):
    """A repository at one commit. `place` is it, or a folder or a file in it; `files` are all of its files by their paths."""

    client: Client
    place: Place
    commit: str
    files: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """The repository, with the commit as its revision."""
        return f"hf://{self.place.repository}@{self.commit}"

    @property
    def location(self) -> str:
        """The place, with the commit as its revision."""
        return self.name if self.place.file is None else f"{self.name}/{self.place.file}"

    @property
    def is_folder(self) -> bool:
        """Whether the place is the repository or a folder in it, and no file."""
        file = self.place.file
        return file is None or (file not in self.files and any(name.startswith(f"{file}/") for name in self.files))

    @property
    def folder(self) -> str:
        """How the paths of the files in the place's folder begin: `sub/`, or nothing for the repository itself."""
        file = self.place.file or ""
        return f"{file}/" if file and self.is_folder else file[: file.rfind("/") + 1]

    @property
    def wanted(self) -> str:
        """The place with the revision that was asked for."""
        return str(self.place)

    @property
    def base(self) -> str:
        """The place's folder with the revision that was asked for."""
        return f"hf://{self.place.repository}@{self.place.revision}/{self.folder}"

    @property
    def within(self) -> list[str]:
        """The paths of the files in the place's folder and in its subfolders."""
        return [name for name in self.files if name.startswith(self.folder)]

    def has(self, file: str) -> bool:
        """Whether the Hub lists a file."""
        return file in self.files

    def nbytes(self, file: str) -> int | None:
        """The size of a file as the Hub lists it."""
        return self.files[file].nbytes

    def entry(self, file: str) -> Entry:
        """The Hub's entry for a file. Raises SourceError if it has none."""
        if file in self.files:
            return self.files[file]
        near = [name for name in self.files if Path(name).name == Path(file).name or name.endswith(Path(file).suffix)]
        hint = f"; there is {listed(near[:4])}" if near and Path(file).suffix else ""
        raise SourceError(f"`{self.place.repository}` has no file `{file}` in revision `{self.place.revision}`{hint}")

    def open(self, file: str) -> Source:
        """A file as a source, from the local cache if it is there."""
        entry = self.entry(file)
        if (path := cached(self.place.repository, file, self.commit)) is not None:
            return LocalFile(path)
        found = RemoteObject(
            self.client, f"{self.name}/{file}", self._url(file), self._refused, commit=self.commit, nbytes=entry.nbytes
        )
        return found.opened()

    def load(self, file: str) -> bytes:
        """All of a small file."""
        self.entry(file)
        if (path := cached(self.place.repository, file, self.commit)) is not None:
            return path.read_bytes()
        data = self.client.load(self._url(file), limits().json_bytes, self._refused)
        return data if data is not None else b""

    def _url(self, file: str) -> str:
        return hf_hub_url(self.place.repository, file, revision=self.commit, endpoint=self.client.endpoint)

    def _refused(self, status: int, headers: Any) -> ConverterError:
        return refusal(self.client, self.place, status, headers)


def look_up(client: Client, place: Place) -> Repository:
    """Ask the Hub which commit a revision is, and which files it has."""
    url = f"{client.endpoint}/api/models/{place.repository}/revision/{quote(place.revision, safe='')}?blobs=true"

    def refused(status: int, headers: Any) -> ConverterError:
        return refusal(client, place, status, headers)

    data = parse_json(client.load(url, limits().json_bytes, refused) or b"", shown(url))
    commit, siblings = data.get("sha"), data.get("siblings")
    if type(commit) is not str or not _COMMIT.fullmatch(commit) or type(siblings) is not list:
        raise ManifestError(f"`{shown(url)}` does not describe a repository: no commit, or no list of files")
    files = {}
    for sibling in siblings:
        name = sibling.get("rfilename") if type(sibling) is dict else None
        if type(name) is str and is_plain(name):
            size, lfs = sibling.get("size"), sibling.get("lfs")
            sha256 = lfs.get("sha256") if type(lfs) is dict else None
            files[name] = Entry(
                size if type(size) is int and size >= 0 else None,
                sha256 if type(sha256) is str and _SHA256.fullmatch(sha256) else None,
            )
    return Repository(client, place, commit, files)


def refusal(client: Client, place: Place, status: int, headers: Any) -> ConverterError:
    """The error for an answer of the Hub, with a sentence that says what to do."""
    name, host, code = place.repository, urlsplit(client.endpoint).netloc, headers.get("x-error-code", "")
    token = client.token() is not None
    if code == "GatedRepo":
        how = "ask for access there" if token else "accept its terms there and set HF_TOKEN, or run `hf auth login`"
        return SourceError(f"`{name}` is gated: {how} ({client.endpoint}/{name})")
    if code == "RevisionNotFound":
        return SourceError(f"`{name}` has no revision `{place.revision}`")
    if code == "EntryNotFound":
        return SourceError(f"`{place}` is not there: the repository has no such file")
    if code == "RepoNotFound" or status in (401, 404):
        hint = "your token does not open it" if token else "it is private: then set HF_TOKEN, or run `hf auth login`"
        return SourceError(f"`{name}` is not found on {host}, or {hint}")
    if status == 403:
        return SourceError(f"`{name}` is refused by {host}: your token does not open it")
    return SourceError(f"`{name}` can't be read: {host} answered {status}")


def _open_cached(place: Place, root: Root, weights: str | None) -> Catalogue:
    found = snapshot(place)
    path = found / (place.file or "") if found is not None else None
    if path is None or not path.exists():
        raise SourceError(f"`{place}` is not in the local cache, and {why_offline()}")
    if path.is_dir():
        catalogue = folders.read(path, root=root, weights=weights)
    else:
        _refuse(weights, str(place))
        catalogue = folders.read_file(path, root=root)
    return catalogue.with_origin(location=str(place))


def _refusing(url: str) -> Callable[[int, Any], ConverterError]:
    def refused(status: int, headers: Any) -> ConverterError:
        what = {401: "it needs a password", 403: "it is forbidden", 404: "there is no such file"}.get(status)
        return SourceError(f"`{shown(url)}` can't be read: {what or f'the server answered {status}'}")

    return refused


def _at(client: Client, url: str) -> RemoteObject:
    return RemoteObject(client, shown(url), url, _refusing(url))


def _open_url(client: Client, url: str, root: Root) -> Catalogue:
    objects: list[RemoteObject] = []
    path = urlsplit(url).path.rpartition("/")[2]
    signed = urlsplit(url).query  # a signed URL opens one file only

    def opened(name: str, number: int | None) -> Catalogue:
        objects.append(_at(client, urljoin(url, name) if name else url))
        return read_source(objects[-1].opened(), root, number)

    if folders.is_index(path) and not signed:
        data = client.load(url, limits().json_bytes, _refusing(url))
        weight_map = folders.load_weight_map(parse_json(data or b"", shown(url)), shown(url))
        catalogue = folders.put_together(
            shown(url), Choice(tuple(sorted(set(weight_map.values()))), path, weight_map), opened
        )
    else:
        catalogue = opened("", None).with_origin(location=shown(url))
        if not signed:
            catalogue = whole(catalogue, path, lambda name: True, opened)
    if not all(found.pinned for found in objects):
        unpinned = f"`{shown(url)}` has no strong ETag and no date: a change while it is read can't be noticed"
        catalogue = replace(catalogue, problems=(*catalogue.problems, unpinned))
    # A signed URL opens one file only, so we ask for no file beside it.
    if not signed:
        with contextlib.suppress(ConverterError):
            data = client.load(urljoin(url, CONFIG), limits().json_bytes, lambda status, headers: None)
            catalogue = catalogue.with_config(*lenient_json(data, CONFIG)) if data else catalogue
    return _ready(catalogue, client)


def _ready(catalogue: Catalogue, client: Client) -> Catalogue:
    catalogue = catalogue.with_origin(traffic=client.traffic)
    catalogue.arrange()
    return catalogue
