"""Types of GGUF that only ggml's own library makes, where there is no library: tests/peers has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.conversion.convert import convert
from converter.dtypes import spelled
from converter.errors import UnsupportedError
from converter.formats.gguf import kernel, quantising
from converter.formats.gguf.encodings import ALONE, BY_NAME, fitting
from converter.opening import open_checkpoint


@pytest.fixture(autouse=True)
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "function_of_library", lambda: None)
    monkeypatch.setattr(quantising, "agrees", lambda name: False)


@pytest.mark.parametrize("name", ALONE)
@pytest.mark.parametrize("dry_run", [True, False])
def test_the_extra_is_named(name: str, dry_run: bool, tiny: Path, tmp_path: Path) -> None:
    said = (
        "IQ4_NL is made by ggml's own library: install it with `pip install 'cerebras-tool.llama-cpp.'`, or choose q4_k"
    )
    with pytest.raises(UnsupportedError, match=said):  # the rows are short
        convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype=name, no_tokenizer=True, dry_run=dry_run)
    assert list(tmp_path.iterdir()) == []


def test_what_is_advised_works(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q4_k", no_tokenizer=True)


@pytest.mark.parametrize(
    ("name", "columns", "taken"),
    [("IQ4_XS", 1088, "IQ4_NL"), ("IQ2_XXS", 1088, "IQ4_NL"), ("IQ1_M", 4352, "IQ1_M"), ("IQ4_NL", 33, "F16")],
)
def test_rows_that_do_not_fit(name: str, columns: int, taken: str) -> None:
    assert fitting(BY_NAME[name], columns).name == taken


@pytest.mark.parametrize("word", ["IQ4XS", "iq4-xs", "iq4_xs", "Iq4xs"])
def test_a_type_is_spelled_as_people_do(word: str) -> None:
    assert spelled(word) == "iq4_xs"
