"""Hostile tensors: those outside their storage can't be built, and those that multiply data are not written. Numbers: README.md."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError, LayoutError, PickleError
from converter.opening import open_checkpoint
from tests.attacks.commands import (
    TENSORS,
    WEIGHTS,
    assert_malformed,
    assert_sentence,
    everything,
    rules,
    run,
    scanned,
)
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    Persistent,
    Raw,
    checkpoint_entries,
    dumps,
    view,
    write_checkpoint,
    zip_bytes,
)
from tests.build.rebuilt import (
    BYTES,
    FLOATS,
    FROM_TYPE,
    HOOKS,
    KIND,
    PARAMETER,
    SIX,
    TENSOR,
    TENSOR_ARGUMENTS,
    V2,
    V3,
    WITH_STATE,
)

# Over a storage of six F32: (shape, stride, offset).
LAYOUTS: dict[str, tuple[Any, Any, Any]] = {
    "T01 one element too many": ((7,), (1,), 0),
    "T01 an offset too far": ((6,), (1,), 1),
    "T01 an offset at the end": ((1,), (1,), 6),
    "T01 a stride too long": ((3, 2), (3, 1), 0),
    "T01 0-d behind the end": ((), (), 6),
    "T01 transposed past the end": ((3, 2), (1, 4), 0),
    "T01 a stride past 63 bits": ((2,), (1 << 63,), 0),
    "T01 a stride that wraps to 0 in 64 bits": ((2,), (1 << 64,), 0),
    "T01 an offset that wraps to 0 in bytes": ((6,), (1,), 1 << 62),
    "T02 a negative size": ((-1,), (1,), 0),
    "T02 a negative size beside a zero": ((0, -1), (1, 1), 0),
    "T02 two negative sizes": ((-2, -3), (3, 1), 0),
    "T02 a negative stride": ((3,), (-1,), 5),
    "T02 a negative stride of size 1": ((1,), (-1,), 0),
    "T02 a negative offset": ((1,), (1,), -1),
    "T02 an offset of -2^63": ((0,), (1,), -(1 << 63)),
    "T02 more sizes than strides": ((2, 2), (1,), 0),
    "T02 more strides than sizes": ((2,), (1, 1), 0),
    "T04 2^62 elements": ((1 << 62,), (0,), 0),
    "T04 a product past 63 bits": ((1 << 31, 1 << 31), (0, 0), 0),
    "T04 a product that wraps to 0 in 64 bits": ((1 << 32, 1 << 32), (0, 0), 0),
    "T04 a product past 63 bits beside a zero": ((1 << 40, 1 << 40, 0), (1, 1, 1), 0),
    "T04 a size past 63 bits": ((1 << 63, 0), (1, 1), 0),
    "T04 an offset past 63 bits": ((0,), (1,), 1 << 63),
    "T04 65 dimensions": ((1,) * 65, (1,) * 65, 0),
    "T04 100,000 dimensions": ((1,) * 100_000, (1,), 0),
    "T04 a size of a thousand digits": ((10**1000,), (1,), 0),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_view_that_does_not_lie_within_its_storage_can_not_be_built(name: str, tmp_path: Path) -> None:
    shape, stride, offset = LAYOUTS[name]
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", shape, stride, offset)}, SIX)

    with pytest.raises(LayoutError) as caught:
        open_checkpoint(path)
    assert len(str(caught.value)) < 2000
    assert_malformed(path)


@pytest.mark.parametrize("shape", [(1 << 60, 0), (0, 1 << 60), (1,) * 64])
def test_t04_an_empty_tensor_of_any_size_is_read_and_carried_over(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", shape, (1,) * len(shape))}, SIX)

    for command in (("inspect", path), ("inspect", path, "--stats", "--json"), ("extract", path, tmp_path / "out")):
        assert run(*command).code == 0
    assert run("convert", path, tmp_path / "x.safetensors").code == 0
    assert open_checkpoint(tmp_path / "x.safetensors")["w"].shape == shape


# Small storages, repeated: more than 64 MiB and four times what the file holds.
EXPANDED = {
    "T03 one element 2^40 times": view("0", (1 << 40,), (0,)),
    "T03 rows again and again": view("0", (1 << 26, 6), (0, 1)),
    "T03 windows that overlap": view("0", (2, 1 << 29), (1, 0)),
    "T03 2^60 bytes": view("0", (1 << 29, 1 << 29), (0, 0)),
}


@pytest.mark.parametrize("name", EXPANDED)
def test_t03_a_view_that_multiplies_its_storage_is_shown_and_not_written(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": EXPANDED[name]}, SIX)
    before = everything(tmp_path)

    assert run("inspect", path).code == 0
    assert scanned(path)["verdict"] == "plain"
    for command in (
        ("convert", path, tmp_path / "x.safetensors"),
        ("extract", path, tmp_path / "out", "--form", "named"),
        ("inspect", path, "--stats"),
        ("verify", path, path),
    ):
        refused = run(*command)
        assert refused.code == 2, command
        assert_sentence(refused.err)
        assert "views that expand 24 bytes" in refused.err
    assert everything(tmp_path) == before
    assert run("extract", path, tmp_path / "out").code == 0  # the storage, as it is
    assert (tmp_path / "out" / "0").stat().st_size == 24


@pytest.mark.parametrize(
    "second",
    [("storage", Global("torch", "IntStorage"), "0", "cpu", 6), ("storage", Global("torch", "DoubleStorage"), "0", "cpu", 3),
     ("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 24), ("storage", Global("torch", "FloatStorage"), "0", "cpu", 5)],
    ids=["T05 of another class", "T05 of another size", "T05 untyped", "T05 of another count"],
)  # fmt: skip
def test_t05_a_storage_is_the_same_at_each_mention_or_refused(second: Any, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"a": TENSOR, "b": Persistent(second)}, SIX)

    assert_malformed(path, "in one place|should have 5 elements")


@pytest.mark.parametrize("numel", [0, 5, 7, 1 << 40, 1 << 61, 1 << 62, (1 << 64) + 6])
def test_t06_a_count_that_is_not_its_record_s_is_refused(numel: int, tmp_path: Path) -> None:
    """torch's mmap reads what follows the record."""
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (1,), numel=numel)}, SIX)

    assert_malformed(path, "its record has 24|no count of elements")


