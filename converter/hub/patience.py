"""How long we wait for a server.

A patience is in force for a context, as limits are. Code that reads from a nearby server may set a shorter one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Patience:
    """Times in seconds, and the slowest speed that a long answer may have."""

    first: float = 1.25  # seconds until a first connection: without a network, the error comes within two seconds
    backoff: float = 0.25  # seconds before the second attempt; they double before each later attempt
    shortest: float = 30.0  # seconds that any read may take
    slowest: int = 20_000  # bytes a second; a read gets `shortest` and the time that its bytes take at this speed

    def seconds(self, size: int) -> float:
        """How many seconds a read of `size` bytes may take."""
        return self.shortest + size / self.slowest


_IN_FORCE: Final = ContextVar("converter.patience", default=Patience())  # noqa: B039 (it is frozen)

patience: Final = _IN_FORCE.get  # the one in force where it is called


@contextmanager
def waiting(wanted: Patience) -> Iterator[None]:
    """Put a patience in force for the body of a `with`."""
    before = _IN_FORCE.set(wanted)
    try:
        yield
    finally:
        _IN_FORCE.reset(before)
