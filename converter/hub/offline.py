"""Whether the user wants nothing to be asked for: `--offline`, besides what HF_HUB_OFFLINE says.

It is in force for a context, as limits are. huggingface_hub is not imported here, so that saying it costs nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_IN_FORCE: Final = ContextVar("converter.offline", default=False)

wanted: Final = _IN_FORCE.get  # whether it is in force where it is called


@contextmanager
def staying_offline() -> Iterator[None]:
    """Ask for nothing in the body of a `with`; what is in the local cache is read."""
    before = _IN_FORCE.set(True)
    try:
        yield
    finally:
        _IN_FORCE.reset(before)
