"""What stands for a dict's key in a tensor's name."""

from __future__ import annotations

from typing import Any

import pytest

from converter.pickles.walk import key_text

KEYS: dict[str, tuple[Any, str]] = {
    "text": ("h.0", "h.0"),
    "bytes": (b"h\xe9", "hé"),
    "a number": (5, "5"),
    "a tuple": ((1, "a"), "(1, 'a')"),
    "a tuple of one": ((1,), "(1,)"),
    "a tuple in a tuple": ((1, (2, "b")), "(1, (2, 'b'))"),
    "three tuples": (((("c",),),), "((tuple of 1,),)"),
    "eight numbers": (tuple(range(8)), "(0, 1, 2, 3, 4, 5, 6, 7)"),
    "nine numbers": (tuple(range(9)), "tuple of 9"),
    "a tuple with a long text": (("x" * 61,), f"({'x' * 60!r},)"),
    "a tuple with bytes": ((b"abc",), "(bytes of 3,)"),
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_key_as_text(kind: str) -> None:
    key, wanted = KEYS[kind]

    assert key_text(key) == wanted
