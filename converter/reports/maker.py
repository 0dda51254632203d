"""Who made a report, and when: this program's version and address, and the time."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from typing import Final
from urllib.parse import urlsplit

from converter.errors import UnsupportedError

NAME: Final = "cerebras-tool"
_PLACEHOLDER: Final = ".invalid"  # the ending of host names that are never found: RFC 2606
_EPOCH: Final = "SOURCE_DATE_EPOCH"  # source: https://reproducible-builds.org/specs/source-date-epoch/


@cache
def version() -> str:
    """The version of this program; `0` in a checkout that was never installed."""
    try:
        return str(metadata(NAME)["Version"])
    except PackageNotFoundError:
        return "0"


@cache
def home() -> str | None:
    """The address of the project, as the package states it; None as long as it has none."""
    try:
        return address_in(metadata(NAME).get_all("Project-URL") or ())
    except PackageNotFoundError:
        return None


def address_in(stated: Iterable[str]) -> str | None:
    """The homepage among lines such as `Homepage, https://…`; None if there is none."""
    pairs = (line.partition(",") for line in stated)
    address = next((address.strip() for label, _, address in pairs if label == "Homepage"), "")
    return address if urlsplit(address).hostname else None


def is_placeholder(address: str) -> bool:
    """Whether an address only stands for one that is not known yet."""
    return (urlsplit(address).hostname or "").endswith(_PLACEHOLDER)


def page(name: str) -> str | None:
    """The address of a page of the documentation of this version, such as `scan.md#verdicts`."""
    address = home()
    return None if address is None else f"{address}/blob/v{version()}/docs/{name}"


def reproducible() -> bool:
    """Whether reports should be the same in every run: then they have the date of SOURCE_DATE_EPOCH and no durations."""
    return _EPOCH in os.environ


def now() -> datetime:
    """The time in UTC, in whole seconds, or the one that SOURCE_DATE_EPOCH says. Raises UnsupportedError if that is no number."""
    said = os.environ.get(_EPOCH)
    if said is None:
        return datetime.now(UTC).replace(microsecond=0)
    try:
        return datetime.fromtimestamp(int(said), UTC)
    except (ValueError, OverflowError, OSError):
        raise UnsupportedError(f"{_EPOCH} is {said!r:.40}: seconds since 1970 were expected") from None


def stamp() -> str:
    """The time as reports have it: `2026-11-30T14:00:00Z`."""
    return now().strftime("%Y-%m-%dT%H:%M:%SZ")
