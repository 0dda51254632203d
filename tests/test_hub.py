"""Remote checkpoints against a Hub on the loopback, which behaves well first and then in every way it should not."""

from __future__ import annotations

import gzip
import json
import os
import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from converter import hub as remote_hub
from converter import remote
from converter.cli import app
from converter.convert import convert
from converter.errors import ConverterError, FormatError, LimitError, ManifestError, SourceError
from converter.extract import extract
from converter.formats import open_checkpoint
from converter.hub import companions, download, is_remote, open_remote
from converter.inspection import inspect
from converter.sample import write_sample
from tests.checkpoints import floats, view, write_checkpoint
from tests.hub_server import COMMIT, SIGNATURE, TOKEN, Asked, Exchange, Hub, Repository, every, files_of

ROOT = Path(__file__).parent.parent
RUN = CliRunner()
NAME = "someone/tiny"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    write_sample(folder, "tiny-13B")
    return folder


@pytest.fixture
def hub(tiny: Path, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Give a Hub that huggingface_hub is pointed at, with a token that must not get anywhere else."""
    repositories = {
        NAME: Repository(files_of(tiny)),
        "someone/sharded": Repository(files_of(sharded)),
        "someone/private": Repository(files_of(tiny), private=True),
        "someone/gated": Repository(files_of(tiny), gated=True),
    }
    with Hub(repositories) as hub:
        hub.point(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        monkeypatch.setattr(remote_hub, "_BACKOFF", 0.01)
        monkeypatch.setattr(remote_hub, "_PATIENCE", 1.0)
        monkeypatch.setattr(remote_hub, "_SLOWEST", 1_000_000)
        yield hub


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a checkpoint of a megabyte large enough for everything that 26 GB need."""
    monkeypatch.setattr(remote, "BLOCK", 16 << 10)
    monkeypatch.setattr(remote, "WINDOW", 128 << 10)
    monkeypatch.setattr(remote, "_PEEK", 256)


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
def test_what_is_asked_of_the_hub(location: str, remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    catalogue = open_remote(location.format(name=NAME, endpoint=hub.url()))

    local = open_checkpoint(tiny)
    assert list(catalogue) == list(local)
    assert catalogue.config == local.config
    assert catalogue.location.startswith(f"hf://{NAME}@{COMMIT}")
    assert inspect(catalogue).tensors == inspect(local).tensors


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("hf://owner", "`hf://owner/name[@revision][/file]` was expected"),
        ("hf://datasets/owner/name", "is no model on the Hub"),
        ("hf://owner/name/../../x.bin", "leads out of its repository"),
        ("hf://owner/name@%2e%2e/x.bin", "leads out of its repository"),
        ("ftp://example.org/x.bin", "only https:// and hf:// are read"),
        ("file:///etc/passwd", "only https:// and hf:// are read"),
        ("http://example.org/x.bin", "http is read from this machine only"),
        ("http://127.0.0.1.example.org/x.bin", "http is read from this machine only"),
        ("https://user:canary@example.org/x.bin", "it holds a user's name or password"),
        ("https:///x.bin", "is no valid URL"),
        ("https://[::1/x.bin", "is no valid URL"),
        ("https://example.org:port/x.bin", "is no valid URL"),
    ],
)  # fmt: skip
def test_a_place_that_is_none_is_refused_before_anything_is_asked(location: str, said: str, hub: Hub) -> None:
    with pytest.raises(SourceError, match=re.escape(said)) as raised:
        open_remote(location)

    assert hub.seen == []
    assert "canary" not in str(raised.value)


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
    hub.repositories[NAME] = Repository({"x.bin": path})
    raw = path.read_bytes()
    size, start = struct.unpack("<QQ", raw[raw.rindex(b"PK\6\6") + 40 :][:16])  # of the directory
    pickle = raw.index(b"PK\3\4", 1)  # data.pkl is the first record

    catalogue = open_remote(NAME)

    assert len(catalogue) == count
    assert start + size < len(raw)
    assert catalogue.traffic is not None
    assert catalogue.traffic.nbytes <= size + pickle + (128 << 10)
    assert catalogue.traffic.requests <= 9


