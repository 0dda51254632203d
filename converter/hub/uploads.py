"""One object that is uploaded to a store: nothing is under its name before `commit`, and then all of it."""

from __future__ import annotations

import io
import re
from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from hashlib import md5
from typing import Any, Final

from converter.errors import OutputError
from converter.hub.stores import FileSystem, said
from converter.text import plural

PART: Final = 5 << 20  # bytes of a part of an upload, at least; S3 takes 5 MiB and more
_HANDED: Final = 1 << 18  # bytes that are handed over at once: fsspec copies what goes beyond a part
_PARTS: Final = 9_000  # parts of an upload, at most; S3 takes 10,000
_OF_PARTS: Final = re.compile(r"[0-9a-f]{32}-\d+")  # the ETag of an object in parts


class Upload(ABC):
    """An object that is uploaded. `name` is what messages call it."""

    def __init__(self, system: FileSystem, path: str, name: str, nbytes: int) -> None:
        self.path = path
        self._system, self._name, self._nbytes = system, name, nbytes
        self._before = system.info(path, name) is not None

    @abstractmethod
    def fill(self, tiles: Iterable[memoryview]) -> None:
        """Upload the bytes."""

    @abstractmethod
    def commit(self) -> None:
        """Give the object its name. Raises OutputError if what the store has then is not what was sent."""

    @abstractmethod
    def discard(self) -> None:
        """Give up the upload, if it was not completed."""

    def remove(self) -> None:
        """Remove the object, unless it replaced one."""
        if not self._before:
            with suppress(Exception):  # the error that led here is the one to report
                self._system.fs.rm_file(self.path)

    def _check(self) -> dict[str, Any]:
        """What the store says about the object that is there now, which must have the right size."""
        found = self._system.info(self.path, self._name)
        if found is None or found["size"] != self._nbytes:
            size = "nothing" if found is None else f"{found['size']:,} bytes"
            raise OutputError(
                f"`{self._name}` can't be written: the store then has {size}, not {plural(self._nbytes, 'byte')}"
            )
        return found


class FileUpload(Upload):
    """An upload by a file of fsspec, or, where a store knows no parts, of all bytes at the end."""

    def __init__(self, system: FileSystem, path: str, name: str, nbytes: int) -> None:
        super().__init__(system, path, name, nbytes)
        self._file: Any = None
        self._whole = io.BytesIO() if not system.store.multipart else None

    def fill(self, tiles: Iterable[memoryview]) -> None:
        """Upload the bytes."""
        with self._system.explained(self._name, "written"):
            if self._whole is None:
                size = _part_size(self._nbytes)
                self._file = self._system.fs.open(self.path, "wb", block_size=size, autocommit=False)
            for tile in tiles:
                for start in range(0, len(tile), _HANDED):
                    (self._file if self._whole is None else self._whole).write(tile[start : start + _HANDED])
            if self._file is not None:
                self._file.close()

    def commit(self) -> None:
        """Give the object its name."""
        with self._system.explained(self._name, "written"):
            if self._whole is None:
                self._file.commit()
                self._file = None
            else:
                self._system.fs.pipe_file(self.path, self._whole.getvalue())
        self._check()

    def discard(self) -> None:
        """Give up the upload, if it was not completed."""
        if self._file is not None:
            with suppress(Exception):  # the error that led here is the one to report
                self._file.discard()
            self._file.closed = True  # or it would be completed when it is collected


