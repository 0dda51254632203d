"""What `download`, `sample` and `demo` report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """A file that was written. `checked` says what its SHA-256 was compared with: `declared`, `the Hub's`, or None."""

    path: str
    nbytes: int
    checked: str | None = None


@dataclass(frozen=True, slots=True)
class DownloadReport:
    """What `download` fetched, or found in the cache. `folder` is None for the cache."""

    schema: ClassVar = "cerebras-tool/download/v1"

    name: str
    folder: str | None
    files: tuple[WrittenFile, ...]


@dataclass(frozen=True, slots=True)
class MadeReport:
    """The checkpoint that `sample` wrote. `model` is that whose form it has."""

    schema: ClassVar = "cerebras-tool/sample/v1"

    model: str
    seed: int
    sparse: bool
    files: tuple[WrittenFile, ...]


@dataclass(frozen=True, slots=True)
class DemoStep:
    """A step of `demo`: what it shows, and the words of its command."""

    title: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The steps of `demo`, which all ended with 0. `folder` is None if it was a temporary one, which is gone."""

    schema: ClassVar = "cerebras-tool/demo/v1"

    folder: str | None
    steps: tuple[DemoStep, ...]
