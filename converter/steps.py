"""What the program is doing, and how long each step took, told to whoever follows it: a progress bar, a log.

A follower is in force for a context (contextvars), as limits are. Without one, telling it costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final


class Follower:
    """Is told what the program is doing, from any thread. A subclass overrides what it wants to know."""

    def __call__(self, amount: int) -> None:
        """Hear how many bytes or files were done since the last call."""

    def start(self, total: int) -> None:
        """Hear how many there are to do from here on."""

    def begin(self, name: str) -> None:
        """Hear that a file is worked on next, of those that are counted."""
        self.at(name)
        self(1)

    def at(self, name: str) -> None:
        """Hear the name of the tensor or file that is worked on now, or what the program waits for."""

    def planned(self, nbytes: float) -> None:
        """Hear how much more there is to do than was said before. Computing counts as reading some number of bytes."""

    def worked(self, nbytes: float) -> None:
        """Hear how much of that was done."""

    def ended(self, verb: str, name: str, seconds: float) -> None:
        """Hear that a step ended, and how long it took."""


_IN_FORCE: Final = ContextVar("converter.follower", default=Follower())  # noqa: B039 (it keeps nothing)

follower: Final = _IN_FORCE.get  # the one in force where it is called


@contextmanager
def followed_by(one: Follower) -> Iterator[None]:
    """Put a follower in force for the body of a `with`."""
    before = _IN_FORCE.set(one)
    try:
        yield
    finally:
        _IN_FORCE.reset(before)


def at(name: str) -> None:
    """Report what is worked on now."""
    follower().at(name)


@contextmanager
def step(verb: str, name: str) -> Iterator[None]:
    """Report that the body of a `with` works on `name`, and at its end how long that took, even if it failed."""
    told, start = follower(), time.perf_counter()
    told.at(name)
    try:
        yield
    except BaseException:
        told.ended(verb, f"{name}: failed", time.perf_counter() - start)
        raise
    told.ended(verb, name, time.perf_counter() - start)
