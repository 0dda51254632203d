"""What a notebook shows of a catalogue or a tensor. What draws it lies in a room above, and is put in from there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

# Makes the HTML of a "catalogue" or a "tensor". If it returns None, a notebook shows what it would show without it.
Drawer = Callable[[str, Any], str | None]
_DRAWERS: Final[list[Drawer]] = []


def draw_with(drawer: Drawer) -> None:
    """Take what draws from now on."""
    _DRAWERS[:] = [drawer]


def drawn(what: str, thing: object) -> str | None:
    """The HTML of a thing; None if nothing draws it."""
    return _DRAWERS[0](what, thing) if _DRAWERS else None
