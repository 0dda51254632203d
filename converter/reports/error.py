"""What a command that is asked for JSON prints if it ends without an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class ErrorReport:
    """Why there is no answer: the `class` of the cause, such as one of `converter.errors`, and a `message` for people."""

    schema: ClassVar = "cerebras-tool/error/v1"

    error: Mapping[str, str]
