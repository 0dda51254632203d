"""The changes that `python -m tests.mutants` makes: each gives another program, and none touches texts for people."""

import ast
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.asked import BUDGET, Lines, Places, nearest, rounds
from tests.changes import mutants, sampled
from tests.mutants import MARKS, PAGE, ROOT, SUMMARY, matching, summed, tables
from tests.traced import Traces

CHANGED = {
    "comparison": ("x = a < b", {"a <= b", "a > b"}),
    "membership": ("x = a in b", {"a not in b"}),
    "and": ("x = a and b", {"(a or b)", "b", "a"}),
    "not": ("x = not a", {"a"}),
    "sum": ("x = a + b", {"(a - b)"}),
    "number": ("x = 5", {"6", "4"}),
    "zero": ("x = 0", {"1"}),
    "truth": ("x = True", {"False"}),
    "default": ("def f(a, b=2): pass", {"3", "1"}),
    "return": ("def f(a):\n    return a", {"return None"}),
    "return of a comparison": ("def f(a):\n    return a == b", {"return not a == b", "a != b"}),
    "statement": ("def f(a):\n    a.close()", {"pass"}),
    "raise": ("def f(a):\n    raise a", {"pass"}),
    "call": ("x = f(a, b, c=d)", {"f(a, c=d)", "f(b, a, c=d)", "f(a, b)"}),
    "zip": ("x = zip(a, b, strict=True)", {"zip(a, strict=True)", "zip(b, a, strict=True)"}),
    "condition": ("if a:\n    pass", {"(not (a))"}),
    "entry": ("X = (a, b, c)", {""}),
}


@pytest.mark.parametrize("kind", CHANGED)
def test_which_code_is_changed(kind: str) -> None:
    text, wanted = CHANGED[kind]
    found = mutants("x.py", text.encode())

    assert {one.new for one in found} == wanted
    assert all(ast.dump(ast.parse(one.applied(text.encode()))) != ast.dump(ast.parse(text)) for one in found)


def test_an_entry_goes_with_its_comma() -> None:
    text = b"X = {a: 1.5, **b, c: 2.5}\nY = (\n    a,\n    b,\n    c,\n)\n"

    applied = [ast.unparse(ast.parse(one.applied(text))) for one in mutants("x.py", text) if one.kind == "entry"]

    assert applied == [
        "X = {**b, c: 2.5}\nY = (a, b, c)",
        "X = {a: 1.5, c: 2.5}\nY = (a, b, c)",
        "X = {a: 1.5, **b}\nY = (a, b, c)",
        "X = {a: 1.5, **b, c: 2.5}\nY = (b, c)",
        "X = {a: 1.5, **b, c: 2.5}\nY = (a, c)",
        "X = {a: 1.5, **b, c: 2.5}\nY = (a, b)",
    ]


@pytest.mark.parametrize(
    "text",
    [
        '"""A docstring of 5 words, not more."""',
        "def f(a: Literal[5], b: int) -> tuple[int, 5]: ...",
        "if TYPE_CHECKING:\n    import a",
        "def __repr__(self):\n    return 5 + 5",
        "x = f'{a + 5} of {not b}'",
        "from a import b",
        "T = TypeVar('T', bound=5)",
        "T = Callable[[a, b, c], int]",
        "T = tuple[a, b, c]",
    ],
)
def test_texts_for_people_and_types_are_not_changed(text: str) -> None:
    assert mutants("x.py", text.encode()) == []


def test_a_sample_is_the_same_for_the_same_seed_and_has_nothing_that_changes_nothing() -> None:
    text = b"x = (5)\ny = f(a, a)\nz = 'a' if b else c\n"
    every = mutants("x.py", text)
    one, same, other = (sampled(every, {"x.py": text}, 3, seed) for seed in (1, 1, 2))

    assert one == same
    assert len(one) == 3
    assert one != other
    whole = sampled(every, {"x.py": text}, 100, 1)
    assert "f(a, a)" not in {mutant.new for mutant in whole}


