"""Whether the user has turned the network off with `--offline`; HF_HUB_OFFLINE does the same.

The setting is in force for a context, as limits are. huggingface_hub is not imported here, so that setting it costs
nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_IN_FORCE: Final = ContextVar("converter.offline", default=False)

wanted: Final = _IN_FORCE.get  # whether the network is turned off in this context


@contextmanager
def staying_offline() -> Iterator[None]:
    """Turn the network off for the body of a `with`. The local cache is still read."""
    before = _IN_FORCE.set(True)
    try:
        yield
    finally:
        _IN_FORCE.reset(before)
