"""The program does what tests/data/record.json says. `python -m tests.record --write` records an intended change."""

import pytest

from tests.record import Case, cases, differences, make, read

FEW = (
    "convert published -> safetensors f16 sharded", "convert head -> gguf keep file", "convert q8_0.gguf -> safetensors keep file",
    "convert legacy -> parameters", "extract sharded -> named", "inspect plain.bin --stats", "scan everything --explain",
    "verify parameters", "convert malformed -> gguf refused", "models", "help convert", "usage inspect in/absent.bin",
)  # fmt: skip


def _compared(chosen: list[Case]) -> list[str]:
    now = make(chosen)
    was = read()
    return differences({name: was[name] for name in now if name in was}, now)


def test_a_few_commands_do_what_is_recorded() -> None:
    chosen = [case for case in cases() if case.name in FEW]

    assert len(chosen) == len(FEW)
    assert "\n\n".join(_compared(chosen)) == ""


def test_the_record_has_an_entry_for_every_case() -> None:
    assert set(read()) == {"inputs", *(case.name for case in cases())}


@pytest.mark.large
def test_every_command_does_what_is_recorded() -> None:
    assert "\n\n".join(_compared(cases())) == ""
