"""A root names a part of a checkpoint: by its keys, by the beginning of names, or as a folded name is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.errors import RootError
from converter.opening import open_checkpoint
from tests.build.checkpoints import floats, view, write_checkpoint

STORAGES = {"0": floats(1, 2)}
A = view("0", (2,))
FLAT = {f"model.h.{n}.{part}": A for n in range(12) for part in ("ln.w", "ln.b", "fc.w")} | {
    "model.wte.w": A,
    "head.w": A,
}
NESTED: Any = {
    "model": {"h": {n: {"ln": {"w": A, "b": A}, "fc": {"w": A}} for n in range(12)}, "wte": {"w": A}},
    "head": A,
}
ROOTS = [
    ("model.h.3", ["ln.w", "ln.b", "fc.w"]),
    ("model.h.{3}", ["3.ln.w", "3.ln.b", "3.fc.w"]),
    ("model.h.{3,11}.ln", ["3.ln.w", "3.ln.b", "11.ln.w", "11.ln.b"]),
    ("model.h.{0..1,10..11}.fc.w", ["0.fc.w", "1.fc.w", "10.fc.w", "11.fc.w"]),
    ("model.h.{11..20}.fc", ["11.fc.w"]),
]
SHORT = [
    ("h.3", ["ln.w", "ln.b", "fc.w"]),
    ("h.{3,11}.ln", ["3.ln.w", "3.ln.b", "11.ln.w", "11.ln.b"]),
    ("wte", ["w"]),
]


@pytest.mark.parametrize(
    ("value", "root", "names"),
    [(value, *row) for value in (FLAT, NESTED) for row in ROOTS] + [(FLAT, *row) for row in SHORT],
)
def test_a_root_names_what_was_printed(tmp_path: Path, value: Any, root: str, names: list[str]) -> None:
    write_checkpoint(tmp_path / "a.bin", value, STORAGES)

    found = open_checkpoint(tmp_path / "a.bin", root=root)

    assert list(found) == names
    beside = {other.name for other in found.others}
    assert any(name.startswith("head") for name in beside)
    assert any(name.startswith("model.wte") for name in beside) == ("wte" not in root)
    assert any(name.startswith("model.h.5") for name in beside)


@pytest.mark.parametrize(
    "root", ["model.h.{12..20}", "model.h.{0..3}.nothing", "model.{0..3}", "{0..3}", "x.{0}", "h.{99}", "w"]
)
def test_a_root_that_names_nothing_is_refused(tmp_path: Path, root: str) -> None:
    write_checkpoint(tmp_path / "a.bin", FLAT, STORAGES)

    with pytest.raises(RootError, match="there is no `"):
        open_checkpoint(tmp_path / "a.bin", root=root)


def test_the_beginning_of_two_names_is_not_guessed(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.bin", {"student.h.0": A, "teacher.h.0": A}, STORAGES)

    with pytest.raises(RootError, match="there is no `h`"):
        open_checkpoint(tmp_path / "a.bin", root="h")


def test_braces_of_a_key_itself(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.bin", {"h.{0..3}.w": A, "h.1.w": A}, STORAGES)

    assert list(open_checkpoint(tmp_path / "a.bin", root="h.{0..3}")) == ["w"]
