"""How many of the inputs that are made at random a run tries: `make test-deep` tries all of them, `make test` a part."""

import os

DEEP = bool(os.environ.get("CEREBRAS_TOOL_DEEP"))


def some(deep: int, usual: int) -> int:
    """The first number in a deep run, the second otherwise."""
    return deep if DEEP else usual
