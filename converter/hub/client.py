"""One GET, hop by hop, with retries: which server gets the token, which redirects are followed, how long we wait.

URLs and the token come from huggingface_hub. We make the requests ourselves, so that each redirect is checked, and each
read is bounded in requests and in time. Source: RFC 9110.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module, metadata
from typing import Any, Final, TypeVar
from urllib.parse import urljoin

from huggingface_hub import constants, get_token

from converter.errors import ConverterError, SourceError
from converter.hub.locations import checked_url, is_inside, origin, shown
from converter.hub.patience import patience
from converter.hub.unlogged import unlogged
from converter.io.pool import Pool, awaited
from converter.io.ranges import FETCHING, Fetching
from converter.io.traffic import Traffic
from converter.text import safe_text

_T = TypeVar("_T")


def _library() -> Any:
    """The HTTP library that huggingface_hub requires: httpx or, for newer versions, httpx2. Both have the names we use.

    Its public get_session() can't be used here: that client adds headers, and uses a proxy even for this machine.
    """
    required = metadata.requires("huggingface_hub") or ()
    return import_module("httpx2" if any(re.match(r"httpx2\b", line) for line in required) else "httpx")


httpx: Final = _library()

Refused = Callable[[int, Any], ConverterError | None]  # the error for a status and headers; None: no such file

PASSING: Final = frozenset((408, 425, 429, 500, 502, 503, 504))  # statuses after which we ask again
_ATTEMPTS: Final = 6
_LONGEST_WAIT: Final = 30.0  # seconds that a server may ask for between attempts
_HOPS: Final = 5
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_SECONDS: Final = re.compile(r"\d{1,19}", re.ASCII)  # the form of a Retry-After that is not a date


class AgainError(Exception):
    """A failure after which we ask again: in `wait` seconds, or after the next backoff if that is None."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Client:
    """Asks servers for one checkpoint. It knows the Hub and its token, and counts the traffic."""

    def __init__(self, fetching: Fetching = FETCHING) -> None:
        self.fetching = fetching
        self.patience = patience()
        self.pool = Pool(fetching.connections)
        self.traffic = Traffic()
        self.endpoint = constants.ENDPOINT
        self._timeout = httpx.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT, pool=None)
        self._home = origin(self.endpoint)
        self._sessions: dict[bool, Any] = {}
        self._private: dict[str, bool] = {}  # by host
        self._lock = threading.Lock()

    def __del__(self) -> None:
        for session in self.__dict__.get("_sessions", {}).values():  # there are none if making the first one failed
            session.close()

    def token(self) -> str | None:
        """The token that huggingface_hub would send."""
        return None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()

    def is_home(self, url: str) -> bool:
        """Whether a URL is the configured Hub's own; the token goes nowhere else."""
        return origin(url) == self._home

    def is_inside(self, host: str) -> bool:
        """Whether a host's address belongs to this machine or to a private network. It is looked up once."""
        if host not in self._private:
            self._private[host] = is_inside(host)
        return self._private[host]

    def get(
        self, url: str, headers: Mapping[str, str], *, inside: bool, seen: Callable[[str, Any], None] | None = None
    ) -> tuple[str, Any]:
        """The last answer, whose body is not read yet, and the URL that it came from.

        `inside`: redirects may lead into a private network. `seen` is called with every answer, redirects too. Raises
        AgainError, or SourceError for a redirect that must not be followed.
        """
        first = url
        for _ in range(_HOPS + 1):
            response = self._send(url, headers)
            try:
                if seen is not None:
                    seen(url, response)
                if response.status_code not in _REDIRECTS:
                    return url, response
                url = self.redirected(url, response.headers.get("location", ""), inside=inside)
            except BaseException:
                response.close()
                raise
            response.close()
        raise SourceError(f"`{shown(first)}` can't be read: it was redirected more than {_HOPS} times")

    def load(self, url: str, limit: int, refused: Refused) -> bytes | None:
        """All of a small document. For an answer other than 200, the error that `refused` makes, or None if it makes none."""
        inside = self.is_inside(checked_url(url).hostname or "")
        seconds = self.patience.seconds(0)

        def once(deadline: float) -> bytes | None:
            where, response = self.get(url, {}, inside=inside)
            with contextlib.closing(response):
                if response.status_code in PASSING:
                    raise passing(response)
                if response.status_code != 200:
                    if (error := refused(response.status_code, response.headers)) is not None:
                        raise error
                    return None
                check_encoding(where, response)
                data = bytearray()
                for piece in self.pieces(response, deadline):
                    data += piece
                    if len(data) > limit:
                        raise SourceError(f"`{shown(url)}` has more than {limit:,} bytes")
                return bytes(data)

        return awaited(self.pool.submit(lambda: self.insist(shown(url), seconds, once)), shown(url), seconds)

    def insist(self, name: str, seconds: float, once: Callable[[float], _T]) -> _T:
        """Call `once` until it raises no AgainError, for `seconds` at most. Its argument is the time when these are over."""
        deadline, backoff = time.monotonic() + seconds, self.patience.backoff
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return once(deadline)
            except AgainError as again:
                wait = backoff if again.wait is None else again.wait
                if attempt == _ATTEMPTS or time.monotonic() + wait > deadline:
                    raise SourceError(f"`{name}` can't be read: {again} (attempt {attempt} of {_ATTEMPTS})") from None
            time.sleep(wait)
            backoff *= 2
        raise AssertionError

    def pieces(self, response: Any, deadline: float) -> Iterable[bytes]:
        """Yield a body as it comes. Raises AgainError if it breaks off, stalls or is too slow."""
        try:
            for piece in response.iter_raw():
                self.traffic.add(0, len(piece))
                yield piece
                if time.monotonic() > deadline:
                    raise AgainError("the answer came too slowly")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise AgainError(self._reason(error)) from None

    def _send(self, url: str, headers: Mapping[str, str]) -> Any:
        parts = checked_url(url)
        # A proxy must not be asked for what is on this machine.
        direct = parts.scheme == "http"
        with self._lock:
            if direct not in self._sessions:
                self._sessions[direct] = httpx.Client(trust_env=not direct, timeout=self._timeout)
        session = self._sessions[direct]
        sent = {"user-agent": _user_agent(), "accept-encoding": "identity", "accept": "*/*", **headers}
        if self.is_home(url) and (token := self.token()) is not None:
            sent["authorization"] = f"Bearer {token}"
        self.traffic.add(1, 0)
        try:
            request = session.build_request("GET", url, headers=sent)
            with unlogged():
                return session.send(request, stream=True, follow_redirects=False)
        except httpx.HTTPError as error:
            raise AgainError(self._reason(error)) from None
        except (httpx.InvalidURL, ValueError):
            raise SourceError(f"`{shown(url)}` can't be asked for") from None
        finally:
            session.cookies.clear()

    def redirected(self, url: str, location: str, *, inside: bool) -> str:
        """The URL that a redirect leads to. Raises SourceError if it must not be followed."""
        what = f"`{shown(url)}` can't be read: its redirect to "
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        if not location or not target:
            raise SourceError(f"`{shown(url)}` can't be read: it redirects to nowhere")
        parts = checked_url(target, what)
        if url.startswith("https:") and parts.scheme != "https":
            raise SourceError(f"{what}`{shown(target)}` is refused: it leads from https to http")
        if not inside and self.is_inside(parts.hostname or ""):
            raise SourceError(f"{what}`{shown(target)}` is refused: it leads into a private network")
        return target

    def _reason(self, error: Exception) -> str:
        """What went wrong, in words that contain no URL."""
        if isinstance(error, httpx.TimeoutException):
            return f"nothing came for {self._timeout.read:g} seconds"
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            return f"no connection ({safe_text(str(error), 100).lower()})"
        return "the answer broke off"


@cache
def _user_agent() -> str:
    return f"cerebras-tool/{metadata.version('cerebras-tool')}"


def passing(response: Any) -> AgainError:
    """The failure for a status in PASSING."""
    asked = response.headers.get("retry-after", "")
    wait = min(float(asked), _LONGEST_WAIT) if _SECONDS.fullmatch(asked) else None
    return AgainError(f"the server answered {response.status_code}", wait)


def check_encoding(url: str, response: Any) -> None:
    """Raise SourceError for a body that is compressed."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SourceError(f"`{shown(url)}` can't be read: the server sent it encoded ({safe_text(encoding, 40)})")
