"""No regular expression of the package can backtrack over its input: a file could make one that does run for ever.

The parse trees of Python's own `re` are looked at. An expression backtracks if an unbounded repeat may give up
characters that it has matched, and something after it, or around it, may match the same characters. `{0,60}` is
bounded, and `*+` gives nothing up.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import pytest

PACKAGE = Path(__file__).parent.parent / "converter"
FUNCTIONS = {"compile", "match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer"}
SEARCHES = {"search", "sub", "subn", "split", "findall", "finditer"}
FEW = 4096  # repeats: up to this many count as bounded
EVERY = frozenset(range(256))
REPEATS = (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT)


def patterns() -> Iterator[tuple[str, str | bytes, int, bool]]:
    """Every expression of the package: its place, its text and flags, and whether it is searched for."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text()
        if "re." not in source or path.name == "__main__.py":
            continue
        where = ".".join(("converter", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        searched = set()
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
            ):
                owner, function = node.func.value.id, node.func.attr
                if owner == "re" and function in FUNCTIONS and isinstance(node.args[0], ast.Constant):
                    assert isinstance(node.args[0].value, str | bytes)
                    yield f"{where}:{node.lineno}", node.args[0].value, 0, function in SEARCHES
                elif function in SEARCHES:
                    searched.add(owner)
        for name, value in vars(import_module(where)).items():
            compiled = value if isinstance(value, re.Pattern) else getattr(value, "__self__", None)
            if isinstance(compiled, re.Pattern):
                yield f"{where}.{name}", compiled.pattern, compiled.flags & re.DOTALL, name in searched


def characters(items: Any, flags: int) -> frozenset[int]:
    """The characters below 256 that a set of a parse tree matches."""
    found: set[int] = set()
    negated = False
    for op, value in items:
        if op is sre.NEGATE:
            negated = True
        elif op is sre.LITERAL:
            found.add(min(value, 255))
        elif op is sre.RANGE:
            found |= set(range(value[0], min(value[1], 255) + 1))
        else:
            wanted = {
                sre.CATEGORY_DIGIT: r"\d", sre.CATEGORY_NOT_DIGIT: r"\D", sre.CATEGORY_SPACE: r"\s",
                sre.CATEGORY_NOT_SPACE: r"\S", sre.CATEGORY_WORD: r"\w", sre.CATEGORY_NOT_WORD: r"\W",
            }[value]  # fmt: skip
            found |= {code for code in EVERY if re.match(wanted, chr(code))}
    return EVERY - found if negated else frozenset(found)


def first(tree: Any) -> tuple[frozenset[int], bool]:
    """The characters that a tree may begin with, and whether it may match nothing."""
    taken: frozenset[int] = frozenset()
    for op, value in tree:
        here, empty = begin(op, value)
        taken |= here
        if not empty:
            return taken, False
    return taken, True


def begin(op: Any, value: Any) -> tuple[frozenset[int], bool]:
    if op is sre.LITERAL:
        return frozenset((min(value, 255),)), False
    if op is sre.NOT_LITERAL:
        return EVERY - {value}, False
    if op is sre.ANY:
        return EVERY, False
    if op is sre.IN:
        return characters(value, 0), False
    if op is sre.BRANCH:
        parts = [first(part) for part in value[1]]
        return frozenset().union(*(part[0] for part in parts)), any(part[1] for part in parts)
    if op is sre.SUBPATTERN:
        return first(value[3])
    if op is sre.ATOMIC_GROUP:
        return first(value)
    if op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
        here, empty = first(value[2])
        return here, empty or value[0] == 0
    if op in (sre.AT, sre.ASSERT, sre.ASSERT_NOT):
        return frozenset(), True
    return EVERY, True  # a reference to a group, or a choice by one


def all_of(tree: Any) -> frozenset[int]:
    """All characters that a tree may match anywhere."""
    found: frozenset[int] = frozenset()
    for op, value in tree:
        if op is sre.BRANCH:
            found = found.union(*map(all_of, value[1]))
        elif op is sre.SUBPATTERN:
            found |= all_of(value[3])
        elif op is sre.ATOMIC_GROUP:
            found |= all_of(value)
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT):
            found |= all_of(value[2])
        else:
            found |= begin(op, value)[0]
    return found


OF_A_GROUP = "possessive for more than one character: Python before 3.11.5 matches something else"


def repeats(tree: Any, behind: list[Any], path: str = "") -> Iterator[str]:
    """Yield the parts that can backtrack. `behind` are the parts of the expression that follow `tree`."""
    items = list(tree)
    for at, (op, value) in enumerate(items):
        rest = items[at + 1 :] + behind
        if op is sre.BRANCH:
            for part in value[1]:
                yield from repeats(part, rest)
        elif op is sre.SUBPATTERN:
            yield from repeats(value[3], rest)
        elif op is sre.ATOMIC_GROUP:
            yield OF_A_GROUP
            yield from repeats(value, [])
        elif op is sre.POSSESSIVE_REPEAT:
            if len(value[2]) > 1 or value[2][0][0] not in (sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN):
                yield OF_A_GROUP
            yield from repeats(value[2], [])
        elif op in (sre.MAX_REPEAT, sre.MIN_REPEAT):
            _, high, inner = value
            if high > FEW:
                taken = all_of(inner)
                for next_op, next_value in rest:  # as far as they are reached over the same characters
                    here, empty = begin(next_op, next_value)
                    unending = next_op in REPEATS and next_value[1] > FEW
                    if unending and (both := all_of(next_value[2]) & taken):
                        yield f"two repeats, one behind the other, take {sorted(both)[:5]}"
                        break
                    if not empty and not here & taken:
                        break
                if first(inner)[1]:
                    yield "a repeat of what may be nothing"
                yield from repeats(inner, [(op, value)])
            else:
                yield from repeats(inner, rest)


def goes_back(pattern: str | bytes, flags: int = 0, searched: bool = False) -> list[str]:
    tree = list(parser.parse(pattern, flags))
    found = list(repeats(tree, []))
    # If the expression is not anchored, it is tried again at every character that a repeat at its beginning has matched.
    if searched and len(tree) > 1 and tree[0][0] in REPEATS and tree[0][1][1] > FEW:
        found.append("a search for what begins with a repeat")
    return found


def test_no_pattern_can_go_back_over_its_input() -> None:
    written = {where: goes_back(pattern, flags, searched) for where, pattern, flags, searched in patterns()}

    assert {where: found for where, found in written.items() if found} == {}
    assert len(written) > 40
    assert "converter.pickles.fast_tensors.TENSOR" in written


@pytest.mark.parametrize(
    "pattern",
    [r"[a-z\s]{9,}={0,2}\s*", r"(a+)+", r"(?:a*b?)*", r"a*a*b", r".*x.*", r"\d+[0-9]*z", r"(?:ab)*+", r"(?>a|b)"],
)
def test_sees_what_goes_back(pattern: str) -> None:
    assert goes_back(pattern)


@pytest.mark.parametrize(
    "pattern", [r"[a-z\s]{9,}+={0,2}", r"[a-z]++(?:/[a-z]++)*", r"a*b*", r"\d{1,19}-\d{1,19}", r"(?:a++b)*"]
)
def test_lets_pass_what_does_not(pattern: str) -> None:
    assert goes_back(pattern) == []


def test_sees_a_search_that_begins_everywhere() -> None:
    assert goes_back(r" +(?=\n)", searched=True)
    assert not goes_back(r"(?<! ) ++(?=\n)", searched=True)
