"""A file of torch inside a pickle gets its own verdict, and torch's rows accept only the arguments that torch writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.scanning.policy import load
from converter.scanning.scan import scan
from tests.build.checkpoints import Call, Global, Raw, dumps, floats, legacy_bytes, ordered, view, write_checkpoint

LOAD = Global("torch.storage", "_load_from_bytes")
REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
PARAMETER = Global("torch.nn.parameter", "Parameter")
EVIL = Call(Global("os", "getcwd"), ())
W = view("0", (2,))
STORAGES = {"0": floats(1, 2)}
FILE = legacy_bytes({"w": W}, STORAGES)

FAR = bytes(1 << 17)  # after a zip archive, which is found where it ends in the last 64 KiB of a file


def loaded(data: Any) -> Call:
    return Call(LOAD, (data,))


def tensor(storage: Any, size: tuple[Any, ...] = (2,)) -> tuple[Any, ...]:
    return (storage, 0, size, (1,), False, ordered())


def verdict(folder: Path, value: Any) -> str:
    path = folder / "x.pkl"
    path.write_bytes(value if isinstance(value, bytes) else dumps(value))
    return scan([path], fickling=False).verdict


def zipped(folder: Path, value: Any) -> bytes:
    return write_checkpoint(folder / "inner.bin", value, STORAGES).read_bytes()


def test_a_tensor_that_was_pickled_is_plain(tmp_path: Path) -> None:
    assert verdict(tmp_path, Call(REBUILD, tensor(loaded(FILE)))) == "plain"
    assert verdict(tmp_path, [loaded(zipped(tmp_path, {"w": W})), loaded(FILE), FAR]) == "plain"


def test_what_the_file_inside_runs_counts(tmp_path: Path) -> None:
    assert verdict(tmp_path, loaded(legacy_bytes({"w": W, "e": EVIL}, STORAGES))) == "dangerous"
    assert verdict(tmp_path, [loaded(zipped(tmp_path, {"w": W, "e": EVIL})), FAR]) == "dangerous"
    assert verdict(tmp_path, loaded(dumps(loaded(dumps(EVIL))))) == "dangerous"
    assert verdict(tmp_path, [loaded(FILE), loaded(dumps(EVIL))]) == "dangerous"
    assert verdict(tmp_path, loaded(b"nothing that torch reads")) == "malformed"


@pytest.mark.parametrize(
    "value",
    [
        LOAD,
        loaded("text"),
        Call(LOAD, (FILE, 1)),
        Call(loaded(FILE), (1,)),
        Call(LOAD, (FILE,), {"a": 1}),
        Raw(dumps(loaded(FILE))[2:-1] + b"K\1a"),
        [loaded(FILE), Call(FROM_TYPE, (LOAD, PARAMETER, (dumps(EVIL),), {}))],
        [loaded(FILE), Call(Global("collections", "defaultdict"), (LOAD,))],
    ],
    ids=range(8),
)
def test_any_other_call_of_it_is_not_plain(value: Any, tmp_path: Path) -> None:
    assert verdict(tmp_path, value) != "plain"


def test_torchs_rows_with_the_arguments_that_torch_writes_are_plain(tmp_path: Path) -> None:
    attributes = {"note": "kept"}
    value = [
        Call(FROM_TYPE, (REBUILD, PARAMETER, tensor(loaded(FILE)), attributes)),
        Call(Global("torch._utils", "_rebuild_parameter_with_state"), (Call(REBUILD, tensor(loaded(FILE))), True, ordered(), attributes)),
        Call(Global("torch", "Size"), ((2, 3),)),
        Call(Global("torch", "Size"), ()),
    ]  # fmt: skip

    assert verdict(tmp_path, value) == "plain"


RANGE = Call(Global("builtins", "range"), (1 << 31,))
ODD = {
    "a codec": Call(FROM_TYPE, (Global("_codecs", "encode"), PARAMETER, ("a", "rot13"), {})),
    "a count": Call(FROM_TYPE, (Global("builtins", "bytearray"), PARAMETER, (1 << 31,), {})),
    "a storage class": Call(FROM_TYPE, (Global("torch", "FloatStorage"), PARAMETER, (1 << 38,), {})),
    "itself": Call(FROM_TYPE, (FROM_TYPE, PARAMETER, (REBUILD, PARAMETER, (), {}), {})),
    "a state that changes the tensor": Call(FROM_TYPE, (REBUILD, PARAMETER, tensor(loaded(FILE)), {"data": 1})),
    "a class as its state": Call(FROM_TYPE, (REBUILD, PARAMETER, tensor(loaded(FILE)), {"__class__": PARAMETER})),
    "a storage of a size": Call(Global("torch", "FloatStorage"), (1 << 38,)),
    "a tensor of a size": Call(Global("torch", "Tensor"), (1 << 38,)),
    "a parameter of a size": Call(PARAMETER, (1 << 38,)),
    "a size from a range": Call(Global("torch", "Size"), (RANGE,)),
    "a tensor past its storage": Call(REBUILD, tensor(loaded(FILE), (1 << 38,))),
    "a tensor on no storage": Call(REBUILD, tensor(RANGE)),
    "a tensor with a state": Call(REBUILD, tensor(loaded(FILE)), (1, 2, 3, 4)),
    "a call of a tensor": Call(Call(REBUILD, tensor(loaded(FILE))), (1,)),
    "a quantised tensor of a size": Call(Global("torch._utils", "_rebuild_qtensor"), (RANGE, 0, (1 << 38,), (1,), (), False, ordered())),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_torchs_rows_with_other_arguments_are_unknown(name: str, tmp_path: Path) -> None:
    assert verdict(tmp_path, ODD[name]) == "unknown-globals"


def test_no_policy_accepts_such_a_call_by_its_package(tmp_path: Path) -> None:
    path = tmp_path / "policy" / "accepted.toml"
    path.parent.mkdir()
    rows = '[[accept]]\nglobal = "{}.*"\nreason = "x"\nexpires = 2999-01-01\n'
    path.write_text(rows.format("numpy") + rows.format("torch._tensor"))
    policy = load(path)

    assert policy.accepts("numpy.ma", "MaskedArray") == "x"
    assert policy.accepts("numpy._core.multiarray", "scalar(…)") is None
    assert policy.accepts("torch._tensor", "_rebuild_from_type_v2(…)") is None
