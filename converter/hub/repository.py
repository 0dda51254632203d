"""Checkpoints on the Hub or at a URL, read by ranges: the only importer of huggingface_hub.

URLs, tokens, offline mode and the cache are huggingface_hub's. Requests are made here, for what it does not do: redirects
are followed one by one, every answer is held against the request and against the first answer, and each read is bounded
in requests and time. Sources: RFC 9110, sections 13 and 14; the Hub's headers as huggingface_hub/file_download.py has them.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from converter.errors import ConverterError, FormatError, ManifestError, SourceError
from converter.formats import identify
from converter.formats import read as read_format
from converter.formats import shards as folder
from converter.formats.companions import CONFIG, GENERATION, TOKENIZER
from converter.formats.foreign import HEAD
from converter.hub.patience import patience
from converter.hub.unlogged import unlogged
from converter.io.local import LocalFile
from converter.io.ranges import CONNECTIONS, Pool, RemoteFile, awaited
from converter.io.source import STEP, Source
from converter.io.strict_json import config_beside, parse_json
from converter.io.traffic import Traffic
from converter.limits import limits
from converter.models import declared as models
from converter.text import safe_text

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

_T = TypeVar("_T")

COMPANIONS: Final = (CONFIG, GENERATION, *TOKENIZER)
_ATTEMPTS: Final = 6
_LONGEST_WAIT: Final = 30.0  # seconds that a server may ask for between attempts
_HOPS: Final = 5
_FIRST: Final = 128 << 10  # bytes of the first read: they hold the pickle of a thousand tensors
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_PASSING: Final = frozenset((408, 425, 429, 500, 502, 503, 504))
_EXPIRED: Final = frozenset((400, 401, 403, 404, 410))  # what a signed link answers when its time is over
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME: Final = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_REVISION: Final = r"@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+)"
_PLAIN: Final = re.compile(rf"(?P<repository>{_NAME})(?:{_REVISION})?", re.ASCII)
_HUB: Final = re.compile(rf"hf://(?:models/)?(?P<repository>{_NAME})(?:{_REVISION})?(?:/(?P<file>[^?#]+))?/?", re.ASCII)
_PAGE: Final = re.compile(
    rf"/(?P<repository>{_NAME})(?:/(?:resolve|blob|raw|tree)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?/?", re.ASCII
)
_ENDING: Final = re.compile(r"\.[a-z][a-z0-9]{1,11}")  # `.bin`, but not the `.7B` of a model's name
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,19}", re.ASCII)
_EMPTY: Final = re.compile(r"bytes \*/0")


def is_remote(location: str) -> bool:
    """Whether it is a URL, or names a repository: `owner/name[@revision]` where there is no such path."""
    if _URL.match(location):
        return True
    found = _PLAIN.fullmatch(location)
    return (
        found is not None and not _ENDING.fullmatch(Path(found["repository"]).suffix) and not os.path.lexists(location)
    )


def open_remote(location: str, *, root: str | None = None, connections: int = CONNECTIONS) -> Catalogue:
    """Read a checkpoint's names and layouts from the Hub or a URL; tensors are read when they are asked for.

    What is in the local cache is read there. Raises SourceError where it can't be had, and says why.
    """
    place = _parse(location)
    if isinstance(place, str):
        _check_online(place)
        return _open_url(_Web(connections), place, root)
    if _offline():
        return _open_cached(place, root)
    web = _Web(connections)
    repository = _look_up(web, place)
    catalogue = repository.file(place.file, root) if place.file is not None else repository.whole(root)
    location = f"{repository.name}/{place.file}" if place.file is not None else repository.name
    config = repository.config() if catalogue.config is None else catalogue.config
    return _ready(catalogue.with_origin(location=location, config=config), web)


def open_files(location: str, *, connections: int = CONNECTIONS) -> Iterator[Source]:
    """Give every file of a repository, or the one that the location names, as bytes; nothing is made of them."""
    place = _parse(location)
    _check_online(str(place) if isinstance(place, str) else place.repository)
    web = _Web(connections)
    if isinstance(place, str):
        yield _begun(web, place)[1]
        return
    repository = _look_up(web, place)
    for file in [place.file] if place.file is not None else sorted(repository.files):
        yield repository.open(file)


def companions(location: str) -> Path | None:
    """Give a folder with the small files of a repository (config.json, the tokenizer), in the local cache.

    None where there are none: at a URL outside the Hub, or in a repository without them.
    """
    place = _parse(location)
    if isinstance(place, str):
        return None
    if _offline():
        return _snapshot(place)
    repository = _look_up(_Web(1), place)
    paths = [_fetched(repository, name, None, None) for name in COMPANIONS if name in repository.files]
    return paths[0].parent if paths else None


def in_cache(repository: str, files: Iterable[str]) -> dict[str, Path]:
    """Give those of a repository's files that are in the local cache, by the revision `main`."""
    found = {file: _cached(repository, file, "main") for file in files}
    return {file: path for file, path in found.items() if path is not None}


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that was downloaded. `checked` says against whose SHA-256 it was held: `declared`, `the Hub's` or None's."""

    path: Path
    nbytes: int
    checked: str | None


