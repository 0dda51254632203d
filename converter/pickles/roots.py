"""Finds the part of a checkpoint that a root names, by keys joined with dots or by the beginning of names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from converter.errors import RootError
from converter.pickles.values import Dict
from converter.pickles.walk import key_text
from converter.pickles.weights import Chosen, numbered
from converter.text import listed

_LONGEST: Final = 80  # characters of a key that an error shows
_SHOWN: Final = 12  # keys that an error lists
_SEARCHED: Final = 1000  # keys that are compared with a mistyped root


def below(value: object, root: str, opened: Callable[[Any], Any]) -> Chosen:
    """The part that a root names; the keys in the root are joined with dots."""
    chosen, rest = Chosen([], value), root
    while rest:
        node = opened(chosen.value)
        if type(node) in (list, tuple):
            node = numbered(node)
        if type(node) is not Dict:
            raise RootError(
                f"there is no `{_short(root)}` in the checkpoint: the value there is neither a dict nor a list"
            )
        keys = [key_text(key) for key in node[::2]]
        fits = [key for key in keys if rest == key or rest.startswith(key + ".")]
        if not fits:
            if not any(key.startswith(rest + ".") for key in keys):
                raise RootError(_no_key(root, chosen.keys, keys))
            part: list[Any] = []
            for name, inner in zip(keys, node[1::2], strict=True):
                if name.startswith(rest + "."):
                    part += (name[len(rest) + 1 :], inner)
            chosen.leave((name, inner) for name, inner in node.pairs() if not key_text(name).startswith(rest + "."))
            chosen.keys.append(rest)
            chosen.value = Dict(part)
            return chosen
        key = max(fits, key=len)
        chosen.enter(key, node[2 * keys.index(key) + 1], node)
        rest = rest[len(key) + 1 :]
    return chosen


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"


def _no_key(root: str, above: list[str], keys: list[str]) -> str:
    """A sentence about a root that is neither a key nor the beginning of names."""
    from difflib import get_close_matches

    starts = {
        ".".join((*above, *parts[:count]))
        for key in keys[:_SEARCHED]
        if len(key) <= _LONGEST
        for parts in [key.split(".")]
        for count in range(1, len(parts) + 1)
    }
    near = get_close_matches(_short(root), sorted(starts), n=1)
    where = f"`{_short('.'.join(above))}`" if above else "the checkpoint"
    listed_keys = listed([_short(key) for key in keys], _SHOWN) or "none"
    meant = f"; did you mean `{near[0]}`?" if near else ""
    return f"there is no `{_short(root)}` in the checkpoint: the keys of {where} are {listed_keys}{meant}"
