"""How long we wait for a server.

It holds for a context, like limits: whoever waits on a server of their own may be less patient.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds, and the speed that a long answer must have."""

    backoff: float = 0.25  # seconds before the second attempt; twice as many before each that follows
    shortest: float = 30.0  # seconds that any read may take …
    slowest: int = 20_000  # … and bytes a second that a long one has to bring

    def seconds(self, size: int) -> float:
        """Seconds for a read of so many bytes."""
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
