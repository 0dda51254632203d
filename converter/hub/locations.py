"""What a location means, and which URLs are allowed. Nothing is read here, and no host is looked up."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from huggingface_hub import constants

from converter.errors import SourceError
from converter.hub.offline import wanted
from converter.text import safe_text

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_NAME: Final = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_REVISION: Final = r"@(?P<revision>refs/(?:pr|convert)/[^/@]+|[^/@]+)"
_PLAIN: Final = re.compile(rf"(?P<repository>{_NAME})(?:{_REVISION})?", re.ASCII)
_HUB: Final = re.compile(rf"hf://(?:models/)?(?P<repository>{_NAME})(?:{_REVISION})?(?:/(?P<file>[^?#]+))?/?", re.ASCII)
_PAGE: Final = re.compile(
    rf"/(?P<repository>{_NAME})(?:/(?:resolve|blob|raw|tree)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?/?", re.ASCII
)
_ENDING: Final = re.compile(r"\.[a-z][a-z0-9]{1,11}")  # `.bin`, but not the `.7B` of a model's name


def is_remote(location: str) -> bool:
    """Whether a location is a URL or names a repository: `owner/name[@revision]`, if there is no folder `owner` here."""
    return bool(_URL.match(location)) or (_names_repository(location) and not _begins_here(location))


def hint(location: str) -> str:
    """What to add about a path that does not exist but could name a repository on the Hub."""
    if not _names_repository(location) or not _begins_here(location):
        return ""
    owner = location.partition("/")[0]
    return f"; `{owner}` is here, so the Hub was not asked: `hf://{location}` asks it"


def _names_repository(location: str) -> bool:
    found = _PLAIN.fullmatch(location)
    return found is not None and not _ENDING.fullmatch(Path(found["repository"]).suffix)


def _begins_here(location: str) -> bool:
    return os.path.lexists(location.partition("/")[0])


@dataclass(frozen=True, slots=True)
class Place:
    """A repository on the Hub, or a file or a folder in it."""

    repository: str
    revision: str = "main"
    file: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repository}@{self.revision}" + (f"/{self.file}" if self.file else "")


def model_of(location: str) -> str:
    """The repository, or the folder of it, at its revision, that has all files of a model on the Hub.

    Any other location is returned as it is.
    """
    from converter.formats.folders import kind_of

    place = parse(location) if location.startswith("hf://") else location
    if isinstance(place, str) or place.file is None:
        return location
    folder, _, name = place.file.rpartition("/")
    return str(replace(place, file=folder or None)) if kind_of(name) is not None else location


def parse(location: str) -> Place | str:
    """The place on the Hub that a location means, or its URL."""
    if location.startswith("hf://"):
        found = _HUB.fullmatch(location)
        if found is None or location.startswith(("hf://datasets/", "hf://spaces/", "hf://buckets/")):
            raise SourceError(
                f"`{location}` is not a model on the Hub: `hf://owner/name[@revision][/path]` was expected"
            )
    elif _URL.match(location):
        parts = checked_url(location)
        if origin(location) != origin(constants.ENDPOINT) or not (found := _PAGE.fullmatch(parts.path)):
            return location
    elif not (found := _PLAIN.fullmatch(location)):
        raise SourceError(
            f"`{location}` names no repository: `owner/name[@revision]` was expected, or `hf://owner/name[@revision]/path` "
            "for a folder of one"
        )
    place = {key: unquote(value).removesuffix("/") for key, value in found.groupdict().items() if value}
    if not is_plain(place.get("file", "x")) or not is_plain(place.get("revision", "x")):
        raise SourceError(f"`{location}` leads out of its repository")
    return Place(**place)


def is_plain(path: str) -> bool:
    """Whether a path stays within its repository and can be printed."""
    return path.isprintable() and "\\" not in path and all(part not in ("", ".", "..") for part in path.split("/"))


def offline() -> bool:
    """Whether the user has turned the network off."""
    return wanted() or constants.HF_HUB_OFFLINE


def why_offline() -> str:
    """What turned the network off, for the middle of a sentence."""
    return "`--offline` is given" if wanted() else "HF_HUB_OFFLINE is set"


def check_online(what: str) -> None:
    """Raise SourceError if the network is turned off; `what` is what needs the network."""
    if offline():
        raise SourceError(f"`{shown(what)}` is not available offline: {why_offline()}")


def checked_url(url: str, what: str = "") -> SplitResult:
    """The parts of a URL. Raises SourceError unless it is https, or http to this machine, without a user's name.

    The message begins with `what`.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise SourceError(f"{what}`{shown(url)}` is not a valid URL") from None
    if parts.scheme not in ("https", "http"):
        raise SourceError(f"{what}`{shown(url)}` is refused: only https:// and hf:// are read")
    if not host or not url.isprintable():
        raise SourceError(f"{what}`{shown(url)}` is not a valid URL")
    if parts.username is not None or parts.password is not None:
        raise SourceError(f"{what}`{shown(url)}` is refused: it holds a user's name or password")
    if parts.scheme == "http" and not _is_loopback(host):
        raise SourceError(f"{what}`{shown(url)}` is refused: http is read from this machine only; use https")
    return parts


def shown(url: str) -> str:
    """A URL for messages: without its query and password, which may be secret."""
    if not _URL.match(url):
        return safe_text(url)
    head = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, _, rest = head.partition("://")
    host, slash, path = rest.partition("/")
    return safe_text(f"{scheme}://{host.rpartition('@')[2]}{slash}{path}")


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"https": 443, "http": 80}.get(parts.scheme, 0)


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
