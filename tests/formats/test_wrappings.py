"""What packages in registries hold: a model's weights in some wrapping. What is written, and what is named as left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.conversion.surgery import rules
from converter.errors import ConverterError, LimitError, UnsupportedError
from converter.inspection.report import inspect
from converter.limits import Limits, using
from converter.opening import open_checkpoint
from converter.verification.verify import verify
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


def test_the_code_of_torchscript_is_read_up_to_a_limit_for_all_of_its_files(tmp_path: Path) -> None:
    inner = Call(Global("__torch__.inner", "Net"), (), {"weight": W})
    entries = checkpoint_entries(Call(Global("__torch__", "Net"), (), {"inner": inner}), STORAGES)
    codes = [b"class Net(Module):\n  __parameters__ = []\n", b'class Net(Module):\n  __parameters__ = ["weight", ]\n']
    more = [Entry("archive/constants.pkl", dumps(())), Entry("archive/code/__torch__.py", codes[0] + b"#" * 3000),
            Entry("archive/code/__torch__/inner.py", codes[1] + b"#" * 2000)]  # fmt: skip
    (tmp_path / "x.pt").write_bytes(zip_bytes([*entries, *more]))
    exact = sum(map(len, codes)) + 5000

    with using(Limits(pickle_bytes=exact)):
        assert sorted(open_checkpoint(tmp_path / "x.pt")) == ["inner.weight"]
    with using(Limits(pickle_bytes=exact - 1)), pytest.raises(LimitError, match="more than 5,091 bytes of code"):
        open_checkpoint(tmp_path / "x.pt")


def test_files_beside_torchscript_are_named_and_small_texts_are_carried(tmp_path: Path) -> None:
    """As torch.jit.save(…, _extra_files=…) puts them there. More than a megabyte is not read."""
    state = {"training": False, "weight": W}
    code = b'class Net(Module):\n  __parameters__ = ["weight", ]\n  __buffers__ = []\n  training : bool\n'
    extra = {"config.json": b'{"a": 1}', "raw": b"\xff\0", "large": bytes((1 << 20) + 1)}
    entries = checkpoint_entries(Call(Global("__torch__", "Net"), (), state), STORAGES)
    more = [Entry("archive/constants.pkl", dumps(())), Entry("archive/code/__torch__.py", code)]
    files = [Entry(f"archive/extra/{name}", data) for name, data in extra.items()]
    (tmp_path / "x.pt").write_bytes(zip_bytes([*entries, *more, *files]))
    source = open_checkpoint(tmp_path / "x.pt")

    assert [(other.name, other.kind) for other in inspect(source).others] == [
        ("extra/config.json", "str"), ("extra/raw", "bytes"), ("extra/large", "file"),
    ]  # fmt: skip
    left = convert(source, tmp_path / "x.safetensors").dropped
    assert [one.name for one in left] == ["code", "extra/config.json", "extra/raw", "extra/large"]
    report = convert(source, tmp_path / "y.safetensors", carry_values=True)
    assert report.carried == ("extra/config.json",)
    assert open_checkpoint(tmp_path / "y.safetensors").metadata["training.extra/config.json"] == '"{\\"a\\": 1}"'
    assert [one.name for one in report.dropped] == ["code", "extra/raw", "extra/large"]


ITS_OWN = "state dicts of their own: --root NAME converts one, and --merge puts the copies together"
BESIDE = "not part of the model's weights"


def test_a_state_dict_beside_the_model_has_a_reason_and_a_way_of_its_own(tmp_path: Path) -> None:
    value = {
        "model": {"a.w": W}, "generator": {"0.w": B}, "head": module("Linear", {"w": B}), "optim": OPTIMIZER,
        "loss_fn": {"w": B}, "mixed": {"w": B, "n": 1}, "vocab": {}, "step": 3,
    }  # fmt: skip
    path = write_checkpoint(tmp_path / "x.pt", value, STORAGES)

    report = convert(open_checkpoint(path), tmp_path / "model.safetensors")
    convert(open_checkpoint(path, root="generator"), tmp_path / "generator.safetensors")

    assert [(one.name, one.reason) for one in report.dropped] == [
        ("generator", ITS_OWN), ("head", ITS_OWN), ("optim", BESIDE), ("loss_fn", BESIDE), ("mixed", BESIDE),
        ("vocab", BESIDE), ("step", BESIDE),
    ]  # fmt: skip
    assert list(open_checkpoint(tmp_path / "generator.safetensors")) == ["0.w"]
    lacks = verify(open_checkpoint(path), [tmp_path / "model.safetensors"]).outputs[0].lacks
    assert lacks == ("generator", "head", "optim", "loss_fn", "mixed", "vocab", "step")


V2 = Global("torch._utils", "_rebuild_tensor_v2")
INNER = (STORAGE, 0, (2,), (1,), False, Call(Global("collections", "OrderedDict")))
SUBCLASSES: dict[str, tuple[Any, str]] = {
    "of a class": (Call(Global("torch._tensor", "_rebuild_from_type_v2"), (V2, Global("mine", "Sub"), INNER, {})), "subclass mine.Sub"),
    "with a state": (Call(Global("torch._tensor", "_rebuild_from_type_v2"), (V2, Global("mine", "Sub"), INNER, {"scale": 2})), "subclass mine.Sub"),
    "of a function": (Call(Global("torch._tensor", "_rebuild_from_type_v2"), (Call(Global("mine", "make")), Global("mine", "Sub"), INNER, {})), "subclass mine.Sub"),
    "of a wrapper": (Call(Global("torch._utils", "_rebuild_wrapper_subclass"), (Global("mine", "Wrapper"), Global("torch", "float32"), (2,), (1,), 0, Global("torch", "strided"), "cpu", False)), "wrapper subclass"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SUBCLASSES)
def test_a_tensor_of_a_class_of_its_own_is_named_and_can_be_left_out(kind: str, tmp_path: Path) -> None:
    value, said = SUBCLASSES[kind]
    path = write_checkpoint(tmp_path / "x.pt", {"a": value, "b": W}, STORAGES)

    with pytest.raises(UnsupportedError, match=f"`a` is a {said} tensor, .* leave it out with --exclude"):
        convert(open_checkpoint(path), tmp_path / "x.safetensors")
    convert(open_checkpoint(path), tmp_path / "x.safetensors", surgery=rules(exclude=["a"]))

    assert list(open_checkpoint(tmp_path / "x.safetensors")) == ["b"]


def test_a_dangerous_global_beside_it_still_needs_a_word(tmp_path: Path) -> None:
    value = {"a": SUBCLASSES["of a class"][0], "b": W, "c": Call(Global("os", "system"), ("true",))}
    path = write_checkpoint(tmp_path / "x.pt", value, STORAGES)

    with pytest.raises(ConverterError, match="--ignore-globals"):
        convert(open_checkpoint(path), tmp_path / "x.safetensors", surgery=rules(exclude=["a"]))


NOTHING: dict[str, tuple[Any, str]] = {
    "a scheduler": (
        {"last_epoch": 3, "base_lrs": [0.1], "_step_count": 4},
        "it has `last_epoch`, `base_lrs`, `_step_count`, and no tensor among them$",
    ),
    "a storage": (STORAGE, "it is a bare storage, .* with torch.save$"),
    "an optimizer": (
        OPTIMIZER,
        "it is the state of an optimizer, `state`, `param_groups`, which belongs beside a model's weights; --root NAME reads below one of them$",
    ),
    "an empty dict": ({}, "$"),
}


@pytest.mark.parametrize("name", NOTHING)
def test_what_has_no_weights_is_one_sentence(name: str, tmp_path: Path) -> None:
    value, said = NOTHING[name]
    storages = {} if name in ("a scheduler", "an empty dict") else STORAGES
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "x.pt", value, storages))

    with pytest.raises(ConverterError, match=f"holds no tensors to convert(: )?{said}"):
        convert(catalogue, tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


def test_a_part_without_tensors_is_named_and_its_neighbours_are_not(tmp_path: Path) -> None:
    optimizer = {"state": {}, "param_groups": [{"lr": 0.1}]}
    path = write_checkpoint(tmp_path / "x.pt", {"model": {"w": W, "b": B}, "optimizer": optimizer}, STORAGES)
    empty = write_checkpoint(tmp_path / "y.pt", {"model": {}, "optimizer": optimizer}, {})

    with pytest.raises(
        ConverterError, match=r"^`optimizer` in `[^`]*` holds no tensors to convert: --root NAME takes another part$"
    ):
        convert(open_checkpoint(path, root="optimizer"), tmp_path / "x.safetensors")
    with pytest.raises(
        ConverterError, match=r"^`optimizer` in `[^`]*` holds no tensors to convert, and neither does the rest$"
    ):
        convert(open_checkpoint(empty, root="optimizer"), tmp_path / "x.safetensors")


def hooks(*functions: object) -> dict[str, Any]:
    return {"_state_dict_hooks": dict(enumerate(functions)), "_state_dict_pre_hooks": {}}


RENAMES, VERSION = Global("mine", "rename"), Call(Global("torch.nn.utils.spectral_norm", "SpectralNormStateDictHook"))
HOOKED: dict[str, tuple[Any, list[str]]] = {
    "the outermost": (module("Linear", {"w": W}, hooks(RENAMES)), ["torch.nn.Linear"]),
    "a hook before it": (module("Linear", {"w": W}, {"_state_dict_pre_hooks": {3: RENAMES}}), ["torch.nn.Linear"]),
    "an inner one": (module("Sequential", {}, None, a=module("Linear", {"w": W}, hooks(RENAMES))), ["a"]),
    "one below a key": ({"model": module("N", {}, None, a=module("N", {"w": W}, hooks(RENAMES))), "epoch": 3}, ["a"]),
    "one beside another": (
        {"g": module("N", {"w": W}, hooks(RENAMES)), "d": module("N", {"b": B}, hooks(VERSION, RENAMES))},
        ["g", "d"],
    ),
    "one without tensors": (module("N", {"w": W}, None, a=module("ReLU", {}, hooks(RENAMES))), ["a"]),
    "a hook of torch for a version": (module("Linear", {"w": W}, hooks(VERSION)), []),
    "none": (module("Linear", {"w": W}, hooks()), []),
}  # fmt: skip


@pytest.mark.parametrize("name", HOOKED)
def test_modules_with_hooks_that_may_change_their_state_dict_are_named(name: str, tmp_path: Path) -> None:
    value, hooked = HOOKED[name]
    source = open_checkpoint(write_checkpoint(tmp_path / "x.pt", value, STORAGES))
    report = convert(source, tmp_path / "x.safetensors")

    weights = inspect(source).weights
    assert weights is not None
    assert weights.hooked == tuple(hooked)
    said = [note for note in report.notes if "may rename, add or leave out what state_dict() gives" in note]
    starts = {0: [], 1: ["has a hook"], 2: ["have hooks"]}[len(hooked)]
    assert [note.partition(" that ")[0] for note in said] == [
        f"{', '.join(f'`{path}`' for path in hooked)} {start}" for start in starts
    ]


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
