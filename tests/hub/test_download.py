"""Downloads come from the commit that was looked up, and are written as any output is; local paths stay local."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from converter.errors import ConverterError, OutputError, SourceError
from converter.hub.download import companions, download
from converter.hub.locations import is_remote
from converter.hub.repository import open_remote
from converter.opening import open_checkpoint
from tests.attacks.commands import assert_sentence, everything, run
from tests.build.hub_server import COMMIT, TINY, Exchange, Hub, Repository, answer, files_of, later

OTHER = "fedcba9876543210fedcba9876543210fedcba98"


def moving(hub: Hub) -> None:
    """Move `main` to another commit after it was looked up, for whoever then asks for a file of it."""

    def resolve(exchange: Exchange) -> bool:
        if "/resolve/main/" in exchange.path:
            exchange.reply(200, b"of another commit", {"X-Repo-Commit": OTHER, "ETag": '"other"'})
            return True
        return False

    hub.on_resolve = resolve


@pytest.mark.parametrize("where", ["a folder", "the cache"])
def test_a_revision_that_moves_in_between_changes_nothing(where: str, hub: Hub, tiny: Path, tmp_path: Path) -> None:
    moving(hub)

    done = download(TINY, tmp_path / "out" if where == "a folder" else None)

    assert {file.path.name: file.path.read_bytes() for file in done} == {
        path.name: path.read_bytes() for path in tiny.iterdir()
    }
    asked = [request.path for request in hub.seen if "/resolve/" in request.path]
    assert asked
    assert all(f"/resolve/{COMMIT}/" in path for path in asked)


def test_companions_come_from_the_commit_that_the_weights_came_from(hub: Hub, tiny: Path) -> None:
    catalogue = open_remote(TINY)
    moving(hub)

    folder = companions(catalogue.location)

    assert folder is not None
    assert folder.name == COMMIT
    assert (folder / "vocab.json").read_bytes() == (tiny / "vocab.json").read_bytes()
    assert not [request.path for request in hub.seen if "/resolve/main/" in request.path]


@pytest.mark.parametrize("revision", ["main", "refs/pr/1", COMMIT])
def test_the_cache_knows_the_revision_by_its_name(revision: str, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    download(f"{TINY}@{revision}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert len(open_remote(f"{TINY}@{revision}")) == 60
    refs = Path(constants.HF_HUB_CACHE, "models--someone--tiny", "refs")
    assert [path.read_text() for path in refs.rglob("*") if path.is_file()] == [COMMIT] * (revision != COMMIT)


def test_a_folder_gets_the_files_and_nothing_else(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    out.mkdir(parents=True)
    (out / "mine").write_bytes(b"mine")

    download(TINY, out)

    assert everything(out) == {"mine": b"mine"} | {path.name: path.read_bytes() for path in tiny.iterdir()}


def test_what_is_there_already_is_not_fetched_again(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    told: list[int] = []
    download(TINY, tmp_path / "out")
    hub.seen.clear()
    (tmp_path / "out" / "config.json").write_bytes(b"old")

    download(TINY, tmp_path / "out", progress=told.append)

    assert not hub.asked("store")
    assert (tmp_path / "out" / "config.json").read_bytes() == (tiny / "config.json").read_bytes()


def test_an_interrupted_download_goes_on(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.on_store = later(answer(500), 2)
    with pytest.raises(ConverterError):
        download(TINY, tmp_path / "out")
    assert not (tmp_path / "out" / "pytorch_model.bin").exists()
    hub.on_store = lambda exchange, asked: False

    download(TINY, tmp_path / "out")

    assert everything(tmp_path / "out") == {path.name: path.read_bytes() for path in tiny.iterdir()}


@pytest.mark.parametrize("name", ["config.json", ".config.json.partial", ".config.json.partial.journal"])
def test_planted_links_are_not_followed(name: str, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "precious")

    if name.endswith("partial"):
        download(TINY, tmp_path / "out")
    else:
        with pytest.raises(OutputError):
            download(TINY, tmp_path / "out")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_file_that_is_not_what_the_hub_says_is_refused(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    listing = {
        "sha": COMMIT,
        "siblings": [{"rfilename": "pytorch_model.bin", "size": len(raw), "lfs": {"sha256": "0" * 64}}],
    }
    hub.on_api = lambda exchange: exchange.reply(200, json.dumps(listing).encode()) is None  # type: ignore[func-returns-value]

    with pytest.raises(SourceError, match=f"{'0' * 64}: remove it and download it again"):
        download(TINY, tmp_path / "out")


@pytest.mark.parametrize("location", ["owner/name", "owner/name@main", "owner/name-7B", "owner/name.v2"])
def test_a_path_whose_first_folder_is_here_never_goes_to_the_hub(
    location: str, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_remote(location) == (location != "owner/name.v2")
    (tmp_path / "owner").mkdir()

    assert not is_remote(location)
    for words in (
        ("inspect", location),
        ("convert", location, "x.gguf"),
        ("verify", location, "x.gguf"),
        ("scan", location),
    ):
        ended = run(*words)
        assert ended.code == 2, words
        assert_sentence(ended.err)
    assert hub.seen == []
    if location != "owner/name.v2":
        with pytest.raises(SourceError, match=f"`owner` is here, so the Hub was not asked: `hf://{location}` asks it"):
            open_checkpoint(location)


def test_hf_asks_the_hub_whatever_is_here(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "someone").mkdir()
    hub.repositories[TINY] = Repository(hub.repositories[TINY].files)

    assert len(open_remote(f"hf://{TINY}")) == 60
    assert files_of(tmp_path / "someone") == {}
