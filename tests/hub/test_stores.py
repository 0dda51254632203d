"""Checkpoints in a store that fsspec opens: read by ranges, pinned, tried again, and refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

import converter
from converter.errors import ConverterError, OutputError, SourceError
from converter.hub.outputs import is_taken, target_of
from converter.hub.patience import Patience, waiting
from converter.hub.stores import StorePath, store_of
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.fake_store import Bucket, fake_s3


@pytest.fixture
def store(tiny: Path, sharded: Path) -> Iterator[Bucket]:
    """A store with a checkpoint in one file and one in shards."""
    with fake_s3() as bucket, waiting(Patience(backoff=0.01, shortest=3.0, slowest=1_000_000)):
        bucket.objects = {f"b/one/{path.name}": path.read_bytes() for path in tiny.iterdir()}
        bucket.objects |= {f"b/many/{path.name}": path.read_bytes() for path in sharded.iterdir()}
        yield bucket


def data_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("what", ["one", "one/pytorch_model.bin", "many", "many/pytorch_model.bin.index.json"])
def test_a_store_gives_what_the_disk_gives(store: Bucket, what: str, tiny: Path, sharded: Path, tmp_path: Path) -> None:
    folder, _, file = what.partition("/")
    local = {"one": tiny, "many": sharded}[folder] / file

    converter.convert(local, tmp_path / "local", to="safetensors")
    converter.convert(f"s3://b/{what}", tmp_path / "stored", to="safetensors")

    assert data_of(tmp_path / "stored") == data_of(tmp_path / "local")
    assert converter.verify(f"s3://b/{what}", tmp_path / "stored").ok
    assert converter.scan(f"s3://b/{what}").verdict == converter.scan(local).verdict


def test_each_byte_of_the_weights_is_read_once(store: Bucket, tmp_path: Path) -> None:
    converter.convert("s3://b/one/pytorch_model.bin", tmp_path / "x.safetensors")

    read = sum(end - start for path, start, end in store.ranges if path.endswith(".bin"))
    # a stream may pass a header that was looked at before
    assert 0 <= read - len(store.objects["b/one/pytorch_model.bin"]) < 4 << 10


def test_inspect_says_what_it_took(store: Bucket) -> None:
    store.objects["b/large.bin"] = store.objects["b/one/pytorch_model.bin"]
    found = converter.inspect("s3://b/large.bin")

    assert found.source.location == "s3://b/large.bin"
    assert found.source.requests == sum(path == "b/large.bin" for path, _, _ in store.ranges)
    assert found.source.bytes_read == sum(end - start for path, start, end in store.ranges if path == "b/large.bin")
    assert store.listed == []  # anything may lie beside one object


def test_what_a_lone_file_has_no_room_for_is_named(store: Bucket, tmp_path: Path) -> None:
    report = converter.convert("s3://b/one", tmp_path / "x.safetensors")

    assert {row.name for row in report.dropped if row.kind == "file"} == {"config.json", "merges.txt", "vocab.json"}


def test_all_objects_below_a_folder_are_scanned(store: Bucket) -> None:
    store.objects["b/x/a/b/c/d/deep.bin"] = store.objects["b/one/pytorch_model.bin"]

    assert [file.location for file in converter.scan("s3://b/x").files] == ["s3://b/x/a/b/c/d/deep.bin"]


def test_a_failure_that_passes_is_tried_again(store: Bucket, tmp_path: Path) -> None:
    left = [2]

    def fail_at_first(path: str, start: int, end: int) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(16, "Please reduce your request rate.")

    store.on_read = fail_at_first
    converter.convert("s3://b/one", tmp_path / "x.safetensors")

    assert left == [0]
    assert converter.verify("s3://b/one", tmp_path / "x.safetensors").ok


def refused(location: str) -> str:
    with pytest.raises(SourceError) as caught:
        converter.inspect(location)
    return str(caught.value)


def test_a_failure_that_lasts_is_one_sentence(store: Bucket) -> None:
    def fail(path: str, start: int, end: int) -> None:
        raise OSError(16, "Please reduce your request rate.")

    store.on_read = fail

    assert refused("s3://b/one/pytorch_model.bin") == (
        "`s3://b/one/pytorch_model.bin` can't be read: please reduce your request rate (attempt 4 of 4)"
    )


def test_expired_credentials_are_one_sentence(store: Bucket) -> None:
    def deny(path: str, start: int, end: int) -> None:
        raise PermissionError("The provided token has expired.")

    store.on_read = deny

    assert refused("s3://b/one/pytorch_model.bin") == (
        "`s3://b/one/pytorch_model.bin` can't be read: S3 refuses it: the provided token has expired; set AWS_ACCESS_KEY_ID "
        "and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run `aws configure`"
    )
    assert len(store.ranges) == 1


def test_short_answers_are_not_used(store: Bucket) -> None:
    store.short = 1

    assert refused("s3://b/one/pytorch_model.bin") == (
        "`s3://b/one/pytorch_model.bin` can't be read: 131,071 bytes came where 131,072 were asked for (attempt 4 of 4)"
    )


@pytest.mark.parametrize("what", ["b/nothing", "b/one/nothing.bin", "other"])
def test_what_is_not_there_is_said(store: Bucket, what: str) -> None:
    assert refused(f"s3://{what}") == f"`s3://{what}` is not there: S3 has no such object or folder"


def test_an_object_that_changes_is_refused(store: Bucket, tmp_path: Path) -> None:
    changed = "`s3://b/one/pytorch_model.bin` was changed while it was read: start again"
    with converter.open("s3://b/one/pytorch_model.bin") as catalogue:
        store.objects["b/one/pytorch_model.bin"] += b"x"
        with pytest.raises(SourceError, match=changed):
            converter.convert(catalogue, tmp_path / "x.safetensors")

    assert list(tmp_path.iterdir()) == []


def test_an_object_that_changes_at_the_end_is_refused(store: Bucket, tmp_path: Path) -> None:
    with converter.open("s3://b/one") as catalogue:
        for tensor in catalogue.values():
            tensor.numpy()
        store.objects["b/one/pytorch_model.bin"] += b"x"
        with pytest.raises(SourceError, match="was changed while it was read: start again"):
            catalogue.check_unchanged()


def test_the_folder_of_a_model_in_folders_is_named(store: Bucket) -> None:
    with pytest.raises(ConverterError, match="models in its folders: `s3://b/many`, `s3://b/one`"):
        converter.inspect("s3://b")


@pytest.mark.parametrize("location", ["s3://b/x::memory://y", "s3://b/\x1b[31m"])
def test_no_chain_of_stores_is_opened(store: Bucket, location: str) -> None:
    assert refused(location).endswith("is not the address of an object in a store")


def test_offline_no_store_is_asked(store: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    from converter.hub.offline import staying_offline

    with staying_offline():
        assert refused("s3://b/one") == "`s3://b/one` is not available offline: `--offline` is given"


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)

    assert refused("gs://b/x") == "`gs://b/x` needs the package gcsfs: `pip install gcsfs`"


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://h/x", "zip://x", "github://o:r@/x", "reference://x"])
def test_only_stores_are_let_through(location: str) -> None:
    assert store_of(location) is None
    assert "only https:// and hf:// are read" in refused(location)


def test_an_address_is_taken_apart_as_a_path_is() -> None:
    path = StorePath.of(Path("s3://b/one/x.bin"))

    assert path is not None
    assert [str(path), path.name, path.suffix, str(path.parent / "y"), str(path.with_name("z"))] == [
        *("s3://b/one/x.bin", "x.bin", ".bin", "s3://b/one/y", "s3://b/one/z")
    ]
    assert StorePath.of("one/x.bin") is None
    assert StorePath.of("https://h/x.bin") is None


def test_a_local_file_imports_no_store(tiny: Path) -> None:
    said = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import sys; from converter import inspect; inspect(sys.argv[1]); "
            "print([name for name in sys.modules if name == 'fsspec' or 'store' in name and name.startswith('converter')])",
            tiny / "pytorch_model.bin",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout == "[]\n"


# ---- outputs -------------------------------------------------------------------------------------------------------------


def inside(store: Bucket, folder: str) -> dict[str, bytes]:
    return {
        path.removeprefix(f"{folder}/"): data for path, data in store.objects.items() if path.startswith(f"{folder}/")
    }


@pytest.mark.parametrize("ending", [".safetensors", ".gguf", ".npz", ""])
def test_an_output_in_a_store_is_that_on_the_disk(store: Bucket, ending: str, tiny: Path, tmp_path: Path) -> None:
    to: Literal["safetensors"] | None = None if ending else "safetensors"
    converter.convert(tiny, tmp_path / f"x{ending}", to=to)
    report = converter.convert(tiny, f"s3://o/x{ending}", to=to)

    assert report.output == f"s3://o/x{ending}"
    assert store.uploads == {}
    if ending:
        assert store.objects[f"o/x{ending}"] == (tmp_path / f"x{ending}").read_bytes()
    else:
        assert inside(store, "o/x") == data_of(tmp_path / "x")
        assert store.committed[-1].endswith(".json")
        assert converter.verify(tiny, "s3://o/x").ok


def test_a_parameters_folder_goes_into_a_store(store: Bucket, tiny: Path, tmp_path: Path) -> None:
    converter.extract(tiny, tmp_path / "x")
    converter.extract(tiny, "s3://o/x")

    assert inside(store, "o/x") == data_of(tmp_path / "x")


@pytest.mark.parametrize("form", ["storages", "named"])
def test_a_parameters_folder_is_read_from_a_store(
    store: Bucket, tiny: Path, tmp_path: Path, form: Literal["storages", "named"]
) -> None:
    converter.extract(tiny, tmp_path / "x", form=form)
    store.objects |= {f"o/x/{path.relative_to(tmp_path / 'x')}": path.read_bytes() for path in files(tmp_path / "x")}

    assert converter.verify(tiny, "s3://o/x").ok
    converter.convert("s3://o/x", "s3://o/y", to="safetensors")
    converter.convert(tmp_path / "x", tmp_path / "y", to="safetensors")
    assert inside(store, "o/y") == data_of(tmp_path / "y")
    if form == "storages":
        converter.extract("s3://o/x", "s3://o/z")
        first, second = (inside(store, f"o/{name}") for name in "xz")
        named = {"manifest.json", "model.properties"}  # these name the folder
        assert {name for name in first | second if first.get(name) != second.get(name)} <= named


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-1], r"`s3://o/x/0` has .* bytes; the manifest says"),
        (lambda data: data + b"x", r"`s3://o/x/0` has .* bytes; the manifest says"),
        (None, r"`s3://o/x/0` is not there"),
        (lambda data: bytes(reversed(data)), "CRC"),
    ],
)
def test_a_parameters_folder_that_is_not_whole_is_refused(
    store: Bucket, tiny: Path, tmp_path: Path, damage: Callable[[bytes], bytes] | None, said: str
) -> None:
    converter.extract(tiny, "s3://o/x")
    if damage is None:
        del store.objects["o/x/0"]
    else:
        store.objects["o/x/0"] = damage(store.objects["o/x/0"])
    with pytest.raises(ConverterError, match=said):
        converter.convert("s3://o/x", tmp_path / "y.safetensors")


def test_from_a_store_into_a_store(store: Bucket) -> None:
    converter.convert("s3://b/many", "s3://o/many", to="safetensors")

    assert converter.verify("s3://b/many", "s3://o/many").ok


def fail(*where: object) -> None:
    raise OSError(5, "the connection was lost")


def test_an_upload_that_breaks_leaves_nothing(store: Bucket, tiny: Path) -> None:
    before = dict(store.objects)
    store.on_part = fail
    with pytest.raises(ConverterError) as caught:
        converter.convert(tiny, "s3://o/x", to="safetensors")

    assert (
        str(caught.value) == "`s3://o/x/model.safetensors` can't be written: the connection was lost (attempt 4 of 4)"
    )
    assert (store.objects, store.uploads) == (before, {})


def test_a_name_that_is_refused_at_the_end_takes_the_others_back(store: Bucket, tiny: Path) -> None:
    def last(path: str) -> None:
        if path.endswith("config.json"):
            fail()

    before = dict(store.objects)
    store.on_commit = last
    with pytest.raises(ConverterError, match=r"`s3://o/x/config\.json` can't be written: the connection was lost"):
        converter.convert(tiny, "s3://o/x", to="safetensors")

    assert (store.objects, store.uploads) == (before, {})


def test_a_source_that_changes_leaves_no_output(store: Bucket) -> None:
    before = {path for path in store.objects if path.startswith("o/")}
    with converter.open("s3://b/one") as catalogue:
        store.objects["b/one/pytorch_model.bin"] += b"x"
        with pytest.raises(SourceError, match="was changed while it was read: start again"):
            converter.convert(catalogue, "s3://o/x.safetensors")

    assert ({path for path in store.objects if path.startswith("o/")}, store.uploads) == (before, {})


def test_what_is_there_is_replaced_only_on_demand(store: Bucket, tiny: Path) -> None:
    store.objects |= {"o/x/old.safetensors": b"old", "o/x/README.md": b"mine", "o/y.safetensors": b"old"}
    for target, said in (("s3://o/x", "exists and is not empty"), ("s3://o/y.safetensors", "exists")):
        with pytest.raises(ConverterError, match=f"`{target}` {said}: give force=True to replace it"):
            converter.convert(tiny, target, to="safetensors")
    assert store.objects["o/y.safetensors"] == b"old"

    converter.convert(tiny, "s3://o/x", to="safetensors", force=True)

    assert sorted(inside(store, "o/x")) == ["README.md", "config.json", "merges.txt", "model.safetensors", "vocab.json"]
    assert inside(store, "o/x")["README.md"] == b"mine"


def test_what_only_force_replaces_is_known_before(store: Bucket, tmp_path: Path) -> None:
    store.objects |= {"o/x.gguf": b"", "o/kept/README.md": b"mine"}
    (tmp_path / "x").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    places = [StorePath(f"s3://{name}") for name in ("o/x.gguf", "b/one", "o/kept", "o/nothing")]

    assert [is_taken(place) for place in places] == [True, True, False, False]
    assert [is_taken(tmp_path / name) for name in ("x", "empty", "nothing")] == [True, False, False]


def test_the_input_is_never_overwritten(store: Bucket) -> None:
    store.objects["b/x.safetensors"] = b""
    converter.convert("s3://b/one", "s3://b/x.safetensors", force=True)
    for target in ("s3://b/x.safetensors", "s3://b"):
        with pytest.raises(ConverterError, match=f"`{target}` is the input itself: choose another output"):
            converter.convert("s3://b/x.safetensors", target, to="safetensors", force=True)


def test_a_folder_is_not_put_where_an_object_is(store: Bucket, tiny: Path) -> None:
    store.objects["b/one.gguf/x"] = b""
    with pytest.raises(
        ConverterError, match=r"`s3://b/one\.gguf` exists and is a folder, where an object should be written"
    ):
        converter.convert(tiny, "s3://b/one.gguf")


def test_an_upload_to_memory_can_not_be_resumed(tiny: Path) -> None:
    with pytest.raises(ConverterError, match="an upload to memory starts again: leave resume=True out"):
        converter.convert(tiny, "memory://o/x.safetensors", resume=True)


MEGABYTES = 17  # three parts and a rest


@pytest.fixture
def large(tmp_path: Path) -> Path:
    views = {f"w{n}": view(str(n), (250_000,)) for n in range(MEGABYTES)}
    return write_checkpoint(tmp_path / "large.bin", views, {str(n): floats(n) * 250_000 for n in range(MEGABYTES)})


def counting(store: Bucket) -> list[int]:
    """The numbers of the parts that are sent from now on."""
    sent: list[int] = []
    store.on_part = lambda path, number: sent.append(number)
    return sent


def test_parts_that_are_there_are_not_sent_again(store: Bucket, large: Path, tmp_path: Path) -> None:
    sent: list[int] = []
    store.on_part = lambda path, number: fail() if number == 3 else sent.append(number)
    with pytest.raises(ConverterError, match="the connection was lost"), waiting(Patience(backoff=0.0)):
        converter.convert(large, "s3://o/x.safetensors", resume=True)
    assert (sent, [len(parts) for parts in store.uploads.values()]) == ([1, 2], [2])
    assert "o/x.safetensors" not in store.objects

    sent = counting(store)
    converter.convert(large, "s3://o/x.safetensors", resume=True)
    converter.convert(large, tmp_path / "x.safetensors")
    assert sent == [3, 4]
    assert store.objects["o/x.safetensors"] == (tmp_path / "x.safetensors").read_bytes()
    assert store.uploads == {}


def test_parts_of_something_else_are_sent_again(store: Bucket, large: Path, tmp_path: Path) -> None:
    """Of an earlier upload under this name, only the second part has the right bytes."""
    converter.convert(large, tmp_path / "x.safetensors")
    data = (tmp_path / "x.safetensors").read_bytes()
    size = 5 << 20
    store.uploads[1], store.named[1] = (
        [b"a" * size, data[size : 2 * size], b"", b"more", b"and more"],
        "o/x.safetensors",
    )
    sent = counting(store)
    converter.convert(large, "s3://o/x.safetensors", resume=True)

    assert sent == [1, 3, 4]
    assert store.objects["o/x.safetensors"] == data


def test_a_folder_goes_on_with_the_object_that_broke(store: Bucket, large: Path, tmp_path: Path) -> None:
    store.on_part = lambda path, number: fail() if "2-of" in path and number == 2 else None
    options: dict[str, Any] = {"to": "safetensors", "max_shard_size": 9_000_000, "resume": True}
    with pytest.raises(ConverterError, match="the connection was lost"), waiting(Patience(backoff=0.0)):
        converter.convert(large, "s3://o/x", **options)
    assert [path for path in store.objects if path.startswith("o/x")] == []

    sent = counting(store)
    converter.convert(large, "s3://o/x", **options)
    converter.convert(large, tmp_path / "x", **options)
    assert inside(store, "o/x") == data_of(tmp_path / "x")
    assert store.uploads == {}
    assert len(sent) < 6


def test_without_resume_parts_are_given_up(store: Bucket, large: Path) -> None:
    store.on_part = lambda path, number: fail() if number == 3 else None
    with pytest.raises(ConverterError, match="the connection was lost"), waiting(Patience(backoff=0.0)):
        converter.convert(large, "s3://o/x.safetensors")

    assert store.uploads == {}


@pytest.mark.parametrize("name", ["tiny", "large"])
def test_an_object_that_is_not_what_was_sent_is_removed(
    store: Bucket, name: str, request: pytest.FixtureRequest
) -> None:
    """The store says how it has put the parts together; of a small object it is told the MD5 before it takes it."""
    store.changed = 1
    with (
        pytest.raises(ConverterError, match=r"`s3://o/x\.safetensors` can't be written: "),
        waiting(Patience(backoff=0.0)),
    ):
        converter.convert(request.getfixturevalue(name), "s3://o/x.safetensors")

    assert "o/x.safetensors" not in store.objects


def test_an_end_that_is_not_answered_is_an_end(store: Bucket, large: Path, tmp_path: Path) -> None:
    """The second attempt finds no upload any more, because the first one has completed it."""
    store.on_done = fail
    with waiting(Patience(backoff=0.0)):
        converter.convert(large, "s3://o/x.safetensors")
    converter.convert(large, tmp_path / "x.safetensors")

    assert store.objects["o/x.safetensors"] == (tmp_path / "x.safetensors").read_bytes()


def test_an_output_in_memory_is_whole(tiny: Path, tmp_path: Path) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    converter.convert(tiny, tmp_path / "x.safetensors")
    converter.convert(tiny, "memory://outputs/x.safetensors")

    assert MemoryFileSystem.store.pop("/outputs/x.safetensors").getvalue() == (tmp_path / "x.safetensors").read_bytes()


@pytest.mark.parametrize(
    "place", ["https://host/x.npz", "hf://owner/name", "ftp://host/x", "S3://b/x", "file:///tmp/x"]
)
def test_an_address_that_nothing_is_written_to_is_no_folder_of_that_name(place: str) -> None:
    with pytest.raises(
        OutputError, match="is an address that nothing is written to: give a path, or an address with s3://"
    ):
        target_of(Path(place))


@pytest.mark.parametrize("place", ["a:b/x.npz", "x.npz", "a/https:/x", "/https:/x", "c:/x"])
def test_a_path_with_a_colon_is_a_path(place: str) -> None:
    assert target_of(Path(place)) == Path(place)


def test_a_folder_that_is_named_like_a_scheme_can_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "https:").mkdir()
    monkeypatch.chdir(tmp_path)
    assert target_of(Path("https:/x.npz")) == Path("https:/x.npz")