def download(
    name: str,
    target: Path | None = None,
    *,
    starting: Callable[[int], None] | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[Downloaded]:
    """Download a declared model or `owner/name[@revision]` into `target`, or into the local cache; companions too.

    `starting` is told the bytes of all, `progress` those since its last call. Raises SourceError for a file that
    can't be had, and for one whose SHA-256 is another than the declared one (or, where none is, than the Hub's).
    """
    declared = models.find(name) if "/" not in name else None
    place = _parse(declared.repository if declared is not None else name)
    if isinstance(place, str) or place.file is not None:
        raise SourceError(f"`{name}` is no repository: a declared model or `owner/name` was expected")
    _check_online(str(place))
    if declared is None:
        declared = next((model for model in models.declared() if model.repository == place.repository), None)
    repository = _look_up(_Web(1), place)
    weights = repository.weights()
    if declared is not None:
        weights = [*(file.name for file in declared.files), *([declared.index] if declared.index else [])]
    hashes = {file.name: file.sha256 for file in declared.files} if declared is not None else {}
    done = []
    entries = {
        file: repository.entry(file) for file in (*weights, *(name for name in COMPANIONS if name in repository.files))
    }
    if starting is not None:
        starting(sum(entry.nbytes or 0 for entry in entries.values()))
    for file, entry in entries.items():
        path = _fetched(repository, file, target, progress)
        wanted, whose = (hashes[file], "declared") if hashes.get(file) else (entry.sha256, "the Hub's")
        if wanted is not None and (found := _sha256(path)) != wanted:
            raise SourceError(f"`{path}` has the SHA-256 {found}; {whose} is {wanted}: remove it and download it again")
        done.append(Downloaded(path, path.stat().st_size, whose if wanted is not None else None))
    return done


# ---- places ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """A repository on the Hub, or a file in it."""

    repository: str
    revision: str = "main"
    file: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}" + (f"/{self.file}" if self.file else "")


def _parse(location: str) -> _Place | str:
    """Give the place on the Hub that a location means, or the URL that it is."""
    if location.startswith("hf://"):
        found = _HUB.fullmatch(location)
        if found is None or location.startswith(("hf://datasets/", "hf://spaces/", "hf://buckets/")):
            raise SourceError(f"`{location}` is no model on the Hub: `hf://owner/name[@revision][/file]` was expected")
    elif _URL.match(location):
        parts = _checked_url(location)
        if _origin(location) != _origin(_endpoint()) or not (found := _PAGE.fullmatch(parts.path)):
            return location
    elif not (found := _PLAIN.fullmatch(location)):
        raise SourceError(f"`{location}` names no repository: `owner/name[@revision]` was expected")
    place = {key: unquote(value) for key, value in found.groupdict().items() if value}
    if not _is_plain(place.get("file", "x")) or not _is_plain(place.get("revision", "x")):
        raise SourceError(f"`{location}` leads out of its repository")
    return _Place(**place)


