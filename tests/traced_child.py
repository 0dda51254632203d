"""What a program that a traced test starts executes: `begin` is called when such a program starts, by its `sitecustomize`."""

from __future__ import annotations

import atexit
import json
import os
from pathlib import Path
from typing import Any, Final

TEST: Final = "CEREBRAS_TOOL_TRACED_TEST"  # the test that runs
STARTED: Final = "CEREBRAS_TOOL_TRACED_INTO"  # the folder for what children execute


def started(root: Path) -> Any:
    """coverage.py, running, for the package of a checkout."""
    from coverage import Coverage

    coverage = Coverage(data_file=None, include=[str(root / "converter" / "*")], config_file=False, messages=False)
    coverage.set_option("run:disable_warnings", ["trace-changed", "module-not-measured", "no-data-collected"])
    coverage.start()
    return coverage


def begin() -> None:
    """Trace this program, and write at its end what it executed."""
    root, test = Path(__file__).parent.parent, os.environ.get(TEST)
    if not test:
        return
    coverage = started(root)

    def end() -> None:
        coverage.stop()
        data = coverage.get_data()
        lines = {str(Path(path).relative_to(root)): data.lines(path) for path in data.measured_files()}
        if lines:
            Path(os.environ[STARTED], f"{os.getpid()}.json").write_text(json.dumps({"test": test, "lines": lines}))

    atexit.register(end)
