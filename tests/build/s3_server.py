"""A server of S3 on this machine, whose objects are files: so large ones take no memory. It behaves well unless it is told how not to.

It knows what s3fs asks: objects and ranges of them, pinned by ETag; uploads in parts; writes on a condition; lists. Signatures are not looked at.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
import zlib
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

_RANGE: Final = re.compile(r"bytes=(\d+)-(\d+)?")
_TAG: Final = re.compile(r"<PartNumber>(\d+)</PartNumber>")
_KEY: Final = re.compile(r"<Key>([^<]*)</Key>")
_SAID: Final = {
    "SlowDown": "Please reduce your request rate.",
    "InternalError": "We encountered an internal error. Please try again.",
    "AccessDenied": "Access Denied",
    "ExpiredToken": "The provided token has expired.",
    "InvalidAccessKeyId": "The AWS Access Key Id you provided does not exist in our records.",
    "NoSuchUpload": "The specified upload does not exist",
    "NoSuchBucket": "The specified bucket does not exist",
    "BadDigest": "The Content-MD5 you specified did not match what we received.",
    "PreconditionFailed": "At least one of the pre-conditions you specified did not hold",
}


@dataclass(frozen=True)
class Request:
    """What is asked: the method, the bucket and the key with a slash between, and the words of the query."""

    method: str
    name: str
    query: dict[str, str]


@dataclass(frozen=True)
class Fault:
    """How a request goes wrong: an answer of this status and code, after a wait; or a part of an answer, or none at all.

    Without a status it is answered rightly, but slowly, or `cut` after so many bytes; or the connection is `drop`ped. `mute`:
    what was asked for is done, and the connection is dropped without an answer.
    """

    status: int | None = None
    code: str = ""
    wait: float = 0.0
    cut: int | None = None
    drop: bool = False
    mute: bool = False


@dataclass
class S3:
    """The server's objects, what it was asked, and its faults: `fault` is asked about each request."""

    folder: Path
    url: str = ""
    etags: dict[str, str] = field(default_factory=dict)
    uploads: dict[str, dict[int, str]] = field(
        default_factory=dict
    )  # ETags of parts, of uploads that were not completed
    keys: dict[str, str] = field(default_factory=dict)  # the objects of uploads
    starts: dict[str, dict[int, int]] = field(default_factory=dict)  # where the parts of an upload begin in its file
    asked: list[Request] = field(default_factory=list)
    fault: Callable[[Request], Fault | None] = lambda request: None
    completed: Callable[[str, Path], None] = lambda name, path: None  # what happens to an object that was put together
    heeds: bool = True  # whether a write on a condition is refused if it does not hold
    lock: threading.RLock = field(default_factory=threading.RLock)

    def path(self, name: str) -> Path:
        """The file of an object."""
        return self.folder / "objects" / quote(name, safe="")

    def put(self, name: str, data: bytes | Path) -> None:
        """Put an object there, with the bytes or as a link to a file."""
        new = self.folder / "new" / quote(name, safe="")
        if isinstance(data, Path):
            os.link(data, new)
            etag = f"{data.stat().st_size:032x}"
        else:
            new.write_bytes(data)
            etag = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self.lock:
            new.replace(self.path(name))
            self.etags[name] = etag

    def get(self, name: str) -> bytes:
        """The bytes of an object."""
        return self.path(name).read_bytes()

    def names(self, prefix: str = "") -> list[str]:
        """The names of all objects."""
        return sorted(name for name in self.etags if name.startswith(prefix))

    def environment(self) -> dict[str, str]:
        """The environment variables that make s3fs use this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "canary-secret-3f1a",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_CONFIG_FILE": str(self.folder / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.folder / "none"),
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@contextmanager
def s3_server(folder: Path) -> Iterator[S3]:
    """A server with its files in a folder, which has the bucket of every name that is asked for."""
    for name in ("objects", "parts", "new"):
        (folder / name).mkdir(parents=True)
    s3 = S3(folder)

    class Handler(_Handler):
        store = s3

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    s3.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield s3
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: S3

    def do_GET(self) -> None:
        self._answer()

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815 (http.server calls them so)

    def log_message(self, *said: object) -> None:
        pass

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        request = Request(self.command, unquote(parts.path).strip("/"), query)
        self.store.asked.append(request)
        body = self._body()
        fault = self.store.fault(request)
        self.muted = fault is not None and fault.mute
        if fault is not None:
            time.sleep(fault.wait)
            if fault.status is not None:
                self._error(fault.status, fault.code)
                return
            if fault.drop:
                self.close_connection = True
                return
        bucket, _, key = request.name.partition("/")
        if not key:
            self._of_bucket(request, bucket, body)
        elif request.query.get("uploadId") in self.store.uploads and self.command == "GET":
            self._list_parts(request.query["uploadId"])
        elif self.command in ("GET", "HEAD"):
            self._read(request.name, fault.cut if fault is not None else None)
        else:
            self._written(request, body)

    def _body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return data
        whole = b""
        while data:
            size, _, data = data.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            whole, data = whole + data[:length], data[length + 2 :] if length else b""
        return whole

    def _read(self, name: str, cut: int | None) -> None:
        store = self.store
        with store.lock:
            if name not in store.etags:
                self._error(404, "NoSuchKey")
                return
            etag, opened = f'"{store.etags[name]}"', store.path(name).open("rb")
        with opened as file:
            if self.headers.get("If-Match", etag) != etag:
                self._error(412, "PreconditionFailed")
                return
            total = os.fstat(file.fileno()).st_size
            match = _RANGE.fullmatch(self.headers.get("Range", ""))
            start, end = (int(match[1]), min(int(match[2] or total), total - 1) + 1) if match else (0, total)
            if match and start >= total:
                self._error(416, "InvalidRange")
                return
            self.send_response(206 if match else 200)
            for header in (("Content-Length", str(end - start)), ("ETag", etag), ("Accept-Ranges", "bytes")):
                self.send_header(*header)
            self.send_header("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT")
            if match:
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{total}")
            self.end_headers()
            if self.command == "GET":
                self.wfile.flush()
                count = end - start if cut is None else min(cut, end - start)
                if count:
                    self.connection.sendfile(file, start, count)
                self.close_connection = self.close_connection or cut is not None

    def _written(self, request: Request, body: bytes) -> None:
        store, name, query = self.store, request.name, request.query
        told = self.headers.get("x-amz-checksum-crc32")
        if told is not None and int.from_bytes(b64decode(told)) != zlib.crc32(body):
            self._error(400, "BadDigest")
            return
        md5 = hashlib.md5(body, usedforsecurity=False).hexdigest()
        if b64decode(self.headers.get("Content-MD5", "")).hex() not in ("", md5):
            self._error(400, "BadDigest")
            return
        upload = query.get("uploadId", "")
        if self.command == "DELETE" and upload:
            store.uploads.pop(upload, None)
            (store.folder / "parts" / upload).unlink(missing_ok=True)
            self._send(204)
        elif self.command == "DELETE":
            self._delete(name)
            self._send(204)
        elif "uploads" in query:
            upload = hashlib.md5(f"{name} {time.time_ns()}".encode(), usedforsecurity=False).hexdigest()
            store.uploads[upload], store.keys[upload] = {}, name
            (store.folder / "parts" / upload).touch()
            self._send(
                200, f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>"
            )
        elif upload and upload not in store.uploads:
            self._error(404, "NoSuchUpload")
        elif "partNumber" in query:
            number = int(query["partNumber"])
            if self._appended(upload, number, body):
                store.uploads[upload][number] = md5
                self._send(200, etag=md5)
            else:
                self._error(400, "InvalidPart")
        elif upload:
            self._complete(name, upload, [int(number) for number in _TAG.findall(body.decode())])
        else:
            with store.lock:
                if holds := not store.heeds or self._holds(name):
                    store.put(name, body)
            if holds:
                self._send(200, etag=md5)
            elif name not in store.etags:
                self._error(404, "NoSuchKey")
            else:
                self._error(412, "PreconditionFailed")

    def _holds(self, name: str) -> bool:
        """Whether the conditions of a write hold."""
        etag = self.store.etags.get(name)
        return (self.headers.get("If-None-Match") is None or etag is None) and (
            self.headers.get("If-Match", f'"{etag}"') == f'"{etag}"'
        )

    def _appended(self, upload: str, number: int, body: bytes) -> bool:
        """Write a part of an upload to its file. False if it is neither the next part nor one again, as long as before."""
        starts = self.store.starts.setdefault(upload, {})
        with (self.store.folder / "parts" / upload).open("r+b") as file:
            end = file.seek(0, os.SEEK_END)
            start = starts.setdefault(number, end)
            if len(starts) < max(starts) or (number != max(starts) and starts[number + 1] - start != len(body)):
                return False
            if number == max(starts):
                file.truncate(start)
            file.seek(start)
            file.write(body)
        return True

    def _list_parts(self, upload: str) -> None:
        """Two parts at a time, though S3 has a thousand in an answer."""
        last = int(parse_qs(urlsplit(self.path).query).get("part-number-marker", ["0"])[0])
        parts = [(number, etag) for number, etag in sorted(self.store.uploads[upload].items()) if number > last]
        found = "".join(
            f"<Part><PartNumber>{n}</PartNumber><ETag>&quot;{etag}&quot;</ETag></Part>" for n, etag in parts[:2]
        )
        more = "true" if len(parts) > 2 else "false"
        self._send(200, f"<ListPartsResult><IsTruncated>{more}</IsTruncated>{found}</ListPartsResult>")

    def _complete(self, name: str, upload: str, numbers: list[int]) -> None:
        store, first = self.store, self.store.folder / "parts" / upload
        if not numbers or numbers != sorted(store.uploads[upload]):
            self._error(400, "InvalidPart")
            return
        store.completed(name, first)
        digests = b"".join(bytes.fromhex(store.uploads[upload][number]) for number in numbers)
        with store.lock:
            first.replace(store.path(name))
            store.etags[name] = f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(numbers)}"
            del store.uploads[upload]
        said = f"<CompleteMultipartUploadResult><ETag>{store.etags[name]}</ETag></CompleteMultipartUploadResult>"
        self._send(200, said)

    def _delete(self, name: str) -> None:
        self.store.path(name).unlink(missing_ok=True)
        self.store.etags.pop(name, None)

    def _of_bucket(self, request: Request, bucket: str, body: bytes) -> None:
        if "delete" in request.query:
            for key in _KEY.findall(body.decode()):
                self._delete(f"{bucket}/{key}")
            self._send(200, "<DeleteResult></DeleteResult>")
        elif request.method != "GET" or not bucket:
            self._send(200)
        elif "uploads" in request.query:
            found = "".join(
                f"<Upload><Key>{escape(self.store.keys[one].partition('/')[2])}</Key><UploadId>{one}</UploadId>"
                f"<Initiated>2025-01-01T00:00:{number:02}.000Z</Initiated></Upload>"
                for number, one in enumerate(self.store.uploads)
            )
            self._send(200, f"<ListMultipartUploadsResult>{found}</ListMultipartUploadsResult>")
        else:
            self._list(bucket, request.query.get("prefix", ""), request.query.get("delimiter", ""))

    def _list(self, bucket: str, prefix: str, delimiter: str) -> None:
        found, folders = "", set()
        for name in self.store.names(f"{bucket}/{prefix}"):
            key = name[len(bucket) + 1 :]
            inner, mark, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if mark:
                folders.add(f"{prefix}{inner}{delimiter}")
                continue
            size = self.store.path(name).stat().st_size
            found += (
                f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size><ETag>&quot;{self.store.etags[name]}&quot;</ETag>"
                "<LastModified>2025-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
            )
        found += "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in sorted(folders))
        self._send(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")

    def _error(self, status: int, code: str) -> None:
        self._send(status, f"<Error><Code>{code}</Code><Message>{_SAID.get(code, code)}</Message></Error>")

    def _send(self, status: int, text: str = "", etag: str = "") -> None:
        data = f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode() if text else b""
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/xml")
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if self.muted:
            self._headers_buffer: list[bytes] = []
            self.close_connection = True
            return
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
