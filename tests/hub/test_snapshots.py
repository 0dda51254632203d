"""Folders of a repository, and what huggingface_hub itself downloads: a cache of links, and plain folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants, snapshot_download
from typer.testing import CliRunner, Result

from converter.cli.app import app
from converter.opening import open_checkpoint
from tests.build.hub_server import COMMIT, TINY, Hub, Repository, files_of

RUN = CliRunner()
DEEP = "deep/checkpoint_1"


@pytest.fixture
def deep(hub: Hub, tiny: Path, sharded: Path) -> Hub:
    """A repository with a model, and another one in shards in a folder."""
    beside: dict[str, bytes | Path] = {"README.md": b"# x", "LICENSE": b"free", "own.py": b"1"}
    inner = {f"{DEEP}/{name}": content for name, content in files_of(sharded).items()}
    hub.repositories[TINY] = Repository(files_of(tiny) | beside | inner)
    return hub


def run(*arguments: str | Path) -> Result:
    return RUN.invoke(app, [str(argument) for argument in arguments])


def within(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", [f"hf://{TINY}/{DEEP}", f"hf://{TINY}@main/{DEEP}/", f"hf://{TINY}@{COMMIT}/{DEEP}", "{hub}/" + f"{TINY}/tree/main/{DEEP}"]
)  # fmt: skip
def test_a_folder_of_a_repository_is_downloaded_by_itself(name: str, deep: Hub, sharded: Path, tmp_path: Path) -> None:
    done = run("download", name.format(hub=deep.url()), tmp_path / "out")

    assert done.exit_code == 0, done.output
    assert within(tmp_path / "out") == within(sharded)
    assert done.stdout.count("SHA-256 is the Hub's") == 2


def test_a_folder_of_a_repository_is_downloaded_into_the_cache(deep: Hub, sharded: Path) -> None:
    done = run("download", f"hf://{TINY}/{DEEP}")

    place = Path(constants.HF_HUB_CACHE, "models--someone--tiny", "snapshots", COMMIT)
    assert done.exit_code == 0, done.output
    assert within(place) == {f"{DEEP}/{name}": data for name, data in within(sharded).items()}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (f"hf://{TINY}/pytorch_model.bin", "is one file: give the repository, or a folder of it"),
        (f"hf://{TINY}/deep", f"but models in its folders: `cerebras-tool inspect hf://{TINY}@main/{DEEP}`"),
        (f"hf://{TINY}/shallow", "has no file `shallow` in revision `main`"),
        (f"{TINY}/{DEEP}", "`hf://owner/name[@revision]/path` for a folder of one"),
        ("https://example.org/x.bin", "is not a repository: a declared model or `owner/name` was expected"),
    ],
)
def test_what_is_no_folder_with_a_model_is_not_downloaded(name: str, said: str, deep: Hub, tmp_path: Path) -> None:
    done = run("download", name, tmp_path / "out")

    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["repository", "snapshot", "folder", "file", "index", "plain", "plain folder"])
def test_what_huggingface_hub_downloads_is_read_converted_and_verified(
    place: str, deep: Hub, tiny: Path, sharded: Path, tmp_path: Path
) -> None:
    snapshot = Path(snapshot_download(TINY, endpoint=deep.url()))
    snapshot_download(TINY, endpoint=deep.url(), local_dir=tmp_path / "plain")
    weights = "model.safetensors"
    tokenizer = {"config.json", "vocab.json", "merges.txt"}
    source, of, expected = {
        "repository": (snapshot.parent.parent, tiny, {"README.md", "LICENSE", *tokenizer}),
        "snapshot": (snapshot, tiny, {"README.md", "LICENSE", *tokenizer}),
        "folder": (snapshot / DEEP, sharded, tokenizer),
        "file": (snapshot / "pytorch_model.bin", tiny, {"LICENSE", *tokenizer}),
        "index": (snapshot / DEEP / "pytorch_model.bin.index.json", sharded, tokenizer),
        "plain": (tmp_path / "plain", tiny, {"README.md", "LICENSE", *tokenizer}),
        "plain folder": (tmp_path / "plain" / DEEP, sharded, tokenizer),
    }[place]

    inspected = run("inspect", source)
    converted = run("convert", source, tmp_path / "out", "--to", "safetensors")
    verified = run("verify", source, tmp_path / "out")

    assert (snapshot / "pytorch_model.bin").is_symlink()
    assert inspected.exit_code == converted.exit_code == verified.exit_code == 0, verified.output
    assert "complete" in inspected.stdout
    assert within(tmp_path / "out").keys() == {weights, *expected}
    assert {**open_checkpoint(source)}.keys() == {**open_checkpoint(of)}.keys()
    assert verified.stdout.startswith("identical")
