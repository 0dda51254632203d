"""What a conversion leaves behind is named, small values are carried over on request, and verify says what a copy lacks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.opening import open_checkpoint
from converter.reports import to_json
from converter.tensors.catalogue import Catalogue
from converter.verification.verify import verify
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint

TWO = {"0": floats(1, 2), "1": floats(3, 4)}
TRAINER: dict[str, Any] = {
    "epoch": 3,
    "model": {"a.w": view("0", (2,))},
    "ema": {"a.w": view("1", (2,))},
    "optimizer": {"state": {0: {"exp_avg": view("1", (2,))}}, "param_groups": [{"lr": 0.1}]},
    "name": "résumé",
    "rng": b"\1\2",
    "args": Call(Global("argparse", "Namespace"), (), {"lr": 0.1, "betas": (0.9, 0.95)}),
}
BESIDE = "not part of the model's weights"
LEFT = [
    ("epoch", "int", BESIDE, 0, 0),
    ("ema", "dict", "averaged weights: --ema takes them instead of the model's", 1, 8),
    ("optimizer", "dict", BESIDE, 1, 8),
    ("name", "str", BESIDE, 0, 0),
    ("rng", "bytes", BESIDE, 0, 0),
    ("args", "argparse.Namespace", BESIDE, 0, 0),
]
VALUES = {"epoch": 3, "name": "résumé", "args": {"lr": 0.1, "betas": [0.9, 0.95]}}

GGUF_VALUES = {"epoch": 3, "name": "résumé", "args": '{"lr": 0.1, "betas": [0.9, 0.95]}'}


@pytest.fixture
def trained(tmp_path: Path) -> Catalogue:
    return open_checkpoint(write_checkpoint(tmp_path / "t.pt", TRAINER, TWO))


def test_every_part_that_stays_behind_is_named(trained: Catalogue, tmp_path: Path) -> None:
    converted = convert(trained, tmp_path / "t.safetensors")
    extracted = extract(trained, tmp_path / "folder")

    for report in (converted, extracted):
        assert [(left.name, left.kind, left.reason, left.tensors, left.nbytes) for left in report.dropped] == LEFT
        assert json.loads(to_json(report))["dropped"][1]["name"] == "ema"
        assert report.carried == ()


def test_values_are_carried_in_the_header(trained: Catalogue, tmp_path: Path) -> None:
    report = convert(trained, tmp_path / "t.safetensors", carry_values=True)

    metadata = open_checkpoint(tmp_path / "t.safetensors").metadata
    assert report.carried == ("epoch", "name", "args")
    assert {name: json.loads(metadata[f"training.{name}"]) for name in VALUES} == VALUES
    assert [left.name for left in report.dropped] == ["ema", "optimizer", "rng"]


@pytest.mark.parametrize(("output", "document"), [("t.npz", "t.values.json"), ("folder", "folder/values.json")])
def test_values_are_carried_beside_formats_without_a_place_for_them(
    output: str, document: str, trained: Catalogue, tmp_path: Path
) -> None:
    convert(trained, tmp_path / output, to="npz" if output.endswith("npz") else "parameters", carry_values=True)

    assert json.loads((tmp_path / document).read_text()) == VALUES
    assert dict(open_checkpoint(tmp_path / output)).keys() == {"a.w"}
    assert verify(trained, [tmp_path / output]).outputs[0].lacks == ("ema", "optimizer", "rng")


def test_values_are_carried_in_the_keys_of_gguf(tiny: Path, tmp_path: Path) -> None:
    """They have the types of GGUF; what has none there, such as a dict, is JSON."""
    source = open_checkpoint(tiny)
    others = open_checkpoint(write_checkpoint(tmp_path / "t.pt", TRAINER, TWO)).others
    report = convert(replace(source, others=others), tmp_path / "t.gguf", carry_values=True)

    assert report.carried == ("epoch", "name", "args")
    keys = open_checkpoint(tmp_path / "t.gguf").metadata
    found = {key.removeprefix("training."): value for key, value in keys.items() if key.startswith("training.")}
    assert found == GGUF_VALUES


def test_verify_says_what_a_copy_lacks(trained: Catalogue, tmp_path: Path) -> None:
    convert(trained, tmp_path / "all.safetensors")
    convert(trained, tmp_path / "more.safetensors", carry_values=True)

    report = verify(trained, [tmp_path / "all.safetensors", tmp_path / "more.safetensors", trained.location])

    assert report.ok
    assert [output.lacks for output in report.outputs] == [
        tuple(name for name, *_ in LEFT), ("ema", "optimizer", "rng"), (),
    ]  # fmt: skip


def test_a_person_reads_it_in_a_few_lines(trained: Catalogue, tmp_path: Path) -> None:
    many = {f"value {number}": number for number in range(9)} | TRAINER
    path = write_checkpoint(tmp_path / "many.pt", many, TWO)

    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "m.safetensors")], env={"COLUMNS": "300"})

    lines = [line.strip() for line in done.stdout.splitlines() if "left behind" in line]
    assert len(lines) == 2
    assert lines[0].endswith("value 5 and 8 more (--json lists them): not part of the model's weights")
    assert lines[1] == "left behind: ema (1 tensor, 8 B): averaged weights: --ema takes them instead of the model's"
