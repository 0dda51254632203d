"""Remote checkpoints against a Hub on the loopback, which first behaves well, and then in every way that it should not."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_hub_download
from typer.testing import CliRunner

import converter
from converter.cli.app import app
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.errors import ConverterError, FormatError, ManifestError, SourceError
from converter.hub.download import companions, download
from converter.hub.locations import is_remote
from converter.hub.repository import open_remote
from converter.inspection.report import inspect
from converter.io.ranges import Fetching
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.hub_server import (
    COMMIT,
    SIGNATURE,
    TINY,
    TOKEN,
    Asked,
    Exchange,
    Hub,
    Repository,
    answer,
    assert_no_secret,
    every,
    files_of,
    later,
    serve,
)

ROOT = Path(__file__).parent.parent.parent
RUN = CliRunner()


# With blocks this small, a checkpoint of a megabyte takes every path that one of 26 GB takes.
SMALL = Fetching(block=16 << 10, window=128 << 10, peek=256)


def everything(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


# ---- names ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "remote"),
    [
        ("hf://owner/name", True), ("https://example.org/x.bin", True), ("ftp://example.org/x.bin", True),
        ("cerebras/Cerebras-GPT-6.7B", True), ("cerebras/Cerebras-GPT-111M@main", True), ("owner/name@refs/pr/1", True),
        ("name", False), ("out/model.safetensors", False), ("out/pytorch_model.bin", False), ("./owner/name", False),
        ("/owner/name", False), ("../name", False), ("a/b/c", False), ("owner/name/", False), ("", False),
    ],
)  # fmt: skip
def test_which_locations_are_looked_up_on_the_hub(
    location: str, remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    assert is_remote(location) is remote


def test_a_path_that_exists_is_never_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)

    assert not is_remote("owner/name")


@pytest.mark.parametrize(
    "location",
    [
        "{name}", "{name}@main", "{name}@" + COMMIT, "{name}@refs/pr/1", "hf://{name}", "hf://models/{name}@main",
        "hf://{name}/pytorch_model.bin", "hf://{name}@refs%2Fpr%2F1/pytorch_model.bin", "{endpoint}/{name}",
        "{endpoint}/{name}/tree/main", "{endpoint}/{name}/resolve/main/pytorch_model.bin?download=true",
        "{endpoint}/{name}/blob/main/pytorch_model.bin",
    ],
)  # fmt: skip
def test_every_way_to_name_it_leads_to_the_same_checkpoint(location: str, hub: Hub, tiny: Path) -> None:
    catalogue = open_remote(location.format(name=TINY, endpoint=hub.url()))

    local = open_checkpoint(tiny)
    assert list(catalogue) == list(local)
    assert catalogue.config == local.config
    assert catalogue.location.startswith(f"hf://{TINY}@{COMMIT}")
    assert inspect(catalogue).tensors == inspect(local).tensors


# ---- what it takes --------------------------------------------------------------------------------------------------


def test_26_gb_are_inspected_with_five_requests_and_256_kib(hub: Hub, tmp_path: Path) -> None:
    write_sample(tmp_path / "large", "6.7B", sparse=True)
    hub.repositories["cerebras/Cerebras-GPT-6.7B"] = Repository(files_of(tmp_path / "large"))

    report = inspect(open_remote("cerebras/Cerebras-GPT-6.7B"))

    assert report.model is not None
    assert (report.model.name, report.model.complete) == ("Cerebras-GPT-6.7B", True)
    assert report.source.files[0].nbytes == 26_767_978_209
    assert report.source.requests == len(hub.seen) == 5
    assert report.source.bytes_read is not None
    assert 120_000 < report.source.bytes_read < 256 << 10


def test_52_gb_in_two_shards_take_five_requests_a_shard_at_most(hub: Hub, tmp_path: Path) -> None:
    write_sample(tmp_path / "large", "13B", sparse=True)
    hub.repositories["cerebras/Cerebras-GPT-13B"] = Repository(files_of(tmp_path / "large"))

    report = inspect(open_remote("cerebras/Cerebras-GPT-13B"))

    assert report.model is not None
    assert (report.model.name, report.model.complete) == ("Cerebras-GPT-13B", True)
    assert len(report.source.files) == 2
    assert report.source.requests == len(hub.seen) <= 10


def test_ten_thousand_tensors_take_their_directory_their_pickle_and_128_kib(hub: Hub, tmp_path: Path) -> None:
    count = 10_000
    tensors = {f"transformer.h.{n}.attn.c_attn.weight": view(str(n), (1,)) for n in range(count)}
    path = write_checkpoint(tmp_path / "x.bin", tensors, {str(n): floats(n) for n in range(count)})
    hub.repositories[TINY] = Repository({"x.bin": path})
    raw = path.read_bytes()
    size, start = struct.unpack("<QQ", raw[raw.rindex(b"PK\6\6") + 40 :][:16])  # of the directory
    pickle = raw.index(b"PK\3\4", 1)  # data.pkl is the first record

    catalogue = open_remote(TINY)

    assert len(catalogue) == count
    assert start + size < len(raw)
    assert catalogue.origin.traffic is not None
    assert catalogue.origin.traffic.nbytes <= size + pickle + (128 << 10)
    assert catalogue.origin.traffic.requests <= 9


def test_the_report_tells_requests_and_bytes(hub: Hub) -> None:
    done = RUN.invoke(app, ["inspect", f"hf://{TINY}", "--json"])

    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert report["source"]["location"] == f"hf://{TINY}@{COMMIT}"
    assert report["source"]["requests"] == len(hub.seen)
    assert report["source"]["bytes_read"] > 100_000


def test_a_note_says_that_a_name_is_looked_up_on_the_hub(hub: Hub) -> None:
    done = RUN.invoke(app, ["inspect", TINY], env={"COLUMNS": "200"})

    assert done.exit_code == 0
    assert done.stderr == f"`{TINY}`: no such path; asking the Hub\n"
    assert f"hf://{TINY}@{COMMIT} · PyTorch checkpoint (zip)" in done.stdout
    assert re.search(r"^  read +\d+\.\d kB in 5 requests$", done.stdout, re.MULTILINE)


# ---- the same bytes -------------------------------------------------------------------------------------------------


def dropping() -> Callable[[Exchange, Asked], bool]:
    turn = every(20)

    def drop(exchange: Exchange, asked: Asked) -> bool:
        if next(turn):
            exchange.send_response(206)
            for name, value in asked.headers.items():
                exchange.send_header(name, value)
            exchange.send_header("Content-Length", str(len(asked.data)))
            exchange.end_headers()
            exchange.wfile.write(asked.data[: len(asked.data) // 2])
            exchange.close()
            return True
        return False

    return drop


@pytest.mark.parametrize(
    ("name", "connections", "drops"),
    [(TINY, 1, False), (TINY, 8, False), (TINY, 1, True), (TINY, 8, True), ("someone/sharded", 8, True)],
)
def test_converting_over_http_gives_the_same_bytes(
    name: str, connections: int, drops: bool, hub: Hub, tiny: Path, sharded: Path, tmp_path: Path
) -> None:
    local = open_checkpoint(tiny if name == TINY else sharded)
    fetching = replace(SMALL, connections=connections)
    if drops:
        hub.on_store = dropping()

    convert(local, tmp_path / "local.safetensors")
    convert(open_remote(name, fetching=fetching), tmp_path / "remote.safetensors")
    extract(local, tmp_path / "local")
    extract(open_remote(name, fetching=fetching), tmp_path / "remote")

    assert (tmp_path / "remote.safetensors").read_bytes() == (tmp_path / "local.safetensors").read_bytes()
    theirs, ours = everything(tmp_path / "local"), everything(tmp_path / "remote")
    assert theirs.pop("manifest.json") != ours.pop("manifest.json")  # they name different sources
    theirs.pop("model.properties", None)
    ours.pop("model.properties", None)
    assert ours == theirs


def test_one_file_from_a_repository_names_what_it_has_no_room_for(hub: Hub, tmp_path: Path) -> None:
    catalogue = open_remote(TINY)
    before = len(hub.seen)

    report = convert(catalogue, tmp_path / "x.safetensors", dry_run=True)

    assert [one.name for one in report.dropped if one.kind == "file"] == ["config.json", "merges.txt", "vocab.json"]
    assert not any(seen.path.endswith((".json", ".txt")) for seen in hub.seen[before:])
    file = convert(open_remote(f"hf://{TINY}/pytorch_model.bin"), tmp_path / "x.safetensors", dry_run=True)
    assert [one.name for one in file.dropped if one.kind == "file"] == []


def test_converting_reads_little_more_than_the_file(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    catalogue = open_remote(TINY, fetching=SMALL)

    convert(catalogue, tmp_path / "x.safetensors")

    assert catalogue.origin.traffic is not None
    # A transposed matrix is read once, not once for each tile; and only bytes that are read were fetched ahead. Only start and end,
    # which were read to find out what the file is, may come twice.
    assert catalogue.origin.traffic.nbytes < (tiny / "pytorch_model.bin").stat().st_size + (128 << 10) + (64 << 10)


def test_a_folder_gets_the_companions_of_the_repository(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_remote(TINY), tmp_path / "out", to="safetensors")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "merges.txt", "model.safetensors", "vocab.json",
    ]  # fmt: skip
    assert (tmp_path / "out" / "merges.txt").read_bytes() == (tiny / "merges.txt").read_bytes()


def test_a_conversion_goes_on_after_a_broken_connection(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.on_store = later(answer(500), 4)
    with pytest.raises(SourceError, match="answered 500"):
        convert(open_remote(TINY), tmp_path / "x.safetensors", resume=True)
    hub.on_store = lambda exchange, asked: False

    convert(open_remote(TINY), tmp_path / "x.safetensors", resume=True)

    convert(open_checkpoint(tiny), tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


@pytest.mark.parametrize("to", ["x.safetensors", "x.gguf"])
def test_what_we_wrote_reads_back_over_http(to: str, hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / to)
    hub.repositories[TINY] = Repository({to: (tmp_path / to).read_bytes()})

    catalogue = open_remote(f"hf://{TINY}/{to}", fetching=SMALL)

    local = open_checkpoint(tmp_path / to)
    assert list(catalogue) == list(local)
    assert all(b"".join(catalogue[name].tiles()) == b"".join(local[name].tiles()) for name in local)


def test_any_order_of_reading_gives_the_bytes_of_the_file(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    (source,) = open_remote(TINY, fetching=SMALL).origin.sources
    places = [(7919 * step) % (len(raw) - 70_000) for step in range(200)]
    sizes = [1, 30, 300, 5000, 70_000]

    for number, place in enumerate(places):
        size = sizes[number % len(sizes)]
        assert bytes(source.read(place, size)) == raw[place : place + size]
    source.prefetch(100_000, 300_000)
    for place in (399_990, 100_000, 250_000, 99_000, 399_000):
        assert bytes(source.read(place, 5000)) == raw[place : place + 5000]


def test_a_checkpoint_at_any_url_is_read(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    hub.on_elsewhere = serve({"/x/model": raw, "/x/config.json": (tiny / "config.json").read_bytes()})

    catalogue = open_remote(f"{hub.url('elsewhere')}/x/model")

    assert len(catalogue) == 60
    assert catalogue.config is not None
    assert catalogue.location == f"{hub.url('elsewhere')}/x/model"
    assert bytes(catalogue.origin.sources[0].read(500_000, 1000)) == raw[500_000:501_000]
    assert all(TOKEN not in str(request) for request in hub.seen)


@pytest.mark.parametrize("etag", [None, 'W/"1"'], ids=["none", "weak"])
def test_a_url_without_etag_and_date_is_a_problem_that_is_told(etag: str | None, hub: Hub, tiny: Path) -> None:
    hub.on_elsewhere = serve({"/model": (tiny / "pytorch_model.bin").read_bytes()}, etag)

    catalogue = open_remote(f"{hub.url('elsewhere')}/model?sig={SIGNATURE}")

    assert "a change while it is read can't be noticed" in catalogue.problems[0]
    assert SIGNATURE not in catalogue.problems[0] + catalogue.location
    assert hub.asked("elsewhere")[-1].startswith("/model")  # no file beside a signed link is asked for


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "an empty file"), (b"<html>", "an HTML page"), (b"x", "not a checkpoint")]
)
def test_a_url_of_something_else_is_refused_by_name(content: bytes, said: str, hub: Hub) -> None:
    hub.on_elsewhere = serve({"/model": content})

    with pytest.raises(FormatError, match=said):
        open_remote(f"{hub.url('elsewhere')}/model")


# ---- who may read it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("someone/nothing", "`someone/nothing` is not found on 127.0.0.1:{port}, or your token does not open it"),
        (f"{TINY}@v9", f"`{TINY}` has no revision `v9`"),
        (f"hf://{TINY}/weights.bin", "has no file `weights.bin` in revision `main`; there is `pytorch_model.bin`"),
    ],
)
def test_anything_missing_gives_one_sentence(location: str, said: str, hub: Hub) -> None:
    with pytest.raises(SourceError) as raised:
        open_remote(location)

    assert said.format(port=hub.url().rpartition(":")[2]) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_private_repository_opens_with_the_token_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(open_remote("someone/private")) == 60

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    with pytest.raises(SourceError, match="or it is private: then set HF_TOKEN"):
        open_remote("someone/private")


def test_a_gated_repository_says_how_to_get_in(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(open_remote("someone/gated")) == 60

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", True)
    with pytest.raises(SourceError, match="`someone/gated` is gated: accept its terms there and set HF_TOKEN"):
        open_remote("someone/gated")


def test_a_repository_without_weights_says_what_it_has(hub: Hub) -> None:
    hub.repositories[TINY] = Repository({"config.json": b"{}", "tf_model.h5": b"x", "README.md": b"x"})

    with pytest.raises(FormatError, match=r"holds no weight file: .*; there is `tf_model\.h5`$"):
        open_remote(TINY)


def test_of_two_kinds_of_weights_the_safe_one_is_taken(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "model.safetensors")
    raw, safe = (tiny / "pytorch_model.bin").read_bytes(), (tmp_path / "model.safetensors").read_bytes()
    hub.repositories[TINY] = Repository({"pytorch_model.bin": raw, "model.safetensors": safe})

    taken = open_remote(TINY)

    assert (taken.format, len(taken)) == ("safetensors", 52)
    assert taken.origin.notes == ("`model.safetensors` was taken: --weights bin takes `pytorch_model.bin`",)
    assert len(open_remote(TINY, weights="bin")) == len(open_remote(f"hf://{TINY}/pytorch_model.bin")) == 60
    for place in (f"hf://{TINY}/pytorch_model.bin", f"{hub.url('elsewhere')}/x.bin"):
        with pytest.raises(SourceError, match="--weights chooses among the files of a folder"):
            open_remote(place, weights="bin")


@pytest.mark.parametrize("name", ["{name}", "{name}@main", "hf://{name}"])
def test_a_repository_of_checkpoints_names_each(name: str, hub: Hub, tiny: Path) -> None:
    files = {f"checkpoint_{n}/{path}": data for n in (2, 10) for path, data in files_of(tiny).items()}
    hub.repositories[TINY] = Repository({"README.md": b"x"} | files)

    with pytest.raises(FormatError) as caught:
        open_remote(name.format(name=TINY))

    assert str(caught.value).endswith(
        f"` has no weights of its own, but models in its folders: `cerebras-tool inspect hf://{TINY}@main/checkpoint_2`, "
        f"`cerebras-tool inspect hf://{TINY}@main/checkpoint_10`"
    )


@pytest.mark.parametrize(
    "location",
    [
        "hf://{name}/deep/checkpoint_1", "hf://{name}@main/deep/checkpoint_1/", "{endpoint}/{name}/tree/main/deep/checkpoint_1",
    ],
)  # fmt: skip
def test_a_folder_of_a_repository_is_a_checkpoint(
    location: str, hub: Hub, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories[TINY] = Repository(
        {"config.json": b"{}", "vocab.json": b"{}", "pytorch_model.bin": b"x"}
        | {f"deep/checkpoint_1/{path}": data for path, data in files_of(sharded).items()}
    )
    local = open_checkpoint(sharded)

    catalogue = open_remote(location.format(name=TINY, endpoint=hub.url()))

    assert (list(catalogue), catalogue.config) == (list(local), local.config)
    assert catalogue.location == f"hf://{TINY}@{COMMIT}/deep/checkpoint_1"
    convert(catalogue, tmp_path / "remote", to="safetensors")
    convert(local, tmp_path / "local", to="safetensors")
    assert everything(tmp_path / "remote") == everything(tmp_path / "local")


def test_an_index_on_the_hub_or_at_a_url_opens_its_shards(hub: Hub, sharded: Path) -> None:
    local = open_checkpoint(sharded)
    hub.on_elsewhere = serve({f"/dir/{path.name}": path.read_bytes() for path in sharded.iterdir()})

    for location in (
        "hf://someone/sharded/pytorch_model.bin.index.json",
        f"{hub.url('elsewhere')}/dir/pytorch_model.bin.index.json",
    ):
        catalogue = open_remote(location)

        assert (list(catalogue), catalogue.config) == (list(local), local.config)
        assert inspect(catalogue).tensors == inspect(local).tensors


def test_offline_a_folder_and_an_index_come_from_the_cache(
    hub: Hub, tiny: Path, sharded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(sharded) | {f"sub/{path}": data for path, data in files_of(tiny).items()}
    hub.repositories[TINY] = Repository(files)
    for name in files:
        hf_hub_download(TINY, name, endpoint=hub.url())
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert list(open_remote(f"hf://{TINY}/sub")) == list(open_checkpoint(tiny))
    assert list(open_remote(f"hf://{TINY}/pytorch_model.bin.index.json")) == list(open_checkpoint(sharded))
    assert list(open_checkpoint(Path(constants.HF_HUB_CACHE, "models--someone--tiny"))) == list(
        open_checkpoint(sharded)
    )


def test_an_index_that_names_a_shard_that_is_not_there_is_refused(hub: Hub, sharded: Path) -> None:
    files = files_of(sharded)
    del files["pytorch_model-00002-of-00002.bin"]
    hub.repositories[TINY] = Repository(files)

    with pytest.raises(ManifestError, match="lacks 1 of the 2 shards"):
        open_remote(TINY)


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_what_is_in_the_cache_is_read_there(hub: Hub) -> None:
    download(TINY)
    hub.seen.clear()

    catalogue = open_remote(TINY)

    assert len(catalogue) == 60
    assert catalogue.config is not None
    assert [request.path.partition("?")[0] for request in hub.seen] == [f"/api/models/{TINY}/revision/main"]


def test_offline_the_cache_is_all_there_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    download(TINY)
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert len(open_remote(TINY)) == len(open_remote(f"hf://{TINY}/pytorch_model.bin")) == 60
    for location in ("someone/sharded", f"hf://{TINY}/other.bin", f"{hub.url('elsewhere')}/x.bin"):
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
            open_remote(location)
    assert hub.seen == []


def test_download_puts_weights_and_companions_into_a_folder(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    advanced: list[int] = []

    done = download(TINY, tmp_path / "out", progress=advanced.append)

    assert {file.path.name: file.checked for file in done} == {
        "pytorch_model.bin": "the Hub's", "config.json": None, "vocab.json": None, "merges.txt": None,
    }  # fmt: skip
    assert all((tmp_path / "out" / file.name).read_bytes() == file.read_bytes() for file in tiny.iterdir())
    assert sum(advanced) >= (tiny / "pytorch_model.bin").stat().st_size


def test_download_of_a_declared_model_checks_the_declared_hash(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.repositories["cerebras/Cerebras-GPT-111M"] = Repository(files_of(tiny))

    done = RUN.invoke(app, ["download", "111M", str(tmp_path / "out")])

    assert done.exit_code == 2
    assert re.search("has the SHA-256 [0-9a-f]{64}; (declared|the Hub's) is [0-9a-f]{64}: remove it", done.stderr)


def test_download_says_what_it_wrote(hub: Hub, tmp_path: Path) -> None:
    done = RUN.invoke(app, ["download", TINY, str(tmp_path / "out")])
    missing = RUN.invoke(app, ["download", "someone/nothing", str(tmp_path / "none")])

    assert done.exit_code == 0
    assert f"{tmp_path / 'out' / 'config.json'}: " in done.stdout
    assert missing.exit_code == 2
    assert missing.stderr.startswith("error: `someone/nothing` is not found on ")


def test_models_says_what_is_in_the_cache(hub: Hub, tiny: Path) -> None:
    hub.repositories["cerebras/Cerebras-GPT-256M"] = Repository(files_of(tiny))
    before = RUN.invoke(app, ["models"])

    download("cerebras/Cerebras-GPT-256M@main")
    listed = RUN.invoke(app, ["models"])
    page = RUN.invoke(app, ["models", "256M"], env={"COLUMNS": "300"})

    assert "in the cache" not in before.stdout
    assert [line.split()[0] for line in listed.stdout.splitlines() if "in the cache" in line] == ["Cerebras-GPT-256M"]
    assert re.search(r"in the cache: .*/pytorch_model\.bin\n", page.stdout)


def test_verify_takes_a_source_on_the_hub(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "out", to="safetensors")
    convert(open_checkpoint(tiny), tmp_path / "x.gguf")

    done = RUN.invoke(app, ["verify", TINY, str(tmp_path / "out"), str(tmp_path / "x.gguf"), "--level", "inference"])
    (tmp_path / "out" / "vocab.json").write_text((tiny / "vocab.json").read_text().replace('"a"', '"aa"'))
    damaged = RUN.invoke(app, ["verify", TINY, str(tmp_path / "out")])

    assert done.exit_code == 0, done.output
    assert done.stdout.count("identical ") >= 2
    assert damaged.exit_code == 1
    assert "vocab.json" in damaged.stdout


def test_companions_come_from_the_repository(hub: Hub, tiny: Path) -> None:
    folder = companions(open_remote(TINY).location)

    assert folder is not None
    assert (folder / "vocab.json").read_bytes() == (tiny / "vocab.json").read_bytes()
    assert not (folder / "pytorch_model.bin").exists()


# ---- as a program ---------------------------------------------------------------------------------------------------


def run(hub: Hub, folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name[:3] != "HF_"}
    settings = {
        "HF_ENDPOINT": hub.url(), "HF_HOME": str(folder / "home"), "HF_TOKEN": TOKEN, "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, "-m", "converter", *arguments],
        cwd=folder, env=clean | settings | environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_program_reads_converts_and_downloads_from_the_endpoint(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    inspected = run(hub, tmp_path, "inspect", TINY, "--json", HF_DEBUG="1")
    converted = run(hub, tmp_path, "convert", f"hf://{TINY}", "x.safetensors")
    downloaded = run(hub, tmp_path, "download", TINY)
    offline = run(hub, tmp_path, "inspect", TINY, HF_HUB_OFFLINE="1")
    unknown = run(hub, tmp_path, "inspect", "someone/nothing")

    assert json.loads(inspected.stdout)["totals"]["tensors"] == 60
    assert [done.returncode for done in (inspected, converted, downloaded, offline, unknown)] == [0, 0, 0, 0, 2]
    assert unknown.stderr.count("\n") == 2
    convert(open_checkpoint(tiny), tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    for done in (inspected, converted, downloaded, offline, unknown):
        assert_no_secret(hub, done.stdout + done.stderr)
        assert "Traceback" not in done.stderr


def test_a_refusal_is_not_another_kind_of_error(hub: Hub) -> None:
    hub.on_store = answer(200, without="content-range")

    with pytest.raises(ConverterError) as raised:
        open_checkpoint(f"hf://{TINY}")
    assert raised.value.__cause__ is None


def test_a_quantised_file_takes_each_byte_once_and_no_more_requests_a_byte_than_a_plain_one(
    hub: Hub, tiny: Path, tmp_path: Path
) -> None:
    requests_per_byte = {}
    for dtype in ("f32", "q8_0"):
        convert(open_checkpoint(tiny), tmp_path / f"{dtype}.gguf", dtype=dtype)
        content = (tmp_path / f"{dtype}.gguf").read_bytes()
        hub.on_elsewhere = serve({"/x.gguf": content})
        catalogue = open_remote(f"{hub.url('elsewhere')}/x.gguf", fetching=SMALL)

        convert(catalogue, tmp_path / f"{dtype}.safetensors")

        traffic = catalogue.origin.traffic
        assert traffic is not None
        # Start and end, which were read to find out what the file is, may come twice.
        assert traffic.nbytes < len(content) + (192 << 10)
        requests_per_byte[dtype] = traffic.requests / len(content)
    assert requests_per_byte["q8_0"] < 1.1 * requests_per_byte["f32"]


@pytest.mark.parametrize("form", ["safetensors", "gguf", "npz"])
def test_a_copy_on_a_server_is_verified(form: str, hub: Hub, tiny: Path, tmp_path: Path) -> None:
    """An earlier version gave the URL to the safetensors library as a path, so every such copy was called different."""
    convert(open_checkpoint(tiny), tmp_path / f"model.{form}")
    content = (tmp_path / f"model.{form}").read_bytes()
    hub.on_elsewhere = serve({f"/model.{form}": content})
    hub.repositories["someone/copy"] = Repository({f"model.{form}": content})

    for place in (f"{hub.url('elsewhere')}/model.{form}", f"hf://someone/copy/model.{form}"):
        found = converter.verify(tiny, place).outputs[0]

        assert found.verdict == "identical"
        said = [note.detail for note in found.notes if note.what == "no second reader"]
        alone = "the safetensors library opens local files only, so our reader alone read this one"
        assert said == ([alone] if form == "safetensors" else [])


def test_a_remote_catalogue_that_was_closed_is_not_read(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    hub.on_elsewhere = serve({"/model": content})
    hub.repositories["someone/copy"] = Repository({"model.safetensors": content})

    for place in (f"{hub.url('elsewhere')}/model", "hf://someone/copy/model.safetensors"):
        with converter.open(place) as catalogue:
            kept, read = (catalogue[f"transformer.h.{layer}.mlp.c_fc.weight"] for layer in (3, 0))
            read.numpy()
        asked = len(hub.seen)

        for call in (kept.numpy, read.numpy, partial(converter.inspect, catalogue)):
            with pytest.raises(SourceError, match="was closed"):
                call()
        assert len(hub.seen) == asked


def test_the_repository_of_an_open_catalogue_is_downloaded(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    done = converter.download(converter.open(f"{TINY}@main"), tmp_path / "folder")
    by_path = converter.download(Path(TINY), tmp_path / "again")

    assert sorted(file.path.name for file in done) == sorted(file.path.name for file in by_path)
    assert (tmp_path / "folder" / "pytorch_model.bin").read_bytes() == (tiny / "pytorch_model.bin").read_bytes()
