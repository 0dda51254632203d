"""The closed table: each function of torch that makes a tensor, with right arguments and with wrong ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError, LayoutError, PickleError
from converter.formats import open_checkpoint
from converter.machine import Dict, Known, run
from converter.rebuild import TABLE, Special
from converter.tensors import Catalogue, Tensor
from tests.checkpoints import CLASSES, UNTYPED, Call, Global, Persistent, Raw, dumps, floats, view, write_checkpoint

SIX = {"0": floats(0, 1, 2, 3, 4, 5)}
FLOATS = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))
BYTES = Persistent(("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 24))
HOOKS = Call(Global("collections", "OrderedDict"))
V2 = Global("torch._utils", "_rebuild_tensor_v2")
V3 = Global("torch._utils", "_rebuild_tensor_v3")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
WITH_STATE = Global("torch._utils", "_rebuild_parameter_with_state")
FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
KIND = Global("torch.nn.parameter", "Parameter")
TENSOR = Call(V2, (FLOATS, 1, (2, 2), (2, 1), False, HOOKS))
TENSOR_ARGUMENTS = (FLOATS, 1, (2, 2), (2, 1), False, HOOKS)

Open = Callable[..., Catalogue]


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, storages: dict[str, bytes] = SIX, **options: Any) -> Catalogue:
        return open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, storages, **options))

    return open_with


MAKES = {
    "_rebuild_tensor": Call(Global("torch._utils", "_rebuild_tensor"), (FLOATS, 1, (2, 2), (2, 1))),
    "_rebuild_tensor_v2": TENSOR,
    "_rebuild_tensor_v2 with metadata": Call(V2, (FLOATS, 1, (2, 2), (2, 1), True, HOOKS, None)),
    "_rebuild_tensor_v2 with empty metadata": Call(V2, (FLOATS, 1, (2, 2), (2, 1), True, HOOKS, {})),
    "_rebuild_tensor_v2 with marks that are false": Call(V2, (FLOATS, 1, (2, 2), (2, 1), True, HOOKS, {"conj": False})),
    "_rebuild_tensor_v2 without hooks": Call(V2, (FLOATS, 1, (2, 2), (2, 1), False, None)),
    "_rebuild_tensor_v2 with torch.Size": Call(
        V2, (FLOATS, 1, Call(Global("torch", "Size"), ((2, 2),)), (2, 1), False, HOOKS)
    ),
    "_rebuild_tensor_v2 of CUDA": Call(
        V2,
        (
            Persistent(("storage", Global("torch.cuda", "FloatStorage"), "0", "cuda:0", 6)),
            1,
            (2, 2),
            (2, 1),
            False,
            HOOKS,
        ),
    ),
    "_rebuild_tensor_v3": Call(V3, (BYTES, 1, (2, 2), (2, 1), False, HOOKS, Global("torch", "float32"))),
    "_rebuild_tensor_v3 with an alias": Call(V3, (BYTES, 1, (2, 2), (2, 1), False, HOOKS, Global("torch", "float"))),
    "_rebuild_tensor_v3 with metadata": Call(
        V3, (BYTES, 1, (2, 2), (2, 1), False, HOOKS, Global("torch", "float32"), {})
    ),
    "_rebuild_parameter": Call(PARAMETER, (TENSOR, True, HOOKS)),
    "_rebuild_parameter_with_state": Call(WITH_STATE, (TENSOR, True, HOOKS, {"note": "x"})),
    "_rebuild_from_type_v2 of a tensor": Call(
        FROM_TYPE, (V2, Global("torch", "Tensor"), TENSOR_ARGUMENTS, {"note": 1})
    ),
    "_rebuild_from_type_v2 of a parameter": Call(FROM_TYPE, (PARAMETER, KIND, (TENSOR, True, HOOKS), {})),
    "_rebuild_from_type": Call(
        Global("torch.tensor", "_rebuild_from_type"), (V2, Global("torch", "Tensor"), TENSOR_ARGUMENTS, {})
    ),
}


@pytest.mark.parametrize("name", MAKES)
def test_makes_a_tensor(name: str, opened: Open) -> None:
    catalogue = opened({"w": MAKES[name]})
    tensor = catalogue["w"]

    assert (tensor.dtype.name, tensor.shape, tensor.stride, tensor.offset) == ("F32", (2, 2), (2, 1), 1)
    assert tensor.array().tolist() == [[1, 2], [3, 4]]
    assert catalogue.unknown_globals() == []


@pytest.mark.parametrize("name", [*CLASSES, *UNTYPED])
def test_makes_tensors_of_every_dtype(name: str, opened: Open) -> None:
    itemsize = (CLASSES | UNTYPED)[name][1]
    data = bytes(range(3 * itemsize))

    tensor = opened({"w": view("0", (2,), offset=1, dtype=name)}, {"0": data})["w"]

    assert tensor.dtype.name == name
    assert b"".join(bytes(piece) for piece in tensor.tiles(1 << 20)) == data[itemsize:]


SPECIAL = {
    "conj view": Call(V2, (FLOATS, 0, (6,), (1,), False, HOOKS, {"conj": True})),
    "neg view": Call(V2, (FLOATS, 0, (6,), (1,), False, HOOKS, {"neg": True})),
    "conj and neg view": Call(V2, (FLOATS, 0, (6,), (1,), False, HOOKS, {"conj": True, "neg": True})),
    "quantised": Call(
        Global("torch._utils", "_rebuild_qtensor"),
        (FLOATS, 0, (6,), (1,), (Global("torch", "per_tensor_affine"), 0.5, 3), False, HOOKS),
    ),
    "sparse": Call(
        Global("torch._utils", "_rebuild_sparse_tensor"),
        (Call(Global("torch.serialization", "_get_layout"), ("torch.sparse_coo",)), (TENSOR, TENSOR, (2, 2))),
    ),
    "nested": Call(Global("torch._utils", "_rebuild_nested_tensor"), (TENSOR, TENSOR, TENSOR, TENSOR)),
    "meta": Call(
        Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2, 3), (3, 1), False)
    ),
    "subclass torch.distributed.tensor.DTensor": Call(
        FROM_TYPE,
        (
            Global("torch._utils", "_rebuild_wrapper_subclass"),
            Global("torch.distributed.tensor", "DTensor"),
            (
                Global("torch.distributed.tensor", "DTensor"),
                Global("torch", "float32"),
                (4, 4),
                (4, 1),
                0,
                None,
                None,
                False,
            ),
            (None, {"_local_tensor": TENSOR}),
        ),
    ),
    "subclass mine.Tensor": Call(FROM_TYPE, (V2, Global("mine", "Tensor"), TENSOR_ARGUMENTS, {})),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_lists_what_has_no_plain_bytes(kind: str, opened: Open) -> None:
    catalogue = opened({"w": SPECIAL[kind], "plain": TENSOR})

    assert list(catalogue) == ["plain"]
    assert [(other.name, other.kind) for other in catalogue.unsupported] == [("w", kind)]


def test_special_tensors_keep_dtype_and_shape(opened: Open) -> None:
    meta, conj = (opened({"w": SPECIAL[kind]}).unsupported[0].value for kind in ("meta", "conj view"))

    assert isinstance(meta, Special)
    assert isinstance(conj, Special)
    assert (meta.dtype, meta.shape, conj.dtype, conj.shape) == ("F32", (2, 3), "F32", (6,))


def v2(*args: Any) -> Call:
    return Call(V2, args)


REFUSED: dict[str, Any] = {
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


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name: str, opened: Open) -> None:
    with pytest.raises((PickleError, LayoutError)) as caught:
        opened({"w": REFUSED[name]})
    assert "can't be run" not in str(caught.value)
    assert len(str(caught.value)) < 400


IDS = {
    "text": "0",
    "a number": 5,
    "a pair": ("storage", "0"),
    "another tag": ("module", Global("torch", "FloatStorage"), "0", "cpu", 6),
    "six items": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 6, None),
    "a list": ["storage", Global("torch", "FloatStorage"), "0", "cpu", 6],
    "a key that is a number": ("storage", Global("torch", "FloatStorage"), 0, "cpu", 6),
    "a key that leads away": ("storage", Global("torch", "FloatStorage"), "../data.pkl", "cpu", 6),
    "a key of nothing": ("storage", Global("torch", "FloatStorage"), "", "cpu", 6),
    "a key that is not there": ("storage", Global("torch", "FloatStorage"), "7", "cpu", 6),
    "a class that is text": ("storage", "FloatStorage", "0", "cpu", 6),
    "a class outside the table": ("storage", Global("os", "system"), "0", "cpu", 6),
    "a dtype for a class": ("storage", Global("torch", "float32"), "0", "cpu", 6),
    "a negative count": ("storage", Global("torch", "FloatStorage"), "0", "cpu", -6),
    "a count that is text": ("storage", Global("torch", "FloatStorage"), "0", "cpu", "6"),
    "a count that is a bool": ("storage", Global("torch", "FloatStorage"), "0", "cpu", True),
    "T06 a count too high": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 7),
    "T06 a count too low": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 5),
    "T06 a count of 2^62": ("storage", Global("torch", "FloatStorage"), "0", "cpu", 1 << 62),
}


@pytest.mark.parametrize("name", IDS)
def test_refuses_the_persistent_id(name: str, opened: Open) -> None:
    with pytest.raises((PickleError, LayoutError)):
        opened({"w": Persistent(IDS[name])})


@pytest.mark.parametrize(
    "second",
    [("storage", Global("torch", "IntStorage"), "0", "cpu", 6), ("storage", Global("torch", "DoubleStorage"), "0", "cpu", 3),
     ("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 24)],
    ids=["of another class", "of another size", "untyped"],
)  # fmt: skip
def test_refuses_a_second_mention(second: Any, opened: Open) -> None:
    with pytest.raises(LayoutError, match="in one place"):
        opened({"a": TENSOR, "b": Persistent(second)})


def test_subclasses_within_subclasses_do_not_recurse(opened: Open) -> None:
    pair = b"ctorch._tensor\n_rebuild_from_type_v2\nq\1"
    deep = pair + b"(h\1h\1" * 50_000 + b")" + b"Nt" * 50_000 + b"R"

    with pytest.raises(ConverterError):
        opened({"w": Raw(deep)})


def test_python_2_fills_an_ordered_dict_from_a_list(opened: Open) -> None:
    catalogue = opened(Call(Global("collections", "OrderedDict"), ([["w", TENSOR]],)))

    assert list(catalogue) == ["w"]


def test_names_of_devices_and_layouts_are_text() -> None:
    def made(call: Call) -> object:
        return run(dumps(call), TABLE).value

    assert made(Call(Global("torch", "device"), ("cuda", 0))) == "torch.device('cuda', 0)"
    assert made(Call(Global("torch", "Size"), ((1, 2),))) == (1, 2)
    assert made(Call(Global("torch", "device"), (Raw(b"N" + b"\x85" * 50_000),))) == "device"


def test_a_bare_storage_is_no_tensor(opened: Open) -> None:
    catalogue = opened({"s": FLOATS, "w": TENSOR})

    assert [other.name for other in catalogue.others] == ["s"]


def test_state_of_an_ordered_dict_is_kept_inert(opened: Open) -> None:
    metadata = Raw(dumps({"w": TENSOR}, {"0": 24})[2:-1] + dumps({"_metadata": {"": {"version": 1}}})[2:-1] + b"b")

    assert list(opened(metadata)) == ["w"]


class TestTable:
    def test_names_nothing_that_can_run_code(self) -> None:
        assert {module for module, _ in TABLE} == {
            "collections", "torch", "torch.cuda", "torch._utils", "torch._tensor", "torch.tensor", "torch.storage",
            "torch.nn.parameter", "torch.serialization",
        }  # fmt: skip
        assert ("torch.storage", "_load_from_bytes") not in TABLE
        assert all(pair == (known.module, known.name) for pair, known in TABLE.items())

    def test_holds_no_dotted_names(self) -> None:
        assert not [name for _, name in TABLE if "." in name]

    @pytest.mark.parametrize("pair", sorted(TABLE))
    def test_anything_may_be_given_to_anything(self, pair: tuple[str, str]) -> None:
        deep: Any = ()
        for _ in range(3 * sys.getrecursionlimit()):
            deep = (deep,)
        odd = [None, True, -1, 1 << 70, 0.5, "x", b"x", (), [], Dict(), TABLE["torch", "float32"], deep, ((1,), "a")]
        known: Known = TABLE[pair]

        for count in range(9):
            for first in odd:
                for rest in odd:
                    try:
                        made = known.build((first, *(rest,) * count)) if known.build else None
                    except (ConverterError, ValueError, TypeError):  # the machine makes the last two PickleErrors
                        continue
                    assert made is None or isinstance(made, (Tensor, Special, Dict, tuple, str))
