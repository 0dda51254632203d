"""docs/performance.md shows what the benchmark's JSON says; no test checks the figures themselves."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.bench import report, results
from tests.bench.report import render
from tests.bench.tasks import GOALS, TASKS, Goal

PAGE = results.ROOT / "docs" / "performance.md"


def way(name: str, side: str, *seconds: float, resident: int = 30_000_000) -> results.Result:
    return {
        "name": name,
        "side": side,
        "seconds": list(seconds),
        "processor": [0.5],
        "resident": resident,
        "anonymous": 20_000_000,
    }


def result(*ways: results.Result) -> results.Result:
    return {
        "nbytes": 2_440_000_000, "date": "2026-11-25", "rounds": 3, "where": "outputs on tmpfs", "machine": "2 cores",
        "versions": {"unzip": "6.00", "cp": "9.1"}, "skipped": {"7z": "`7z` is not installed"}, "ways": list(ways),
    }  # fmt: skip


EXTRACTED = result(
    way("cp", "base", 1.0, 2.0, 4.0),
    way("cerebras-tool extract", "ours", 1.5, 2.0, 8.0),
    way("unzip", "peer", 10.0, 20.0, 16.0, resident=3_000_000),
    way("python -m zipfile", "peer", 3.0, 4.0, 8.0),
)


def test_a_table_has_medians_of_the_ratios_within_a_round() -> None:
    assert (
        report.table(EXTRACTED)
        == """\
| | seconds | × cp | × best peer | CPU seconds | resident MB | of it anonymous |
|---|---:|---:|---:|---:|---:|---:|
| cp | 2.00 | 1.00 | 0.50 | 0.500 | 30 | 20 |
| cerebras-tool extract | 2.00 | 1.50 | 0.50 | 0.500 | 30 | 20 |
| unzip | 16.00 | 10.00 | 3.33 | 0.500 | 3 | 20 |
| python -m zipfile | 4.00 | 2.00 | 1.00 | 0.500 | 30 | 20 |

2.44 GB; 2026-11-25, 3 rounds, outputs on tmpfs, page cache warm; 2 cores; cp 9.1 · unzip 6.00; not measured: 7z, `7z` is not installed."""
    )


def test_the_goals_say_what_holds_what_misses_and_what_was_not_measured() -> None:
    rows = report.goals({"590M": {"extract": EXTRACTED}}, "590M").splitlines()[2:]

    assert rows == [
        "| extract: cerebras-tool extract | cp | 1.6 | 1.50 | holds |",
        "| extract: cerebras-tool extract | unzip | 1 | 0.15 | holds |",
        "| extract: cerebras-tool extract | 7z | 1 | – | not measured |",
        "| extract: cerebras-tool extract | bsdtar | 1 | – | not measured |",
        "| extract: cerebras-tool extract | python -m zipfile | 1 | 0.50 | holds |",
        "| extract: cerebras-tool extract, resident |  | 120 MB | 30 MB | holds |",
    ]


def test_text_around_the_markers_stays_and_what_has_no_marker_is_added() -> None:
    page = "# Title\n\nWords.\n\n<!-- bench: 590M extract -->\nold\n<!-- /bench -->\n\nMore words.\n"

    rendered = render(page, {"590M": {"extract": EXTRACTED}, "111M": {"extract": EXTRACTED}})

    assert (
        rendered
        == f"""\
# Title

Words.

<!-- bench: 590M extract -->

{report.table(EXTRACTED, "`make bench MODEL=590M ROUNDS=3 ONLY=extract`: ")}

<!-- /bench -->

More words.

## All of the 111M

<!-- bench: 111M all -->

| | | seconds | × cp | × best peer | | CPU seconds | resident MB | of it anonymous |
|---|---|---:|---:|---:|---|---:|---:|---:|
| Taking apart | cerebras-tool extract | 2.00 | 1.50 | 0.50 | python -m zipfile | 0.500 | 30 | 20 |

`make bench MODEL=111M`: 2.44 GB; 2026-11-25, 3 rounds, outputs on tmpfs, page cache warm; 2 cores.

<!-- /bench -->
"""
    )


def test_the_page_shows_what_the_json_says() -> None:
    page = PAGE.read_text()

    assert render(page, results.load()) == page, "python -m tests.bench --render makes it so"


def test_every_plot_is_on_the_page() -> None:
    shown = re.findall(r"!\[[^]]*\]\(performance/(\S+\.svg)\)", PAGE.read_text())

    assert sorted(shown) == sorted(path.name for path in results.FOLDER.glob("*.svg"))
    assert sorted(shown) == sorted(f"{name}.svg" for name in ["overview", *results.plotted(results.load())])


def test_the_picture_shows_what_cp_ours_and_a_peer_have_in_common() -> None:
    alone = result(way("cerebras-tool extract", "ours", 1.0))

    rows = results.compared({"extract": EXTRACTED, "engine": alone})

    assert {task: [way["name"] for way in ways] for task, ways in rows.items()} == {
        "extract": ["cp", "cerebras-tool extract", "python -m zipfile"]
    }
    assert results.broadest({"any": {"a": alone, "b": alone}, "111M": {"a": alone}, "590M": {"a": alone}}) == "590M"
    assert results.broadest({"111M": {"a": alone, "b": alone}, "590M": {"a": alone}}) == "111M"


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: f"{goal.task}: {goal.way} to {goal.to}")
def test_a_goal_names_rows_of_its_task(goal: Goal) -> None:
    names = {way.name for way in TASKS[goal.task].ways}

    assert goal.way in names
    assert goal.to is None or goal.to in names


def test_every_commit_that_figures_name_is_in_the_history() -> None:
    git = ("git", "-C", str(results.ROOT))
    shallow = subprocess.run(
        (*git, "rev-parse", "--is-shallow-repository"), capture_output=True, text=True, check=False
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("this is no git checkout with its whole history, so nothing says which commits there are")
    named = set(re.findall(r"\(([0-9a-f]{7})(?:-dirty)?\)|\b(?:commit|at) ([0-9a-f]{7})\b", PAGE.read_text()))
    commits = sorted("".join(pair) for pair in named)

    listed = subprocess.run(
        (*git, "cat-file", "--batch-check"), input="\n".join(commits), capture_output=True, text=True, check=True
    )
    assert len(commits) > 3
    assert [line for line in listed.stdout.splitlines() if line.split()[1] != "commit"] == []
