"""Stores of objects that fsspec opens: which schemes are let through, and what is said when a store refuses.

Credentials, endpoints and regions are those of fsspec and of the store's own library. fsspec is imported for a store only.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar

from converter.errors import ConverterError, SourceError
from converter.hub.patience import patience
from converter.steps import step
from converter.text import os_reason, safe_text

_T = TypeVar("_T")

_ATTEMPTS: Final = 4  # s3fs tries again itself, too


@dataclass(frozen=True, slots=True)
class Store:
    """A kind of store. `package` is what fsspec needs for it, and `extra` the extra of ours that installs that.

    `unknown` are exceptions that say there are no credentials, as module and class; `sign_in` says how to give them.
    `multipart`: an object is uploaded in parts, and is there once the upload is completed. `local`: it needs no network.
    `calls`: fsspec lets the calls of S3 through, by which an upload can be resumed and a write can have a condition.
    """

    title: str
    package: str = ""
    extra: str = ""
    unknown: tuple[tuple[str, str], ...] = ()
    sign_in: str = ""
    multipart: bool = True
    local: bool = False
    calls: bool = False


_S3: Final = Store(
    "S3",
    "s3fs",
    "s3",
    (("botocore.exceptions", "NoCredentialsError"), ("botocore.exceptions", "TokenRetrievalError")),
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run `aws configure`",
    calls=True,
)
_GCS: Final = Store(
    "Google Cloud Storage",
    "gcsfs",
    "",
    (("google.auth.exceptions", "DefaultCredentialsError"), ("google.auth.exceptions", "RefreshError")),
    "set GOOGLE_APPLICATION_CREDENTIALS, or run `gcloud auth application-default login`",
)
_AZURE: Final = Store(
    "Azure Blob Storage",
    "adlfs",
    "",
    (("azure.core.exceptions", "ClientAuthenticationError"),),
    "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_CONNECTION_STRING",
)
STORES: Final = MappingProxyType(
    {
        "s3": _S3,
        "s3a": _S3,
        "gs": _GCS,
        "gcs": _GCS,
        "az": _AZURE,
        "abfs": _AZURE,
        "abfss": _AZURE,
        "memory": Store("memory", multipart=False, local=True),
    }
)


def store_of(location: str) -> Store | None:
    """The kind of store that a location lies in; None if it lies in none."""
    return STORES.get(location.partition("://")[0]) if "://" in location else None


class StorePath(PurePosixPath):
    """The address of an object or a folder in a store, which is taken apart as a path is: `s3://bucket/folder/name`."""

    @classmethod
    def of(cls, location: object) -> Self | None:
        """The address that a location is; None if it is in no store."""
        text = _whole(str(location))
        return None if store_of(text) is None else cls(text)

    @property
    def url(self) -> str:
        """The address as it is written."""
        return _whole(super().__str__())

    def __str__(self) -> str:
        return self.url


def _whole(text: str) -> str:
    """An address with both slashes behind its scheme: a path has lost one."""
    scheme, mark, rest = text.partition(":/")
    return f"{scheme}://{rest.lstrip('/')}" if mark and scheme in STORES else text


class FileSystem:
    """The store that a location lies in, as fsspec gives it. `path` is where the location lies there."""

    def __init__(self, location: str) -> None:
        store = store_of(location)
        if store is None or "::" in location or not location.isprintable():
            raise SourceError(f"`{safe_text(location)}` is not the address of an object in a store")
        import fsspec

        self.location, self.store = location.rstrip("/"), store
        try:
            fs, path = fsspec.core.url_to_fs(self.location, use_listings_cache=False)
        except ImportError as error:
            how = f"pip install 'cerebras-tool[{store.extra}]'" if store.extra else f"pip install {store.package}"
            raise SourceError(f"`{location}` needs the package {error.name or store.package}: `{how}`") from None
        except ValueError as error:
            raise SourceError(f"`{location}` is not an address in {store.title}: {safe_text(str(error))}") from None
        self.fs: Any = fs
        self.path = str(path)

    def call(self, name: str, function: Callable[[], _T], *, verb: str = "read") -> _T:
        """Call a function of fsspec, again after a failure that may pass. `name` is what messages call the object.

        Raises FileNotFoundError if it is not there, and SourceError for every other failure.
        """
        backoff = patience().backoff
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return function()
            except (ConverterError, FileNotFoundError, KeyboardInterrupt):
                raise
            except Exception as error:
                if attempt == _ATTEMPTS or not self._passes(error):
                    raise SourceError(f"`{name}` can't be {verb}: {self._reason(error, attempt)}") from None
                reason = said(error)
            with step("wait", f"{name}: {reason}; attempt {attempt + 1} of {_ATTEMPTS} comes in {backoff:g} s"):
                time.sleep(backoff)
            backoff *= 2
        raise AssertionError

    @contextmanager
    def explained(self, name: str, verb: str = "read") -> Iterator[None]:
        """Turn what fsspec raises in the body of a `with` into one sentence, without another attempt."""
        try:
            yield
        except (ConverterError, FileNotFoundError, KeyboardInterrupt):
            raise
        except Exception as error:
            raise SourceError(f"`{name}` can't be {verb}: {self._reason(error, 1)}") from None

    def info(self, path: str, name: str) -> dict[str, Any] | None:
        """What the store says about an object or a folder; None if there is neither."""
        try:
            found: dict[str, Any] = self.call(name, partial(self.fs.info, path))
            return found
        except FileNotFoundError:
            return None

    def _passes(self, error: Exception) -> bool:
        """Whether a failure may be temporary. A refusal is not, whether or not the store accepted the credentials."""
        # fsspec raises NotImplementedError for what a kind of store can't do, which no second attempt changes.
        refused = (PermissionError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, NotImplementedError)
        return not isinstance(error, (*refused, *self._unknown()))

    def _unknown(self) -> tuple[type[Exception], ...]:
        """The classes of exceptions that say there are no credentials."""
        if not self.store.package:
            return ()
        return tuple(vars(import_module(module))[name] for module, name in self.store.unknown if _there(module))

    def _reason(self, error: Exception, attempt: int) -> str:
        if isinstance(error, self._unknown()):
            return f"there are no credentials for {self.store.title}; {self.store.sign_in}"
        if isinstance(error, PermissionError):
            return f"{self.store.title} refuses it: {said(error)}; {self.store.sign_in}"
        tried = f" (attempt {attempt} of {_ATTEMPTS})" if attempt > 1 else ""
        return f"{said(error)}{tried}"


def _there(module: str) -> bool:
    return module.partition(".")[0] in sys.modules  # what was never imported raised nothing


def said(error: Exception) -> str:
    """What an error of a store's library says, in one line."""
    text = os_reason(error) if isinstance(error, OSError) else str(error)
    line = safe_text(" ".join(text.split()), 200).rstrip(".")
    return line[:1].lower() + line[1:] if line else type(error).__name__
