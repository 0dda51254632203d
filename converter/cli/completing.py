"""What a shell offers for an argument: models, and names of tensors. It reads only local files, and fails in silence."""

from __future__ import annotations

import os
from typing import Any

from converter.errors import ConverterError
from converter.text import safe_name


def models(incomplete: str) -> list[str]:
    """The declared models whose names begin with what was typed."""
    from converter.models.declared import declared

    return [model.short for model in declared() if model.short.casefold().startswith(incomplete.casefold())]


def samples(incomplete: str) -> list[str]:
    """The names of all models that `sample` writes and that begin with what was typed."""
    from converter.sample import samples as tiny

    return [name for name in (*tiny(), *models("")) if name.casefold().startswith(incomplete.casefold())]


def tensors(ctx: Any, incomplete: str) -> list[str]:
    """The names of tensors in the first SOURCE that begin with what was typed, up to the dot where they begin to differ.

    A single answer is a whole name, because a shell ends the word after it.
    """
    # While an option has no value yet, the arguments before it are left over as they were typed.
    given = [ctx.params.get("source"), *(ctx.params.get("sources") or ()), *ctx.args]
    source = next((word for word in given if word and os.path.lexists(word)), None)
    if source is None:
        return []
    from converter.opening import open_checkpoint

    try:
        names = [safe_name(name) for name in open_checkpoint(source)]
    except (ConverterError, OSError):
        return []
    fitting = [name for name in names if name.startswith(incomplete)]
    if not fitting:
        return []
    first, last = min(fitting), max(fitting)  # what these two begin with, all between them begin with, too
    same = next((at for at, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return list(dict.fromkeys(name[: name.find(".", same) + 1] or name for name in fitting))
