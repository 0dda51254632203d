"""Checkpoints that torch.load(weights_only=True) reads in an unusual way: we give the same tensors, or refuse.

tests/peers/test_same_weights.py asks torch itself; its answers are recorded here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ConverterError, LayoutError, LimitError, PickleError
from converter.io.local import LocalFile
from converter.opening import open_checkpoint
from converter.scanning.scan import scan_file
from converter.tensors.catalogue import Catalogue
from tests.build.checkpoints import (
    Call,
    Entry,
    Global,
    Persistent,
    Raw,
    dumps,
    floats,
    legacy_bytes,
    write_checkpoint,
    zip_bytes,
)
from tests.build.rebuilt import FROM_TYPE, HOOKS, KIND, PARAMETER, SIX, TENSOR, TENSOR_ARGUMENTS, V2, V3, WITH_STATE

Open = Callable[..., Catalogue]
ORDERED = Global("collections", "OrderedDict")


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def open_with(value: Any, storages: dict[str, bytes] = SIX, **options: Any) -> Catalogue:
        return open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, storages, **options))

    return open_with


FLOAT_STORAGE = Global("torch", "FloatStorage")


def storage(kind: Global = FLOAT_STORAGE, key: Any = "0", place: Any = "cpu", numel: int = 6) -> Any:
    return Persistent(("storage", kind, key, place, numel))


def tensor(of: Any, length: int = 6) -> Call:
    return Call(V2, (of, 0, (length,), (1,), False, HOOKS))


# ---- the state of a parameter or of a subclass ---------------------------------------------------------------------------

OTHER = tensor(storage(key="1", numel=4), 4)
TWO = {**SIX, "1": floats(9, 9, 9, 9)}


def with_state(state: Any) -> Call:
    return Call(WITH_STATE, (TENSOR, True, HOOKS, state))


def from_type(state: Any) -> Call:
    return Call(FROM_TYPE, (V2, Global("torch", "Tensor"), TENSOR_ARGUMENTS, state))


@pytest.mark.parametrize("make", [with_state, from_type])
@pytest.mark.parametrize(
    "name",
    [
        *("data", "real", "imag", "grad", "_grad", "requires_grad", "_backward_hooks", "_post_accumulate_grad_hooks"),
        *("grad_dtype", "volatile", "__class__", "__dict__", "__setstate__"),
    ],
)
def test_rejects_a_state_that_would_change_the_tensor(name: str, make: Callable[[Any], Call], opened: Open) -> None:
    for state in ({name: OTHER}, {"note": 1, name: OTHER}, (None, {name: OTHER}), ({name: OTHER}, None)):
        with pytest.raises(LayoutError, match=f"sets `{name}` of a tensor"):
            opened({"w": make(state), "x": OTHER}, TWO)


@pytest.mark.parametrize("make", [with_state, from_type])
@pytest.mark.parametrize("state", [None, {}, (None, None), ({}, {}), ({}, None)])
def test_an_empty_state_is_none(state: Any, make: Callable[[Any], Call], opened: Open) -> None:
    catalogue = opened({"w": make(state)})

    assert (list(catalogue), catalogue.others) == (["w"], ())


@pytest.mark.parametrize("make", [with_state, from_type])
@pytest.mark.parametrize("state", [{"note": 7}, ({"note": 7}, None), (None, {"note": 7})])
def test_plain_attributes_are_kept_beside_the_tensor(state: Any, make: Callable[[Any], Call], opened: Open) -> None:
    catalogue = opened({"a": {"w": make(state)}, "b": 1})

    assert catalogue["a.w"].bits().tolist() == [[1, 2], [3, 4]]
    assert [(other.name, other.kind, other.value) for other in catalogue.others] == [
        ("a.w.__dict__", "dict", ["note", 7]),
        ("b", "int", 1),
    ]


def test_attributes_of_a_parameter_in_a_subclass_are_kept_both(opened: Open) -> None:
    inner = (TENSOR, True, HOOKS, {"first": 1})
    catalogue = opened({"w": Call(FROM_TYPE, (WITH_STATE, KIND, inner, {"second": 2}))})

    assert list(catalogue) == ["w"]
    assert [other.value for other in catalogue.others] == [["first", 1], ["second", 2]]


def test_a_parameter_of_a_tensor_with_attributes_has_none(opened: Open) -> None:
    catalogue = opened({"w": Call(PARAMETER, (from_type({"note": 1}), True, HOOKS))})

    assert (list(catalogue), catalogue.others) == (["w"], ())


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (5, PickleError),
        ([], PickleError),
        ((None,), PickleError),
        ((None, None, None), PickleError),
        (({}, 5), PickleError),
        ({1: 2}, PickleError),
        ({f"a{n}": n for n in range(101)}, LimitError),
        (Call(Global("mine", "Dict")), PickleError),
    ],
)
def test_rejects_an_invalid_state(state: Any, error: type[ConverterError], opened: Open) -> None:
    for make in (with_state, from_type):
        with pytest.raises(error):
            opened({"w": make(state)})


# ---- keys that are equal in Python ----------------------------------------------------------------------------------------


EQUAL = {
    "1 and True": (1, True),
    "0 and False": (0, False),
    "1 and 1.0": (1, 1.0),
    "0 and -0.0": (0, -0.0),
    "True and 1.0": (True, 1.0),
    "large": (1 << 60, float(1 << 60)),
    "text": ("a", "a"),
    "None": (None, None),
    "aliases": (Global("torch", "half"), Global("torch", "float16")),
    "tuples": ((1, 2), (True, 2.0)),
}


@pytest.mark.parametrize("name", EQUAL)
def test_rejects_keys_that_are_one_in_python(name: str, tmp_path: Path) -> None:
    first, second = EQUAL[name]
    for values in ((TENSOR, 5), (5, TENSOR), (TENSOR, TENSOR)):
        value = Call(Global("collections", "OrderedDict"), ([[first, values[0]], [second, values[1]]],))
        with pytest.raises(LayoutError):
            open_checkpoint(write_checkpoint(tmp_path / "a.bin", value, SIX))


def test_keys_that_differ_in_python_stay(opened: Open) -> None:
    keys = [0, 1.5, "a", b"b", None, -1, 1 << 60, float((1 << 60) + 256), (1,), Global("torch", "half")]

    assert len(opened(dict.fromkeys(keys, TENSOR))) == len(keys)


# ---- byte order -------------------------------------------------------------------------------------------------------------

BIG = {"byteorder": b"big"}
UNTYPED = Global("torch.storage", "UntypedStorage")


def v3(kind: Global, numel: int, dtype: str, length: int) -> Call:
    return Call(V3, (storage(kind, numel=numel), 0, (length,), (1,), False, HOOKS, Global("torch", dtype)))


@pytest.mark.parametrize(
    ("kind", "numel", "dtype", "length"),
    [
        (UNTYPED, 24, "uint16", 12),
        (UNTYPED, 24, "float32", 6),
        (Global("torch", "FloatStorage"), 6, "float64", 3),
        (Global("torch", "FloatStorage"), 6, "uint8", 24),
        (Global("torch", "FloatStorage"), 6, "int16", 12),
        (Global("torch", "ByteStorage"), 24, "complex64", 3),
    ],
)
def test_rejects_a_big_endian_storage_of_another_width(
    kind: Global, numel: int, dtype: str, length: int, opened: Open
) -> None:
    value = {"w": v3(kind, numel, dtype, length)}

    assert list(opened(value)) == ["w"]
    with pytest.raises(LayoutError, match="big-endian"):
        opened(value, byteorder=b"big")


@pytest.mark.parametrize(
    ("kind", "numel", "dtype", "length", "width"),
    [
        (Global("torch", "FloatStorage"), 6, "int32", 6, 4),
        (Global("torch", "FloatStorage"), 6, "complex64", 3, 4),
        (Global("torch", "ComplexFloatStorage"), 3, "uint32", 6, 4),
        (UNTYPED, 24, "float8_e4m3fn", 24, 1),
    ],
)
def test_swaps_a_big_endian_storage_of_the_same_width(
    kind: Global, numel: int, dtype: str, length: int, width: int, opened: Open
) -> None:
    data = bytes(range(24))

    found = b"".join(
        map(bytes, opened({"w": v3(kind, numel, dtype, length)}, {"0": data}, byteorder=b"big")["w"].tiles())
    )

    assert found == b"".join(data[at : at + width][::-1] for at in range(0, 24, width))


# ---- names of records, whose case torch does not see -------------------------------------------------------------------------


def archive(names: dict[str, bytes]) -> bytes:
    records = {"data.pkl": dumps({"w": TENSOR}), "byteorder": b"little", "data/0": SIX["0"], "version": b"3\n"}
    return zip_bytes([Entry(f"archive/{name}", data) for name, data in {**records, **names}.items()])


@pytest.mark.parametrize(
    "name",
    [
        "BYTEORDER",
        "ByteOrder",
        "Data.pkl",
        "DATA/0",
        "Data/1",
        "VERSION",
        ".Format_Version",
        "Constants.pkl",
        "TENSORS/0",
    ],
)
def test_rejects_a_record_that_torch_takes_for_another(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(archive({name: b"big"}))

    with pytest.raises(ConverterError, match=r"which does not look at the case|twice|same name"):
        open_checkpoint(path)


def test_other_records_may_have_capitals(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(archive({"README": b"big"}))

    assert list(open_checkpoint(path)) == ["w"]


# ---- a storage without data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["meta", Raw(b"C\4meta")])
def test_the_device_meta_has_no_data(place: Any, opened: Open) -> None:
    catalogue = opened(
        {"w": tensor(storage(place=place)), "p": Call(PARAMETER, (tensor(storage(place=place)), True, HOOKS))}
    )

    assert list(catalogue) == []
    assert [(other.name, other.kind, other.dtype, other.shape) for other in catalogue.unsupported] == [
        ("w", "meta", "F32", (6,)),
        ("p", "meta", "F32", (6,)),
    ]


def test_rejects_a_storage_with_data_in_one_place_and_without_in_another(opened: Open) -> None:
    with pytest.raises(LayoutError, match="without data"):
        opened({"w": tensor(storage()), "x": tensor(storage(place="meta"))})


# ---- calls that copy ----------------------------------------------------------------------------------------------------------


def test_a_list_keeps_its_items_when_an_ordered_dict_was_made_of_it(opened: Open) -> None:
    items = [["w", TENSOR]]
    catalogue = opened({"a": Call(ORDERED, (items,)), "b": items, "c": Call(ORDERED, (items,))})

    assert list(catalogue) == ["a.w", "b.0.1", "c.w"]


def test_rejects_a_list_that_is_passed_to_very_many_calls(opened: Open) -> None:
    items = [["k", 1]] * 2000
    with pytest.raises(LimitError, match="passed to more calls"):
        opened([Call(ORDERED, (items,)) for _ in range(50)])


def test_newobj_ignores_the_arguments_of_an_ordered_dict(opened: Open) -> None:
    made = Raw(b"ccollections\nOrderedDict\n" + dumps(([["w", 1]],))[2:-1] + b"\x81")

    assert list(opened({"a": made, "w": TENSOR})) == ["w"]


def test_newobj_makes_no_tensor(opened: Open) -> None:
    made = Raw(b"ctorch._utils\n_rebuild_tensor_v2\n)\x81")

    with pytest.raises(PickleError, match="NEWOBJ"):
        opened({"w": made})


# ---- views in the stream from before 1.6 ---------------------------------------------------------------------------------------


def legacy(tmp_path: Path, *ids: tuple[Any, ...]) -> Catalogue:
    """The stream with a tensor of one element on each storage that an id mentions; `0` and `1` have six floats each."""
    value = [tensor(Persistent(("storage", Global("torch", "FloatStorage"), *id)), 1) for id in ids]
    path = tmp_path / "a.pth"
    path.write_bytes(legacy_bytes(value, {"0": floats(0, 1, 2, 3, 4, 5), "1": floats(6, 7, 8, 9, 10, 11)}))
    return open_checkpoint(path)


WHOLE = (("0", "cpu", 6, None), ("1", "cpu", 6, None))


def test_views_of_storages_lie_where_they_say(tmp_path: Path) -> None:
    views = (("0", "cpu", 6, ("a", 2, 3)), ("1", "cpu", 6, ("b", 1, 1)), ("0", "cpu", 6, ("a", 2, 3)))
    catalogue = legacy(tmp_path, *WHOLE, *views)

    assert [tensor.bits().tolist() for tensor in catalogue.values()] == [[0], [6], [2], [7], [2]]


@pytest.mark.parametrize(
    "other", [("0", "cpu", 6, ("a", 3, 3)), ("1", "cpu", 6, ("a", 2, 3)), ("0", "cpu", 6, ("a", 2, 2))]
)
def test_rejects_a_view_that_is_mentioned_with_two_places(other: tuple[Any, ...], tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="mentioned twice"):
        legacy(tmp_path, *WHOLE, ("0", "cpu", 6, ("a", 2, 3)), other)


def test_rejects_a_view_with_the_key_of_a_storage(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="the key of a storage and of a view"):
        legacy(tmp_path, *WHOLE, ("0", "cpu", 6, ("1", 2, 3)))


def test_rejects_the_device_meta_in_a_stream(tmp_path: Path) -> None:
    with pytest.raises(LayoutError, match="meta"):
        legacy(tmp_path, ("0", "meta", 6, None), WHOLE[1])


# ---- what `scan` says about them ----------------------------------------------------------------------------------------------

ITEMS = [["w", TENSOR]]
ODD_AND_PLAIN = {
    "a storage without data": {"w": tensor(storage(place="meta"))},
    "a list that is used twice": {"a": Call(ORDERED, (ITEMS,)), "b": ITEMS},
    "a dtype that is not that of the storage": {"w": v3(FLOAT_STORAGE, 6, "float64", 3)},
}


@pytest.mark.parametrize("value", ODD_AND_PLAIN.values(), ids=ODD_AND_PLAIN)
def test_what_runs_nothing_is_plain_however_odd_it_is(value: Any, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "a.bin", value, SIX)

    assert scan_file(LocalFile(path), fickling=False).verdict == "plain"


def test_a_text_of_many_blanks_names_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(b"\x80\2X" + (20_001).to_bytes(4, "little") + b" " * 20_000 + b"x.")

    assert scan_file(LocalFile(path), fickling=False).verdict == "plain"
