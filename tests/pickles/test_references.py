"""Calls with which picklers name a method, a member of an enum or a type: such a pickle uses no `getattr`."""

from __future__ import annotations

import pickle  # to write; nothing here reads with it
from pathlib import Path

import pytest

from converter.api import scan
from converter.errors import ConverterError
from converter.pickles.loop import run
from converter.pickles.value_rows import VALUES
from converter.pickles.values import Opaque

GETATTR = b"\x80\x02cbuiltins\ngetattr\nq\x00"
OWNER = b"ckitchen\nOven\n"
NAME = b"X\x04\x00\x00\x00heat"


class Oven:
    def heat(self) -> None: ...

    class Door: ...


def used(data: bytes) -> list[str]:
    found: dict[tuple[str, str], int] = {}
    run(data, VALUES, used=found)
    return [f"{module}.{name}" for module, name in found]


@pytest.mark.parametrize("protocol", range(6))
def test_a_method_is_named_in_every_protocol(protocol: int) -> None:
    data = pickle.dumps([Oven.heat, Oven.Door, Oven.heat], protocol)
    assert (
        {f"{__name__}.Oven.heat", f"{__name__}.Oven.Door"}
        <= set(used(data))
        <= {f"{__name__}.{name}" for name in ("Oven", "Oven.heat", "Oven.Door")}
    )


