"""What `schema --json` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True, slots=True)
class SchemasReport:
    """The schemas that `schema` prints: the `name` of each and its `title`."""

    schema: ClassVar = "cerebras-tool/schemas/v1"

    schemas: tuple[Mapping[str, str], ...]
