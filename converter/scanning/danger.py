"""What is known about the globals that a pickle names: which are dangerous, why, and where they were abused.

*Dangerous* means: calling it with arguments that the file chooses can run code, touch files, import, or reach the
network. Nothing is known about any others. A function that calls one of its arguments only along the way (`sorted` with
a key, `re.sub`) is not dangerous for that reason, because the file has to name the function it would call, too. Neither
is `functools.partial`, which calls nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final

from converter.scanning.gadgets import (
    ALIASES,
    ANYWHERE,
    BUILTINS,
    CAN,
    CODE,
    DANGEROUS_BUILTINS,
    EVIDENCE,
    EVIDENCE_OF_MODULES,
    HARMLESS,
    NAMES,
    ROWS,
    STRONG,
    WALKS,
)
from converter.scanning.libraries import Library, library
from converter.words import DANGEROUS, PLAIN, UNKNOWN

if TYPE_CHECKING:
    from converter.tensors.catalogue import GlobalUse


class _Words:
    """Words with their reasons. Whole words are in a dictionary; words that end with `*` match by their beginning."""

    def __init__(self, rows: Mapping[str, str]) -> None:
        words = [(word, reason) for reason, text in rows.items() for word in text.split()]
        self.whole = {word: reason for word, reason in words if not word.endswith("*")}
        self.begun = [(word[:-1], reason) for word, reason in words if word.endswith("*")]

    def find(self, word: str) -> str | None:
        """The reason of a word, or None."""
        reason = self.whole.get(word)
        if reason is None and self.begun:
            reason = next((reason for start, reason in self.begun if word.startswith(start)), None)
        return reason


class _Node:
    """The reason of a path and of everything below it, unless a longer path has another. `known`: it has a row.

    The reason in a row may be None.
    """

    __slots__ = ("begun", "below", "known", "reason")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.begun: list[tuple[str, str]] = []
        self.known = False
        self.reason: str | None = None


class _Paths:
    """Rows as a tree with one part of a path at each step; the longest row that matches counts. HARMLESS rows have no reason."""

    def __init__(self, rows: Mapping[str, str], harmless: str) -> None:
        self.root = _Node()
        words = _Words(rows)
        for path, reason in words.whole.items():
            node = self._node(path)
            node.known, node.reason = True, reason
        for path in (word[:-2] for word in harmless.split() if word.endswith(".*")):
            node = self._node(path)
            node.known, node.reason = True, None
        for start, reason in words.begun:
            parent, _, beginning = start.rpartition(".")
            self._node(parent).begun.append((beginning, reason))

    def _node(self, path: str) -> _Node:
        node = self.root
        for part in path.split("."):
            node = node.below.setdefault(part, _Node())
        return node

    def find(self, parts: Iterable[str]) -> str | None:
        """The reason of the longest row that is a beginning of the path, or None."""
        return self.row(parts)[0]

    def row(self, parts: Iterable[str]) -> tuple[str | None, int]:
        """The reason of the longest row that is a beginning of the path, and of how many parts the row is."""
        node, reason, length = self.root, None, 0
        for count, part in enumerate(parts, 1):
            for beginning, found in node.begun:
                if part.startswith(beginning):
                    reason, length = found, count
            following = node.below.get(part)
            if following is None:
                break
            node = following
            if node.known:
                reason, length = node.reason, count
        return reason, length


_PATHS: Final = _Paths(ROWS, HARMLESS)
_HARMLESS: Final = frozenset(HARMLESS.split())
_BUILTINS: Final = _Words(DANGEROUS_BUILTINS)
_ANYWHERE: Final = _Words(ANYWHERE)
_NAMES: Final = {package: _Words(rows) for package, rows in NAMES.items()}
_ROOTS: Final = frozenset((*_PATHS.root.below, *_NAMES, *BUILTINS))


def danger(module: str, name: str) -> str | None:
    """What calling a global can do; None if nothing is known about it. The pair is compared as a path, `module.name`."""
    modules, names = module.split("."), name.split(".")
    if len(modules) == len(names) == 1 and module not in _ROOTS:  # for speed: a file may name very many globals
        return _by_name(name)
    if f"{module}.{name}" in _HARMLESS:
        return None
    if module in BUILTINS:
        return _BUILTINS.find(names[0]) or next(filter(None, map(_dunder, names)), None)
    words = _NAMES.get(modules[0])
    for part in names:
        if (reason := _by_name(part) or (words.find(part) if words is not None else None)) is not None:
            break
    reason = _PATHS.find(chain(modules, names)) or reason
    if reason is not None:
        return reason
    if len(modules) > 1:
        if modules[-1] == "__main__":  # importing it runs the program
            return CODE
        if not STRONG.isdisjoint(modules[1:]):
            return next(_PATHS.find((part,)) or CODE for part in modules[1:] if part in STRONG)
    # `torch` + `serialization.os.system` walks attributes, and a module has what it imports as attributes.
    for at in range(len(names) - 1):
        first = names[at].lstrip("_")
        following = names[at + 1 : at + 8]  # no row is longer
        if (reason := _PATHS.find(chain((ALIASES.get(first, first),), following))) is not None:
            return reason
    return None


def sentence(module: str, name: str, reason: str) -> str:
    """The rest of a sentence that begins with a dangerous global. A row of a whole module says nothing about one name in it."""
    parts, names = [*module.split("."), *name.split(".")], name.split(".")
    known = _NAMES.get(parts[0])
    own = _by_name(names[-1]) or (known.find(names[-1]) if known is not None else None)
    exact = f"{own or reason} when the file is unpickled"
    if module in BUILTINS or own is not None or f"{module}.{name}" in EVIDENCE:
        return exact
    for at, part in enumerate(parts[:-1]):
        bare = part.lstrip("_") if at else part
        found, length = _PATHS.row((ALIASES.get(bare, bare), *parts[at + 1 :]))
        if found == reason:
            row = ".".join(parts[at : at + length])
            return exact if at + length == len(parts) else f"is a name of {row}, which can {CAN[reason]}"
    return exact


def _dunder(part: str) -> str | None:
    return WALKS if part[:2] == "__" and part[-2:] == "__" else None


def _by_name(part: str) -> str | None:
    """The reason that belongs to a part of a name, whatever module it is in."""
    if (reason := _ANYWHERE.whole.get(part) or _dunder(part)) is not None:
        return reason
    bare = part.lstrip("_")
    return _PATHS.find((bare,)) or CODE if bare in STRONG else None


def evidence(module: str, name: str) -> str | None:
    """Where the abuse of this global, or of its whole module, is on public record; None if it is not."""
    return EVIDENCE.get(f"{module}.{name}") or EVIDENCE_OF_MODULES.get(module)


def verdict(uses: Sequence[GlobalUse]) -> tuple[str, list[str]]:
    """The verdict `plain`, `unknown-globals` or `dangerous`, and a sentence for each global that is not plain.

    The globals of one library that are no worse than unknown share a sentence.
    """
    findings: dict[str, None] = {}
    names: dict[Library, dict[str, None]] = {}
    for use in uses:
        if not use.known and danger(use.module, use.name) is None and (found := library(use.module)) is not None:
            names.setdefault(found, {})[str(use)] = None
    together = {one: one.together(several) for one, several in names.items() if len(several) > 1}
    worst = PLAIN
    for use in uses:
        if use.known:
            continue
        reason = danger(use.module, use.name)
        if reason is not None:
            worst = DANGEROUS
            said = f"{use} at byte {use.position:,} {sentence(use.module, use.name, reason)}"
        else:
            worst = UNKNOWN if worst == PLAIN else worst
            found = library(use.module)
            words = found.words if found is not None else "nobody knows what it does"
            said = f"{use} at byte {use.position:,} is outside the closed table: {words}"
            said = together.get(found, said) if found is not None else said
        findings[said] = None
    return worst, list(findings)
