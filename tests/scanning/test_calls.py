"""A call as the short line that `scan` shows beside a global."""

from __future__ import annotations

from typing import Any

import pytest

from converter.pickles.values import Dict, Opaque, PersistentId
from converter.scanning.calls import LENGTH, brief


def call(*args: Any, name: str = "f", state: Any = None) -> Opaque:
    made = Opaque("m", name, args, "REDUCE")
    if state is not None:
        made.build(state)
    return made


def of_torch(name: str, *args: Any) -> Opaque:
    return Opaque("torch._utils", name, args, "REDUCE")


PLACE = PersistentId(("storage", Opaque("torch", "FloatStorage"), "0", "cpu", 6))
TENSOR = of_torch("_rebuild_tensor_v2", PLACE, 0, (2, 3), (3, 1), False, Dict())
F4 = Opaque("numpy", "dtype", ("f4", False, True), "REDUCE")
BRIEF: dict[str, tuple[Opaque, str]] = {
    "a global": (Opaque("os", "system"), "os.system"),
    "a call": (Opaque("os", "system", ("id",), "REDUCE"), "os.system('id')"),
    "without arguments": (call(), "m.f()"),
    "what a call made is called": (Opaque("m", "f", (2,), "REDUCE", call(1, name="g")), "m.g(1)(2)"),
    "three arguments": (call(1, 2, 3), "m.f(1, 2, 3)"),
    "four arguments": (call(1, 2, 3, 4), "m.f(1, 2, 3, …)"),
    "containers": (call([1], (2,), Dict(["a", 1])), "m.f([1], (2,), {1 key})"),
    "empty containers": (call([], (), Dict()), "m.f([], (), {})"),
    "containers inside": (call([[1]]), "m.f([[…]])"),
    "a text of 60": (call("x" * 60), f"m.f({'x' * 60!r})"),
    "a text of 61": (call("x" * 61), f"m.f({'x' * 60!r}…)"),
    "numbers": (call(1.5, (1 << 64) - 1, 1 << 64), "m.f(1.5, 18446744073709551615, …)"),
    "a call inside": (call(call(call(1))), "m.f(m.f(m.f(…)))"),
    "a tensor": (call(TENSOR), "m.f(tensor (2, 3) Float)"),
    "a parameter": (call(of_torch("_rebuild_parameter", TENSOR, True, Dict())), "m.f(tensor (2, 3) Float)"),
    "a tensor of few arguments": (call(of_torch("_rebuild_tensor", PLACE, 0, (2, 3))), "m.f(torch._utils._rebuild_tensor(…, 0, (…)))"),
    "an array": (call(call(name="_reconstruct", state=(1, (2, 3), F4, False, b"x"))), "m.f(array (2, 3) f4)"),
    "an array without a dtype": (
        call(call(name="_reconstruct", state=(1, (2,), Opaque("numpy", "dtype", ()), False, b"x"))), "m.f(array (2,))",
    ),
    "an array of another state": (call(call(name="_reconstruct", state=(1, (2,), F4, False))), "m.f(m._reconstruct())"),
    "an array of a bare dtype": (
        call(call(name="_reconstruct", state=(1, (2,), Opaque("numpy", "dtype"), False, b"x"))), "m.f(m._reconstruct())",
    ),
    "an array of nine dimensions": (call(call(name="_reconstruct", state=(1, (1,) * 9, F4, False, b"x"))), "m.f(array (…) f4)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BRIEF)
def test_a_call_in_short(kind: str) -> None:
    made, wanted = BRIEF[kind]

    assert brief(made) == wanted


def test_keywords_are_mentioned() -> None:
    made, alone = call(1), call()
    made.kwargs = alone.kwargs = Dict(["a", 1])

    assert (brief(made), brief(alone)) == ("m.f(1, **…)", "m.f(**…)")


def test_a_long_call_is_cut() -> None:
    found = brief(call("x" * 60, "y" * 60, "z" * 60))

    assert len(found) == LENGTH == 160
    assert found.startswith(f"m.f({'x' * 60!r}, {'y' * 60!r}, 'z")
    assert found.endswith("…")