def test_the_nearest_test_files_come_first(tmp_path: Path) -> None:
    texts = {
        "converter/io/zip_records.py": "",
        "converter/opening.py": "from converter.io import zip_records",
        "tests/attacks/test_zip.py": "import converter.opening",  # one import further away, but called alike
        "tests/io/test_zip_records.py": "def test_it():\n    from converter import opening",
        "tests/test_direct.py": "import converter.io.zip_records",
        "tests/test_further.py": "from tests.build import made",
        "tests/build/made.py": "from converter.opening import x",
        "tests/test_process.py": "import subprocess",
        "tests/test_structure.py": "import converter.io.zip_records",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert nearest(tmp_path)("converter/io/zip_records.py") == [
        "tests/io/test_zip_records.py", "tests/attacks/test_zip.py", "tests/test_direct.py", "tests/test_further.py", "tests/test_process.py",
    ]  # fmt: skip


PACKAGE = {
    "a.py": b"""\
SIZE = 5
TABLE = {SIZE: 1, 6: 2}

def f(x, limit=SIZE):
    if (x
            and limit):
        return TABLE[x]
    try:
        match x:
            case 1:
                return 2
            case 3 if (
                    limit):
                return 4
    except ValueError:
        raise
    return x

class Settings:
    shown: int = 5
""",
    "b.py": b"""\
from a import SIZE, Settings
LARGE = SIZE * 2

def g(settings):
    return settings.shown

def h(x):
    return x < LARGE
""",
}


@pytest.mark.parametrize(
    ("line", "inside", "places"),
    [
        (1, False, {"a.py": {7}, "b.py": {8}}),  # SIZE: what uses TABLE, and what uses LARGE
        (2, False, {"a.py": {7}}),
        (4, True, {"a.py": set(range(5, 18))}),  # a default: the whole function
        (6, True, {"a.py": {5, 6}}),
        (7, True, {"a.py": {7}}),
        (10, True, {"a.py": {10}}),
        (13, True, {"a.py": {12, 13}}),
        (15, True, {"a.py": {15}}),
        (17, True, {"a.py": {17}}),
        (20, False, {"b.py": {5}}),
    ],
)
def test_the_lines_that_show_a_change(line: int, inside: bool, places: dict[str, set[int]]) -> None:
    assert Lines(PACKAGE).of("a.py", line) == Places({name: frozenset(lines) for name, lines in places.items()}, inside)


def _traces(folder: Path, tests: dict[str, dict[str, tuple[float, int]]]) -> Traces:
    """Traces of test files: what each test takes, and the line of x.py that it executes."""
    (folder / "converter").mkdir()
    (folder / "converter" / "x.py").write_text("".join(f"x = {line}\n" for line in range(9)))
    traces = Traces(folder / "kept", folder)
    for file, found in tests.items():
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("")
        lines: dict[int, int] = {}
        for place, (_, line) in enumerate(found.values()):
            lines[line] = lines.get(line, 0) | 1 << place
        kept = {
            "seconds": {f"{file}::{name}": seconds for name, (seconds, _) in found.items()},
            "failing": [f"{file}::failing"],
            "lines": {"converter/x.py": {line: f"{bits:x}" for line, bits in lines.items()}},
            "setup": {},
        }
        (folder / "found").write_bytes(gzip.compress(json.dumps(kept).encode()))
        traces.keep(file, folder / "found")
    return traces


def test_the_fastest_tests_of_near_files_are_asked_first_and_a_handful_at_a_time(tmp_path: Path) -> None:
    tests = {"slow": (2.5, 3), "fast": (0.1, 3), "other": (0.1, 4), "middle": (0.2, 3), "failing": (0.1, 3)}
    files = [f"t/{letter}.py" for letter in "abcde"]
    traces = _traces(tmp_path, dict.fromkeys(files, tests))
    places = Places({"converter/x.py": frozenset({3})}, inside=True)

    asked = list(rounds(traces, files, "converter/x.py", places, {"t/e.py": 1}))

    order = [f"t/{letter}.py::{name}" for letter in "eabcd" for name in ("fast", "middle")]  # e noticed a change
    assert asked == [[*order, "t/e.py::slow"], ["t/a.py::slow", "t/b.py::slow"], ["t/c.py::slow", "t/d.py::slow"]]


def test_no_more_tests_are_asked_than_there_is_time_for(tmp_path: Path) -> None:
    traces = _traces(tmp_path, {"t/a.py": {f"test_{n}": (9.0, 3) for n in range(9)}})
    places = Places({"converter/x.py": frozenset({3})}, inside=True)

    assert [len(one) for one in rounds(traces, ["t/a.py"], "converter/x.py", places, {})] == [1] * int(BUDGET // 9)


def test_a_change_outside_of_functions_is_asked_of_all_tests_of_its_module_at_last(tmp_path: Path) -> None:
    traces = _traces(tmp_path, {"t/a.py": {"other": (0.1, 4), "using": (0.2, 3)}})

    def asked(lines: set[int], *, inside: bool) -> list[list[str]]:
        places = Places({"converter/x.py": frozenset(lines)}, inside=inside)
        return list(rounds(traces, ["t/a.py"], "converter/x.py", places, {}))

    assert asked({3}, inside=True) == [["t/a.py::using"]]
    assert asked({3}, inside=False) == [["t/a.py::using"], ["t/a.py::other"]]
    assert asked(set(), inside=True) == []


def test_lines_are_found_again_after_a_change(tmp_path: Path) -> None:
    _traces(tmp_path, {"t/a.py": {"one": (0.1, 3), "two": (0.1, 4)}})
    module = tmp_path / "converter" / "x.py"
    module.write_text("# a line more\n" + module.read_text())
    traces = Traces(tmp_path / "kept", tmp_path)

    assert traces.known("t/a.py")
    assert traces.executing("t/a.py", {"converter/x.py": {4}}) == ["t/a.py::one"]
    (tmp_path / "t" / "a.py").write_text("# another")
    assert not traces.known("t/a.py")


TRACED = """\
import subprocess, sys
import pytest
from converter import x

@pytest.fixture(scope="module")
def made():
    return x.made()

def test_here():
    x.here()

def test_with_it(made):
    pass

def test_child():
    subprocess.run([sys.executable, "-c", "from converter import x; x.child()"], check=True)

def test_failing():
    x.here()
    raise ValueError
"""
CODE = "def made():\n    return 2\ndef here():\n    return 4\ndef child():\n    return 6\n"


def test_a_trace_has_what_tests_fixtures_and_programs_execute(tmp_path: Path) -> None:
    for name in ("__init__.py", "traced.py", "traced_child.py"):
        (tmp_path / "tests").mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, tmp_path / "tests" / name)
    (tmp_path / "converter").mkdir()
    (tmp_path / "converter" / "__init__.py").write_text("")
    (tmp_path / "converter" / "x.py").write_text(CODE)
    (tmp_path / "tests" / "test_x.py").write_text(TRACED)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    said = subprocess.run(
        [sys.executable, "-c", "from tests.traced import trace; trace('tests/test_x.py', 'found')"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 failed, 3 passed" in said.stdout, said.stderr

    traces = Traces(tmp_path / "kept", tmp_path)
    traces.keep("tests/test_x.py", tmp_path / "found")

    def executing(line: int) -> list[str]:
        found = traces.executing("tests/test_x.py", {"converter/x.py": {line}})
        return sorted(name.partition("::")[2] for name in found)

    assert executing(4) == ["test_here"]
    assert executing(6) == ["test_child"]
    assert "test_with_it" in executing(2)
    assert traces.of("tests/test_x.py").failing == ["tests/test_x.py::test_failing"]


def test_the_counts_are_those_of_the_results() -> None:
    results = [
        {"module": "a", "result": "killed"},
        {"module": "a", "result": "time"},
        {"module": "b", "result": "survived"},
    ]

    assert summed(results) == {
        "a": {"mutants": 2, "killed": 1, "time": 1, "equivalent": 0, "survived": 0},
        "b": {"mutants": 1, "killed": 0, "time": 0, "equivalent": 0, "survived": 1},
    }


def test_the_page_has_the_tables_of_the_runs() -> None:
    page = PAGE.read_text()

    assert page.partition(MARKS[0])[2].partition(MARKS[1])[0] == tables(json.loads(SUMMARY.read_text()))


def test_what_is_noted_as_equivalent_counts_as_that() -> None:
    counts = {"mutants": 3, "killed": 1, "time": 0, "equivalent": 0, "survived": 2}
    notes = {"io/a.py:5, constant": "equivalent; since deleted", "io/a.py:6, constant": "nothing yet: not equivalent"}
    run = {"command": "x", "date": "", "commit": "", "asked": 3, "modules": {"converter/io/a.py": counts}}

    said = tables([run | {"survivors": notes}])

    assert "| io/a.py | 3 | 1 | 0 | 1 | 1 |\n| **all** | 3 | 1 | 0 | 1 | 1 |\n" in said


def test_patterns_choose_modules() -> None:
    assert matching(["io/zip_d*.py", "limits.py", "io/zip_directory.py"]) == [
        "converter/io/zip_directory.py",
        "converter/limits.py",
    ]


@pytest.mark.parametrize("idle", [["io/zip_archive.py"], ["limits.py", "io/nothing*.py"], ["converter/limits.py"]])
def test_a_pattern_that_matches_no_module_is_refused(idle: list[str]) -> None:
    with pytest.raises(ValueError, match=f"no module of converter/ matches {re.escape(idle[-1])}"):
        matching(idle)
