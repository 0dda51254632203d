"""A remote object that is read by ranges and pinned: every answer must be of the same version as the first one.

Sources: RFC 9110, sections 13 and 14; the Hub's headers as huggingface_hub/file_download.py has them.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any, Final

from converter.errors import SourceError
from converter.hub.client import PASSING, AgainError, check_encoding, passing
from converter.hub.locations import checked_url, origin
from converter.io.pool import awaited
from converter.io.ranges import RemoteFile
from converter.text import safe_text

if TYPE_CHECKING:
    from converter.hub.client import Client, Refused

_FIRST: Final = 128 << 10  # bytes of the first read: enough for the pickle of a thousand tensors
_EXPIRED: Final = frozenset((400, 401, 403, 404, 410))  # what a server answers to a signed link that has expired
_CONTENT_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", re.ASCII)
_NUMBER: Final = re.compile(r"\d{1,19}", re.ASCII)
_SHA256: Final = re.compile(r'"?([0-9a-f]{64})"?', re.ASCII)
_EMPTY: Final = re.compile(r"bytes \*/0")


class RemoteObject:
    """An object at a URL. `commit` and `nbytes` are what the Hub says about it, if it is there."""

    def __init__(
        self,
        client: Client,
        name: str,
        url: str,
        refused: Refused,
        *,
        commit: str | None = None,
        nbytes: int | None = None,
    ) -> None:
        self.name, self.size, self.etag = name, -1 if nbytes is None else nbytes, commit or ""
        self.sha256: str | None = None
        self._client, self._url, self._refused, self._commit = client, url, refused, commit
        self._inside = client.is_inside(checked_url(url).hostname or "")
        self._target: str | None = None  # where the redirects led: often a signed link
        self._pins: dict[object, str] = {}

    def opened(self) -> RemoteFile:
        """The object as a source. Its first bytes are read; that answer also gives its size and what pins this version."""
        return RemoteFile(self, self._client.pool, self._begin(), self._client.fetching)

    def _begin(self) -> memoryview:
        wanted = _FIRST if self.size < 0 else min(_FIRST, self.size)
        if not wanted:
            return memoryview(b"")
        return awaited(self._client.pool.submit(lambda: self.fetch(0, wanted)), self.name, self.patience(wanted))

    @property
    def pinned(self) -> bool:
        """Whether a change would be noticed, by a commit, a strong ETag, or the time of the last change."""
        etag, _, date = self._pins.get("", "").rpartition("|")
        return self._commit is not None or bool(date) or (bool(etag) and not etag.startswith("W/"))

    def patience(self, size: int) -> float:
        """Seconds that a read of this many bytes may take."""
        return self._client.patience.seconds(size)

    def fetch(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes; fewer only if the object's size is not known yet and it ends before."""
        buffer = memoryview(bytearray(size))
        done = 0

        def once(deadline: float) -> memoryview:
            nonlocal done, buffer
            target = self._target
            headers = {"range": f"bytes={start + done}-{start + len(buffer) - 1}"}
            url, response = self._client.get(target or self._url, headers, inside=self._inside, seen=self._see)
            with contextlib.closing(response):
                count = self._checked(url, response, start + done, len(buffer) - done, redirected=url != self._url)
                buffer = buffer[: done + count]
                self._target = url
                for piece in self._client.pieces(response, deadline):
                    if done + len(piece) > len(buffer):
                        raise SourceError(f"`{self.name}` can't be read: the server sent more than was asked for")
                    buffer[done : done + len(piece)] = piece
                    done += len(piece)
                if done < len(buffer):
                    raise AgainError("the answer was too short")
                return buffer

        return self._client.insist(self.name, self.patience(size), once)

    def _see(self, url: str, response: Any) -> None:
        """Compare what an answer of the Hub, or a redirect, says about the file with what earlier ones said."""
        if response.status_code >= 400 or not self._client.is_home(url) or self._commit is None:
            return
        headers = response.headers
        if (commit := headers.get("x-repo-commit")) is not None and commit != self._commit:
            raise self._changed()
        if (etag := headers.get("x-linked-etag")) is not None:
            self._pin("linked", etag)
            # The Hub's name for a file in its large storage is the file's SHA-256.
            self.sha256 = match[1] if (match := _SHA256.fullmatch(etag)) else None
        size = headers.get("x-linked-size", "")
        if _NUMBER.fullmatch(size) and self.size >= 0 and int(size) != self.size:
            raise self._changed()

    def _checked(self, url: str, response: Any, start: int, size: int, *, redirected: bool) -> int:
        """Compare an answer with what was asked for. Return how many bytes it announces."""
        status, headers = response.status_code, response.headers
        if status in PASSING:
            raise passing(response)
        if redirected and status in _EXPIRED:
            if self._target == url:
                self._target = None
                raise AgainError("its link has expired", 0)
            raise AgainError(f"the server that it was redirected to answered {status}")
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
        check_encoding(url, response)
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
        # The hosts that the Hub redirects to have different ETags, so the ETag is compared for each host. The commit is
        # the same for all.
        self._pin(origin(url) if self._commit else "", f"{headers.get('etag', '')}|{headers.get('last-modified', '')}")
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