@pytest.mark.parametrize("nbytes", [0, 1, 20, 23, 25, 28])
def test_t06_a_record_of_another_size_is_refused(nbytes: int, tmp_path: Path) -> None:
    path = write_checkpoint(
        tmp_path / "x.bin", None, {"0": bytes(nbytes)}, pickle=dumps({"w": view("0", (6,))}, {"0": 24})
    )

    assert_malformed(path, "should have 6 elements")


def test_t07_a_missing_record_is_refused(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", None, {}, pickle=dumps({"w": view("0", (6,))}, {"0": 24}))

    assert_malformed(path, "storage `0` is missing")


def test_t07_records_that_nothing_refers_to_are_named(tmp_path: Path) -> None:
    entries = checkpoint_entries(TENSORS, WEIGHTS | {"hidden": b"x" * 1000})
    path = tmp_path / "x.bin"
    path.write_bytes(zip_bytes([*entries, Entry("archive/payload.py", b"import os")]))

    problems = json.loads(run("inspect", path, "--json").out)["problems"]
    assert [("`hidden`" in text or "data/hidden" in text, "payload.py" in text) for text in problems] == [
        (True, False),
        (False, True),
    ]
    assert rules(scanned(path)) == ["hidden-data", "hidden-data"]


@pytest.mark.parametrize("order", [b"middle", b"junk", b"little\n", b"LITTLE", b"", b"\0", b"big" * 30])
def test_t08_a_byte_order_that_is_none_is_refused(order: bytes, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (6,))}, SIX, byteorder=order)

    assert_malformed(path, "byte")


def test_t08_big_is_read_as_big_and_absent_as_little(tmp_path: Path) -> None:
    for order, data in ((b"big", struct.pack(">6f", *range(6))), (None, SIX["0"])):
        path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (3, 2), (1, 3))}, {"0": data}, byteorder=order)

        assert run("convert", path, tmp_path / "x.safetensors", "--force").code == 0
        assert open_checkpoint(tmp_path / "x.safetensors")["w"].bits().tolist() == [[0, 3], [1, 4], [2, 5]]


