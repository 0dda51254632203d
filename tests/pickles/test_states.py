"""Which states BUILD can set on anything, because they set nothing."""

from __future__ import annotations

from typing import Any

import pytest

from converter.pickles.leniency import sets_nothing
from converter.pickles.values import Dict, Opaque

EMPTY: tuple[Any, ...] = (None, Opaque("m", "f", ()), Dict(), [], (), "", b"", 0, 0.0, False)


@pytest.mark.parametrize(
    "state", [*EMPTY, *((None, one) for one in EMPTY), *((one, Dict()) for one in EMPTY)], ids=repr
)
def test_a_state_that_sets_nothing(state: object) -> None:
    assert sets_nothing(state) is True


@pytest.mark.parametrize(
    "state",
    [1, True, "a", b"a", [None], (None,), (None, None, None), (None, 1), (1, None), Dict(["a", None])],
    ids=repr,
)
def test_a_state_that_sets_something(state: object) -> None:
    assert sets_nothing(state) is False
