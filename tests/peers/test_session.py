"""The whole session of docs/python.md, with pandas and torch."""

from __future__ import annotations

from pathlib import Path

from tests.build.sessions import ROOT, run_session


def test_the_page_on_python_shows_what_pandas_and_torch_make_of_it(tmp_path: Path) -> None:
    assert run_session(ROOT / "docs" / "python.md", tmp_path) == (0, "", "")
