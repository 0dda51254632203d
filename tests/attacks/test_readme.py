"""README.md lists exactly the ideas that the tests try."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECTIONS = re.findall(
    r"^## .*?: (test_\w+\.py)\n(.*?)(?=^## |\Z)", (HERE / "README.md").read_text(), re.MULTILINE | re.DOTALL
)
COUNTS = {"P": 18, "Z": 14, "T": 12, "S": 11, "G": 10, "O": 11, "R": 10, "I": 5}


def rows(section: str) -> dict[str, list[str]]:
    """The tests, or patterns for their names, by number."""
    found = re.findall(r"^\| ([A-Z]\d\d|all) \| (.+) \| (.+) \|$", section, re.MULTILINE)
    return {number: re.findall(r"`(\w+\*?)`", tests) for number, _, tests in found}


def functions(file: str) -> list[str]:
    return re.findall(r"^ *def (test_\w+)", (HERE / file).read_text(), re.MULTILINE)


def test_every_file_has_a_section_and_numbers_without_gaps() -> None:
    assert {file for file, _ in SECTIONS} == {path.name for path in HERE.glob("test_*.py")} - {"test_readme.py"}
    numbers = [number for _, section in SECTIONS for number in rows(section) if number != "all"]
    assert numbers == [f"{letter}{n:02}" for letter, count in COUNTS.items() for n in range(1, count + 1)]


@pytest.mark.parametrize(("file", "section"), SECTIONS, ids=[file for file, _ in SECTIONS])
def test_every_idea_has_the_tests_that_its_line_names(file: str, section: str) -> None:
    written, source = functions(file), (HERE / file).read_text()
    for number, patterns in rows(section).items():
        assert patterns, number
        for pattern in patterns:
            assert any(fnmatchcase(name, pattern) for name in written), pattern
        if number != "all" and not any(f"_{number.lower()}_" in pattern for pattern in patterns):
            assert re.search(rf'"{number} ', source), f"no row of a table in {file} begins with {number}"


@pytest.mark.parametrize(("file", "section"), SECTIONS, ids=[file for file, _ in SECTIONS])
def test_every_test_and_every_row_of_a_table_has_its_line(file: str, section: str) -> None:
    lines, source = rows(section), (HERE / file).read_text()
    for name in functions(file):
        number = re.match(r"test_([a-z]\d\d)_", name)
        listed = (
            lines[number[1].upper()] if number else [pattern for patterns in lines.values() for pattern in patterns]
        )
        assert any(fnmatchcase(name, pattern) for pattern in listed), name
    assert set(re.findall(rf'"([{"".join(COUNTS)}]\d\d) ', source)) <= set(lines)
    assert len(functions(file)) == len(set(functions(file)))
