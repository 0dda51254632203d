"""What `models` reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class ModelsReport:
    """The declared models, as schemas/models/ has them."""

    schema: ClassVar = "cerebras-tool/models/v1"

    models: tuple[Any, ...]
