"""What packages in registries hold: a model's weights in some wrapping. What is written, and what is named as left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.conversion.surgery import rules
from converter.errors import ConverterError, UnsupportedError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    Persistent,
    checkpoint_entries,
    dumps,
    floats,
    view,
    write_checkpoint,
    zip_bytes,
)

STORAGES = {"0": floats(*range(6)), "1": floats(7, 8)}
W, B = view("0", (2, 3)), view("1", (2,))
STORAGE = Persistent(("storage", Global("torch", "FloatStorage"), "1", "cpu", 2))
F8 = Call(Global("numpy", "dtype"), ("f8", False, True), (3, "<", None, None, None, -1, -1, 0))
ARRAY = Call(
    Global("numpy._core.multiarray", "_reconstruct"),
    (Global("numpy", "ndarray"), (0,), b"b"),
    (1, (2,), F8, False, b"\0\0\0\0\0\0\xf0\x3f" * 2),
)
OPTIMIZER = {"state": {0: {"exp_avg": B}}, "param_groups": [{"lr": 0.1}]}


def module(name: str, parameters: dict[str, Any], more: dict[str, Any] | None = None, **inner: Any) -> Call:
    state = {"training": False, "_parameters": parameters, "_buffers": {}, "_modules": inner, **(more or {})}
    return Call(Global("torch.nn", name), (), state)


LINEAR = module("Linear", {"weight": W, "bias": B})
WRAPPED: dict[str, tuple[Any, list[str], list[tuple[str, str]]]] = {
    "a module": (module("Sequential", {}, None, **{"0": LINEAR}), ["0.weight", "0.bias"], []),
    "model_state_dict": ({"epoch": 1, "model_state_dict": {"w": W}}, ["w"], [("epoch", "int")]),
    "of Lightning": (
        {"epoch": 1, "state_dict": {"net.w": W}, "optimizer_states": [OPTIMIZER], "lr_schedulers": [], "callbacks": {}},
        ["net.w"],
        [("epoch", "int"), ("optimizer_states", "list"), ("lr_schedulers", "list"), ("callbacks", "dict")],
    ),
    "a state dict in another": ({"model": {"state_dict": {"w": W}}, "epoch": 2}, ["w"], [("epoch", "int")]),
    "a number of numpy": (
        {"w": W, "s": Call(Global("numpy._core.multiarray", "scalar"), (F8, b"\0\0\0\0\0\0\xf0\x3f"))},
        ["w"],
        [("s", "numpy._core.multiarray.scalar")],
    ),
    "a set": ({"w": W, "s": Call(Global("builtins", "set"), ([1],))}, ["w"], [("s", "builtins.set")]),
    "a Counter": ({"w": W, "s": Call(Global("collections", "Counter"), ({1: 2},))}, ["w"], [("s", "dict")]),
    "a complex number": ({"w": W, "s": Call(Global("builtins", "complex"), (1.0, 2.0))}, ["w"], [("s", "builtins.complex")]),
    "bytes": ({"w": W, "s": b"\1"}, ["w"], [("s", "bytes")]),
    "a bytearray": ({"w": W, "s": Call(Global("builtins", "bytearray"), (b"\1",))}, ["w"], [("s", "builtins.bytearray")]),
    "a storage": ({"w": W, "s": STORAGE}, ["w"], [("s", "storage")]),
    "a dtype": ({"w": W, "s": Global("torch", "float16")}, ["w"], [("s", "dtype")]),
    "an array of numpy": ({"w": W, "a": ARRAY}, ["w", "a"], []),
    "a tuple as a key": ({("a", 1): W, "b": B}, ["('a', 1)", "b"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", WRAPPED)
def test_the_weights_are_written_and_the_rest_is_named(name: str, tmp_path: Path) -> None:
    value, names, left = WRAPPED[name]
    report = convert(open_checkpoint(write_checkpoint(tmp_path / "x.pt", value, STORAGES)), tmp_path / "x.safetensors")

    assert sorted(open_checkpoint(tmp_path / "x.safetensors")) == sorted(names)
    assert [(one.name, one.kind) for one in report.dropped] == left


def test_torchscript_gives_what_its_code_declares(tmp_path: Path) -> None:
    state = {"training": False, "weight": W, "mean": B, "scratch": B, "eps": 1e-5}
    code = b'class Net(Module):\n  __parameters__ = ["weight", ]\n  __buffers__ = ["mean", ]\n  training : bool\n'
    entries = checkpoint_entries(Call(Global("__torch__", "Net"), (), state), STORAGES)
    more = [Entry("archive/constants.pkl", dumps(())), Entry("archive/code/__torch__.py", code)]
    (tmp_path / "x.pt").write_bytes(zip_bytes([*entries, *more]))

    report = convert(open_checkpoint(tmp_path / "x.pt"), tmp_path / "x.safetensors")

    assert sorted(open_checkpoint(tmp_path / "x.safetensors")) == ["mean", "weight"]
    assert [one.name for one in report.dropped] == ["code", "scratch", "eps"]


NOTHING: dict[str, Any] = {
    "a scheduler": {"last_epoch": 3, "base_lrs": [0.1], "_step_count": 4},
    "a storage": STORAGE,
    "an optimizer": OPTIMIZER,
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_has_no_weights_is_one_sentence(name: str, tmp_path: Path) -> None:
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "x.pt", NOTHING[name], STORAGES))

    with pytest.raises(ConverterError, match="holds no tensors to convert"):
        convert(catalogue, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_storage_is_described(tmp_path: Path) -> None:
    (other,) = inspect(open_checkpoint(write_checkpoint(tmp_path / "x.pt", STORAGE, STORAGES))).others

    assert (other.kind, other.value) == ("storage", "storage F32 of 2")


PACKED = Call(Global("torch", "ScriptObject"), (), (B,))
QUANTISED = module("LinearPackedParams", {}, {"dtype": Global("torch", "qint8"), "_packed_params": PACKED})
MIXED = module(
    "Sequential", {}, None, **{"0": module("Quantised", {}, {"scale": 1.0}, _packed_params=QUANTISED), "1": LINEAR}
)


def test_packed_weights_of_a_quantised_layer_are_listed_and_refused(tmp_path: Path) -> None:
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "x.pt", MIXED, STORAGES))
    name = "0._packed_params._packed_params"

    assert list(catalogue) == ["1.weight", "1.bias"]
    assert [(other.name, other.kind) for other in catalogue.unsupported] == [(name, "quantised")]
    with pytest.raises(UnsupportedError, match=rf"`{name}` is a quantised tensor.*--exclude"):
        convert(catalogue, tmp_path / "x.safetensors")
    report = convert(catalogue, tmp_path / "x.safetensors", surgery=rules(exclude=["0.*"]))
    assert report.excluded == (name,)
    assert sorted(open_checkpoint(tmp_path / "x.safetensors")) == ["1.bias", "1.weight"]
