"""What must hold for a model of a family to be computed by llama.cpp, or here: two expressions that are equal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from converter.models.rows import evaluated


class Need(NamedTuple):
    """Two expressions over sizes and settings that must be equal, if the settings in `when` have these values.

    `because` says why, and may have names of sizes and settings in braces.
    """

    value: str
    equals: str
    because: str
    when: Mapping[str, Any] = MappingProxyType({})


def needs(document: Mapping[str, Any]) -> tuple[Need, ...]:
    """The needs that a part of a family's table has."""
    return tuple(Need(**need) for need in document.get("needs", ()))


def unmet(rows: Iterable[Need], look_up: Callable[[str], Any]) -> str | None:
    """Why the first need does not hold; None if all do. `look_up` gives the value of a size or a setting."""
    for need in rows:
        if any(look_up(name) != meant for name, meant in need.when.items()):
            continue
        if _value(need.value, look_up) != _value(need.equals, look_up):
            return need.because.format_map(_Named(look_up))
    return None


class _Named(dict[str, str]):
    """What stands for each name in braces."""

    def __init__(self, look_up: Callable[[str], Any]) -> None:
        super().__init__()
        self._look_up = look_up

    def __missing__(self, name: str) -> str:
        return f"{self._look_up(name)!r:.80}"


def _value(expression: str, look_up: Callable[[str], Any]) -> Any:
    try:
        return evaluated(expression, look_up)
    except ValueError:
        return None
