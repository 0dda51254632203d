"""The closed table: each function of torch that makes a tensor, with correct arguments and with wrong ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError
from converter.opening import open_checkpoint
from converter.pickles.closed_table import TABLE, Special
from converter.pickles.loop import run
from converter.pickles.values import Dict, Value, ValueRow
from converter.pickles.walk import describe
from converter.tensors.catalogue import Catalogue
from converter.tensors.tensor import Tensor
from tests.build.checkpoints import CLASSES, UNTYPED, Call, Global, Persistent, Raw, dumps, view, write_checkpoint
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
    assert tensor.bits().tolist() == [[1, 2], [3, 4]]
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
    "neg view by a mark that is false": Call(V2, (FLOATS, 0, (6,), (1,), False, HOOKS, {"neg": False})),
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
    assert [(other.name, other.kind) for other in catalogue.unsupported] == [("w", kind.partition(" by ")[0])]


def test_special_tensors_keep_dtype_and_shape(opened: Open) -> None:
    meta, conj = (opened({"w": SPECIAL[kind]}).unsupported[0] for kind in ("meta", "conj view"))

    assert (meta.dtype, meta.shape, conj.dtype, conj.shape) == ("F32", (2, 3), "F32", (6,))


@pytest.mark.parametrize(
    ("function", "args", "expected"),
    [
        (V2, TENSOR_ARGUMENTS, ("F32", (2, 2))),
        (Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float16"), (2, 3), (3, 1), False), ("F16", (2, 3))),
        (PARAMETER, (SPECIAL["conj view"], True, HOOKS), ("F32", (6,))),
        (Global("mine", "make"), (1,), (None, None)),
    ],
    ids=["a tensor", "a meta tensor", "a conjugated parameter", "nothing that is known"],
)  # fmt: skip
def test_a_subclass_has_the_dtype_and_shape_of_what_it_is_made_of(
    function: Any, args: Any, expected: Any, opened: Open
) -> None:
    (found,) = opened({"w": Call(FROM_TYPE, (function, Global("mine", "Tensor"), args, {}))}).unsupported

    assert (found.dtype, found.shape) == expected


HALF = Global("torch", "float16")


@pytest.mark.parametrize(
    ("name", "args", "kind", "expected"),
    [
        ("_rebuild_qtensor", (FLOATS, 0, (2, 3), (3, 1), (), False, HOOKS), "quantised", ("F32", (2, 3))),
        ("_rebuild_sparse_tensor", (1, 2), "sparse", (None, None)),
        ("_rebuild_sparse_csr_tensor", (1, 2), "sparse", (None, None)),
        ("_rebuild_nested_tensor", (TENSOR, 1, 2, 3), "nested", (None, None)),
        ("_rebuild_meta_tensor_no_storage", (HALF, (2, 3), (3, 1), False), "meta", ("F16", (2, 3))),
        ("_rebuild_wrapper_subclass", (Global("mine", "T"), HALF, (2, 3), (3, 1)), "wrapper subclass", ("F16", (2, 3))),
        ("_rebuild_device_tensor_from_numpy", (1, HALF, "xla:0", False), "device", ("F16", None)),
        ("_rebuild_device_tensor_from_cpu_tensor", (TENSOR, HALF, "maia:0", False), "device", ("F16", None)),
        ("_rebuild_xla_tensor", (1, HALF, "xla:0", False), "device", ("F16", None)),
    ],
)
def test_tensors_without_plain_bytes_have_the_dtype_and_shape_that_they_name(
    name: str, args: Any, kind: str, expected: Any, opened: Open
) -> None:
    (found,) = opened({"w": Call(Global("torch._utils", name), args)}).unsupported

    assert (found.kind, found.dtype, found.shape) == (kind, *expected)


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("key", ["data", "grad", "requires_grad", "_backward_hooks", "__class__", 1])
def test_an_attribute_that_changes_the_tensor_is_refused_wherever_it_stands(
    key: Any, position: int, opened: Open
) -> None:
    attributes: list[tuple[Any, Any]] = [("a", 1), ("b", "x"), ("c", None)]
    attributes.insert(position, (key, 1))

    with pytest.raises(ConverterError, match=r"sets (an attribute|`)"):
        opened({"w": Call(WITH_STATE, (TENSOR, True, HOOKS, dict(attributes)))})


@pytest.mark.parametrize("module", ["torch", "torch.cuda"])
@pytest.mark.parametrize(
    "kind", ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
)
def test_types_of_old_tensors_are_known(kind: str, module: str) -> None:
    assert not [pair for pair in run(dumps(Global(module, f"{kind}Tensor")), TABLE).globals if pair not in TABLE]


def test_python_2_fills_an_ordered_dict_from_a_list(opened: Open) -> None:
    catalogue = opened(Call(Global("collections", "OrderedDict"), ([["w", TENSOR]],)))

    assert list(catalogue) == ["w"]


@pytest.mark.parametrize("args", [([], []), (1,), ([1],), ([["w"]],), ([["w", 1, 2]],), ((("w", 1),),)])
def test_other_arguments_of_an_ordered_dict_are_refused(args: tuple[Any, ...], opened: Open) -> None:
    with pytest.raises(ConverterError, match="OrderedDict"):
        opened(Call(Global("collections", "OrderedDict"), args))


def test_names_of_devices_and_layouts_are_text() -> None:
    def made(call: Call) -> object:
        return run(dumps(call), TABLE).value

    assert describe(made(Call(Global("torch", "device"), ("cuda", 0)))) == 'torch.device("cuda", 0)'
    assert made(Call(Global("torch", "Size"), ((1, 2),))) == (1, 2)


def test_a_size_is_made_by_newobj_too() -> None:
    assert run(b"\x80\x02ctorch\nSize\nK\1K\2\x86\x85\x81.", TABLE).value == (1, 2)


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
            "torch.nn.parameter", "torch.serialization", "_codecs", "argparse", "builtins", "copyreg", "datetime", "decimal",
            "fractions", "pathlib", "pathlib._local", "types", "uuid", "numpy", "numpy.dtypes", "numpy.core.multiarray",
            "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric", "numpy.random._pickle",
            "numpy.random._mt19937", "numpy.random._pcg64", "numpy.random._philox", "numpy.random._sfc64",
            "numpy.random.bit_generator",
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
        known = TABLE[pair]
        build = known.made if isinstance(known, ValueRow) else known.build

        for count in range(9):
            for first in odd:
                for rest in odd:
                    try:
                        made = build((first, *(rest,) * count)) if build else None
                    except (ConverterError, ValueError, TypeError):  # the machine makes the last two PickleErrors
                        continue
                    assert made is None or isinstance(made, (Tensor, Special, Dict, tuple, bytes, Value))
