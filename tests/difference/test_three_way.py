"""What `diff` says about two checkpoints that were made from a third by hand. Figures are numpy's, in float64."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import converter
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.difference.three_way import three_way
from converter.opening import open_checkpoint
from converter.reports.three_way import ThreeWayChange, ThreeWayReport
from tests.difference.arrays import Arrays, base, write
from tests.pages.hostile import NAMES
from tests.pages.reading import check

RUN = CliRunner()
RANDOM = np.random.default_rng(21)
BASE = base(22)


def found(folder: Path, after: Arrays, other: Arrays, before: Arrays = BASE) -> ThreeWayReport:
    paths = [
        write(folder / f"{name}.safetensors", arrays)
        for name, arrays in (("before", before), ("after", after), ("other", other))
    ]
    return three_way(*map(open_checkpoint, paths))


def by(report: ThreeWayReport) -> dict[str, tuple[str, str]]:
    return {change.name: (change.by, change.detail) for change in report.changes}


def only(report: ThreeWayReport) -> ThreeWayChange:
    (change,) = report.changes
    return change


def test_three_equal_checkpoints_are_the_same(tmp_path: Path) -> None:
    report = found(tmp_path, BASE, BASE)

    assert report.same
    assert (report.compared, report.identical, report.changes, report.beside) == (8, 8, (), ())
    assert {(layer.after, layer.other, layer.cosine, layer.conflicts) for layer in report.layers} == {
        (0.0, 0.0, None, 0)
    }


def test_each_change_has_who_made_it(tmp_path: Path) -> None:
    one, two, three = (BASE["layers.0.wide"] + np.float32(number) for number in (1, 2, 3))
    after = BASE | {"layers.0.wide": one, "layers.1.wide": two, "layers.2.wide": three}
    other = BASE | {"layers.1.wide": two, "layers.2.wide": one, "embedding": BASE["embedding"] * np.float32(2)}

    report = found(tmp_path, after, other)

    assert [(change.name, change.by) for change in report.changes] == [
        ("layers.2.wide", "conflict"), ("layers.1.wide", "agree"), ("layers.0.wide", "after"), ("embedding", "other"),
    ]  # fmt: skip
    conflict, agreed, alone, other_alone = report.changes
    assert conflict.detail == "3,072 of 3,072 elements are not the same in both"
    assert (agreed.cosine, agreed.differing) == (1.0, 0)
    assert (alone.other, alone.cosine, alone.differing) == (None, None, None)
    assert (other_alone.after, other_alone.detail) == (None, "multiplied by 2")
    assert (report.compared, report.identical) == (8, 4)


def test_the_angle_between_two_changes_is_right(tmp_path: Path) -> None:
    one = RANDOM.standard_normal((48, 64)) * 0.1
    two = one * 0.5 + RANDOM.standard_normal((48, 64)) * 0.05
    start = BASE["layers.1.wide"]
    after, other = (BASE | {"layers.1.wide": (start + change).astype("<f4")} for change in (one, two))

    report = found(tmp_path, after, other)

    cosine = (one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two)
    assert 0.6 < cosine < 0.8
    assert only(report).cosine == pytest.approx(cosine, abs=1e-3)
    layer = next(layer for layer in report.layers if layer.name == "layers.1")
    assert layer.cosine == pytest.approx(cosine, abs=1e-3)
    assert (layer.conflicts, layer.tensors) == (1, 2)
    whole = np.concatenate([start.reshape(-1), BASE["layers.1.norm"]]).astype("f8")
    assert layer.after == pytest.approx(np.linalg.norm(one) / np.linalg.norm(whole), rel=1e-3)


@pytest.mark.parametrize(("number", "cosine"), [(-1.0, -1.0), (1e-5, None)], ids=["against", "too short to tell"])
def test_changes_against_each_other_and_tiny_ones(tmp_path: Path, number: float, cosine: float | None) -> None:
    start = np.zeros((8, 8), "<f4")
    change = RANDOM.standard_normal((8, 8)).astype("<f4")

    report = found(tmp_path, {"a": change}, {"a": change * np.float32(number)}, {"a": start})

    assert only(report).cosine == cosine


def test_a_layer_that_both_changed_in_other_tensors_has_changes_at_a_right_angle(tmp_path: Path) -> None:
    after = BASE | {"layers.1.wide": BASE["layers.1.wide"] + np.float32(1)}
    other = BASE | {"layers.1.norm": BASE["layers.1.norm"] + np.float32(1)}

    layer = next(layer for layer in found(tmp_path, after, other).layers if layer.name == "layers.1")

    assert (layer.cosine, layer.conflicts) == (0.0, 0)


def test_changes_of_other_elements_are_apart(tmp_path: Path) -> None:
    one, two = BASE["embedding"].copy(), BASE["embedding"].copy()
    one[3] += 1
    two[4] += 1
    three = two.copy()
    three[3] += 2

    apart = only(found(tmp_path, BASE | {"embedding": one}, BASE | {"embedding": two}))
    overlapping = only(found(tmp_path, BASE | {"embedding": one}, BASE | {"embedding": three}))

    assert (apart.by, apart.detail, apart.differing) == ("apart", "no element was changed by both", 16)
    assert (overlapping.by, overlapping.detail) == ("conflict", "16 of 320 elements are not the same in both")


def test_one_element_that_both_changed_is_a_conflict(tmp_path: Path) -> None:
    one, two = BASE["count"].copy(), BASE["count"].copy()
    one[2], two[2] = 7, 8

    change = only(found(tmp_path, BASE | {"count": one}, BASE | {"count": two}))

    assert (change.by, change.detail) == ("conflict", "1 of 5 elements is not the same in both")


def renamed(arrays: Arrays, old: str, new: str) -> Arrays:
    return {new if name == old else name: array for name, array in arrays.items()}


def test_names(tmp_path: Path) -> None:
    changed = BASE | {"embedding": BASE["embedding"] + np.float32(1)}
    wte, emb = (renamed(BASE, "embedding", name) for name in ("wte", "emb"))

    assert by(found(tmp_path, wte, wte)) == {"embedding": ("agree", "now called wte; every bit is equal")}
    assert by(found(tmp_path, wte, emb)) == {"embedding": ("conflict", "called wte in AFTER, called emb in OTHER")}
    assert by(found(tmp_path, wte, changed)) == {"embedding": ("apart", "AFTER only renamed it, to wte")}
    assert by(found(tmp_path, changed, emb)) == {"embedding": ("apart", "OTHER only renamed it, to emb")}


def test_what_was_removed_and_added(tmp_path: Path) -> None:
    less = {name: array for name, array in BASE.items() if name != "count"}
    changed = BASE | {"count": BASE["count"] + 1}
    new, same, unlike, longer = (
        BASE | {"new": np.full(length, value, "<f4")} for length, value in ((2, 1), (2, 1), (2, 3), (3, 1))
    )

    assert by(found(tmp_path, less, less)) == {"count": ("agree", "only before: I64 5")}
    assert by(found(tmp_path, less, BASE)) == {"count": ("after", "only before: I64 5")}
    assert by(found(tmp_path, less, changed)) == {"count": ("conflict", "removed in AFTER, changed in OTHER")}
    assert by(found(tmp_path, changed, less)) == {"count": ("conflict", "changed in AFTER, removed in OTHER")}
    assert by(found(tmp_path, new, same)) == {"new": ("agree", "only after: F32 2")}
    assert by(found(tmp_path, new, BASE)) == {"new": ("after", "only after: F32 2")}
    assert by(found(tmp_path, BASE, new)) == {"new": ("other", "only after: F32 2")}
    assert by(found(tmp_path, new, unlike))["new"][0] == "conflict"
    assert by(found(tmp_path, new, longer)) == {"new": ("conflict", "F32 2 in AFTER, F32 3 in OTHER")}


def test_other_dtypes_and_shapes(tmp_path: Path) -> None:
    half = BASE | {"layers.0.norm": BASE["layers.0.norm"].astype("<f2")}
    double = BASE | {"layers.0.norm": BASE["layers.0.norm"].astype("<f8")}
    longer = BASE | {"layers.0.norm": np.concatenate([BASE["layers.0.norm"], np.ones(1, "<f4")])}

    assert by(found(tmp_path, half, half))["layers.0.norm"] == ("agree", "F32 to F16, rounded")
    assert by(found(tmp_path, half, double)) == {"layers.0.norm": ("conflict", "F16 64 in AFTER, F64 64 in OTHER")}
    assert by(found(tmp_path, half, longer)) == {"layers.0.norm": ("conflict", "F16 64 in AFTER, F32 65 in OTHER")}


def test_what_two_exchanged_is_agreed(tmp_path: Path) -> None:
    swapped = BASE | {"layers.0.norm": BASE["layers.2.norm"], "layers.2.norm": BASE["layers.0.norm"]}

    assert {change.by for change in found(tmp_path, swapped, swapped).changes} == {"agree"}
    assert {change.by for change in found(tmp_path, swapped, BASE).changes} == {"after"}


def test_numbers_that_are_not_finite_leave_the_angle_out(tmp_path: Path) -> None:
    broken = BASE["embedding"].copy()
    broken[1, 1] = np.nan

    change = only(found(tmp_path, BASE | {"embedding": broken}, BASE | {"embedding": BASE["embedding"] + 1}))

    assert (change.by, change.cosine, change.differing) == ("conflict", None, 320)


def test_metadata_has_who_changed_it(tmp_path: Path) -> None:
    long = "x" * 300
    said = (
        {"kept": "1", "one": "1", "two": "1", "both": "1", "apart": "1", "long": long},
        {"kept": "1", "one": "2", "two": "1", "both": "2", "apart": "2", "long": f"{long}1", "new": "a"},
        {"kept": "1", "one": "1", "both": "2", "apart": "3", "long": f"{long}2", "new": "a"},
    )
    paths = [write(tmp_path / f"{at}.safetensors", BASE, metadata) for at, metadata in enumerate(said)]

    report = three_way(*map(open_checkpoint, paths))

    assert not report.same
    assert {one.name: (one.by, one.before, one.after, one.other) for one in report.beside if one.name != "long"} == {
        "one": ("after", "1", "2", "1"), "two": ("other", "1", "1", None), "both": ("agree", "1", "2", "2"),
        "apart": ("conflict", "1", "2", "3"), "new": ("agree", None, "a", "a"),
    }  # fmt: skip
    assert [one.by for one in report.beside if one.name == "long"] == ["conflict"]


def test_forms_do_not_matter(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "st", to="safetensors")
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q8_0")

    report = converter.diff_three_way(tiny, tmp_path / "st", tmp_path / "x.gguf")

    assert {change.by for change in report.changes} == {"other"}
    assert len(report.changes) == 17
    assert (report.compared, report.identical) == (52, 35)
    assert "transformer.h.0.attn.c_attn.weight" in {change.name for change in report.changes}
    assert report.same is False


# ---- the command and the page ----------------------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> list[str]:
    after = BASE | {"layers.1.norm": BASE["layers.1.norm"] * np.float32(2), "count": BASE["count"] + 1}
    other = BASE | {"layers.1.norm": BASE["layers.1.norm"] * np.float32(3)}
    arrays = {"a": BASE, "b": after, "c": other}
    return [str(write(tmp_path / f"{name}.safetensors", found)) for name, found in arrays.items()]


def test_the_command_has_a_line_for_each(places: list[str]) -> None:
    done = RUN.invoke(app, ["diff", *places], env={"COLUMNS": "120"})

    assert (done.exit_code, done.stderr) == (1, "")
    assert "8 in all three, 6 identical in every bit; 1 changed by AFTER alone, 1 in conflict" in done.stdout
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in done.stdout.splitlines() if line.strip()}
    assert lines["layers.1.norm"].startswith("conflict 100 %, 200 % 1.000 64 of 64 elements are not")
    assert lines["count"].startswith("AFTER 40.8 %")


def test_the_command_ends_with_what_it_found(places: list[str], tmp_path: Path) -> None:
    same = RUN.invoke(app, ["diff", *places[:1] * 3])
    document = RUN.invoke(app, ["diff", *places, "--json"])
    broken = RUN.invoke(app, ["diff", *places[:2], str(tmp_path / "none")])

    assert (same.exit_code, document.exit_code, broken.exit_code) == (0, 1, 2)
    assert same.stdout.startswith("same\n")
    assert [(change["name"], change["by"]) for change in json.loads(document.stdout)["changes"]] == [
        ("layers.1.norm", "conflict"), ("count", "after"),
    ]  # fmt: skip


def test_the_page_has_what_the_terminal_has(places: list[str], tmp_path: Path) -> None:
    done = RUN.invoke(app, ["diff", *places, "--html", str(tmp_path / "page.html"), "-q"])

    page = check((tmp_path / "page.html").read_bytes())
    assert (done.exit_code, done.stdout) == (1, "")
    assert [(change[0], change[2], change[3]) for change in page.data["changes"]] == [
        ("layers.1.norm", "conflict", 1.0), ("count", "AFTER", None),
    ]  # fmt: skip
    norm = BASE["layers.1.norm"].astype("f8")
    share = np.linalg.norm(norm) / np.hypot(np.linalg.norm(norm), np.linalg.norm(BASE["layers.1.wide"].astype("f8")))
    changed = (pytest.approx(share, rel=1e-3), pytest.approx(2 * share, rel=1e-3))
    assert [(layer[2], layer[3]) for layer in page.data["layers"]] == [(0.0, 0.0), changed, (0.0, 0.0)]
    assert "8 in all three" in page.text
    assert "1 in conflict" in page.text


def test_hostile_names_are_text(tmp_path: Path) -> None:
    paths = [
        str(write(tmp_path / f"{at}.safetensors", {name: np.full(2, at, "<f4") for name in NAMES}, {name: str(at) for name in NAMES[:3]}))
        for at in range(3)
    ]  # fmt: skip

    done = RUN.invoke(app, ["diff", *paths, "--html", str(tmp_path / "page.html"), "--all"])

    page = check((tmp_path / "page.html").read_bytes())
    assert done.exit_code == 1
    assert not {"\x1b", "\u202e", "\x00"} & set(done.stdout)
    assert {change[0] for change in page.data["changes"]} == set(NAMES)
    assert "<img src=x onerror" in page.text


def test_numbers_whose_squares_have_no_place_in_f64_have_an_angle(tmp_path: Path) -> None:
    start = BASE["embedding"].astype("<f8") * 1e200
    one, two = (RANDOM.standard_normal((40, 8)) for _ in range(2))

    report = found(tmp_path, {"a": start + one * 1e199}, {"a": start + two * 1e199}, {"a": start})

    cosine = (one * two).sum() / np.linalg.norm(one) / np.linalg.norm(two)
    assert only(report).cosine == pytest.approx(cosine, abs=1e-3)
