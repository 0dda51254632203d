"""Counting the lines of the package that run: what a thing costs, whatever else the machine does."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final

PACKAGE: Final = str(Path(__file__).parent.parent.parent / "converter")


def steps(function: Callable[[], object]) -> int:
    """How many lines of the package run while the function does, in this thread."""
    count = 0

    def line(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, event: str, _: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(PACKAGE) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
