"""Small objects in a store that several programs change: each is written only if it is still what the writer has read.

S3 does that since 2024, by the headers If-None-Match and If-Match of a PUT. A store that takes no notice of them is found out
before anything depends on them.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib import import_module
from typing import Any, Final

from converter.errors import SourceError
from converter.hub.locations import check_online
from converter.hub.store_folder import version
from converter.hub.stores import FileSystem
from converter.text import safe_text

_REFUSED: Final = ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")  # codes of S3
_TRIAL: Final = "conditions"  # the object that a store is tried with


class Objects:
    """The objects below an address, by their names. A version is what the store says about an object, and changes with it."""

    def __init__(self, location: str) -> None:
        self._system = FileSystem(location)
        if not self._system.store.calls:
            raise SourceError(
                f"`{safe_text(location)}` can't be shared: {self._system.store.title} is not known to support "
                "conditional writes; S3 does"
            )
        check_online(location)
        self.location, self._root = self._system.location, self._system.path

    def try_conditions(self) -> None:
        """Raise SourceError unless the store heeds the conditions of a write. It is tried with an object of its own."""
        nonce = os.urandom(8).hex().encode()
        self.write(_TRIAL, nonce, None)
        for wrong in (None, "0" * 32):
            if self.write(_TRIAL, nonce + b" again", wrong) is not None:
                raise SourceError(
                    f"`{self.location}` can't be shared, because its store takes no notice of If-None-Match and If-Match when "
                    "an object is written: two programs would overwrite each other"
                )

    def names(self, folder: str, start: str = "") -> dict[str, str]:
        """The names and the versions of the objects in a folder; with `start`, at least of those whose names start so."""
        path = f"{self._root}/{folder}"
        listed = partial(self._system.fs.find, path, detail=True, **({"prefix": start} if start else {}))
        try:
            found = self._system.call(f"{self.location}/{folder}", listed, verb="listed")
        except FileNotFoundError:
            return {}
        return {f"{folder}/{key[len(path) + 1 :]}": version(info) for key, info in found.items()}

    def read(self, name: str) -> tuple[bytes, str] | None:
        """An object's bytes and its version; None if there is none."""
        try:  # if it is replaced between the look-up and the read, the next attempt reads the new one
            return self._system.call(self._named(name), partial(self._pinned, name))
        except FileNotFoundError:
            return None

    def content(self, name: str) -> bytes | None:
        """An object's bytes by a single request, whatever its version; None if there is none."""
        try:
            # With one connection s3fs does not ask for the size first.
            once = partial(self._system.fs.cat_file, self._path(name), max_concurrency=1)
            return bytes(self._system.call(self._named(name), once))
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes, expected: str | None) -> str | None:
        """Write an object and return its version, or None if it is no longer of the version that was expected.

        Without an expected version nothing may be there. An answer can be lost, and the store refuses the second attempt of
        a write that it has done: so an object that has exactly these bytes by now is taken for ours. So no other
        program may write the same bytes, unless that does not matter.
        """
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": f'"{expected}"'}
        try:
            made = self._put(name, data, condition)
        except FileNotFoundError:
            if expected is None:
                raise SourceError(f"`{self.location}` is not there: S3 has no such bucket") from None
            return None  # it was removed
        if made is not None:
            return made
        found = self.read(name)
        return found[1] if found is not None and found[0] == data else None

    def put(self, name: str, data: bytes) -> None:
        """Write an object, whatever is there."""
        self._put(name, data, {})

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        path = self._path(name)
        if self._system.info(path, self._named(name)) is not None:
            self._system.call(self._named(name), partial(self._system.fs.rm_file, path), verb="removed")

    def _pinned(self, name: str) -> tuple[bytes, str]:
        file = self._system.fs.open(self._path(name), "rb", cache_type="none")
        return bytes(file._fetch_range(0, file.size)) if file.size else b"", version(file.details)

    def _put(self, name: str, data: bytes, condition: dict[str, str]) -> str | None:
        """The version that was written; None if the store refuses it, because the condition does not hold."""
        bucket, _, key = self._path(name).partition("/")

        def once() -> dict[str, Any] | None:
            try:
                answer: dict[str, Any] = self._system.fs.call_s3(
                    "put_object", Bucket=bucket, Key=key, Body=data, **condition
                )
            except Exception as error:
                if isinstance(error, FileExistsError) or _code(error) in _REFUSED:
                    return None
                raise
            return answer

        answer = self._system.call(self._named(name), once, verb="written")
        return None if answer is None else version(answer)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _named(self, name: str) -> str:
        return f"{self.location}/{name}"


def _code(error: Exception) -> str:
    """What S3 calls an error that s3fs has turned into one of Python's."""
    if "botocore" not in sys.modules:  # what was never imported raised nothing
        return ""
    failed = import_module("botocore.exceptions").ClientError
    return str(error.__cause__.response["Error"]["Code"]) if isinstance(error.__cause__, failed) else ""
