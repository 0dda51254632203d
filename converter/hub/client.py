"""One GET, redirect by redirect, with retries: which server gets the token, which redirects are followed, how long we wait.

huggingface_hub gives us the URLs and the token. We make the requests ourselves, because each redirect is checked, and
each read is limited in requests and time. A host is looked up once, and we connect only to the addresses that were
checked. A proxy, if one is set, looks up hosts itself, and we don't check what it connects to. Source: RFC 9110.
"""

from __future__ import annotations

import contextlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import import_module, metadata
from typing import Any, Final, TypeVar
from urllib.parse import SplitResult, urljoin
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, get_token

from converter.errors import ConverterError, SourceError
from converter.hub.addresses import UnknownHostError, addresses, is_loopback, is_private
from converter.hub.locations import checked_url, origin, shown
from converter.hub.patience import patience
from converter.hub.unlogged import unlogged
from converter.io.pool import Pool, awaited
from converter.io.ranges import FETCHING, Fetching
from converter.io.traffic import Traffic
from converter.steps import at, follower, step
from converter.text import plural, safe_text
from converter.words import option

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
_LONGEST_WAIT: Final = 30.0  # seconds: the longest wait before the next attempt that a server may ask for
_HOPS: Final = 5
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_SECONDS: Final = re.compile(r"\d{1,19}", re.ASCII)  # the form of a Retry-After that is not a date