def test_the_report_tells_requests_and_bytes(hub: Hub) -> None:
    done = RUN.invoke(app, ["inspect", f"hf://{NAME}", "--json"])

    report = json.loads(done.stdout)
    assert done.stderr == ""
    assert report["source"]["location"] == f"hf://{NAME}@{COMMIT}"
    assert report["source"]["requests"] == len(hub.seen)
    assert report["source"]["bytes_read"] > 100_000


def test_a_name_that_is_no_path_is_said_to_be_asked_of_the_hub(hub: Hub) -> None:
    done = RUN.invoke(app, ["inspect", NAME])

    assert done.exit_code == 0
    assert done.stderr == f"`{NAME}`: no such path; asking the Hub\n"
    assert f"hf://{NAME}@{COMMIT} · PyTorch checkpoint (zip)" in done.stdout
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


@pytest.mark.parametrize("name", [NAME, "someone/sharded"])
@pytest.mark.parametrize(("connections", "drops"), [(1, False), (8, False), (1, True), (8, True)])
@pytest.mark.usefixtures("small_blocks")
def test_converting_over_http_gives_the_same_bytes(
    name: str, connections: int, drops: bool, hub: Hub, tiny: Path, sharded: Path, tmp_path: Path
) -> None:
    local = open_checkpoint(tiny if name == NAME else sharded)
    if drops:
        hub.on_store = dropping()

    convert(local, tmp_path / "local.safetensors")
    convert(open_remote(name, connections=connections), tmp_path / "remote.safetensors")
    extract(local, tmp_path / "local")
    extract(open_remote(name, connections=connections), tmp_path / "remote")

    assert (tmp_path / "remote.safetensors").read_bytes() == (tmp_path / "local.safetensors").read_bytes()
    theirs, ours = everything(tmp_path / "local"), everything(tmp_path / "remote")
    assert theirs.pop("manifest.json") != ours.pop("manifest.json")  # they name different sources
    theirs.pop("model.properties", None)
    ours.pop("model.properties", None)
    assert ours == theirs


@pytest.mark.usefixtures("small_blocks")
def test_converting_reads_little_more_than_the_file(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    catalogue = open_remote(NAME)

    convert(catalogue, tmp_path / "x.safetensors")

    assert catalogue.traffic is not None
    # A transposed matrix is read once, not once a tile; what was fetched ahead was what was read. Only start and end,
    # which were read to find out what the file is, may come twice.
    assert catalogue.traffic.nbytes < (tiny / "pytorch_model.bin").stat().st_size + (128 << 10) + (64 << 10)


def test_a_folder_gets_the_companions_of_the_repository(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_remote(NAME), tmp_path / "out", to="safetensors")

    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json", "merges.txt", "model.safetensors", "vocab.json",
    ]  # fmt: skip
    assert (tmp_path / "out" / "merges.txt").read_bytes() == (tiny / "merges.txt").read_bytes()