def test_t09_odd_bits_are_carried_over_untouched(tmp_path: Path) -> None:
    payload = struct.pack("<4I", 0x7FA12345, 0xFFC00001, 0x80000000, 0x00000001)
    tensors = {"truth": view("b", (4,), dtype="BOOL"), "nan": view("f", (4,)), "half": view("h", (2,), dtype="F16")}
    storages = {"b": b"\0\1\2\xff", "f": payload, "h": b"\x01\x7d\xff\xff"}
    path = write_checkpoint(tmp_path / "x.bin", tensors, storages)

    assert run("convert", path, tmp_path / "x.safetensors").code == 0
    assert run("extract", path, tmp_path / "out", "--form", "named").code == 0

    for copy in (tmp_path / "x.safetensors", tmp_path / "out"):
        found = {name: b"".join(map(bytes, tensor.tiles())) for name, tensor in open_checkpoint(copy).items()}
        assert found == {"truth": storages["b"], "nan": payload, "half": storages["h"]}


SPECIAL = {
    "T10 quantised": (Call(Global("torch._utils", "_rebuild_qtensor"), (FLOATS, 0, (6,), (1,), (Global("torch", "per_tensor_affine"), 0.5, 3), False, HOOKS)), "quantised"),
    "T10 quantised past its storage": (Call(Global("torch._utils", "_rebuild_qtensor"), (FLOATS, 1 << 40, (1 << 40,), (1,), (Global("torch", "per_tensor_affine"), 0.5, 3), False, HOOKS)), "quantised"),
    "T10 sparse": (Call(Global("torch._utils", "_rebuild_sparse_tensor"), (Call(Global("torch.serialization", "_get_layout"), ("torch.sparse_coo",)), (TENSOR, TENSOR, (2, 2)))), "sparse"),
    "T10 sparse with indices that lead out": (Call(Global("torch._utils", "_rebuild_sparse_csr_tensor"), ("x", (TENSOR, TENSOR, TENSOR, (-1, 1 << 62)))), "sparse"),
    "T10 nested": (Call(Global("torch._utils", "_rebuild_nested_tensor"), (TENSOR, TENSOR, TENSOR, TENSOR)), "nested"),
    "T10 without data": (Call(Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2, 3), (3, 1), False)), "meta"),
    "T10 a subclass": (Call(FROM_TYPE, (V2, Global("mine", "Tensor"), TENSOR_ARGUMENTS, {})), "subclass mine.Tensor"),
    "T10 a wrapper": (Call(Global("torch._utils", "_rebuild_wrapper_subclass"), (KIND, Global("torch", "float32"), (4, 4), (4, 1), 0, None, None, False)), "wrapper subclass"),
    "T10 conjugated": (Call(V2, (FLOATS, 0, (6,), (1,), False, HOOKS, {"conj": True})), "conj view"),
    "T10 negated": (Call(V2, (FLOATS, 0, (6,), (1,), False, HOOKS, {"neg": True})), "neg view"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPECIAL)
def test_t10_a_tensor_without_plain_bytes_is_listed_and_refused_by_name(name: str, tmp_path: Path) -> None:
    value, kind = SPECIAL[name]
    path = write_checkpoint(tmp_path / "x.bin", {"w": value, "plain": TENSOR}, SIX)
    before = everything(tmp_path)

    assert kind in run("inspect", path, "--json").out
    for command in (("extract", path, tmp_path / "out"), ("convert", path, tmp_path / "x.safetensors")):
        refused = run(*command, "--ignore-globals")
        assert refused.code == 2
        assert f"`w` is a {kind} tensor" in refused.err
    assert everything(tmp_path) == before


def v2(*args: Any) -> Call:
    return Call(V2, args)


