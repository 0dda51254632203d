"""The fuzzers' inputs, through the same functions: seeds are read, and inputs that were once findings now give a clear error."""

from __future__ import annotations

import pytest

from tests.fuzz.parsers import PARSERS, accepts
from tests.fuzz.run import CORPUS, MUTATORS, NAMES

INPUTS = {name: sorted((CORPUS / name).iterdir()) for name in PARSERS}


def test_every_parser_has_inputs_and_a_line_in_the_driver() -> None:
    assert tuple(PARSERS) == NAMES
    assert MUTATORS.keys() <= PARSERS.keys()
    assert all(INPUTS.values())
    assert sum(path.stat().st_size for paths in INPUTS.values() for path in paths) < 300_000


@pytest.mark.parametrize("name", PARSERS)
def test_kept_inputs_break_no_parser(name: str) -> None:
    accepted = [path for path in INPUTS[name] if accepts(name, path.read_bytes())]

    assert len(accepted) >= 2, "the seeds should be accepted"
