"""Models whose config.json names a family that is not known here, though their names are nearly or quite GPT-2's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from converter.conversion.convert import convert
from converter.conversion.surgery import rules
from converter.errors import ConverterError
from converter.inspection.report import inspect
from converter.opening import open_checkpoint


def as_other(tiny: Path, folder: Path) -> Path:
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "openai-gpt"}))
    return folder


def test_all_tensors_go_along_masks_among_them(tiny: Path, tmp_path: Path) -> None:
    source = open_checkpoint(as_other(tiny, tmp_path / "other"))

    report = convert(source, tmp_path / "out", to="safetensors")

    assert sorted(open_checkpoint(tmp_path / "out")) == sorted(source)
    assert report.notes == ("`config.json` says `model_type` is 'openai-gpt'; the tensors are those of 'gpt2'",)


def test_the_formats_that_need_the_family_refuse_it(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ConverterError, match="says `model_type` is 'openai-gpt'"):
        convert(open_checkpoint(as_other(tiny, tmp_path / "other")), tmp_path / "x.gguf")
    assert not (tmp_path / "x.gguf").exists()


def test_what_lacks_names_of_gpt2_is_not_called_gpt2(tiny: Path, tmp_path: Path) -> None:
    renames = {"transformer.wte.weight": "transformer.tokens_embed.weight"}
    convert(open_checkpoint(tiny), tmp_path / "model.safetensors", surgery=rules(rename=renames))
    (tmp_path / "config.json").write_text('{"model_type": "openai-gpt"}')

    report = inspect(open_checkpoint(tmp_path))
    convert(open_checkpoint(tmp_path), tmp_path / "out", to="safetensors")

    assert (report.model, report.problems) == (None, ())
    assert "transformer.tokens_embed.weight" in open_checkpoint(tmp_path / "out")