# Wrong arguments to the functions that make tensors.
ARGUMENTS: dict[str, Any] = {
    "no arguments": v2(),
    "five arguments": v2(FLOATS, 0, (6,), (1,), False),
    "eight arguments": v2(FLOATS, 0, (6,), (1,), False, HOOKS, None, None),
    "a storage that is text": v2("0", 0, (6,), (1,), False, HOOKS),
    "a storage that is a tensor": v2(TENSOR, 0, (6,), (1,), False, HOOKS),
    "a storage that is a storage class": v2(Global("torch", "FloatStorage"), 0, (6,), (1,), False, HOOKS),
    "an offset that is text": v2(FLOATS, "0", (6,), (1,), False, HOOKS),
    "an offset that is a bool": v2(FLOATS, True, (4,), (1,), False, HOOKS),
    "an offset that is a float": v2(FLOATS, 0.0, (6,), (1,), False, HOOKS),
    "a negative offset": v2(FLOATS, -1, (6,), (1,), False, HOOKS),
    "a size that is a list": v2(FLOATS, 0, [6], (1,), False, HOOKS),
    "a size that is a number": v2(FLOATS, 0, 6, (1,), False, HOOKS),
    "a size that holds a bool": v2(FLOATS, 0, (True,), (1,), False, HOOKS),
    "a size that holds a float": v2(FLOATS, 0, (6.0,), (1,), False, HOOKS),
    "a size that holds a tuple": v2(FLOATS, 0, ((6,),), (1,), False, HOOKS),
    "a stride that is None": v2(FLOATS, 0, (6,), None, False, HOOKS),
    "a size past the storage": v2(FLOATS, 0, (7,), (1,), False, HOOKS),
    "requires_grad that is text": v2(FLOATS, 0, (6,), (1,), "no", HOOKS),
    "requires_grad that is a number": v2(FLOATS, 0, (6,), (1,), 0, HOOKS),
    "hooks that are text": v2(FLOATS, 0, (6,), (1,), False, "hooks"),
    "hooks that are there": v2(FLOATS, 0, (6,), (1,), False, {"0": 1}),
    "metadata that is text": v2(FLOATS, 0, (6,), (1,), False, HOOKS, "conj"),
    "metadata of another kind": v2(FLOATS, 0, (6,), (1,), False, HOOKS, {"twice": True}),
    "metadata that is no bool": v2(FLOATS, 0, (6,), (1,), False, HOOKS, {"conj": 1}),
    "metadata with a nested key": v2(FLOATS, 0, (6,), (1,), False, HOOKS, Raw(b"}N" + b"\x85" * 100_000 + b"\x88s")),
    "v3 without a dtype": Call(V3, (BYTES, 0, (6,), (1,), False, HOOKS)),
    "v3 with text for a dtype": Call(V3, (BYTES, 0, (6,), (1,), False, HOOKS, "float32")),
    "v3 with a storage class for a dtype": Call(
        V3, (BYTES, 0, (6,), (1,), False, HOOKS, Global("torch", "FloatStorage"))
    ),
    "v3 with an unknown dtype": Call(V3, (BYTES, 0, (6,), (1,), False, HOOKS, Global("torch", "float13"))),
    "v3 that counts bytes": Call(V3, (BYTES, 0, (24,), (1,), False, HOOKS, Global("torch", "float32"))),
    "a parameter of text": Call(PARAMETER, ("w", True, HOOKS)),
    "a parameter of a storage": Call(PARAMETER, (FLOATS, True, HOOKS)),
    "a parameter with hooks": Call(PARAMETER, (TENSOR, True, {"0": 1})),
    "a parameter of two": Call(PARAMETER, (TENSOR, True)),
    "a parameter with state of three": Call(WITH_STATE, (TENSOR, True, HOOKS)),
    "a subclass of three": Call(FROM_TYPE, (V2, KIND, TENSOR_ARGUMENTS)),
    "a subclass within a subclass": Call(FROM_TYPE, (FROM_TYPE, KIND, (V2, KIND, TENSOR_ARGUMENTS, {}), {})),
    "a dtype that is called": Call(Global("torch", "float32"), ()),
    "a storage class that is called": Call(Global("torch", "FloatStorage"), ()),
    "an OrderedDict of text": Call(Global("collections", "OrderedDict"), ("ab",)),
    "an OrderedDict of triples": Call(Global("collections", "OrderedDict"), ([(1, 2, 3)],)),
    "an OrderedDict of a dict": Call(Global("collections", "OrderedDict"), ({"a": (1, 2)},)),
    "an OrderedDict of two": Call(Global("collections", "OrderedDict"), ([], [])),
    "a torch.Size of text": Call(Global("torch", "Size"), ("ab",)),
    "a meta tensor with text for a size": Call(
        Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), ("a",), (1,), False)
    ),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_t11_arguments_of_another_type_are_refused(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": ARGUMENTS[name]}, SIX)

    with pytest.raises((PickleError, LayoutError)) as caught:
        open_checkpoint(path)
    assert "can't be run" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert_malformed(path)


def test_t11_subclasses_within_subclasses_do_not_recurse(tmp_path: Path) -> None:
    pair = b"ctorch._tensor\n_rebuild_from_type_v2\nq\1"
    deep = pair + b"(h\1h\1" * 50_000 + b")" + b"Nt" * 50_000 + b"R"

    with pytest.raises(ConverterError):
        open_checkpoint(write_checkpoint(tmp_path / "x.bin", {"w": Raw(deep)}, SIX))


def test_t11_a_function_that_calls_functions_calls_none_outside_the_table(tmp_path: Path) -> None:
    value = Call(FROM_TYPE, (Global("os", "system"), KIND, ("id",), {}))
    path = write_checkpoint(tmp_path / "x.bin", {"w": value}, SIX)

    assert json.loads(run("inspect", path, "--json").out)["safety"]["verdict"] == "dangerous"
    assert_sentence(run("extract", path, tmp_path / "out").err)


def test_t12_names_that_share_a_storage_are_all_carried_over(tmp_path: Path) -> None:
    tensors = {
        "a": view("0", (2, 3)),
        "b": view("0", (2, 3)),
        "t": view("0", (3, 2), (1, 3)),
        "part": view("0", (2,), offset=4),
    }
    path = write_checkpoint(tmp_path / "x.bin", tensors, SIX)
    expected = {"a": [[0, 1, 2], [3, 4, 5]], "b": [[0, 1, 2], [3, 4, 5]], "t": [[0, 3], [1, 4], [2, 5]], "part": [4, 5]}

    assert run("convert", path, tmp_path / "x.safetensors").code == 0
    assert run("extract", path, tmp_path / "storages").code == 0
    assert run("extract", path, tmp_path / "named", "--form", "named").code == 0

    for copy in ("x.safetensors", "storages", "named"):
        found = open_checkpoint(tmp_path / copy)
        assert {name: tensor.bits().tolist() for name, tensor in found.items()} == expected
        assert found.tied() == [["a", "b"]]


DOUBLE: dict[str, Any] = {
    "T12 dots that collide": {"a": {"b": view("0", (2,))}, "a.b": view("0", (2,), offset=1)},
    "T12 a number and its text": {1: view("0", (2,)), "1": view("0", (2,), offset=1)},
    "T12 bytes and their text": {b"a": view("0", (2,)), "a": view("0", (2,), offset=1)},
}


@pytest.mark.parametrize("name", DOUBLE)
def test_t12_two_tensors_of_one_name_are_refused(name: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", DOUBLE[name], SIX)

    # The keys differ in Python, but they would give the same name here.
    with pytest.raises(LayoutError, match=r"`(a\.b|1|a)`"):
        open_checkpoint(path)


def test_t12_a_key_twice_on_the_way_to_a_tensor_is_refused(tmp_path: Path) -> None:
    """torch takes the last one."""
    tensor, key = dumps(view("0", (2,)), {"0": 24})[2:-1], b"X\1\0\0\0a"
    below = [b"}X\1\0\0\0" + letter + tensor + b"s" for letter in (b"x", b"y")]
    for first, second in ((tensor, tensor), below, (tensor, b"N"), (b"N", tensor)):
        value = {"model": Raw(b"}(" + key + first + key + second + b"u")}

        assert_malformed(write_checkpoint(tmp_path / "x.bin", value, SIX), "twice")
