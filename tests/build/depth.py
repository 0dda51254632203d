"""How many of the inputs that are made at random a run tries: `make test-deep` tries all of them, `make test` a part."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
DEEP = bool(os.environ.get("CEREBRAS_TOOL_DEEP"))


def some(deep: int, usual: int) -> int:
    """The first number in a deep run, the second otherwise."""
    return deep if DEEP else usual


def share(values: Sequence[T], number: int, of: int) -> Sequence[T]:
    """All values in a deep run, otherwise one `of` them; which, depends on the number, so that neighbours take the others."""
    return values if DEEP else values[number % of :: of]