def _is_plain(path: str) -> bool:
    return path.isprintable() and "\\" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def _endpoint() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT


def _offline() -> bool:
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def _check_online(what: str) -> None:
    if _offline():
        raise SourceError(f"`{_shown(what)}` can't be had offline: HF_HUB_OFFLINE is set")


def _checked_url(url: str, what: str = "") -> Any:
    """Split a URL. Raises SourceError unless it is https without a user's name, or http to this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise SourceError(f"{what}`{_shown(url)}` is no valid URL") from None
    if parts.scheme not in ("https", "http"):
        raise SourceError(f"{what}`{_shown(url)}` is refused: only https:// and hf:// are read")
    if not host or not url.isprintable():
        raise SourceError(f"{what}`{_shown(url)}` is no valid URL")
    if parts.username is not None or parts.password is not None:
        raise SourceError(f"{what}`{_shown(url)}` is refused: it holds a user's name or password")
    if parts.scheme == "http" and not _is_loopback(host):
        raise SourceError(f"{what}`{_shown(url)}` is refused: http is read from this machine only; use https")
    return parts


def _shown(url: str) -> str:
    """Give a URL without what may be secret in it: its query, a password."""
    if not _URL.match(url):
        return safe_text(url)
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, _, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return safe_text(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _is_inside(host: str) -> bool:
    """Whether a host's address is one of this machine or of a private network; False where that can't be told."""
    try:
        addresses = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return False  # then nothing can be read from it, unless by a proxy, whose network is another
    return any(_is_private(address.partition("%")[0]) for address in addresses)


def _is_private(text: str) -> bool:
    address = ipaddress.ip_address(text)
    return not ((address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None) or address).is_global


# ---- requests -------------------------------------------------------------------------------------------------------


class _AgainError(Exception):
    """An attempt that failed in a way that may pass. `wait` is in seconds; None: as long as it takes each time more."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _Web:
    """The connections of one checkpoint: who is asked, with which token, and what it took."""

    def __init__(self, connections: int) -> None:
        from huggingface_hub import constants

        httpx = _httpx()
        self.patience = patience()
        self.pool = Pool(connections)
        self.traffic = Traffic()
        self.endpoint = constants.ENDPOINT
        self.httpx = httpx
        self._timeout = httpx.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT, pool=None)
        self._home = _origin(self.endpoint)
        self._clients: dict[bool, Any] = {}
        self._private: dict[str, bool] = {}  # by host
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for client in self.__dict__.get("_clients", {}).values():  # none where making the first one failed
            client.close()

    def token(self) -> str | None:
        """Give the token that huggingface_hub would send."""
        from huggingface_hub import constants, get_token

        return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()

    def is_home(self, url: str) -> bool:
        """Whether a URL is the configured Hub's own: only there does the token go."""
        return _origin(url) == self._home

    def is_inside(self, host: str) -> bool:
        """Whether a host's address is one of this machine or of a private network; it is looked up once."""
        if host not in self._private:
            self._private[host] = _is_inside(host)
        return self._private[host]

    def get(
        self, url: str, headers: Mapping[str, str], *, inside: bool, seen: Callable[[str, Any], None] | None = None
    ) -> tuple[str, Any]:
        """Give the last answer, its body not read yet, and the URL that it is from.

        `inside` says that redirects may lead into a private network; `seen` is shown every answer. Raises _AgainError, or
        SourceError for a redirect that must not be followed.
        """
        first = url
        for _ in range(_HOPS + 1):
            response = self._send(url, headers)
            try:
                if seen is not None:
                    seen(url, response)
                if response.status_code not in _REDIRECTS:
                    return url, response
                url = self._redirected(url, response.headers.get("location", ""), inside=inside)
            except BaseException:
                response.close()
                raise
            response.close()
        raise SourceError(f"`{_shown(first)}` can't be read: it was redirected more than {_HOPS} times")

    def load(self, url: str, limit: int, refused: Callable[[int, Any], ConverterError | None]) -> bytes | None:
        """Give a small document whole. `refused` makes the error of an answer that is no 200; None: there is none."""
        inside = self.is_inside(_checked_url(url).hostname)
        seconds = self.patience.seconds(0)

        def once(deadline: float) -> bytes | None:
            where, response = self.get(url, {}, inside=inside)
            with contextlib.closing(response):
                if response.status_code in _PASSING:
                    raise _passing(response)
                if response.status_code != 200:
                    if (error := refused(response.status_code, response.headers)) is not None:
                        raise error
                    return None
                _check_encoding(where, response)
                data = bytearray()
                for piece in self.pieces(response, deadline):
                    data += piece
                    if len(data) > limit:
                        raise SourceError(f"`{_shown(url)}` has more than {limit:,} bytes")
                return bytes(data)

        return awaited(self.pool.submit(lambda: self.insist(_shown(url), seconds, once)), _shown(url), seconds)

    def insist(self, name: str, seconds: float, once: Callable[[float], _T]) -> _T:
        """Call `once` until it raises no _AgainError: some attempts, some time. It is told when that time is over."""
        deadline, backoff = time.monotonic() + seconds, self.patience.backoff
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return once(deadline)
            except _AgainError as again:
                wait = backoff if again.wait is None else again.wait
                if attempt == _ATTEMPTS or time.monotonic() + wait > deadline:
                    raise SourceError(f"`{name}` can't be read: {again} (attempt {attempt} of {_ATTEMPTS})") from None
            time.sleep(wait)
            backoff *= 2
        raise AssertionError

    def pieces(self, response: Any, deadline: float) -> Iterable[bytes]:
        """Give a body as it comes. Raises _AgainError where it breaks off, stalls or is too slow."""
        try:
            for piece in response.iter_raw():
                self.traffic.add(0, len(piece))
                yield piece
                if time.monotonic() > deadline:
                    raise _AgainError("the answer came too slowly")
        except (self.httpx.HTTPError, self.httpx.StreamError) as error:
            raise _AgainError(self._reason(error)) from None

    def _send(self, url: str, headers: Mapping[str, str]) -> Any:
        parts = _checked_url(url)
        # A proxy must not be asked for what is on this machine.
        direct = parts.scheme == "http"
        with self._lock:
            if direct not in self._clients:
                self._clients[direct] = self.httpx.Client(trust_env=not direct, timeout=self._timeout)
        client = self._clients[direct]
        sent = {"user-agent": _user_agent(), "accept-encoding": "identity", "accept": "*/*", **headers}
        if self.is_home(url) and (token := self.token()) is not None:
            sent["authorization"] = f"Bearer {token}"
        self.traffic.add(1, 0)
        try:
            request = client.build_request("GET", url, headers=sent)
            with unlogged():
                return client.send(request, stream=True, follow_redirects=False)
        except self.httpx.HTTPError as error:
            raise _AgainError(self._reason(error)) from None
        except (self.httpx.InvalidURL, ValueError):
            raise SourceError(f"`{_shown(url)}` can't be asked for") from None
        finally:
            client.cookies.clear()

    def _redirected(self, url: str, location: str, *, inside: bool) -> str:
        what = f"`{_shown(url)}` can't be read: its redirect to "
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        if not location or not target:
            raise SourceError(f"`{_shown(url)}` can't be read: it redirects to nowhere")
        parts = _checked_url(target, what)
        if url.startswith("https:") and parts.scheme != "https":
            raise SourceError(f"{what}`{_shown(target)}` is refused: it leads from https to http")
        if not inside and self.is_inside(parts.hostname):
            raise SourceError(f"{what}`{_shown(target)}` is refused: it leads into a private network")
        return target

    def _reason(self, error: Exception) -> str:
        """Say what went wrong in words that hold no URL."""
        if isinstance(error, self.httpx.TimeoutException):
            return f"nothing came for {self._timeout.read:g} seconds"
        if isinstance(error, self.httpx.ConnectError | self.httpx.ProxyError):
            return f"no connection ({safe_text(str(error), 100).lower()})"
        return "the answer broke off"


