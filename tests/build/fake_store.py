"""A store of objects in memory, which fsspec opens as `s3://`. It behaves well unless it is told how not to, and notes what is asked."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

registry = import_module("fsspec.registry")  # the package has a mapping of that name, too
PART = 5 << 20  # the smallest part of an upload, but for the last


@dataclass
class Bucket:
    """What the store holds, and how it misbehaves: `on_read`, `on_part` and `on_commit` may raise."""

    objects: dict[str, bytes] = field(default_factory=dict)
    ranges: list[tuple[str, int, int]] = field(default_factory=list)  # those that were read
    listed: list[str] = field(default_factory=list)
    uploads: dict[int, list[bytes]] = field(default_factory=dict)  # begun, and neither completed nor aborted
    committed: list[str] = field(default_factory=list)
    on_info: Callable[[str], None] = lambda path: None
    on_read: Callable[[str, int, int], None] = lambda path, start, end: None
    on_part: Callable[[str, int], None] = lambda path, number: None
    on_commit: Callable[[str], None] = lambda path: None
    on_put: Callable[[str], None] = lambda name: None
    on_done: Callable[[str], None] = lambda name: None  # the object is there, and the answer is not yet
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

        def call_s3(self, method: str, *, Bucket: str, Key: str, Body: bytes, **condition: str) -> dict[str, str]:  # noqa: N803
            assert method == "put_object"
            name = f"{Bucket}/{Key}"
            bucket.on_put(name)
            with bucket.lock:
                there = bucket.objects.get(name)
                if there is None and "IfMatch" in condition:
                    raise FileNotFoundError(name)
                if (
                    there is not None
                    and bucket.heeds
                    and condition.get("IfMatch", "" if condition else etag(there)) != etag(there)
                ):
                    raise FileExistsError(name)
                bucket.objects[name] = Body
            bucket.on_done(name)
            return {"ETag": etag(Body)}

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

        def _initiate_upload(self) -> None:
            bucket.uploads[id(self)] = []

        def _upload_chunk(self, final: bool = False) -> bool:
            parts, data = bucket.uploads[id(self)], self.buffer.getvalue()
            if not final and len(data) < PART:
                return False
            if data or final:
                bucket.on_part(self.path, len(parts) + 1)
                parts.append(data)
            if final and self.autocommit:
                self.commit()
            return True

        def commit(self) -> None:
            bucket.on_commit(self.path)
            bucket.objects[self.path] = b"".join(bucket.uploads.pop(id(self)))
            bucket.committed.append(self.path)

        def discard(self) -> None:
            bucket.uploads.pop(id(self), None)

    before = {"s3": registry._registry["s3"]} if "s3" in registry._registry else {}
    registry._registry["s3"] = FakeStore
    try:
        yield bucket
    finally:
        del registry._registry["s3"]
        registry._registry.update(before)


def _info(path: str, data: bytes) -> dict[str, Any]:
    return {"name": path, "size": len(data), "type": "file", "ETag": etag(data)}