def test_a_conversion_goes_on_after_a_broken_connection(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.on_store = later(answer(500), 4)
    with pytest.raises(SourceError, match="answered 500"):
        convert(open_remote(NAME), tmp_path / "x.safetensors", resume=True)
    hub.on_store = lambda exchange, asked: False

    convert(open_remote(NAME), tmp_path / "x.safetensors", resume=True)

    convert(open_checkpoint(tiny), tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()


@pytest.mark.parametrize("to", ["x.safetensors", "x.gguf"])
@pytest.mark.usefixtures("small_blocks")
def test_what_we_wrote_reads_back_over_http(to: str, hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / to)
    hub.repositories[NAME] = Repository({to: (tmp_path / to).read_bytes()})

    catalogue = open_remote(f"hf://{NAME}/{to}")

    local = open_checkpoint(tmp_path / to)
    assert list(catalogue) == list(local)
    assert all(b"".join(catalogue[name].tiles()) == b"".join(local[name].tiles()) for name in local)


@pytest.mark.usefixtures("small_blocks")
def test_any_order_of_reading_gives_the_bytes_of_the_file(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    (source,) = open_remote(NAME).sources
    places = [(7919 * step) % (len(raw) - 70_000) for step in range(200)]
    sizes = [1, 30, 300, 5000, 70_000]

    for number, place in enumerate(places):
        size = sizes[number % len(sizes)]
        assert bytes(source.read(place, size)) == raw[place : place + size]
    source.hold(100_000, 300_000)  # type: ignore[attr-defined]
    for place in (399_990, 100_000, 250_000, 99_000, 399_000):
        assert bytes(source.read(place, 5000)) == raw[place : place + 5000]


def test_a_checkpoint_at_any_url_is_read(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    hub.on_elsewhere = serve({"/x/model": raw, "/x/config.json": (tiny / "config.json").read_bytes()})

    catalogue = open_remote(f"{hub.url('elsewhere')}/x/model")

    assert len(catalogue) == 60
    assert catalogue.config is not None
    assert catalogue.location == f"{hub.url('elsewhere')}/x/model"
    assert bytes(catalogue.sources[0].read(500_000, 1000)) == raw[500_000:501_000]
    assert all(TOKEN not in str(request) for request in hub.seen)


@pytest.mark.parametrize("etag", [None, 'W/"1"'], ids=["none", "weak"])
def test_a_url_without_etag_and_date_is_a_problem_that_is_told(etag: str | None, hub: Hub, tiny: Path) -> None:
    hub.on_elsewhere = serve({"/model": (tiny / "pytorch_model.bin").read_bytes()}, etag)

    catalogue = open_remote(f"{hub.url('elsewhere')}/model?sig={SIGNATURE}")

    assert "a change while it is read can't be noticed" in catalogue.problems[0]
    assert SIGNATURE not in catalogue.problems[0] + catalogue.location
    assert hub.asked("elsewhere")[-1].startswith("/model")  # nothing beside a signed link is asked for


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "an empty file"), (b"<html>", "an HTML page"), (b"x", "no checkpoint")]
)
def test_a_url_that_is_no_checkpoint_is_said_to_be_none(content: bytes, said: str, hub: Hub) -> None:
    hub.on_elsewhere = serve({"/model": content})

    with pytest.raises(FormatError, match=said):
        open_remote(f"{hub.url('elsewhere')}/model")


def serve(files: dict[str, bytes], etag: str | None = '"1"') -> Callable[[Exchange], bool]:
    """Serve files by ranges, plainly."""

    def answer(exchange: Exchange) -> bool:
        content = files.get(exchange.path.partition("?")[0])
        if content is None:
            return False
        exchange._send(content, {"ETag": etag} if etag else {})
        return True

    return answer


# ---- who may read it ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("someone/nothing", "`someone/nothing` is not found on 127.0.0.1:{port}, or your token does not open it"),
        (f"{NAME}@v9", f"`{NAME}` has no revision `v9`"),
        (f"hf://{NAME}/weights.bin", "has no file `weights.bin` in revision `main`; there is `pytorch_model.bin`"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(location: str, said: str, hub: Hub) -> None:
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
    hub.repositories[NAME] = Repository({"config.json": b"{}", "tf_model.h5": b"x", "onnx/model.bin": b"x"})

    with pytest.raises(FormatError, match=r"holds no weight file.*there is `onnx/model.bin`, `tf_model.h5`"):
        open_remote(NAME)


def test_a_repository_with_two_checkpoints_names_both(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    hub.repositories[NAME] = Repository({"pytorch_model.bin": raw, "model.safetensors": raw})

    with pytest.raises(FormatError, match=r"several checkpoints: `model\.safetensors`, `pytorch_model\.bin`; name one"):
        open_remote(NAME)
    assert len(open_remote(f"hf://{NAME}/pytorch_model.bin")) == 60


def test_an_index_that_names_a_shard_that_is_not_there_is_refused(hub: Hub, sharded: Path) -> None:
    files = files_of(sharded)
    del files["pytorch_model-00002-of-00002.bin"]
    hub.repositories[NAME] = Repository(files)

    with pytest.raises(ManifestError, match="lacks 1 of the 2 shards"):
        open_remote(NAME)


# ---- the cache ------------------------------------------------------------------------------------------------------


def test_what_is_in_the_cache_is_read_there(hub: Hub) -> None:
    download(NAME)
    hub.seen.clear()

    catalogue = open_remote(NAME)

    assert len(catalogue) == 60
    assert catalogue.config is not None
    assert [request.path.partition("?")[0] for request in hub.seen] == [f"/api/models/{NAME}/revision/main"]


def test_offline_the_cache_is_all_there_is(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    download(NAME)
    hub.seen.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    assert len(open_remote(NAME)) == len(open_remote(f"hf://{NAME}/pytorch_model.bin")) == 60
    for location in ("someone/sharded", f"hf://{NAME}/other.bin", f"{hub.url('elsewhere')}/x.bin"):
        with pytest.raises(SourceError, match="HF_HUB_OFFLINE is set"):
            open_remote(location)
    assert hub.seen == []


def test_download_puts_weights_and_companions_into_a_folder(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    advanced: list[int] = []

    done = download(NAME, tmp_path / "out", progress=advanced.append)

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
    done = RUN.invoke(app, ["download", NAME, str(tmp_path / "out")])
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
    page = RUN.invoke(app, ["models", "256M"])

    assert "in the cache" not in before.stdout
    assert [line.split()[0] for line in listed.stdout.splitlines() if "in the cache" in line] == ["Cerebras-GPT-256M"]
    assert re.search(r"in the cache: .*/pytorch_model\.bin\n", page.stdout)


def test_verify_takes_a_source_on_the_hub(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    convert(open_checkpoint(tiny), tmp_path / "out", to="safetensors")
    convert(open_checkpoint(tiny), tmp_path / "x.gguf")

    done = RUN.invoke(app, ["verify", NAME, str(tmp_path / "out"), str(tmp_path / "x.gguf"), "--level", "inference"])
    (tmp_path / "out" / "vocab.json").write_text((tiny / "vocab.json").read_text().replace('"a"', '"aa"'))
    damaged = RUN.invoke(app, ["verify", NAME, str(tmp_path / "out")])

    assert done.exit_code == 0, done.output
    assert done.stdout.count("identical ") >= 2
    assert damaged.exit_code == 1
    assert "vocab.json" in damaged.stdout


def test_companions_come_from_the_repository(hub: Hub, tiny: Path) -> None:
    folder = companions(open_remote(NAME).location)

    assert folder is not None
    assert (folder / "vocab.json").read_bytes() == (tiny / "vocab.json").read_bytes()
    assert not (folder / "pytorch_model.bin").exists()


# ---- misbehaviour ---------------------------------------------------------------------------------------------------


def answer(status: int = 206, *, without: str = "", body: Callable[[bytes], bytes] = bytes, **changed: str) -> Any:
    """Give a fault: the right answer but for some headers, the status or the body."""

    def fault(exchange: Exchange, asked: Asked) -> bool:
        headers = {name: value for name, value in asked.headers.items() if name.lower() != without}
        places = {"first": asked.first, "last": asked.last, "total": asked.total, "size": len(asked.data)}
        headers |= {name.replace("_", "-"): value.format(**places) for name, value in changed.items()}
        exchange.reply(status, body(asked.data), headers)
        return True

    return fault


def short(exchange: Exchange, asked: Asked) -> bool:
    exchange.reply(206, asked.data[:-1000], asked.headers | {"Content-Length": str(len(asked.data))})
    exchange.close()
    return True


def without_length(data: Callable[[bytes], bytes]) -> Any:
    def fault(exchange: Exchange, asked: Asked) -> bool:
        body = data(asked.data)
        encoded = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        exchange.send_response(206)
        for name, value in (asked.headers | {"Transfer-Encoding": "chunked"}).items():
            exchange.send_header(name, value)
        exchange.end_headers()
        exchange.wfile.write(encoded)
        return True

    return fault


def stall(exchange: Exchange, asked: Asked) -> bool:
    time.sleep(1)
    exchange.close()
    return True


def trickle(exchange: Exchange, asked: Asked) -> bool:
    exchange.reply(206, b"", asked.headers | {"Content-Length": str(len(asked.data))})
    for byte in asked.data[:400]:
        time.sleep(0.02)
        exchange.wfile.write(bytes([byte]))
        exchange.wfile.flush()
    exchange.close()
    return True


def trickled_headers(exchange: Exchange, asked: Asked) -> bool:
    exchange.wfile.write(b"HTTP/1.1 206 Partial Content\r\n")
    for number in range(300):
        time.sleep(0.05)
        exchange.wfile.write(b"X-%d: x\r\n" % number)
        exchange.wfile.flush()
    return True


def hang_up(exchange: Exchange, asked: Asked) -> bool:
    exchange.close()
    return True


def garbage(exchange: Exchange, asked: Asked) -> bool:
    exchange.wfile.write(b"\0\1\2 what?\r\n\r\n" * 10)
    exchange.close()
    return True


def many_headers(exchange: Exchange, asked: Asked) -> bool:
    exchange.wfile.write(b"HTTP/1.1 206 Partial Content\r\n" + b"X-Header: 0123456789\r\n" * 50_000 + b"\r\n")
    exchange.close()
    return True


def lead_to(location: str) -> Any:
    def fault(exchange: Exchange, asked: Asked) -> bool:
        exchange.redirect(location.format(store=exchange.server.hub.url("store"), path=exchange.path))
        return True

    return fault


def later(fault: Any, count: int = 2) -> Any:
    """Behave well at first."""
    turns = 0

    def misbehave(exchange: Exchange, asked: Asked) -> bool:
        nonlocal turns
        turns += 1
        return turns >= count and bool(fault(exchange, asked))

    return misbehave


MISBEHAVIOURS: dict[str, tuple[Any, str]] = {
    "it ignores the range": (answer(200, without="content-range"), "sends it whole"),
    "no Content-Range": (answer(without="content-range"), "other bytes .* without saying which"),
    "another start": (answer(Content_Range="bytes 1-{last}/{total}"), "other bytes .* bytes 1 to"),
    "another end": (answer(Content_Range="bytes {first}-5/{total}"), "other bytes"),
    "another total": (answer(Content_Range="bytes {first}-{last}/99"), "was changed"),
    "an unknown total": (answer(Content_Range="bytes {first}-{last}/*"), "other bytes"),
    "an empty range": (answer(Content_Range="bytes 10-9/{total}"), "other bytes"),
    "items instead of bytes": (answer(Content_Range="items {first}-{last}/{total}"), "other bytes"),
    "numbers in other digits": (answer(Content_Range="bytes {first}-{last}/" + "\u0661".encode().decode("latin-1")), "other bytes"),
    "several ranges": (answer(Content_Range="", Content_Type="multipart/byteranges; boundary=x"), "other bytes"),
    "a lying length": (answer(Content_Length="10"), "10 bytes where"),
    "a body that is too short": (short, r"broke off \(attempt 6 of 6\)"),
    "a body that is too short without a length": (without_length(lambda data: data[:-1]), "too short"),
    "a body that is too long": (without_length(lambda data: data + b"x"), "more than was asked for"),
    "gzip": (answer(body=gzip.compress, Content_Encoding="gzip"), r"sent it encoded \(gzip\)"),
    "another ETag": (later(answer(ETag='"other"')), "was changed"),
    "no ETag any more": (later(answer(without="etag")), "was changed"),
    "another total later": (later(answer(Content_Range="bytes {first}-{last}/9000000")), "was changed"),
    "it is shorter now": (later(answer(416)), "was changed"),
    "errors for ever": (answer(500), r"answered 500 \(attempt 6 of 6\)"),
    "too many requests, for an hour": (answer(429, Retry_After="3600"), r"answered 429 \(attempt 1 of 6\)"),
    "a link that never works": (answer(403), "answered 403"),
    "a link that stops working": (later(answer(403)), "answered 403"),
    "another status": (answer(418), "answered 418"),
    "it stalls": (stall, "nothing came"),
    "it trickles": (trickle, "too slowly"),
    "it trickles headers": (trickled_headers, "no whole answer|nothing came|too slowly|broke off"),
    "it hangs up": (hang_up, "broke off"),
    "garbage": (garbage, "broke off"),
    "a megabyte of headers": (many_headers, "broke off"),
    "redirects in a circle": (lead_to("{store}{path}"), "redirected more than 5 times"),
    "a redirect to a file": (lead_to("file:///etc/passwd"), "only https:// and hf:// are read"),
    "a redirect to ftp": (lead_to("ftp://127.0.0.1/x"), "only https:// and hf:// are read"),
    "a redirect to data": (lead_to("data:text/plain,x"), "only https:// and hf:// are read|no valid URL"),
    "a redirect to http elsewhere": (lead_to("http://example.org/x"), "http is read from this machine only"),
    "a redirect with a password": (lead_to("http://u:p@127.0.0.1/x"), "a user's name or password"),
    "a redirect to nowhere": (lead_to(""), "redirects to nowhere"),
    "a redirect to nonsense": (lead_to("http://[::1/"), "nowhere|no valid URL"),
}  # fmt: skip


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_misbehaviour_ends_in_a_sentence(
    misbehaviour: str, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.on_store, said = MISBEHAVIOURS[misbehaviour]
    caplog.set_level("DEBUG")
    began = time.monotonic()

    with pytest.raises(SourceError, match=said) as raised:
        convert(open_remote(NAME), tmp_path / "x.safetensors")

    assert time.monotonic() - began < 12
    assert len(hub.seen) <= 60
    assert list(tmp_path.glob("*x.safetensors*")) == []
    assert_no_secret(hub, str(raised.value) + caplog.text)


@pytest.mark.parametrize(
    "fault", [short, hang_up, stall, answer(500), answer(503, Retry_After="0"), answer(403), garbage, without_length(lambda d: d[:9])],
    ids=["short", "hangs up", "stalls", "500", "503 with Retry-After", "expired link", "garbage", "short without a length"],
)  # fmt: skip
def test_what_passes_is_tried_again(fault: Any, hub: Hub, tiny: Path) -> None:
    turns = every(3)
    hub.on_store = lambda exchange, asked: next(turns) and bool(fault(exchange, asked))

    catalogue = open_remote(NAME)

    local = open_checkpoint(tiny)
    assert all(b"".join(catalogue[name].tiles()) == b"".join(local[name].tiles()) for name in local)


def test_a_signed_link_that_expires_is_resolved_again(hub: Hub, tiny: Path) -> None:
    catalogue = open_remote(NAME)
    hub.signature = "canary-signature-next"

    local = open_checkpoint(tiny)
    assert all(b"".join(catalogue[name].tiles()) == b"".join(local[name].tiles()) for name in local)


@pytest.mark.parametrize("header", ["X_Repo_Commit", "X_Linked_Etag", "X_Linked_Size"])
def test_a_link_that_is_resolved_again_must_be_the_same_file(header: str, hub: Hub) -> None:
    catalogue = open_remote(NAME)
    hub.signature = "canary-signature-next"

    def changed(exchange: Exchange) -> bool:
        path = f"{NAME}/pytorch_model.bin?Expires=1&Signature={hub.signature}"
        exchange.redirect(f"{hub.url('store')}/{path}", **{header: "1"})
        return True

    hub.on_resolve = changed
    with pytest.raises(SourceError, match="was changed while it was read"):
        catalogue.sources[0].read(500_000, 100)


def test_the_token_goes_to_the_hub_alone(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    hub.on_elsewhere = serve({"/model": raw})
    hub.on_resolve = lambda exchange: (
        "bin" in exchange.path
        and bool(
            exchange.redirect(f"{hub.url('elsewhere')}/model", X_Repo_Commit=COMMIT, Set_Cookie="canary=cookie") or True
        )
    )

    catalogue = open_remote(NAME)

    assert len(catalogue) == 60
    assert {request.origin for request in hub.seen if "authorization" in request.headers} == {"hub"}
    assert not [request for request in hub.seen if "cookie" in request.headers]


def test_small_files_may_be_redirected_within_the_hub(hub: Hub, tiny: Path) -> None:
    def resolve(exchange: Exchange) -> bool:
        if exchange.path.endswith("/config.json"):
            exchange.reply(307, headers={"Location": f"/api/resolve-cache/models/{NAME}/config.json?x=1"})
            return True
        return False

    def cache(exchange: Exchange) -> bool:
        if "/resolve-cache/" in exchange.path:
            exchange.reply(200, (tiny / "config.json").read_bytes())
            return True
        return False

    hub.on_resolve = hub.on_api = lambda exchange: resolve(exchange) or cache(exchange)

    assert open_remote(NAME).config == open_checkpoint(tiny).config


def test_a_description_that_is_redirected_takes_no_token_along(hub: Hub) -> None:
    hub.on_api = lambda exchange: bool(exchange.redirect(f"{hub.url('elsewhere')}/api") or True)
    hub.on_elsewhere = lambda exchange: bool(exchange.reply(200, b'{"sha": "x"}') or True)

    with pytest.raises(ManifestError, match="does not describe a repository"):
        open_remote(NAME)
    assert_no_secret(hub, "")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"<html>", b"[]", b'{"sha": "main", "siblings": []}', b'{"sha": 1, "siblings": []}',
        b'{"sha": "%b"}' % COMMIT.encode(), b'{"sha": "%b", "siblings": {}}' % COMMIT.encode(),
        b'{"sha": "%b", "siblings": [1, {}, {"rfilename": 2}, {"rfilename": "../x.bin"}]}' % COMMIT.encode(),
        b'{"sha": NaN}', b"[" * 100_000, b"\xff\xfe",
    ],
)  # fmt: skip
def test_a_description_that_is_none_is_refused(body: bytes, hub: Hub) -> None:
    hub.on_api = lambda exchange: bool(exchange.reply(200, body) or True)

    with pytest.raises((ManifestError, FormatError)):
        open_remote(NAME)
    assert len(hub.seen) == 1


def test_a_listing_without_sizes_is_enough(hub: Hub) -> None:
    listing = {
        "sha": COMMIT,
        "siblings": [{"rfilename": "pytorch_model.bin"}, {"rfilename": "config.json", "size": -1}],
    }
    hub.on_api = lambda exchange: bool(exchange.reply(200, json.dumps(listing).encode()) or True)

    assert len(open_remote(NAME)) == 60


def test_a_listing_that_lies_about_a_size_is_noticed(hub: Hub) -> None:
    listing = {"sha": COMMIT, "siblings": [{"rfilename": "pytorch_model.bin", "size": 10**15}]}
    hub.on_api = lambda exchange: bool(exchange.reply(200, json.dumps(listing).encode()) or True)

    with pytest.raises(SourceError, match="was changed"):
        open_remote(NAME)


def test_names_and_layouts_that_want_too_much_are_refused(hub: Hub) -> None:
    header = struct.pack("<Q", 90_000_000) + b"{" + b" " * 1000
    hub.on_elsewhere = lambda exchange: bool(
        exchange.reply(206, header[:1000], {"Content-Range": f"bytes 0-131071/{10**12}", "Content-Length": "131072"})
        or True
    )
    hub.repositories[NAME] = Repository({"model.safetensors": header + bytes(200_000)})
    listing = {"sha": COMMIT, "siblings": [{"rfilename": "model.safetensors"}]}
    hub.on_api = lambda exchange: bool(exchange.reply(200, json.dumps(listing).encode()) or True)

    def huge(exchange: Exchange, asked: Asked) -> bool:
        total = 10**12
        size = int(exchange.headers["Range"].partition("-")[2]) - asked.first + 1
        body = (header + bytes(size))[asked.first : asked.first + size] if asked.first < 1000 else bytes(size)
        exchange.reply(206, body, {"Content-Range": f"bytes {asked.first}-{asked.first + size - 1}/{total}"})
        return True

    hub.on_store = huge
    hub.on_resolve = lambda exchange: bool(
        exchange.redirect(f"{hub.url('store')}/{NAME}/model.safetensors?Signature={SIGNATURE}") or True
    )
    with pytest.raises(LimitError, match="bytes for names and layouts"):
        open_remote(NAME)


@pytest.mark.parametrize(
    ("first", "target", "said"),
    [
        ("https://hub.example/x", "http://127.0.0.1/x", "it leads from https to http"),
        ("https://hub.example/x", "https://127.0.0.1/x", "it leads into a private network"),
        ("https://hub.example/x", "https://[::1]/x", "it leads into a private network"),
        ("https://hub.example/x", "https://[::ffff:10.0.0.1]/x", "it leads into a private network"),
        ("https://hub.example/x", "https://169.254.169.254/latest", "it leads into a private network"),
        ("https://hub.example/x", "https://inside.example/x", "it leads into a private network"),
        ("https://hub.example/x", "https://2130706433/x", "it leads into a private network"),
    ],
)
def test_no_redirect_leads_inside(
    first: str, target: str, said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = {"hub.example": "93.184.216.34", "inside.example": "10.1.2.3", "2130706433": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port: [(socket.AF_INET, 1, 6, "", (addresses.get(host, host), 0))]
    )
    remote_hub._is_inside.cache_clear()
    web = remote_hub._Web(1)
    assert not remote_hub._is_inside("hub.example")

    with pytest.raises(SourceError, match=said):
        web._redirected(first, target, inside=remote_hub._is_inside("hub.example"))
    assert web._redirected(first, "/y", inside=False) == "https://hub.example/y"
    remote_hub._is_inside.cache_clear()


def assert_no_secret(hub: Hub, text: str) -> None:
    """Assert that token and signatures are in no message or log, and the token went to no other origin."""
    assert TOKEN not in text
    assert SIGNATURE not in text
    assert all(TOKEN not in str(request) for request in hub.seen if request.origin != "hub")


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
    inspected = run(hub, tmp_path, "inspect", NAME, "--json", HF_DEBUG="1")
    converted = run(hub, tmp_path, "convert", f"hf://{NAME}", "x.safetensors")
    downloaded = run(hub, tmp_path, "download", NAME)
    offline = run(hub, tmp_path, "inspect", NAME, HF_HUB_OFFLINE="1")
    unknown = run(hub, tmp_path, "inspect", "someone/nothing")

    assert json.loads(inspected.stdout)["totals"]["tensors"] == 60
    assert [done.returncode for done in (inspected, converted, downloaded, offline, unknown)] == [0, 0, 0, 0, 2]
    assert unknown.stderr.count("\n") == 2
    convert(open_checkpoint(tiny), tmp_path / "y.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "y.safetensors").read_bytes()
    for done in (inspected, converted, downloaded, offline, unknown):
        assert_no_secret(hub, done.stdout + done.stderr)
        assert "Traceback" not in done.stderr


def test_a_refusal_is_no_other_kind_of_error(hub: Hub) -> None:
    hub.on_store = answer(200, without="content-range")

    with pytest.raises(ConverterError) as raised:
        open_checkpoint(f"hf://{NAME}")
    assert raised.value.__cause__ is None