def _httpx() -> Any:
    from huggingface_hub import utils

    return utils.httpx  # type: ignore[attr-defined]  # httpx or httpx2, whichever it uses itself


@cache
def _user_agent() -> str:
    return f"cerebras-tool/{version('cerebras-tool')}"


def _passing(response: Any) -> _AgainError:
    asked = response.headers.get("retry-after", "")
    wait = min(float(asked), _LONGEST_WAIT) if _NUMBER.fullmatch(asked) else None
    return _AgainError(f"the server answered {response.status_code}", wait)


def _check_encoding(url: str, response: Any) -> None:
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SourceError(f"`{_shown(url)}` can't be read: the server sent it encoded ({safe_text(encoding, 40)})")


class _Object:
    """A remote object, pinned: every answer about it has to be about the bytes that the first one was about."""

    def __init__(
        self,
        web: _Web,
        name: str,
        url: str,
        refused: Callable[[int, Any], ConverterError | None],
        *,
        commit: str | None = None,
        nbytes: int | None = None,
    ) -> None:
        self.name, self.size, self.etag = name, -1 if nbytes is None else nbytes, commit or ""
        self._web, self._url, self._refused, self._commit = web, url, refused, commit
        self._inside = web.is_inside(_checked_url(url).hostname)
        self._target: str | None = None  # where the redirects led; a signed link, often
        self._pins: dict[object, str] = {}

    def begin(self) -> memoryview:
        """Read the first bytes, and by them the size and what tells this version from others."""
        wanted = _FIRST if self.size < 0 else min(_FIRST, self.size)
        if not wanted:
            return memoryview(b"")
        return awaited(self._web.pool.submit(lambda: self.fetch(0, wanted)), self.name, self.patience(wanted))

    @property
    def pinned(self) -> bool:
        """Whether a change would be noticed: by the commit, a strong ETag, or the time of the last change."""
        etag, _, date = self._pins.get("", "").rpartition("|")
        return self._commit is not None or bool(date) or (bool(etag) and not etag.startswith("W/"))

    def patience(self, size: int) -> float:
        """Seconds for a read of so many bytes."""
        return self._web.patience.seconds(size)

    def fetch(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes; fewer only where the object's size was not known and it ends before."""
        buffer = memoryview(bytearray(size))
        done = 0

        def once(deadline: float) -> memoryview:
            nonlocal done, buffer
            target = self._target
            headers = {"range": f"bytes={start + done}-{start + len(buffer) - 1}"}
            url, response = self._web.get(target or self._url, headers, inside=self._inside, seen=self._see)
            with contextlib.closing(response):
                count = self._checked(url, response, start + done, len(buffer) - done, redirected=url != self._url)
                buffer = buffer[: done + count]
                self._target = url
                for piece in self._web.pieces(response, deadline):
                    if done + len(piece) > len(buffer):
                        raise SourceError(f"`{self.name}` can't be read: the server sent more than was asked for")
                    buffer[done : done + len(piece)] = piece
                    done += len(piece)
                if done < len(buffer):
                    raise _AgainError("the answer was too short")
                return buffer

        return self._web.insist(self.name, self.patience(size), once)

    def _see(self, url: str, response: Any) -> None:
        """Hold what the Hub says of the file, redirect or not, against what it said before."""
        if response.status_code >= 400 or not self._web.is_home(url) or self._commit is None:
            return
        headers = response.headers
        if (commit := headers.get("x-repo-commit")) is not None and commit != self._commit:
            raise self._changed()
        if (etag := headers.get("x-linked-etag")) is not None:
            self._pin("linked", etag)
        size = headers.get("x-linked-size", "")
        if _NUMBER.fullmatch(size) and self.size >= 0 and int(size) != self.size:
            raise self._changed()

    def _checked(self, url: str, response: Any, start: int, size: int, *, redirected: bool) -> int:
        """Hold an answer against what was asked for; give how many bytes it announces."""
        status, headers = response.status_code, response.headers
        if status in _PASSING:
            raise _passing(response)
        if redirected and status in _EXPIRED:
            if self._target == url:
                self._target = None
                raise _AgainError("its link has expired", 0)
            raise _AgainError(f"the server that it was redirected to answered {status}")
        if status == 416 and self.size < 0 and _EMPTY.fullmatch(headers.get("content-range", "")):
            self.size = 0
            return 0
        if status in (412, 416):
            raise self._changed()
        if status == 200:
            raise SourceError(
                f"`{self.name}` can't be read in parts: the server sends it whole; download it and read it from disk"
            )
        if status != 206:
            raise self._refused(status, headers) or SourceError(f"`{self.name}` is not there: the server says {status}")
        _check_encoding(url, response)
        match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
        if match is None:
            raise self._wrong(
                f"without saying which: {safe_text(headers.get('content-range', 'no Content-Range'), 80)!r}"
            )
        first, last, total = (int(number) for number in match.groups())
        if self.size < 0:
            size = min(size, total)
        elif total != self.size:
            raise self._changed()
        if (first, last) != (start, start + size - 1):
            raise self._wrong(f"bytes {first:,} to {last:,} where {start:,} to {start + size - 1:,} were asked for")
        if headers.get("content-length", str(size)) != str(size):
            raise self._wrong(f"{safe_text(headers['content-length'], 20)} bytes where {size:,} were asked for")
        # Each place that the Hub redirects to has ETags of its own; what is there, the Hub has vouched for.
        self._pin(_origin(url) if self._commit else "", f"{headers.get('etag', '')}|{headers.get('last-modified', '')}")
        if self.size < 0:
            self.size = total
            self.etag = self.etag or self._pins.get("", "")
        return size

    def _pin(self, where: object, what: str) -> None:
        if self._pins.setdefault(where, what) != what:
            raise self._changed()

    def _changed(self) -> SourceError:
        return SourceError(f"`{self.name}` was changed while it was read: start again")

    def _wrong(self, what: str) -> SourceError:
        return SourceError(f"`{self.name}` can't be read: the server sent other bytes than were asked for, {what}")


# ---- the Hub --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file of a repository as the Hub lists it."""

    nbytes: int | None
    sha256: str | None


@dataclass(frozen=True, slots=True)
class _Repository:
    """A repository at one commit."""

    web: _Web
    place: _Place
    commit: str
    files: Mapping[str, _Entry]

    @property
    def name(self) -> str:
        """The place, with the commit for its revision."""
        return f"hf://{self.place.repository}@{self.commit}"

    def entry(self, file: str) -> _Entry:
        """Give what is listed of a file. Raises SourceError where it is not there."""
        if file in self.files:
            return self.files[file]
        near = [name for name in self.files if Path(name).name == Path(file).name or name.endswith(Path(file).suffix)]
        hint = f"; there is {', '.join(f'`{name}`' for name in near[:4])}" if near and Path(file).suffix else ""
        raise SourceError(f"`{self.place.repository}` has no file `{file}` in revision `{self.place.revision}`{hint}")

    def open(self, file: str) -> Source:
        """Give a file, from the cache where it is there."""
        entry = self.entry(file)
        if (path := _cached(self.place.repository, file, self.commit)) is not None:
            return LocalFile(path)
        found = _Object(
            self.web, f"{self.name}/{file}", self._url(file), self._refused, commit=self.commit, nbytes=entry.nbytes
        )
        first = found.begin()
        return RemoteFile(found, self.web.pool, first)

    def load(self, file: str) -> bytes:
        """Give a small file whole."""
        self.entry(file)
        if (path := _cached(self.place.repository, file, self.commit)) is not None:
            return path.read_bytes()
        data = self.web.load(self._url(file), limits().json_bytes, self._refused)
        return data if data is not None else b""

    def config(self) -> dict[str, Any] | None:
        """Give the config.json, or None."""
        name = "config.json"
        return parse_json(self.load(name), f"{self.name}/{name}") if name in self.files else None

    def file(self, file: str, root: str | None, shard: int | None = None) -> Catalogue:
        """Read the names and layouts of one weight file."""
        return _read(self.open(file), root, shard)

    def whole(self, root: str | None) -> Catalogue:
        """Read the repository's checkpoint: shards with their index, or its one weight file."""
        weight_map = self._weight_map()
        files = self._files(weight_map)
        if weight_map is None and len(files) == 1:
            return self.file(files[0], root)
        parts = [self.file(file, root, number) for number, file in enumerate(files, 1)]
        return folder.merge(self.name, files, parts, weight_map)

    def weights(self) -> list[str]:
        """Give the files of the checkpoint, the index among them."""
        index, _ = self._chosen()
        return [*self._files(self._weight_map()), *([index] if index else [])]

    def _weight_map(self) -> dict[str, str] | None:
        index, _ = self._chosen()
        if index is None:
            return None
        name = f"{self.name}/{index}"
        return folder.load_weight_map(parse_json(self.load(index), name), name)

    def _files(self, weight_map: Mapping[str, str] | None) -> list[str]:
        index, files = self._chosen()
        return files if weight_map is None else folder.shard_files(weight_map, self.files, self.name, index or "")

    def _chosen(self) -> tuple[str | None, list[str]]:
        try:
            return folder.choose([name for name in self.files if "/" not in name], str(self.place))
        except FormatError as error:
            deeper = [name for name in self.files if "/" in name and name.endswith((".bin", ".safetensors", ".gguf"))]
            other = [name for name in self.files if name.endswith((".h5", ".msgpack", ".onnx", ".ot", ".tflite"))]
            found = f"; there is {', '.join(f'`{name}`' for name in [*deeper, *other][:4])}" if deeper or other else ""
            raise FormatError(f"{error}{found}") from None

    def _url(self, file: str) -> str:
        from huggingface_hub import hf_hub_url

        return hf_hub_url(self.place.repository, file, revision=self.commit, endpoint=self.web.endpoint)

    def _refused(self, status: int, headers: Any) -> ConverterError:
        return _refusal(self.web, self.place, status, headers.get("x-error-code", ""))


def _look_up(web: _Web, place: _Place) -> _Repository:
    """Ask the Hub which commit a revision is, and which files it has."""
    url = f"{web.endpoint}/api/models/{place.repository}/revision/{quote(place.revision, safe='')}?blobs=true"

    def refused(status: int, headers: Any) -> ConverterError:
        return _refusal(web, place, status, headers.get("x-error-code", ""))

    data = parse_json(web.load(url, limits().json_bytes, refused) or b"", _shown(url))
    commit, siblings = data.get("sha"), data.get("siblings")
    if type(commit) is not str or not _COMMIT.fullmatch(commit) or type(siblings) is not list:
        raise ManifestError(f"`{_shown(url)}` does not describe a repository: no commit, or no list of files")
    files = {}
    for sibling in siblings:
        name = sibling.get("rfilename") if type(sibling) is dict else None
        if type(name) is str and _is_plain(name):
            size, lfs = sibling.get("size"), sibling.get("lfs")
            sha256 = lfs.get("sha256") if type(lfs) is dict else None
            files[name] = _Entry(
                size if type(size) is int and size >= 0 else None,
                sha256 if type(sha256) is str and _SHA256.fullmatch(sha256) else None,
            )
    return _Repository(web, place, commit, files)


def _refusal(web: _Web, place: _Place, status: int, code: str) -> ConverterError:
    """Say why the Hub gives nothing."""
    name, host = place.repository, urlsplit(web.endpoint).netloc
    token = web.token() is not None
    if code == "GatedRepo":
        how = "ask for access there" if token else "accept its terms there and set HF_TOKEN, or run `hf auth login`"
        return SourceError(f"`{name}` is gated: {how} ({web.endpoint}/{name})")
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


def _cached(repository: str, file: str, revision: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file, revision=revision)
    return Path(found) if isinstance(found, str) else None


def _snapshot(place: _Place) -> Path | None:
    """Give the folder of the local cache that holds a revision."""
    for name in ("config.json", "pytorch_model.bin", "model.safetensors", "pytorch_model.bin.index.json"):
        if (path := _cached(place.repository, name, place.revision)) is not None:
            return path.parent
    return None


def _open_cached(place: _Place, root: str | None) -> Catalogue:
    if place.file is None:
        found = _snapshot(place)
    else:
        found = _cached(place.repository, place.file, place.revision)
    if found is None:
        raise SourceError(f"`{place}` is not in the local cache, and HF_HUB_OFFLINE is set")
    if place.file is None:
        catalogue = folder.read(found, root=root)
    else:
        catalogue = _read(LocalFile(found), root, None).with_origin(config=config_beside(found.parent))
    return catalogue.with_origin(location=str(place))


def _fetched(repository: _Repository, file: str, target: Path | None, progress: Callable[[int], None] | None) -> Path:
    """Download a file through huggingface_hub, into the cache or a folder."""
    from huggingface_hub import errors, hf_hub_download
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        """Passes on what huggingface_hub tells its own bar."""

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
                revision=repository.place.revision,  # not the commit, so that the cache knows it by this name
                local_dir=target,
                endpoint=repository.web.endpoint,
                tqdm_class=Bar,
            )
        return Path(path)
    except errors.HfHubHTTPError as error:
        headers = error.response.headers
        raise _refusal(
            repository.web, repository.place, error.response.status_code, headers.get("x-error-code", "")
        ) from None
    except (errors.LocalEntryNotFoundError, _httpx().HTTPError):
        raise SourceError(f"`{repository.name}/{file}` can't be downloaded: the connection failed") from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise SourceError(f"`{repository.name}/{file}` can't be downloaded: {reason}") from None


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with LocalFile(path) as file:
        buffer = memoryview(bytearray(min(STEP, file.size)))
        for offset in range(0, file.size, STEP):
            piece = buffer[: min(STEP, file.size - offset)]
            file.readinto(offset, piece)
            digest.update(piece)
    return digest.hexdigest()