@pytest.mark.parametrize("protocol", range(2, 6))
def test_so_is_the_method_of_an_object(protocol: int) -> None:
    oven = Oven()
    data = pickle.dumps({"hook": oven.heat, "oven": oven, "again": oven.heat}, protocol)
    assert used(data) == [f"{__name__}.Oven", f"{__name__}.Oven.heat"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_so_is_the_type_of_none(protocol: int) -> None:
    assert used(pickle.dumps([type(None)], protocol)) == []


def test_a_type_with_parameters_names_its_origin() -> None:
    data = b"\x80\x02c_operator\ngetitem\nctyping\nUnion\ncbuiltins\nint\ncbuiltins\nstr\n\x86\x86R."
    assert used(data) == ["typing.Union", "builtins.int", "builtins.str"]


def test_a_members_name_is_the_global_that_it_stands_for() -> None:
    made = run(GETATTR + OWNER + NAME + b"\x86R.", VALUES).value
    assert isinstance(made, Opaque)
    assert (made.module, made.name, made.args) == ("kitchen", "Oven.heat", None)


# Each uses the function for more than a name, or in a way that no pickler has: it then counts as any global.
HARMFUL = {
    "of a text": GETATTR + b"X\x01\x00\x00\x00a" + NAME + b"\x86R.",
    "of a module's function, called": GETATTR + OWNER + b")R" + NAME + b"\x86R)R.",
    "of an attribute's attribute": GETATTR + b"h\x00" + OWNER + b")R" + NAME + b"\x86R" + NAME + b"\x86R.",
    "with a default": GETATTR + OWNER + NAME + b"N\x87R.",
    "of a name that is none": GETATTR + OWNER + b"X\x03\x00\x00\x00a.b\x86R.",
    "of no name": GETATTR + OWNER + b"K\x01\x86R.",
    "as a value": GETATTR + b"0h\x00.",
    "dropped": GETATTR + b"0N.",
    "in a list too": GETATTR + OWNER + NAME + b"\x86R]h\x00a\x86.",
    "in a tuple too": GETATTR + OWNER + NAME + b"\x86Rh\x00\x85\x86.",
    "as an argument too": GETATTR + OWNER + NAME + b"\x86Rckitchen\nsort\nh\x00\x85R\x86.",
    "as an argument of what is dropped": GETATTR + OWNER + NAME + b"\x86Rckitchen\nsort\nh\x00\x85R0.",
    "as an argument under MARK": GETATTR + OWNER + NAME + b"\x86R(ckitchen\nsort\nh\x00o\x86.",
    "as a key": GETATTR + OWNER + NAME + b"\x86R}h\x00Ns\x86.",
    "as the state of an object": GETATTR + OWNER + NAME + b"\x86R" + OWNER + b")Rh\x00b\x86.",
    "by a persistent id": GETATTR + OWNER + NAME + b"\x86Rh\x00Q\x86.",
    "copied by DUP": GETATTR + b"2" + OWNER + NAME + b"\x86R\x86.",
    "its own argument": GETATTR + b"h\x00" + NAME + b"\x86R.",
    "by NEWOBJ": GETATTR + OWNER + NAME + b"\x86\x81.",
    "by INST": b"\x80\x02(" + OWNER + NAME + b"ibuiltins\ngetattr\n.",
    "by OBJ": b"\x80\x02(cbuiltins\ngetattr\n" + OWNER + NAME + b"o.",
    "changed by BUILD": GETATTR + OWNER + NAME + b"\x86R}b.",
    "filled": GETATTR + OWNER + NAME + b"\x86RNNs.",
    "filled under MARK": GETATTR + OWNER + NAME + b"\x86R(NNu.",
    "put where it was not": GETATTR + OWNER + b"q\x05" + NAME + b"\x86R.",
    "put twice": GETATTR + OWNER + b"q\x00" + NAME + b"\x86R.",
    "by another name": b"\x80\x02c__builtin__\ngetattr\n" + OWNER + NAME + b"\x86Rc__builtin__\ngetattr\n\x86.",
    "under the stack's name": b"\x80\x04X\x08\x00\x00\x00builtinsX\x07\x00\x00\x00getattr\x93" + OWNER + NAME + b"\x86R)R\x85)R.",
}  # fmt: skip


@pytest.mark.parametrize("how", HARMFUL)
def test_any_other_use_of_getattr_counts(how: str) -> None:
    found: dict[tuple[str, str], int] = {}
    try:
        run(HARMFUL[how], VALUES, used=found)
    except ConverterError:
        assert ("builtins", "getattr") in found
    if how != "under the stack's name":  # what a class has may be called, as if the pickle named it at once
        assert ("builtins", "getattr") in found


@pytest.mark.parametrize("data", [
    b"\x80\x02cbuiltins\ntype\nX\x01\x00\x00\x00A)}\x87R.", b"\x80\x02cbuiltins\ntype\nK\x01\x85R.", b"\x80\x02cbuiltins\ntype\n.",
], ids=["a class", "of a number", "itself"])  # fmt: skip
def test_type_counts_where_it_makes_more_than_the_type_of_none(data: bytes) -> None:
    assert used(data) == ["builtins.type"]


@pytest.mark.parametrize("owner", [b"kitchen\nOven", b"os\nenviron"])
def test_getitem_counts_for_what_is_not_of_typing(owner: bytes) -> None:
    assert "_operator.getitem" in used(b"\x80\x02c_operator\ngetitem\nc" + owner + b"\n" + NAME + b"\x86R.")


def test_a_parametrised_type_is_not_called() -> None:
    data = b"\x80\x02c_operator\ngetitem\nctyping\nUnion\n)\x86R)R."
    assert "_operator.getitem" in used(data)


def test_a_pickle_that_breaks_off_has_used_it() -> None:
    found: dict[tuple[str, str], int] = {}
    with pytest.raises(ConverterError):
        run(GETATTR + OWNER + NAME + b"\x86R", VALUES, used=found)
    assert ("builtins", "getattr") in found


def verdict(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return scan(path, fickling=False).verdict


@pytest.mark.parametrize(("owner", "name", "expected"), [
    ("kitchen\nOven", "heat", "unknown-globals"),
    ("os\nenviron", "get", "dangerous"),
    ("kitchen\nOven", "system", "dangerous"),
    ("kitchen\nOven", "__globals__", "dangerous"),
    ("pathlib\nPosixPath", "unlink", "dangerous"),
])  # fmt: skip
def test_scan_judges_the_name(owner: str, name: str, expected: str, tmp_path: Path) -> None:
    text = b"X" + len(name).to_bytes(4, "little") + name.encode()
    for made in (b"", b")R"):
        data = GETATTR + b"c" + owner.encode() + b"\n" + made + text + b"\x86R."
        assert verdict(tmp_path / "m.pkl", data) == expected
