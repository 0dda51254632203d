"""The changes that `python -m tests.mutants` makes: each gives another program, and none touches texts for people."""

import ast

import pytest

from tests.changes import mutants, sampled
from tests.mutants import ROOT, concerned, summed

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


def test_the_nearest_test_files_come_first() -> None:
    files = concerned(ROOT, 3)

    assert files("converter/scanning/danger.py")[0] == "tests/scanning/test_danger.py"
    assert "tests/attacks/test_zip.py" in files("converter/io/zip_records.py")
    assert all(len(files(module)) == 3 for module in ("converter/errors.py", "converter/io/journal.py"))


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
