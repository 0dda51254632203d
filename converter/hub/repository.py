"""Opens checkpoints on the Hub or at a URL: lists the files, and chooses those that belong to the checkpoint."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urljoin, urlsplit

from huggingface_hub import hf_hub_url

from converter.errors import ConverterError, FormatError, ManifestError, SourceError
from converter.formats import identify, shards
from converter.formats import read as read_format
from converter.formats.companions import CONFIG
from converter.formats.foreign import HEAD
from converter.hub.cache import cached, snapshot
from converter.hub.client import Client
from converter.hub.locations import Place, check_online, is_plain, offline, parse, shown, why_offline
from converter.hub.remote_object import RemoteObject
from converter.io.local import LocalFile
from converter.io.ranges import FETCHING, Fetching
from converter.io.source import Source
from converter.io.strict_json import config_beside, parse_json
from converter.limits import limits
from converter.text import listed

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.words import Root

_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def open_remote(location: str, *, root: Root = None, fetching: Fetching = FETCHING) -> Catalogue:
    """Read a checkpoint's names and layouts from the Hub or a URL; tensors are read when they are asked for.

    Files in the local cache are read from there. Raises SourceError if there is no such checkpoint or it can't be
    reached.
    """
    place = parse(location)
    if isinstance(place, str):
        check_online(place)
        return _open_url(Client(fetching), place, root)
    if offline():
        return _open_cached(place, root)
    client = Client(fetching)
    repository = look_up(client, place)
    catalogue = repository.model(place.file, root) if place.file is not None else repository.whole(root)
    location = f"{repository.name}/{place.file}" if place.file is not None else repository.name
    config = repository.config() if catalogue.config is None else catalogue.config
    return _ready(catalogue.with_origin(location=location, config=config), client)


def open_files(location: str, *, fetching: Fetching = FETCHING) -> Iterator[Source]:
    """Yield every file of a repository, or the one that the location names, as a source of bytes."""
    place = parse(location)
    check_online(str(place) if isinstance(place, str) else place.repository)
    client = Client(fetching)
    if isinstance(place, str):
        yield _at(client, place).opened()
        return
    repository = look_up(client, place)
    for file in [place.file] if place.file is not None else sorted(repository.files):
        yield repository.open(file)


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a repository as the Hub lists it."""

    nbytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    client: Client
    place: Place
    commit: str
    files: Mapping[str, Entry]

    @property
    def name(self) -> str:
        """The place, with the commit as its revision."""
        return f"hf://{self.place.repository}@{self.commit}"

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

    def config(self) -> dict[str, Any] | None:
        """The config.json; None if there is none."""
        return parse_json(self.load(CONFIG), f"{self.name}/{CONFIG}") if CONFIG in self.files else None

    def file(self, file: str, root: Root, shard: int | None = None) -> Catalogue:
        """Read the names and layouts of one weight file."""
        return _read(self.open(file), root, shard)

    def model(self, file: str, root: Root) -> Catalogue:
        """Read a weight file. If it is the first part of a cut model, read the other parts, too."""
        folder = file.rpartition("/")[0] + "/" if "/" in file else ""
        return shards.whole(
            self.file(file, root),
            file.removeprefix(folder),
            lambda name: folder + name in self.files,
            lambda name, number: self.file(folder + name, root, number),
        )

    def whole(self, root: Root) -> Catalogue:
        """Read the repository's checkpoint: shards with their index, or the one weight file."""
        weight_map = self._weight_map()
        files = self._files(weight_map)
        if weight_map is None and len(files) == 1:
            return self.file(files[0], root)
        parts = [self.file(file, root, number) for number, file in enumerate(files, 1)]
        return shards.merge(self.name, files, parts, weight_map)

    def weights(self) -> list[str]:
        """The names of the checkpoint's files, the index among them."""
        index, _ = self._chosen()
        return [*self._files(self._weight_map()), *([index] if index else [])]

    def _weight_map(self) -> dict[str, str] | None:
        index, _ = self._chosen()
        if index is None:
            return None
        name = f"{self.name}/{index}"
        return shards.load_weight_map(parse_json(self.load(index), name), name)

    def _files(self, weight_map: Mapping[str, str] | None) -> list[str]:
        index, files = self._chosen()
        return files if weight_map is None else shards.shard_files(weight_map, self.files, self.name, index or "")

    def _chosen(self) -> tuple[str | None, list[str]]:
        try:
            return shards.choose([name for name in self.files if "/" not in name], str(self.place))
        except FormatError as error:
            deeper = [name for name in self.files if "/" in name and name.endswith((".bin", ".safetensors", ".gguf"))]
            other = [name for name in self.files if name.endswith((".h5", ".msgpack", ".onnx", ".ot", ".tflite"))]
            found = f"; there is {listed([*deeper, *other][:4])}" if deeper or other else ""
            raise FormatError(f"{error}{found}") from None

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


def _open_cached(place: Place, root: Root) -> Catalogue:
    if place.file is None:
        found = snapshot(place)
    else:
        found = cached(place.repository, place.file, place.revision)
    if found is None:
        raise SourceError(f"`{place}` is not in the local cache, and {why_offline()}")
    if place.file is None:
        catalogue = shards.read(found, root=root)
    else:
        catalogue = shards.with_others(found, _read(LocalFile(found), root, None), root=root)
        catalogue = catalogue.with_origin(config=config_beside(found.parent))
    return catalogue.with_origin(location=str(place))


def _at(client: Client, url: str) -> RemoteObject:
    def refused(status: int, headers: Any) -> ConverterError:
        what = {401: "it needs a password", 403: "it is forbidden", 404: "there is no such file"}.get(status)
        return SourceError(f"`{shown(url)}` can't be read: {what or f'the server answered {status}'}")

    return RemoteObject(client, shown(url), url, refused)


def _open_url(client: Client, url: str, root: Root) -> Catalogue:
    found = _at(client, url)
    catalogue = _read(found.opened(), root, None).with_origin(location=shown(url))
    if not urlsplit(url).query:  # a signed URL opens one file only
        path = urlsplit(url).path
        catalogue = shards.whole(
            catalogue,
            path.rpartition("/")[2],
            lambda name: True,
            lambda name, number: _read(_at(client, urljoin(url, name)).opened(), root, number),
        )
    if not found.pinned:
        unpinned = f"`{shown(url)}` has no strong ETag and no date: a change while it is read can't be noticed"
        catalogue = replace(catalogue, problems=(*catalogue.problems, unpinned))
    # A signed URL opens one file only, so we ask for no file beside it.
    if not urlsplit(url).query:
        with contextlib.suppress(ConverterError):
            data = client.load(urljoin(url, CONFIG), limits().json_bytes, lambda status, headers: None)
            catalogue = catalogue.with_origin(config=parse_json(data, CONFIG) if data else None)
    return _ready(catalogue, client)


def _read(source: Source, root: Root, shard: int | None) -> Catalogue:
    head = bytes(source.read(0, min(HEAD, source.size)))
    return read_format(identify(head, source.name), source, head, root=root, shard=shard)


def _ready(catalogue: Catalogue, client: Client) -> Catalogue:
    catalogue = catalogue.with_origin(traffic=client.traffic)
    catalogue.arrange()
    return catalogue
