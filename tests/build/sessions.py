"""Runs a page's session in Python, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
_RUN = "import doctest, sys; sys.exit(doctest.testfile(sys.argv[1], module_relative=False, encoding='utf-8')[0] > 0)"
_BLOCK = re.compile(r"^```python\n.*?^```\n", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(r"^>>> import (\w+)$", re.MULTILINE)


def run_session(page: Path, folder: Path, *, without: Collection[str] = ()) -> tuple[int, str, str]:
    """Run the blocks of a page in a folder, but for those that import a package of `without`.

    Returns the exit code and what was printed, which says where the page is wrong.
    """
    text = _BLOCK.sub(lambda block: "" if {*_IMPORT.findall(block[0])} & {*without} else block[0], page.read_text())
    session = folder / "session.md"
    session.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", _RUN, str(session)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr
