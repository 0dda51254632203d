"""The small files beside the weights: which of them a conversion takes along, and which it names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from converter.cli.app import app
from converter.conversion.convert import convert
from converter.hub.download import companions as from_the_hub
from converter.hub.download import download
from converter.opening import open_checkpoint
from tests.build.checkpoints import dumps, floats, view, write_checkpoint
from tests.build.hub_server import TINY, Hub, Repository, files_of

RUN = CliRunner()
GOES = (
    *("vocab.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.json", "chat_template.jinja", "LICENSE"),
    *("preprocessor_config.json", "README.md", "config.json", "1_Pooling/config.json", "modules.json", "anything.txt"),
    "additional_chat_templates/tool.jinja",
)
STAYS = {
    "modeling_own.py": "code: --with-code carries it along",
    "tf_model.h5": "the model in the form of another program",
    "training_args.bin": "a pickle, or weights of its own: convert it by itself",
    "state.pkl": "a pickle, or weights of its own: convert it by itself",
    "hidden.txt": "a pickle, or weights of its own: convert it by itself",  # by its bytes
    "large.txt": "larger than 100,000,000 bytes",
    "checkpoint-5/": "a folder that does not belong to the model",
    "pipe": "not a regular file",
    "secret.txt": "a link that leads out of the folder",
    "dangling.txt": "a link that leads nowhere",
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    for inner in ("1_Pooling", "additional_chat_templates", "checkpoint-5", ".cache"):
        (folder / inner).mkdir(parents=True)
    for name in (*GOES, "modeling_own.py", "tf_model.h5", "training_args.bin", "state.pkl", ".gitattributes"):
        (folder / name).write_text(f"{{}}\n{name}" if name != "config.json" else "{}")
    (folder / "modules.json").write_text(json.dumps([{"path": ""}, {"path": "1_Pooling"}, {"path": "../secret"}, 5]))
    (folder / "hidden.txt").write_bytes(dumps({"a": 1}))
    with (folder / "large.txt").open("wb") as file:
        file.truncate(100_000_001)
    os.mkfifo(folder / "pipe")
    (tmp_path / "secret").write_text("secret")
    (folder / "secret.txt").symlink_to(tmp_path / "secret")
    (folder / "dangling.txt").symlink_to(tmp_path / "nothing")
    write_checkpoint(folder / "pytorch_model.bin", {"a": view("0", (2,))}, {"0": floats(1, 2)})
    return folder


def within(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("to", ["safetensors", "npz"])
def test_every_small_file_goes_along_and_the_others_are_named(to: str, model: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(model), tmp_path / "out", to=to)

    assert within(tmp_path / "out") == {*GOES, f"model.{to}"}
    assert all((tmp_path / "out" / name).read_bytes() == (model / name).read_bytes() for name in GOES)
    assert {left.name: left.reason for left in report.dropped if left.kind == "file"} == STAYS


def test_code_goes_along_where_it_is_asked_for(model: Path, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["convert", str(model), str(tmp_path / "out"), "--to", "safetensors", "--with-code"])

    assert done.exit_code == 0, done.output
    assert within(tmp_path / "out") == {*GOES, "model.safetensors", "modeling_own.py"}
    assert "left behind: tf_model.h5: the model in the form of another program" in done.stdout


def test_beside_one_file_only_known_names_count(model: Path, tmp_path: Path) -> None:
    report = convert(open_checkpoint(model / "pytorch_model.bin"), tmp_path / "out", to="safetensors")

    known = set(GOES) - {"README.md", "anything.txt", "modules.json"}
    assert within(tmp_path / "out") == {name for name in known if "/" not in name} | {"model.safetensors"}
    assert [left for left in report.dropped if left.kind == "file"] == []


def test_links_to_where_the_weights_are_are_followed(model: Path, tmp_path: Path) -> None:
    farm = tmp_path / "farm"
    farm.mkdir()
    for name in ("pytorch_model.bin", "vocab.txt", "config.json"):
        (farm / name).symlink_to(model / name)
    (farm / "LICENSE").symlink_to(tmp_path / "secret")

    report = convert(open_checkpoint(farm), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") == {"model.safetensors", "vocab.txt", "config.json"}
    assert [(left.name, left.reason) for left in report.dropped] == [("LICENSE", "a link that leads out of the folder")]


def test_a_snapshot_of_the_hubs_cache_is_a_folder_of_links(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--owner--name"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "c1").mkdir(parents=True)
    for name in ("pytorch_model.bin", "vocab.txt", "README.md"):
        (cache / "blobs" / f"blob-{name}").write_bytes((model / name).read_bytes())
        (cache / "snapshots" / "c1" / name).symlink_to(f"../../blobs/blob-{name}")

    convert(open_checkpoint(cache), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") == {"model.safetensors", "vocab.txt", "README.md"}


def test_a_parameters_folder_takes_none_of_its_files_along(tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "parameters", to="parameters")

    convert(open_checkpoint(tmp_path / "parameters"), tmp_path / "out", to="safetensors")

    assert within(tmp_path / "out") <= {"model.safetensors", "config.json"}


def test_the_hub_gives_the_same_files(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    modules = json.dumps([{"path": "1_Pooling"}]).encode()
    beside: dict[str, bytes | Path] = {
        "vocab.txt": b"a", "README.md": b"b", "modules.json": modules, "1_Pooling/config.json": b"{}",
        "own.py": b"1", "onnx/model.onnx": b"x", "tf_model.h5": b"x", ".gitattributes": b"x",
    }  # fmt: skip
    hub.repositories[TINY] = Repository({**files_of(tiny), **beside})
    small = {
        "vocab.txt",
        "README.md",
        "modules.json",
        "1_Pooling/config.json",
        "config.json",
        "vocab.json",
        "merges.txt",
    }

    convert(open_checkpoint(f"hf://{TINY}"), tmp_path / "out", to="safetensors")
    download(TINY, tmp_path / "plain")
    download(TINY, tmp_path / "code", with_code=True)
    folder = from_the_hub(TINY)

    assert within(tmp_path / "out") == small | {"model.safetensors"}
    assert within(tmp_path / "plain") == small | {"pytorch_model.bin"}
    assert within(tmp_path / "code") == small | {"pytorch_model.bin", "own.py"}
    assert folder is not None
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"{}"
