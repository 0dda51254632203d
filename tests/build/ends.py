"""Telling work that does not end from a machine that is busy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def ends(seconds: float = 60) -> Iterator[None]:
    """Fail if the block still runs after so many seconds of the processor.

    This is no measure of speed: what ends at all takes a small part of it. Inputs are so large that work which grows with
    their square takes more.
    """

    def late(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"still running after {seconds:g} seconds of the processor")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