# ---- other URLs -----------------------------------------------------------------------------------------------------


def _begun(web: _Web, url: str) -> tuple[_Object, RemoteFile]:
    def refused(status: int, headers: Any) -> ConverterError:
        what = {401: "it wants a password", 403: "it is forbidden", 404: "there is no such file"}.get(status)
        return SourceError(f"`{_shown(url)}` can't be read: {what or f'the server answered {status}'}")

    found = _Object(web, _shown(url), url, refused)
    first = found.begin()
    return found, RemoteFile(found, web.pool, first)


def _open_url(web: _Web, url: str, root: str | None) -> Catalogue:
    found, source = _begun(web, url)
    catalogue = _read(source, root, None).with_origin(location=_shown(url))
    if not found.pinned:
        unpinned = f"`{_shown(url)}` has no strong ETag and no date: a change while it is read can't be noticed"
        catalogue = replace(catalogue, problems=(*catalogue.problems, unpinned))
    # Beside a file that needs a signature nothing can be asked for.
    if not urlsplit(url).query:
        with contextlib.suppress(ConverterError):
            data = web.load(urljoin(url, "config.json"), limits().json_bytes, lambda status, headers: None)
            catalogue = catalogue.with_origin(config=parse_json(data, "config.json") if data else None)
    return _ready(catalogue, web)


def _read(source: Source, root: str | None, shard: int | None) -> Catalogue:
    head = bytes(source.read(0, min(HEAD, source.size)))
    return read_format(identify(head, source.name), source, root=root, shard=shard)


def _ready(catalogue: Catalogue, web: _Web) -> Catalogue:
    catalogue = catalogue.with_origin(traffic=web.traffic)
    catalogue.arrange()
    return catalogue
