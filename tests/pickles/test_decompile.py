"""What a pickle would run, as a line of Python that people read."""

from __future__ import annotations

from typing import Any

import pytest

from converter.pickles.decompile import LENGTH, expression
from converter.pickles.values import Dict, Opaque, PersistentId


def call(*args: Any, name: str = "f") -> Opaque:
    return Opaque("m", name, args, "REDUCE")


def nested(wrap: Any, times: int) -> Any:
    """1, wrapped so many times."""
    value: Any = 1
    for _ in range(times):
        value = wrap(value)
    return value


def with_state(value: Opaque, *states: object, kwargs: object = None) -> Opaque:
    for state in states:
        value.build(state)
    value.kwargs = kwargs
    return value


WRITTEN: dict[str, tuple[object, str]] = {
    "a global": (Opaque("os", "system"), "os.system"),
    "a call": (Opaque("os", "system", ("id",), "REDUCE"), "os.system('id')"),
    "without arguments": (call(), "m.f()"),
    "arguments that are no tuple": (Opaque("m", "f", 5, "REDUCE"), "m.f(5)"),
    "keywords": (with_state(call(1), kwargs=Dict(["a", 2])), "m.f(1, **{'a': 2})"),
    "a state": (with_state(call(), 3), "m.f().__setstate__(3)"),
    "two states": (with_state(call(), 3, "x"), "m.f().__setstate__(3).__setstate__('x')"),
    "what a call made is called": (Opaque("m", "f", (2,), "REDUCE", call(1, name="g")), "m.g(1)(2)"),
    "a dict": (Dict(["a", 1, "b", None]), "{'a': 1, 'b': None}"),
    "a list": ([1, 2.5], "[1, 2.5]"),
    "a tuple": ((1, True), "(1, True)"),
    "a tuple of one": ((1,), "(1,)"),
    "an empty tuple": ((), "()"),
    "bytes": (b"\0a", "b'\\x00a'"),
    "a persistent id": (PersistentId(("storage", 1)), "persistent_load(('storage', 1))"),
    "a number of 64 bits": ((1 << 64) - 1, "18446744073709551615"),
    "a number of 65 bits": (1 << 64, "0x10000000000000000"),
    "a list of six": ([0] * 6, "[0, 0, 0, 0, 0, 0]"),
    "a list of seven": ([0] * 7, "[0, 0, 0, 0, 0, 0, …]"),
    "a dict of six": (Dict([0, 1] * 6), "{0: 1, 0: 1, 0: 1, 0: 1, 0: 1, 0: 1}"),
    "a dict of seven": (Dict([0, 1] * 7), "{0: 1, 0: 1, 0: 1, 0: 1, 0: 1, 0: 1, …}"),
    "a call with six": (call(*range(6)), "m.f(0, 1, 2, 3, 4, 5)"),
    "a call with seven": (call(*range(7)), "m.f(0, 1, 2, 3, 4, 5, …)"),
    "six states": (with_state(call(), *[0] * 6), "m.f()" + ".__setstate__(0)" * 6),
    "seven states": (with_state(call(), *[0] * 7), "m.f()" + ".__setstate__(0)" * 6 + ".…"),
    "a text of 120": ("x" * 120, repr("x" * 120)),
    "a text of 121": ("x" * 121, repr("x" * 120) + "…"),
    "eight lists": (nested(lambda value: [value], 8), "[[[[[[[[1]]]]]]]]"),
    "nine lists": (nested(lambda value: [value], 9), "[[[[[[[[[…]]]]]]]]]"),
    "eight calls": (nested(call, 8), "m.f(" * 8 + "1" + ")" * 8),
    "nine calls": (nested(call, 9), "m.f(" * 9 + "…" + ")" * 9),
    "eight values of dicts": (nested(lambda value: Dict([0, value]), 8), "{0: " * 8 + "1" + "}" * 8),
    "nine values of dicts": (nested(lambda value: Dict([0, value]), 9), "{…: ".join(["{0: " * 8, "…" + "}" * 9])),
    "eight states": (
        nested(lambda value: with_state(call(), value), 8), "m.f().__setstate__(" * 8 + "1" + ")" * 8,
    ),
    "nine states": (
        nested(lambda value: with_state(call(), value), 9), "m.f().__setstate__(" * 9 + "…" + ")" * 9,
    ),
    "nine persistent ids": (nested(PersistentId, 9), "persistent_load(" * 9 + "…" + ")" * 9),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRITTEN)
def test_an_expression(kind: str) -> None:
    value, wanted = WRITTEN[kind]

    assert expression(value) == wanted


def test_an_expression_is_cut() -> None:
    texts = ["x" * 100] * 4

    found = expression(texts)

    assert found == str(texts)[: LENGTH - 1] + "…"
    assert len(found) == 400


def test_what_is_shared_is_not_written_again_and_again() -> None:
    value: Any = "x" * 50
    for _ in range(8):
        value = [value] * 6

    assert expression(value).startswith("[[[[[[[['xxx")
    assert len(expression(value)) == LENGTH
