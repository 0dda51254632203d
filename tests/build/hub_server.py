"""A small Hub on the loopback: repositories, resolve redirects to a store on another origin, tokens, LFS headers, ranges.

It behaves well unless it is told how not to. Every request is noted, with the origin that it came to.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SIGNATURE = "canary-signature-9c1b"
TOKEN = "hf_canary_token_5d7e"
TINY = "someone/tiny"
_LARGE = (".bin", ".pt", ".safetensors", ".gguf")


@dataclass
class Seen:
    """A request."""

    origin: str  # `hub`, `store` or `elsewhere`
    method: str
    path: str
    headers: dict[str, str]


@dataclass
class Repository:
    files: Mapping[str, bytes | Path]
    private: bool = False
    gated: bool = False
    commit: str = COMMIT


@dataclass
class Asked:
    """A range of a file that was requested from the store; `last` is the last byte."""

    file: str
    first: int
    last: int
    total: int
    data: bytes
    headers: dict[str, str]  # the headers of the right answer


Fault = Callable[["Exchange", Asked], bool]  # True: it has answered


@dataclass
class Hub:
    repositories: dict[str, Repository] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    on_api: Callable[[Exchange], bool] = lambda exchange: False
    on_resolve: Callable[[Exchange], bool] = lambda exchange: False
    on_store: Fault = lambda exchange, asked: False
    on_elsewhere: Callable[[Exchange], bool] = lambda exchange: False
    signature: str = SIGNATURE
    _sites: list[ThreadingHTTPServer] = field(default_factory=list)

    def __enter__(self) -> Self:
        for origin in ("hub", "store", "elsewhere"):
            site = _Site(("127.0.0.1", 0), Exchange)
            site.hub, site.origin = self, origin
            threading.Thread(target=site.serve_forever, args=(0.02,), daemon=True).start()
            self._sites.append(site)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for site in self._sites:
            site.shutdown()
            site.server_close()

    def point(self, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        """Point huggingface_hub at this Hub, with a token and a cache of its own, and let nothing leave the machine.

        It reads HF_ENDPOINT when it is imported, which may have been before.
        """
        connect = socket.socket.connect

        def guarded(self: socket.socket, address: Any) -> None:
            assert self.family == socket.AF_UNIX or address[0].startswith("127."), address
            connect(self, address)

        template = self.url() + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(socket.socket, "connect", guarded)
        monkeypatch.setattr(constants, "ENDPOINT", self.url())
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)

    def url(self, origin: str = "hub") -> str:
        site = self._sites[("hub", "store", "elsewhere").index(origin)]
        return f"http://127.0.0.1:{site.server_address[1]}"

    def asked(self, origin: str, method: str = "GET") -> list[str]:
        """The paths that an origin was asked for."""
        return [request.path for request in self.seen if (request.origin, request.method) == (origin, method)]


class _Site(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: Hub
    origin: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print nothing if a client goes away."""


