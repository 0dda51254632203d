"""Finds the part of a checkpoint that a root names, by keys joined with dots or by the beginning of names."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

from converter.errors import RootError
from converter.pickles.values import Dict
from converter.pickles.walk import key_text
from converter.pickles.weights import Chosen, numbered
from converter.tensors.folded import numbers
from converter.text import listed

_DIGITS: Final = 9  # a key with this many digits is not the number of a layer
_LONGEST: Final = 80  # characters of a key that an error shows
_SHOWN: Final = 12  # keys that an error lists
_SEARCHED: Final = 1000  # keys that are compared with a mistyped root


def below(value: object, root: str, opened: Callable[[Any], Any]) -> Chosen:
    """The part that a root names; the keys in the root are joined with dots.

    A root may be folded, as in `h.{0..3}`: names then start at the number. And it may lack what all names that hold it begin
    with, because a narrow table leaves that out.
    """
    try:
        return _below(value, root, opened)
    except RootError:
        found = _of_several(value, root, opened) or _shortened(value, root, opened)
        if found is None:
            raise
        return found


def _shortened(value: object, root: str, opened: Callable[[Any], Any]) -> Chosen | None:
    """The part that a root without the beginning of its names means; None if there is none, or more than one."""
    node = opened(value)
    folded = numbers(root)
    start = "." + (root if folded is None else folded[0].removesuffix("."))
    if type(node) is not Dict or start == ".":
        return None
    names = [key_text(key) for key in node[::2]]
    befores = {name[:at] for name in names if (at := f"{name}.".find(f"{start}.")) > 0}
    return below(value, befores.pop() + "." + root, opened) if len(befores) == 1 else None


def _of_several(value: object, root: str, opened: Callable[[Any], Any]) -> Chosen | None:
    """The parts that a folded root names, in a part of their own; None if it is not folded, or names none."""
    folded = numbers(root)
    if folded is None:
        return None
    above, allowed, behind = folded
    chosen = below(value, above.removesuffix("."), opened)
    node = opened(chosen.value)
    if type(node) in (list, tuple):
        node = numbered(node)
    if type(node) is not Dict or (above and not above.endswith(".")):
        return None
    keys = dict.fromkeys(key_text(key).partition(".")[0] for key in node[::2])
    found: list[Any] = []
    taken = set()
    for key in keys:
        if key.isascii() and key.isdigit() and len(key) < _DIGITS and allowed(int(key)):
            with suppress(RootError):
                inner = below(node, key + behind, opened)
                found += _with_names(key + behind, inner.value)
                taken.add(key)
                chosen.leave(one for one in inner.beside if one[0].startswith(f"{key}."))
    chosen.leave((name, inner) for name, inner in node.pairs() if key_text(name).partition(".")[0] not in taken)
    chosen.value = Dict(found)
    return chosen if found else None


def _with_names(name: str, value: Any) -> list[Any]:
    """The entries for a part: those of a dict one by one, because it may be a copy that nobody knows."""
    if type(value) is not Dict:
        return [name, value]
    return [part for key, inner in value.pairs() for part in (f"{name}.{key_text(key)}", inner)]


def _below(value: object, root: str, opened: Callable[[Any], Any]) -> Chosen:
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
