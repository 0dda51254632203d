"""The page of `verify`, without a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build.seeds import safetensors_file
from tests.pages.hostile import NAMES
from tests.pages.reading import check

RUN = CliRunner()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


def test_a_page_has_the_verdict_the_costs_and_what_is_computed(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "x.gguf", dtype="q8_0")
    path = tmp_path / "page.html"

    done = RUN.invoke(
        app, ["verify", str(tiny), str(tmp_path / "x.gguf"), "--level", "inference", "--html", str(path), "-q"]
    )

    page = check(path.read_bytes())
    (output,) = page.data["outputs"]
    assert (done.exit_code, done.stdout) == (0, "")
    assert "equivalent: " in page.text
    assert "52 tensors compared" in page.text
    assert "17 within what their dtype allows" in page.text
    assert "equal at 100.0% of 63 positions" in page.text
    assert [layer[1] for layer in output["layers"]] == ["h.0", "h.1", "h.2", "h.3"]
    assert len(output["costs"]) == 17
    assert len(output["kl"]) == len(output["apart"]) == 63
    assert all(0 < value < 0.1 for value in output["kl"])
    assert output["wrong"] == []


def test_what_differs_is_listed_for_each_output(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "st", to="safetensors")
    data = bytearray((tmp_path / "st" / "model.safetensors").read_bytes())
    data[-1] ^= 0x40
    (tmp_path / "st" / "model.safetensors").write_bytes(data)
    (tmp_path / "junk.bin").write_bytes(b"junk")
    path = tmp_path / "page.html"

    done = RUN.invoke(app, ["verify", str(tiny), str(tmp_path / "st"), str(tmp_path / "junk.bin"), "--html", str(path)])

    one, other = check(path.read_bytes()).data["outputs"]
    assert done.exit_code == 1
    ((name, _, what, *_),) = one["wrong"]
    assert (name, what) == ("wte.weight", "one flipped bit")
    assert len(other["wrong"]) == 1


def test_hostile_names_are_text(tmp_path: Path) -> None:
    one, other, path = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "page.html"))
    one.write_bytes(safetensors_file({name: ("F32", (2,), bytes(8)) for name in NAMES[1:]}))
    other.write_bytes(safetensors_file({name: ("F32", (2,), bytes(7) + b"@") for name in NAMES[:-1]}))

    done = RUN.invoke(app, ["verify", str(one), str(other), "--html", str(path)])

    page = check(path.read_bytes())
    assert done.exit_code == 1
    assert {row[0] for row in page.data["outputs"][0]["wrong"]} == {*NAMES}
