"""A parameters folder beyond its bytes: no link leads out of it, and ties are recorded."""

import json
import shutil
from pathlib import Path

import pytest

from converter.opening import open_checkpoint
from tests.attacks.commands import run
from tests.build.checkpoints import floats, view, write_checkpoint, write_shards


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """A parameters folder of two shards, whose files lie in `1/` and `2/`."""
    shards = [{"a": view("0", (2,))}, {"b": view("0", (3,))}]
    (tmp_path / "source").mkdir()
    write_shards(tmp_path / "source", shards, [{"0": floats(1, 2)}, {"0": floats(3, 4, 5)}])
    assert run("extract", tmp_path / "source", tmp_path / "params").code == 0
    return tmp_path / "params"


@pytest.mark.parametrize("moved", ["1", "2"])
def test_a_folder_inside_that_is_a_link_is_not_followed(moved: str, sharded: Path, tmp_path: Path) -> None:
    assert (sharded / moved / "0").is_file()
    assert run("convert", sharded, tmp_path / "before.safetensors").code == 0
    shutil.move(sharded / moved, tmp_path / "elsewhere")
    (sharded / moved).symlink_to("../elsewhere")

    done = run("convert", sharded, tmp_path / "after.safetensors")

    assert done.code == 2
    assert "links are not followed" in done.err
    assert not (tmp_path / "after.safetensors").exists()


@pytest.mark.parametrize("linked", ["a", "a/b", "a/b/c", "a/b/c/0"])
def test_a_link_in_any_part_of_a_path_is_not_followed(linked: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "x.bin", {"w": view("0", (2,))}, {"0": floats(1, 2)})
    params = tmp_path / "params"
    assert run("extract", path, params).code == 0
    (params / "a" / "b" / "c").mkdir(parents=True)
    (params / "0").rename(params / "a" / "b" / "c" / "0")
    manifest = json.loads((params / "manifest.json").read_text())
    manifest["files"][0]["path"] = "a/b/c/0"
    manifest["tensors"][0]["parts"] = ["a/b/c/0"]
    (params / "manifest.json").write_text(json.dumps(manifest))
    assert run("convert", params, tmp_path / "before.safetensors").code == 0
    shutil.move(params / linked, tmp_path / "elsewhere")
    (params / linked).symlink_to(tmp_path / "elsewhere")

    done = run("convert", params, tmp_path / "after.safetensors")

    assert done.code == 2
    assert "links are not followed" in done.err
    assert not (tmp_path / "after.safetensors").exists()


@pytest.mark.parametrize("form", ["storages", "named"])
def test_tied_names_are_in_the_manifest_and_no_others(form: str, tmp_path: Path) -> None:
    value = {
        "a": view("0", (2,)),
        "b": view("1", (2,)),
        "c": view("0", (2,)),
        "d": view("0", (1,)),
        "e": view("1", (2,)),
    }
    path = write_checkpoint(tmp_path / "x.bin", value, {"0": floats(1, 2), "1": floats(1, 2)})

    assert run("extract", path, tmp_path / "params", "--form", form).code == 0

    manifest = json.loads((tmp_path / "params" / "manifest.json").read_text())
    assert manifest["tied"] == [["a", "c"], ["b", "e"]]
    assert [list(names) for names in open_checkpoint(tmp_path / "params").tied()] == [["a", "c"], ["b", "e"]]
