"""What a shell offers for an argument: models, and names of tensors. It reads local files only, and fails in silence."""

from __future__ import annotations

import os
from typing import Any

from converter.errors import ConverterError
from converter.text import safe_text


def models(incomplete: str) -> list[str]:
    """The declared models whose names begin with what was typed."""
    from converter.models.declared import declared

    return [model.short for model in declared() if model.short.casefold().startswith(incomplete.casefold())]


def tensors(ctx: Any, incomplete: str) -> list[str]:
    """The names of tensors in the first SOURCE that begin with what was typed, one level further at a time."""
    # While an option has no value yet, the arguments before it are left over as they were typed.
    given = [ctx.params.get("source"), *(ctx.params.get("sources") or ()), *ctx.args]
    source = next((word for word in given if word and os.path.lexists(word)), None)
    if source is None:
        return []
    from converter.opening import open_checkpoint

    try:
        names = [safe_text(name) for name in open_checkpoint(source)]
    except (ConverterError, OSError):
        return []
    found: dict[str, None] = {}
    for name in names:
        if name.startswith(incomplete):
            end = name.find(".", len(incomplete)) + 1
            found[name[:end] or name] = None
    return list(found)
