"""Every damage is found and called by its name; an honest copy never is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from converter import reports
from converter.formats import open_checkpoint
from converter.verify import verify
from tests import damage
from tests.damage import CONTENT, FORMS, STRUCTURE, gguf_name, model, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(model(), tmp_path_factory.mktemp("source"))


def check(source: Path, *outputs: Path, **options: Any) -> reports.Verification:
    return verify(open_checkpoint(source), outputs, **options)[0]


def said(output: reports.VerifiedOutput) -> dict[str, str]:
    """Give what is said of each name."""
    tensors = output.tensors
    whats = dict.fromkeys(tensors.missing, "missing") | dict.fromkeys(tensors.unexpected, "unexpected")
    return whats | {found.name: found.what for found in tensors.different}


@pytest.mark.parametrize("form", FORMS)
def test_an_honest_copy_is_identical(form: str, source: Path, tmp_path: Path) -> None:
    output = check(source, FORMS[form](model(), tmp_path)).outputs[0]

    assert (output.verdict, said(output)) == ("identical", {})


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", [*CONTENT, *STRUCTURE])
def test_damage_is_named(kind: str, form: str, source: Path, tmp_path: Path) -> None:
    change, name, what = (CONTENT | STRUCTURE)[kind]
    made = model()
    change(made)

    output = check(source, FORMS[form](made, tmp_path)).outputs[0]

    assert output.verdict == "different"
    found = said(output)
    assert found.get(name) == what or found.get(gguf_name(name)) == what, found