class Exchange(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Site

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        hub.seen.append(Seen(self.server.origin, self.command, self.path, headers))
        if self.server.origin == "store":
            self._store(hub)
        elif self.server.origin == "elsewhere":
            if not hub.on_elsewhere(self):
                self.reply(404)
        elif urlsplit(self.path).path.startswith("/api/"):
            if not hub.on_api(self):
                self._api(hub)
        elif not hub.on_resolve(self):
            self._resolve(hub)

    def reply(self, status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def redirect(self, location: str, **headers: str) -> None:
        self.moved(302, location, **headers)

    def moved(self, status: int, location: str, **headers: str) -> None:
        self.reply(status, headers={"Location": location} | {n.replace("_", "-"): v for n, v in headers.items()})

    def close(self) -> None:
        """Break off."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(2)

    def _allowed(self, hub: Hub, name: str) -> Repository | None:
        repository = hub.repositories.get(name)
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repository is None or (repository.private and not known):
            self.reply(401, b"{}", {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Invalid username or password."})
            return None
        return repository

    def _models(self, hub: Hub) -> None:
        """The models, or those of an owner, with a text in their names, in no order."""
        query = parse_qs(urlsplit(self.path).query)
        owner, text, known = (
            query.get("author", [""])[0],
            query.get("search", [""])[0].lower(),
            self.headers.get("Authorization"),
        )
        names = [
            name
            for name, repository in hub.repositories.items()
            if name.startswith(f"{owner}/" if owner else "")
            and text in name.lower()
            and (known == f"Bearer {TOKEN}" or not repository.private)
        ]
        found = [{"id": name, "private": hub.repositories[name].private} for name in names]
        self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _api(self, hub: Hub) -> None:
        if urlsplit(self.path).path == "/api/models":
            self._models(hub)
            return
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(?:revision|tree)/(.+))?", urlsplit(self.path).path)
        if match is None:
            self.reply(404)
            return
        repository = self._allowed(hub, match[1])
        if repository is None:
            return
        if unquote(match[3] or "main") not in ("main", repository.commit, "refs/pr/1"):
            self.reply(404, b"{}", {"X-Error-Code": "RevisionNotFound", "X-Error-Message": "Invalid rev id"})
            return
        if (match[2] or "").startswith("/tree/"):
            tree = [self._listed(name, content) for name, content in repository.files.items()]
            self.reply(200, json.dumps(tree).encode(), {"Content-Type": "application/json"})
            return
        siblings = []
        for name, content in repository.files.items():
            sibling: dict[str, Any] = {"rfilename": name, "size": size_of(content)}
            if name.endswith(_LARGE):
                sibling["lfs"] = {"sha256": sha256_of(content), "size": size_of(content), "pointerSize": 135}
            siblings.append(sibling)
        found = {"id": match[1], "sha": repository.commit, "siblings": siblings, "private": repository.private}
        self.reply(200, json.dumps(found).encode(), {"Content-Type": "application/json"})

    def _listed(self, name: str, content: bytes | Path) -> dict[str, Any]:
        """A file as snapshot_download has it listed."""
        listed: dict[str, Any] = {
            "type": "file",
            "path": name,
            "size": size_of(content),
            "oid": sha256_of(content)[:40],
        }
        if name.endswith(_LARGE):
            listed["lfs"] = {"oid": sha256_of(content), "size": size_of(content), "pointerSize": 135}
        return listed

    def _resolve(self, hub: Hub) -> None:
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", urlsplit(self.path).path)
        if match is None:
            self.reply(404)
            return
        repository = self._allowed(hub, match[1])
        if repository is None:
            return
        if unquote(match[2]) not in ("main", repository.commit, "refs/pr/1"):
            self.reply(404, headers={"X-Error-Code": "RevisionNotFound"})
            return
        name = unquote(match[3])
        if name not in repository.files:
            self.reply(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": repository.commit})
            return
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.reply(401, headers={"X-Error-Code": "GatedRepo", "X-Error-Message": "Access is restricted."})
            return
        content = repository.files[name]
        headers = {"X-Repo-Commit": repository.commit, "Accept-Ranges": "bytes", "ETag": f'"{sha256_of(content)[:40]}"'}
        if name.endswith(_LARGE):
            target = f"{hub.url('store')}/{match[1]}/{match[3]}?Expires=1&Signature={hub.signature}"
            linked = {"X-Linked-Etag": f'"{sha256_of(content)}"', "X-Linked-Size": str(size_of(content))}
            self.reply(302, headers=headers | linked | {"Location": target})
        else:
            self._send(content, headers)

    def _store(self, hub: Hub) -> None:
        parts = urlsplit(self.path)
        owner, name, file = unquote(parts.path).lstrip("/").split("/", 2)
        if parse_qs(parts.query).get("Signature") != [hub.signature]:
            self.reply(403, b"<Error>expired</Error>")
            return
        content = hub.repositories[f"{owner}/{name}"].files[file]
        self._send(content, {"ETag": f'"{sha256_of(content)}"', "Accept-Ranges": "bytes"}, file)

    def _send(self, content: bytes | Path, headers: dict[str, str], file: str = "") -> None:
        total = size_of(content)
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            body = part_of(content, 0, total) if self.command == "GET" else b""
            self.reply(200, body, headers | {"Content-Length": str(total)})
            return
        first, last = int(match[1]), min(int(match[2] or total - 1), total - 1)
        if first >= total and self.server.hub.on_store(self, Asked(file, first, last, total, b"", headers)):
            return
        if first >= total:
            self.reply(416, headers={"Content-Range": f"bytes */{total}"})
            return
        data = part_of(content, first, last + 1)
        headers = headers | {"Content-Range": f"bytes {first}-{last}/{total}"}
        if not file or not self.server.hub.on_store(self, Asked(file, first, last, total, data, headers)):
            self.reply(206, data, headers)


def size_of(content: bytes | Path) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def part_of(content: bytes | Path, first: int, end: int) -> bytes:
    if isinstance(content, bytes):
        return content[first:end]
    with content.open("rb") as file:
        file.seek(first)
        return file.read(end - first)


def sha256_of(content: bytes | Path) -> str:
    """The SHA-256. For files too large to be read in a test, it is that of the name."""
    if isinstance(content, Path) and content.stat().st_size > 100_000_000:
        return hashlib.sha256(content.name.encode()).hexdigest()
    return hashlib.sha256(content if isinstance(content, bytes) else content.read_bytes()).hexdigest()


def files_of(folder: Path) -> dict[str, bytes | Path]:
    """A folder's files for a repository."""
    return {path.name: path for path in sorted(folder.iterdir()) if path.is_file()}


def every(count: int) -> Iterator[bool]:
    """Return True every `times` calls."""
    while True:
        yield from (False for _ in range(count - 1))
        yield True


def answer(status: int = 206, *, without: str = "", body: Callable[[bytes], bytes] = bytes, **changed: str) -> Any:
    """A fault: the right answer, except for some headers, the status or the body."""

    def fault(exchange: Exchange, asked: Asked) -> bool:
        headers = {name: value for name, value in asked.headers.items() if name.lower() != without}
        places = {"first": asked.first, "last": asked.last, "total": asked.total, "size": len(asked.data)}
        headers |= {name.replace("_", "-"): value.format(**places) for name, value in changed.items()}
        exchange.reply(status, body(asked.data), headers)
        return True

    return fault


def later(fault: Any, count: int = 2) -> Any:
    """Behave well at first."""
    turns = 0

    def misbehave(exchange: Exchange, asked: Asked) -> bool:
        nonlocal turns
        turns += 1
        return turns >= count and bool(fault(exchange, asked))

    return misbehave


def serve(files: dict[str, bytes], etag: str | None = '"1"') -> Callable[[Exchange], bool]:
    """Serve files by ranges, plainly."""

    def answer(exchange: Exchange) -> bool:
        content = files.get(exchange.path.partition("?")[0])
        if content is None:
            return False
        exchange._send(content, {"ETag": etag} if etag else {})
        return True

    return answer


def assert_no_secret(hub: Hub, text: str) -> None:
    """Assert that token and signatures are in no message or log, and the token went to no other origin."""
    assert TOKEN not in text
    assert SIGNATURE not in text
    assert all(TOKEN not in str(request) for request in hub.seen if request.origin != "hub")
