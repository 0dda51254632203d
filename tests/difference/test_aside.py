"""What `diff` says about files and values beside the tensors that only some sides have, or that can't be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.difference.diff import diff
from converter.difference.three_way import three_way
from converter.opening import open_checkpoint
from converter.reports.difference import DiffReport
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.difference.arrays import base, write
from tests.pages.reading import check

RUN = CliRunner()


def folder(path: Path, files: Mapping[str, Any]) -> Path:
    """A checkpoint with files beside it; a text is written as it is."""
    path.mkdir()
    write(path / "model.safetensors", base(3))
    for name, value in files.items():
        (path / name).write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def compared(tmp_path: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> DiffReport:
    places = (folder(tmp_path / name, files) for name, files in (("a", before), ("b", after)))
    return diff(*map(open_checkpoint, places))


def aside(report: DiffReport) -> list[tuple[str, tuple[str, ...], tuple[str, ...], str]]:
    return [(one.part, one.names, one.sides, one.why) for one in report.aside]


CONFIG = {"model_type": "other", "hidden_size": 4}
GENERATION = {"top_k": 5}
TOKENIZER = {"vocab.json": {"a": 0, "b": 1, "ab": 2}, "merges.txt": "#version: 0.2\na b\n"}


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"config.json": CONFIG}, {}, ("configuration", ("config.json",), ("before",), "only before has one")),
        ({}, {"config.json": CONFIG}, ("configuration", ("config.json",), ("after",), "only after has one")),
        (
            {"generation_config.json": GENERATION},
            {},
            ("generation", ("generation_config.json",), ("before",), "only before has one"),
        ),
        (TOKENIZER, {}, ("tokenizer", ("tokenizer",), ("before",), "only before has one")),
        ({}, TOKENIZER, ("tokenizer", ("tokenizer",), ("after",), "only after has one")),
    ],
    ids=["config before", "config after", "generation", "tokenizer before", "tokenizer after"],
)
def test_a_file_on_one_side_only_is_named_and_no_difference(
    tmp_path: Path, before: Mapping[str, Any], after: Mapping[str, Any], expected: tuple[object, ...]
) -> None:
    report = compared(tmp_path, before, after)

    assert aside(report) == [expected]
    assert report.same
    assert report.beside == ()


@pytest.mark.parametrize(
    ("name", "text", "part"),
    [
        ("config.json", "{bad", "configuration"),
        ("config.json", "[1]", "configuration"),
        ("generation_config.json", "{bad", "generation"),
        ("generation_config.json", "[1]", "generation"),
        ("vocab.json", "{bad", "tokenizer"),
    ],
)
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_file_that_cannot_be_read_is_named_with_the_reason(
    tmp_path: Path, name: str, text: str, part: str, side: str
) -> None:
    good = {"config.json": CONFIG, "generation_config.json": GENERATION, **TOKENIZER}
    pair = [good, good | {name: text}]
    report = compared(tmp_path, *(pair if side == "after" else pair[::-1]))

    (one,) = report.aside
    assert (one.part, one.sides) == (part, (side,))
    assert name in one.why
    assert "valid JSON" in one.why or "object" in one.why
    assert report.same


def test_neither_side_having_a_file_is_not_worth_a_word(tmp_path: Path) -> None:
    assert compared(tmp_path, {}, {}).aside == ()


def test_values_on_one_side_only_are_named(tmp_path: Path) -> None:
    for name, said in (("a", {"epoch": 3, "seed": 1, "lr": 0.1}), ("b", {"epoch": 3, "step": 7})):
        write_checkpoint(tmp_path / f"{name}.pt", {"model": {"a": view("0", (2,))}, **said}, {"0": floats(1, 2)})

    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt"))

    assert aside(report) == [
        ("values", ("seed", "lr"), ("before",), "only before has them"),
        ("values", ("step",), ("after",), "only after has one"),
    ]
    assert report.same


def test_values_of_other_kinds_are_named(tmp_path: Path) -> None:
    for name, steps in (("a", [1]), ("b", [2])):
        value = {"model": {"a": view("0", (2,))}, "history": steps, "epoch": 1}
        write_checkpoint(tmp_path / f"{name}.pt", value, {"0": floats(1, 2)})

    report = diff(open_checkpoint(tmp_path / "a.pt"), open_checkpoint(tmp_path / "b.pt"))

    assert aside(report) == [
        ("values", ("history",), ("before", "after"), "only numbers and texts are compared"),
    ]


def test_metadata_of_two_formats_is_named(tmp_path: Path) -> None:
    one = write(tmp_path / "a.safetensors", base(3), {"format": "pt"})
    other = write_checkpoint(tmp_path / "b.pt", {"count": view("0", (2,))}, {"0": floats(1, 2)})

    report = diff(open_checkpoint(one), open_checkpoint(other))

    assert ("metadata", ("metadata",), ("before",), "each format has keys of its own") in aside(report)


def test_a_configuration_is_compared_with_the_keys_of_a_gguf(tiny: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny, tmp_path / "a")
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="f32")
    config = json.loads((tmp_path / "a/config.json").read_text())
    config["layer_norm_epsilon"] = 1e-6
    (tmp_path / "a/config.json").write_text(json.dumps(config))
    before, gguf, whole = (open_checkpoint(place) for place in (tmp_path / "a", tmp_path / "x.gguf", tiny))

    report = diff(before, gguf)

    assert [(one.part, one.name, one.before, one.after) for one in report.beside] == [
        ("configuration", "layer_norm_epsilon", "1e-06", "1e-05")
    ]
    assert not report.same
    assert [(one.before, one.after) for one in diff(gguf, before).beside] == [("1e-05", "1e-06")]
    assert diff(whole, gguf).same
    assert "configuration" not in {one.part for one in diff(whole, gguf).aside}


def test_special_tokens_inside_a_gguf_are_no_settings_of_generation(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="f32")

    report = diff(open_checkpoint(tiny), open_checkpoint(tmp_path / "x.gguf"))

    assert {one.part for one in report.aside} == {"metadata"}


def test_three_sides_say_which_of_them_have_it(tmp_path: Path) -> None:
    places = [
        folder(tmp_path / name, files)
        for name, files in (
            ("a", {"config.json": CONFIG, **TOKENIZER}),
            ("b", {"config.json": CONFIG | {"hidden_size": 5}}),
            ("c", TOKENIZER),
        )
    ]

    report = three_way(*map(open_checkpoint, places))

    assert [(one.part, one.names, one.sides, one.why) for one in report.aside] == [
        ("configuration", ("config.json",), ("before", "after"), "other has none"),
        ("tokenizer", ("tokenizer",), ("before", "other"), "after has none"),
    ]
    (config,) = report.beside
    assert (config.name, config.by, config.before, config.after, config.other) == (
        "hidden_size", "after", "4", "5", None
    )  # fmt: skip


def test_a_value_that_one_of_three_lacks_is_not_shown_for_it(tmp_path: Path) -> None:
    said = ({"epoch": 1, "lr": 5}, {"epoch": 2, "lr": 5}, {"lr": 5})
    for at, values in enumerate(said):
        write_checkpoint(tmp_path / f"{at}.pt", {"model": {"a": view("0", (2,))}, **values}, {"0": floats(1, 2)})

    report = three_way(*(open_checkpoint(tmp_path / f"{at}.pt") for at in range(3)))

    (one,) = report.beside
    assert (one.name, one.by, one.before, one.after, one.other) == ("epoch", "after", "1", "2", None)
    assert one.detail == "OTHER has none"
    assert [(two.names, two.sides, two.why) for two in report.aside] == [
        (("epoch",), ("before", "after"), "other has none")
    ]


def test_the_terminal_the_page_and_the_document_name_it(tmp_path: Path) -> None:
    one, other = folder(tmp_path / "a", {"config.json": CONFIG}), folder(tmp_path / "b", {"config.json": "{bad"})

    done = RUN.invoke(
        app, ["diff", str(one), str(other), "--html", str(tmp_path / "page.html")], env={"COLUMNS": "200"}
    )
    document = json.loads(RUN.invoke(app, ["diff", str(one), str(other), "--json"]).stdout)

    assert done.exit_code == 0
    assert "beside    config.json is not compared: " in done.stdout
    assert "is not a valid JSON document" in done.stdout
    assert "is not a valid JSON document" in check((tmp_path / "page.html").read_bytes()).text
    assert [(one["part"], one["names"], one["sides"]) for one in document["aside"]] == [
        ("configuration", ["config.json"], ["after"])
    ]
