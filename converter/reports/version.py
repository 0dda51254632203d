"""What `--version --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class VersionReport:
    """This program's version and Python's, and which engines and extras are installed."""

    schema: ClassVar = "cerebras-tool/version/v1"

    version: str
    python: str
    engines: Mapping[str, bool]
    extras: Mapping[str, bool]
