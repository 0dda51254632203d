"""`diff` with globs on names: only what they mean is compared, and everything else is said not to be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.difference.diff import diff
from converter.difference.three_way import three_way
from converter.errors import RuleError
from converter.opening import open_checkpoint
from tests.build.checkpoints import view, write_checkpoint
from tests.build.reads import noted_reads
from tests.difference.arrays import Arrays, base, write

BASE = base(11)
RUN = CliRunner()
# Another matrix in two layers, and a vector that was renamed.
AFTER: Arrays = {
    **{name: array for name, array in BASE.items() if name != "layers.1.norm"},
    "layers.0.wide": BASE["layers.0.wide"] + np.float32(1),
    "layers.2.wide": BASE["layers.2.wide"] + np.float32(1),
    "renamed": BASE["layers.1.norm"],
}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "b").mkdir()
    one, other = write(tmp_path / "before.safetensors", BASE), write(tmp_path / "b" / "after.safetensors", AFTER)
    (tmp_path / "config.json").write_text('{"n": 1}')
    (tmp_path / "b" / "config.json").write_text('{"n": 2}')
    return one, other


@pytest.mark.parametrize(
    ("globs", "compared", "changed"),
    [
        (("layers.1.wide",), 1, ()),
        (("layers.0.wide",), 1, ("layers.0.wide",)),
        (("layers.{0..1}.wide",), 2, ("layers.0.wide",)),
        (("layers.{0,2}.wide", "layers.1.wide"), 3, ("layers.0.wide", "layers.2.wide")),
        (("wide",), 3, ("layers.0.wide", "layers.2.wide")),
        (("layers.1.norm",), 0, ("renamed",)),
        (("renamed",), 0, ("renamed",)),
    ],
)
def test_only_what_a_filter_means_is_compared(
    globs: tuple[str, ...], compared: int, changed: tuple[str, ...], two: tuple[Path, Path]
) -> None:
    report = diff(*map(open_checkpoint, two), filter=globs)

    assert (report.compared, {change.name for change in report.changes}) == (compared, {*changed})
    assert report.same == (not changed)
    assert (report.beside, report.aside, report.filter) == ((), (), globs)
    # Eight names before, and one that only the other side has.
    assert report.filtered == 9 - compared - 2 * ("renamed" in changed)


def test_both_names_of_a_renamed_tensor_are_followed_through_three(two: tuple[Path, Path]) -> None:
    report = three_way(*map(open_checkpoint, (two[0], two[1], two[0])), filter="renamed")

    assert [(change.name, change.by) for change in report.changes] == [("layers.1.norm", "after")]
    assert (report.filter, report.filtered) == (("renamed",), 7)


def test_the_command_says_what_it_did_not_compare(two: tuple[Path, Path]) -> None:
    words = ["diff", *map(str, two), "--filter", "layers.1.wide"]

    shown, document = RUN.invoke(app, words), RUN.invoke(app, [*words, "--json"])

    assert (shown.exit_code, document.exit_code) == (0, 0)
    assert "`layers.1.wide`; neither 8 other tensors nor what lies beside was compared" in " ".join(
        shown.stdout.split()
    )
    assert json.loads(document.stdout)["filter"] == ["layers.1.wide"]


@pytest.mark.parametrize("third", [False, True])
def test_a_filter_that_means_nothing_is_refused_with_what_was_perhaps_meant(
    third: bool, two: tuple[Path, Path]
) -> None:
    done = RUN.invoke(app, ["diff", *map(str, two), *([str(two[0])] if third else []), "--filter", "layers.1.wild"])

    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith("error: no tensor fits the filter `layers.1.wild`; did you mean `layers.1.wide`")
    with pytest.raises(RuleError, match="no tensor fits the filter `nothing`"):
        diff(*map(open_checkpoint, two), filter=["wide", "nothing"])


def test_what_is_not_compared_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 100_000
    value = {name: view(key, (size,)) for key, name in (("0", "some"), ("1", "other"))}
    for name in ("before.bin", "after.bin"):
        write_checkpoint(tmp_path / name, value, {key: np.arange(size, dtype="<f4").tobytes() for key in "01"})
    reads = noted_reads(monkeypatch)

    report = diff(open_checkpoint(tmp_path / "before.bin"), open_checkpoint(tmp_path / "after.bin"), filter="some")

    assert (report.same, report.compared) == (True, 1)
    assert sum(reads) < 3 * 4 * size  # the one tensor on both sides, and the directories of both archives
