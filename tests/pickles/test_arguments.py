"""Which calls of torch's functions are those that torch.save writes, for `scan`."""

from __future__ import annotations

from typing import Any

import pytest

from converter.pickles.arguments import is_harmless
from converter.pickles.closed_table import TABLE
from converter.pickles.values import Dict, Opaque, PersistentId, TableEntry

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


@pytest.mark.parametrize("function", [pair for pair, row in TABLE.items() if type(row) is TableEntry], ids=".".join)
def test_any_number_of_arguments_has_an_answer(function: tuple[str, str]) -> None:
    for count in range(11):
        for value in (None, (), 1, Opaque("torch", "Tensor")):
            assert is_harmless(Opaque(*function, (value,) * count, "REDUCE")) in (True, False)


PLACE = PersistentId(("storage", Opaque("torch", "FloatStorage"), "0", "cpu", 6))
V2 = (PLACE, 0, (2, 3), (3, 1), False, Dict())
RIGHT: dict[tuple[str, str], tuple[Any, ...]] = {
    ("torch._utils", "_rebuild_parameter_with_state"): (None, True, Dict(), Dict()),
    ("torch._tensor", "_rebuild_from_type_v2"): (
        Opaque("torch._utils", "_rebuild_tensor_v2"), Opaque("torch", "Tensor"), V2, Dict(),
    ),
    ("torch._utils", "_rebuild_qtensor"): (PLACE, 0, (2, 3), (3, 1), (), False, Dict()),
}  # fmt: skip


@pytest.mark.parametrize("function", RIGHT, ids=".".join)
def test_a_call_has_all_of_its_arguments_and_no_more(function: tuple[str, str]) -> None:
    args = RIGHT[function]

    assert is_harmless(Opaque(*function, args, "REDUCE"))
    assert not is_harmless(Opaque(*function, args[:-1], "REDUCE"))
    assert not is_harmless(Opaque(*function, (*args, None), "REDUCE"))
