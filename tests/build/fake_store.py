"""A store of objects in memory, which fsspec opens as `s3://`. It behaves well unless it is told how not to, and notes what is asked."""

# ruff: noqa: N803 (boto3 calls its arguments so)

from __future__ import annotations

import hashlib
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

registry = import_module("fsspec.registry")  # the package has a mapping of that name, too


@dataclass
class Bucket:
    """What the store holds, and how it misbehaves: `on_read`, `on_part` and `on_commit` may raise."""

    objects: dict[str, bytes] = field(default_factory=dict)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)  # those that were read
    listed: list[str] = field(default_factory=list)
    uploads: dict[int, list[bytes]] = field(default_factory=dict)  # begun, and neither completed nor aborted
    named: dict[int, str] = field(default_factory=dict)  # the objects of all uploads
    committed: list[str] = field(default_factory=list)
    on_info: Callable[[str], None] = lambda path: None
    on_read: Callable[[str, int, int], None] = lambda path, start, end: None
    on_part: Callable[[str, int], None] = lambda path, number: None
    on_commit: Callable[[str], None] = lambda path: None
    on_put: Callable[[str], None] = lambda name: None
    on_done: Callable[[str], None] = lambda name: None  # the object is there, and the answer is not yet
    changed: int = 0  # bytes that are changed on the way into the store
    heeds: bool = True  # whether a write on a condition is refused if it does not hold
    lock: threading.Lock = field(default_factory=threading.Lock)
    short: int = 0  # bytes that are missing from every answer


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


@contextmanager
def fake_s3() -> Iterator[Bucket]:
    """A store that is `s3://` until the block ends."""
    bucket = Bucket()

    class FakeStore(AbstractFileSystem):  # type: ignore[misc]
        protocol = ("s3", "s3a")
        root_marker = ""
        cachable = False

        def info(self, path: str, **options: Any) -> dict[str, Any]:
            path = self._strip_protocol(path)
            bucket.on_info(path)
            if path in bucket.objects:
                return _info(path, bucket.objects[path])
            if any(key.startswith(f"{path}/") for key in bucket.objects):
                return {"name": path, "size": 0, "type": "directory"}
            raise FileNotFoundError(path)

        def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
            path = self._strip_protocol(path)
            bucket.listed.append(path)
            found: dict[str, dict[str, Any]] = {}
            for key, data in list(bucket.objects.items()):  # other threads write
                if key.startswith(f"{path}/"):
                    name, more, _ = key[len(path) + 1 :].partition("/")
                    whole = f"{path}/{name}"
                    found[whole] = {"name": whole, "size": 0, "type": "directory"} if more else _info(key, data)
            if not found:
                raise FileNotFoundError(path)
            return list(found.values()) if detail else list(found)

        def rm_file(self, path: str) -> None:
            del bucket.objects[self._strip_protocol(path)]

        def call_s3(self, method: str, *, Bucket: str, Key: str = "", **told: Any) -> dict[str, Any]:
            answer: dict[str, Any] = getattr(self, f"_{method}")(f"{Bucket}/{Key}", **told)
            return answer

        def _put_object(self, name: str, Body: bytes, ContentMD5: str = "", **condition: str) -> dict[str, str]:
            bucket.on_put(name)
            _check_md5(Body[bucket.changed :], ContentMD5)
            if not condition:
                bucket.on_part(name, 1)
                bucket.on_commit(name)
            with bucket.lock:
                there = bucket.objects.get(name)
                if there is None and "IfMatch" in condition:
                    raise FileNotFoundError(name)
                wanted = condition.get("IfMatch", "" if condition else None)
                if there is not None and bucket.heeds and wanted not in (None, etag(there)):
                    raise FileExistsError(name)
                bucket.objects[name] = Body
            bucket.committed.append(name)
            bucket.on_done(name)
            return {"ETag": etag(Body)}

        def _create_multipart_upload(self, name: str) -> dict[str, str]:
            bucket.uploads[len(bucket.uploads) + 1] = []
            bucket.named[len(bucket.uploads)] = name
            return {"UploadId": str(len(bucket.uploads))}

        def _list_multipart_uploads(self, name: str, Prefix: str) -> dict[str, Any]:
            keys = {number: bucket.named[number].partition("/")[2] for number in bucket.uploads}
            found = [
                {"Key": key, "UploadId": str(n), "Initiated": n} for n, key in keys.items() if key.startswith(Prefix)
            ]
            return {"Uploads": found}

        def _list_parts(self, name: str, UploadId: str, PartNumberMarker: int) -> dict[str, Any]:
            """Two parts at a time."""
            parts = list(enumerate(bucket.uploads[int(UploadId)], 1))[PartNumberMarker:]
            found = [{"PartNumber": number, "ETag": etag(data)} for number, data in parts[:2]]
            return {"Parts": found, "IsTruncated": len(parts) > 2}

        def _upload_part(
            self, name: str, UploadId: str, PartNumber: int, Body: bytes, ContentMD5: str
        ) -> dict[str, str]:
            bucket.on_part(name, PartNumber)
            _check_md5(Body, ContentMD5)
            parts = bucket.uploads[int(UploadId)]
            parts[PartNumber - 1 : PartNumber] = [Body]
            return {"ETag": etag(Body)}

        def _complete_multipart_upload(self, name: str, UploadId: str, MultipartUpload: Any) -> dict[str, str]:
            if int(UploadId) not in bucket.uploads:
                raise FileNotFoundError("the specified upload does not exist")
            bucket.on_commit(name)
            parts = bucket.uploads.pop(int(UploadId))[: len(MultipartUpload["Parts"])]
            assert [etag(part) for part in parts] == [part["ETag"] for part in MultipartUpload["Parts"]]
            bucket.objects[name] = b"".join(parts)
            bucket.committed.append(name)
            bucket.on_done(name)
            parts = [part[bucket.changed :] + part[: bucket.changed] for part in parts]
            digests = b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts)
            return {"ETag": f'"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"'}

        def _abort_multipart_upload(self, name: str, UploadId: str) -> dict[str, str]:
            bucket.uploads.pop(int(UploadId), None)
            return {}

        def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            return FakeFile(self, path, mode, **options)

    class FakeFile(AbstractBufferedFile):  # type: ignore[misc]
        def _fetch_range(self, start: int, end: int) -> bytes:
            bucket.ranges.append((self.path, start, end))
            bucket.on_read(self.path, start, end)
            data = bucket.objects[self.path]
            if etag(data) != self.details["ETag"]:
                raise OSError(22, "At least one of the pre-conditions you specified did not hold")
            return data[start : end - bucket.short]

    before = {"s3": registry._registry["s3"]} if "s3" in registry._registry else {}
    registry._registry["s3"] = FakeStore
    try:
        yield bucket
    finally:
        del registry._registry["s3"]
        registry._registry.update(before)


def _info(path: str, data: bytes) -> dict[str, Any]:
    return {"name": path, "size": len(data), "type": "file", "ETag": etag(data)}


def _check_md5(data: bytes, told: str) -> None:
    if told and b64decode(told) != hashlib.md5(data, usedforsecurity=False).digest():
        raise OSError(22, "The Content-MD5 you specified did not match what we received")