class AgainError(Exception):
    """A failure after which we ask again: in `wait` seconds, or after the next backoff if that is None."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class UnreachedError(AgainError):
    """There was no connection."""


class Client:
    """Asks servers for one checkpoint. It knows the Hub and its token, and counts requests and bytes."""

    def __init__(self, fetching: Fetching = FETCHING) -> None:
        self.fetching = fetching
        self.patience = patience()
        self.pool = Pool(fetching.connections)
        self.traffic = Traffic()
        self.endpoint = constants.ENDPOINT
        self._timeout = httpx.Timeout(constants.HF_HUB_DOWNLOAD_TIMEOUT, pool=None)
        self._home = origin(self.endpoint)
        # By proxy and origin, so that a connection made for one host is never used for another.
        self._sessions: dict[tuple[str | None, tuple[str, str, int]], Any] = {}
        self._addresses: dict[str, tuple[str, ...]] = {}  # by host
        self._unknown: dict[str, str] = {}  # why a host has no address
        self._met = False  # whether any server has answered yet
        self._until = 0.0  # when the time for a first connection is over; 0 before the first request
        self._lock, self._looking = threading.Lock(), threading.Lock()

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
        """Whether an address of a host belongs to this machine or a private network; False if the host has none."""
        return any(map(is_private, self.addresses(host)))

    def addresses(self, host: str) -> tuple[str, ...]:
        """The addresses of a host, which is looked up once; none if that fails, because a proxy may still know it."""
        with self._looking:
            if host not in self._addresses:
                try:
                    self._addresses[host] = addresses(host, self._connecting())
                except UnknownHostError as error:
                    self._addresses[host], self._unknown[host] = (), str(error)
            return self._addresses[host]

    def _connecting(self) -> float:
        """How many seconds making a connection may take now."""
        if self._met:
            return float(self._timeout.connect)
        if not self._until:
            self._until = time.monotonic() + self.patience.first
        return max(0.01, min(self._until - time.monotonic(), float(self._timeout.connect)))

    def get(
        self, url: str, headers: Mapping[str, str], *, inside: bool, seen: Callable[[str, Any], None] | None = None
    ) -> tuple[str, Any]:
        """The last answer, with its body unread, and the URL that it came from.

        `inside`: redirects may lead into a private network. `seen` is called with every answer, including redirects.
        Raises AgainError, or SourceError for a redirect that must not be followed.
        """
        first = url
        for _ in range(_HOPS + 1):
            response = self._send(url, headers, inside=inside)
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
        """All of a small document.

        For any status other than 200, the error that `refused` returns is raised; if it returns None, so does this.
        """
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
        """Call `once` until it raises no AgainError, for at most `seconds`. Its argument is the time when they are over."""
        deadline, backoff = time.monotonic() + seconds, self.patience.backoff
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return once(deadline)
            except AgainError as again:
                reason = str(again)
                wait = backoff if again.wait is None else again.wait
                alone = isinstance(again, UnreachedError) and not self._met
                if attempt == _ATTEMPTS or time.monotonic() + wait > (
                    min(deadline, self._until) if alone else deadline
                ):
                    tried = f" (attempt {attempt} of {_ATTEMPTS})"
                    way = f"; is there a network? With `{option('offline')}` only the local cache is read"
                    said = way if alone else tried
                    raise SourceError(f"`{name}` can't be read: {again}{said}") from None
            with step("wait", f"{name}: {reason}; attempt {attempt + 1} of {_ATTEMPTS} comes in {wait:g} s"):
                time.sleep(wait)
            at(name)
            backoff *= 2
        raise AssertionError

    def pieces(self, response: Any, deadline: float) -> Iterable[bytes]:
        """Yield a body as it comes. Raises AgainError if it breaks off, stalls or is too slow."""
        start, count = time.perf_counter(), 0
        try:
            for piece in response.iter_raw():
                self.traffic.add(0, len(piece))
                count += len(piece)
                yield piece
                if time.monotonic() > deadline:
                    raise AgainError("the answer came too slowly")
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise AgainError(self._reason(error)) from None
        finally:
            follower().ended("receive", plural(count, "byte"), time.perf_counter() - start)

    def _send(self, url: str, headers: Mapping[str, str], *, inside: bool) -> Any:
        parts = checked_url(url)
        host, proxy = parts.hostname or "", _proxy(parts)
        sent = {"user-agent": _user_agent(), "accept-encoding": "identity", "accept": "*/*", **headers}
        if self.is_home(url) and (token := self.token()) is not None:
            sent["authorization"] = f"Bearer {token}"
        if proxy is not None:
            return self._asked(url, None, sent, proxy, self._connecting())
        found = self.addresses(host)
        if not found:
            self._addresses.pop(host, None)  # the next attempt looks it up again
            raise UnreachedError(f"no connection (`{shown(host)}`: {safe_text(self._unknown[host], 100).lower()})")
        if parts.scheme == "http" and not all(map(is_loopback, found)):
            raise SourceError(
                f"`{shown(url)}` is refused: its address is not one of this machine, and http is read from this machine only"
            )
        if not inside and any(map(is_private, found)):
            raise SourceError(f"`{shown(url)}` can't be read: its address now belongs to a private network")
        for left in range(len(found), 0, -1):
            try:
                return self._asked(url, found[-left], sent, None, self._connecting() / left)
            except UnreachedError:
                if left == 1:
                    # The host may have moved, so the next attempt looks it up again and checks the new addresses.
                    self._addresses.pop(host, None)
                    raise
        raise AssertionError

    def _asked(self, url: str, address: str | None, headers: dict[str, str], proxy: str | None, seconds: float) -> Any:
        """The answer of one server. If an address is given, we connect to it; the host is still the one that the URL names."""
        self.traffic.add(1, 0)
        session = self._session(url, proxy)
        try:
            target, extensions = httpx.URL(url), {}
            if address is not None:
                headers = headers | {"host": target.netloc.decode("ascii")}
                extensions = {"sni_hostname": target.raw_host.decode("ascii").strip("[]")}
                target = target.copy_with(host=address)
            timeout = httpx.Timeout(self._timeout.read, connect=seconds, pool=None)
            request = session.build_request("GET", target, headers=headers, timeout=timeout, extensions=extensions)
            with step("request", shown(url)), unlogged():
                response = session.send(request, stream=True, follow_redirects=False)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
            if (wrong := _distrust(error)) is not None:
                raise SourceError(f"`{shown(url)}` can't be read: its certificate is not trusted ({wrong})") from None
            raise UnreachedError(self._reason(error)) from None
        except httpx.HTTPError as error:
            raise AgainError(self._reason(error)) from None
        except (httpx.InvalidURL, ValueError):
            raise SourceError(f"`{shown(url)}` can't be requested") from None
        finally:
            session.cookies.clear()
        self._met = True
        return response

    def _session(self, url: str, proxy: str | None) -> Any:
        key = (proxy, origin(url))
        with self._lock:
            if key not in self._sessions:
                verify = _certificates() if url.startswith("https:") or proxy is not None else False
                try:
                    # The proxies of the environment were read before; the library must not read them again.
                    self._sessions[key] = httpx.Client(
                        trust_env=False, verify=verify, proxy=proxy, timeout=self._timeout, follow_redirects=False
                    )
                except (ImportError, ValueError, httpx.InvalidURL):
                    raise SourceError(
                        f"`{shown(url)}` can't be read: its proxy is neither http:// nor https://, and no other kind is supported"
                    ) from None
            return self._sessions[key]

    def redirected(self, url: str, location: str, *, inside: bool) -> str:
        """The URL that a redirect leads to. Raises SourceError if it must not be followed."""
        what = f"`{shown(url)}` can't be read: its redirect to "
        try:
            target = urljoin(url, location)
        except ValueError:
            target = ""
        if not location or not target:
            raise SourceError(f"`{shown(url)}` can't be read: its redirect has no target")
        parts = checked_url(target, what)
        if url.startswith("https:") and parts.scheme != "https":
            raise SourceError(f"{what}`{shown(target)}` is refused: it leads from https to http")
        if not inside and self.is_inside(parts.hostname or ""):
            raise SourceError(f"{what}`{shown(target)}` is refused: it leads into a private network")
        return target

    def _reason(self, error: Exception) -> str:
        """What went wrong, in words without a URL."""
        if isinstance(error, httpx.ConnectTimeout):
            return "no connection (nobody answered in time)"
        if isinstance(error, httpx.TimeoutException):
            return f"nothing came for {self._timeout.read:g} seconds"
        if isinstance(error, httpx.ConnectError | httpx.ProxyError):
            return f"no connection ({safe_text(str(error), 100).lower()})"
        return "the answer broke off"


@cache
def _certificates() -> Any:
    """The certificates we trust: the usual ones, or those that SSL_CERT_FILE and SSL_CERT_DIR name."""
    return httpx.create_ssl_context(trust_env=True)


def _distrust(error: BaseException | None) -> str | None:
    """What is wrong with a certificate, if that caused the error."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return safe_text(error.verify_message, 100)
        error = error.__cause__ or error.__context__
    return None


def _proxy(parts: SplitResult) -> str | None:
    """The proxy that the environment sets for a URL; None for a host on this machine."""
    host = parts.hostname or ""
    known = getproxies()
    found = known.get(parts.scheme) or known.get("all")
    if not found or parts.scheme == "http" or proxy_bypass(f"{host}:{parts.port}" if parts.port else host):
        return None
    return found if "://" in found else f"http://{found}"


@cache
def _user_agent() -> str:
    return f"cerebras-tool/{metadata.version('cerebras-tool')}"


def passing(response: Any) -> AgainError:
    """The retryable failure for a status in PASSING."""
    asked = response.headers.get("retry-after", "")
    wait = min(float(asked), _LONGEST_WAIT) if _SECONDS.fullmatch(asked) else None
    return AgainError(f"the server answered {response.status_code}", wait)


def check_encoding(url: str, response: Any) -> None:
    """Raise SourceError for a body that is compressed."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise SourceError(f"`{shown(url)}` can't be read: the server sent it encoded ({safe_text(encoding, 40)})")
