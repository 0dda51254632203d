"""Which calls of torch's functions are those that torch.save writes, for `scan`."""

from __future__ import annotations

from typing import Any

import pytest

from converter.pickles.arguments import is_harmless
from converter.pickles.values import Opaque

SIZE = ("torch", "Size")


@pytest.mark.parametrize(
    ("args", "harmless"),
    [
        ((), True),
        (((2, 3),), True),
        (([2, 3],), True),
        (((2, 3), 1), False),
        (((2, "3"),), False),
        ((5,), False),
        ([(2, 3)], False),
        ([], False),
        ("", False),
        (None, False),
    ],
)
def test_arguments_are_a_tuple_of_what_the_function_takes(args: Any, harmless: bool) -> None:
    assert is_harmless(Opaque(*SIZE, args, "REDUCE")) is harmless


def test_a_call_of_what_another_call_gave_is_not_harmless() -> None:
    assert not is_harmless(Opaque(*SIZE, (), "REDUCE", callee=Opaque("mine", "f", (), "REDUCE")))


def test_a_value_that_build_sets_again_is_not_harmless() -> None:
    call = Opaque(*SIZE, (), "REDUCE")
    call.state = [{}]

    assert not is_harmless(call)


@pytest.mark.parametrize("name", ["per_tensor_affine", "float32", "FloatStorage", "FloatTensor", "load", "nothing"])
def test_only_functions_that_make_values_are_called(name: str) -> None:
    assert not is_harmless(Opaque("torch", name, (), "REDUCE"))
