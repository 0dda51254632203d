"""Inert values as JSON, and values that are too large or too strange for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from converter.opening import open_checkpoint
from converter.pickles.plain import Plain, Plainly
from converter.pickles.values import Dict
from tests.build.checkpoints import Call, Global, Raw, floats, view, write_checkpoint

DTYPE = Call(Global("numpy", "dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
BIG = Call(Global("numpy", "dtype"), ("i2", False, True), (3, ">", None, None, None, -1, -1, 0))
SCALAR = Global("numpy._core.multiarray", "scalar")
EMPTY_ARRAY = Call(Global("numpy._core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,), b"b"))

VALUES: dict[str, tuple[Any, Any]] = {
    "whole number": (3, 3),
    "fraction": (0.5, 0.5),
    "truth": (True, True),
    "nothing": (None, None),
    "text": ("cosine", "cosine"),
    "NaN": (math.nan, "NaN"),
    "infinity": (-math.inf, "-Infinity"),
    "dict": ({"lr": 0.1, 3: [1, (2, 3)]}, {"lr": 0.1, "3": [1, [2, 3]]}),
    "key that is a tuple": ({(1, 2): "a"}, {"(1, 2)": "a"}),
    "dtype": (Global("torch", "float16"), "torch.float16"),
    "device": (Call(Global("torch", "device"), ("cuda", 0)), 'torch.device("cuda", 0)'),
    "numpy's number": (Call(SCALAR, (DTYPE, b"\0\0\0\0\0\0\xf0\x3f")), 1.0),
    "namespace": (Call(Global("argparse", "Namespace"), (), {"lr": 0.1}), {"lr": 0.1}),
    "object of attributes": (Call(Global("trainers", "Arguments"), (), {"lr": 0.1}), {"lr": 0.1}),
    "set": (Call(Global("builtins", "set"), ([1, 2],)), [1, 2]),
}  # fmt: skip


def beside(tmp_path: Path, value: Any) -> object:
    """The JSON of a value that lies beside a model's weights."""
    path = write_checkpoint(tmp_path / "a.pt", {"model": {"a.w": view("0", (2,))}, "it": value}, {"0": floats(1, 2)})
    return open_checkpoint(path).others[0].value


@pytest.mark.parametrize("kind", VALUES)
def test_small_values_are_plain(kind: str, tmp_path: Path) -> None:
    value, expected = VALUES[kind]

    assert Plainly()(beside(tmp_path, value)) == Plain(expected)


def test_an_array_is_nested_lists(tmp_path: Path) -> None:
    array = Call(EMPTY_ARRAY.callee, EMPTY_ARRAY.args, (1, (2, 2), BIG, False, b"\0\1\0\2\0\3\0\4"))

    assert Plainly()(beside(tmp_path, [array, 1])) == Plain([[[1, 2], [3, 4]], 1])


@pytest.mark.parametrize(
    "value",
    [
        1 << 64, b"bytes", ["a", b"bytes"], "a" * (1 << 18) + "a", list(range(5000)), view("0", (1,)), Global("os", "system"),
        Raw(b"]" * 12 + b"a" * 11), {1: "a", "1": "b"},
    ],
    ids=["integer", "bytes", "bytes inside", "long text", "long list", "tensor", "global", "deep", "two keys of one name"],
)  # fmt: skip
def test_others_are_not(value: Any, tmp_path: Path) -> None:
    assert Plainly()(beside(tmp_path, value)) is None


def test_shared_containers_are_not_multiplied() -> None:
    value: Any = ["x"]
    for _ in range(6):
        value = [value] * 10
    plainly = Plainly(leaves=10_000)

    assert plainly(Dict(["a", value])) is None
    assert [plainly([1] * 1000) is None for _ in range(8)] == [False] * 5 + [True] * 3