class S3Upload(Upload):
    """An upload by the calls of S3. Each part is sent with its MD5, and the whole is compared by its ETag.

    With `resume`, parts that an earlier upload of this object has left are not sent again if they have the same bytes.
    """

    def __init__(self, system: FileSystem, path: str, name: str, nbytes: int, *, resume: bool) -> None:
        super().__init__(system, path, name, nbytes)
        bucket, _, key = path.partition("/")
        self._place = {"Bucket": bucket, "Key": key}
        self._resume = resume
        self._upload = ""
        self._there: dict[int, str] = {}  # the ETags of the parts of an earlier upload
        self._size = _part_size(nbytes)
        self._rest = b""  # what is not sent in parts
        self._digests: list[bytes] = []  # the parts' digests
        self._etags: list[str] = []

    def fill(self, tiles: Iterable[memoryview]) -> None:
        """Upload the bytes, those of a small object with `commit`."""
        if self._nbytes >= self._size:
            self._begin()
        buffer = bytearray()
        for tile in tiles:
            for start in range(0, len(tile), _HANDED):
                buffer += tile[start : start + _HANDED]
                if len(buffer) >= self._size:
                    self._send(bytes(buffer[: self._size]))
                    del buffer[: self._size]
        self._rest = bytes(buffer)
        if self._upload and buffer:
            self._send(self._rest)

    def commit(self) -> None:
        """Give the object its name."""
        if not self._upload:
            self._call("put_object", Body=self._rest, ContentMD5=_told(md5(self._rest, usedforsecurity=False).digest()))
            self._check()
            return
        expected = f"{md5(b''.join(self._digests), usedforsecurity=False).hexdigest()}-{len(self._digests)}"
        parts = [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(self._etags, 1)]
        etag = ""
        with suppress(
            FileNotFoundError
        ):  # the answer was lost, and the second attempt finds no upload: then it is there
            answer = self._system.call(
                self._name,
                partial(
                    self._once, "complete_multipart_upload", UploadId=self._upload, MultipartUpload={"Parts": parts}
                ),
                verb="written",
            )
            etag = _plain(answer)
        found = self._check()
        etag = etag or _plain(found)
        # If the store encrypts an object with a key of its own, the ETag is not made of MD5s.
        alike = all(etag == digest.hex() for etag, digest in zip(map(_bare, self._etags), self._digests, strict=True))
        if alike and etag != expected and (_OF_PARTS.fullmatch(etag) or not etag):
            raise OutputError(f"`{self._name}` can't be written: what the store has put together is not what was sent")
        self._upload = ""

    def discard(self) -> None:
        """Give up the upload, if it was not completed; if it can be resumed, its parts stay."""
        if self._upload and not self._resume:
            with suppress(Exception):  # the error that led here is the one to report
                self._once("abort_multipart_upload", UploadId=self._upload)

    def _begin(self) -> None:
        """Begin an upload, or go on with the latest one."""
        if self._resume:
            with suppress(FileNotFoundError):
                answer = self._call("list_multipart_uploads", Key=None, Prefix=self._place["Key"])
                mine = [one for one in answer.get("Uploads") or () if one["Key"] == self._place["Key"]]
                if mine:
                    self._upload = str(max(mine, key=lambda one: str(one.get("Initiated")))["UploadId"])
                    self._there = self._parts()
        if not self._upload:
            self._upload = str(self._call("create_multipart_upload")["UploadId"])

    def _parts(self) -> dict[int, str]:
        found: dict[int, str] = {}
        last = 0
        while True:
            answer = self._call("list_parts", UploadId=self._upload, PartNumberMarker=last)
            found |= {int(part["PartNumber"]): str(part["ETag"]) for part in answer.get("Parts") or ()}
            if not answer.get("IsTruncated") or max(found, default=0) <= last:
                return found
            last = max(found)

    def _send(self, data: bytes) -> None:
        """Send a part, unless it is there."""
        digest, number = md5(data, usedforsecurity=False).digest(), len(self._digests) + 1
        etag = self._there.get(number, "")
        if _bare(etag) != digest.hex():
            answer = self._call(
                "upload_part", UploadId=self._upload, PartNumber=number, Body=data, ContentMD5=_told(digest)
            )
            etag = str(answer["ETag"])
        self._digests.append(digest)
        self._etags.append(etag)

    def _call(self, method: str, **values: Any) -> dict[str, Any]:
        try:
            return self._system.call(self._name, partial(self._once, method, **values), verb="written")
        except FileNotFoundError as error:
            raise OutputError(f"`{self._name}` can't be written: {said(error)}") from None

    def _once(self, method: str, **values: Any) -> dict[str, Any]:
        told = {key: value for key, value in {**self._place, **values}.items() if value is not None}
        answer: dict[str, Any] = self._system.fs.call_s3(method, **told)
        return answer


def upload_of(system: FileSystem, path: str, name: str, nbytes: int, *, resume: bool) -> Upload:
    """The upload of an object, as its store takes it."""
    if system.store.calls:
        return S3Upload(system, path, name, nbytes, resume=resume)
    return FileUpload(system, path, name, nbytes)


def _part_size(nbytes: int) -> int:
    return max(PART, -(-nbytes // _PARTS))


def _told(digest: bytes) -> str:
    return b64encode(digest).decode()


def _plain(answer: dict[str, Any]) -> str:
    return _bare(str(answer.get("ETag") or ""))


def _bare(etag: str) -> str:
    return etag.strip('"')
