"""Checkpoints in S3, as s3fs reads them from moto's server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import converter
from converter.errors import ConverterError, SourceError
from converter.sample import write_sample
from tests.build.checkpoints import floats, view, write_checkpoint

pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 's3fs' 'moto[s3,server]'")
moto = pytest.importorskip("moto.server", reason="moto is not installed: pip install 's3fs' 'moto[s3,server]'")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """An S3 with the bucket `bucket`; fsspec's file system is given."""
    import s3fs

    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "canary-secret-3f1a",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    system = s3fs.S3FileSystem(use_listings_cache=False)
    system.makedirs("bucket", exist_ok=True)  # moto keeps its buckets for the whole process
    try:
        yield system
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.stop()


def put(system: object, folder: Path, prefix: str) -> None:
    for path in folder.iterdir():
        system.pipe_file(f"{prefix}/{path.name}", path.read_bytes())  # type: ignore[attr-defined]


def test_s3_gives_what_the_disk_gives(bucket: object, tmp_path: Path) -> None:
    write_sample(tmp_path / "source", "tiny-13B")
    put(bucket, tmp_path / "source", "bucket/m")

    converter.convert("s3://bucket/m", tmp_path / "stored", to="safetensors")
    converter.convert(tmp_path / "source", tmp_path / "local", to="safetensors")

    stored, local = (sorted((tmp_path / name).iterdir()) for name in ("stored", "local"))
    assert [(path.name, path.read_bytes()) for path in stored] == [(path.name, path.read_bytes()) for path in local]
    assert converter.scan("s3://bucket/m").verdict == "plain"
    assert converter.verify("s3://bucket/m", tmp_path / "stored").ok


def uploads(bucket: object) -> object:
    """The uploads that were begun, and neither completed nor given up."""
    return bucket.call_s3("list_multipart_uploads", Bucket="bucket").get("Uploads")  # type: ignore[attr-defined]


def large(folder: Path) -> Path:
    """A checkpoint of 24 MB, which takes several parts."""
    views = {f"w{n}": view(str(n), (1_000_000,)) for n in range(6)}
    return write_checkpoint(folder / "large.bin", views, {str(n): floats(n) * 1_000_000 for n in range(6)})


def test_an_output_in_parts_is_that_on_the_disk(bucket: object, tmp_path: Path) -> None:
    path = large(tmp_path)
    converter.convert(path, tmp_path / "x.safetensors")
    converter.convert(path, "s3://bucket/x.safetensors")
    converter.convert("s3://bucket/x.safetensors", "s3://bucket/folder", to="safetensors")

    assert bucket.info("bucket/x.safetensors")["ETag"].strip('"').endswith("-5")  # type: ignore[attr-defined]
    for name in ("x.safetensors", "folder/model.safetensors"):
        assert bucket.cat_file(f"bucket/{name}") == (tmp_path / "x.safetensors").read_bytes()  # type: ignore[attr-defined]
    assert uploads(bucket) is None


def test_an_upload_that_breaks_leaves_nothing(bucket: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from s3fs import S3FileSystem

    call = S3FileSystem.call_s3

    def called(system: object, method: str, **told: object) -> object:
        if method == "complete_multipart_upload":
            raise PermissionError("Access Denied")
        return call(system, method, **told)

    monkeypatch.setattr(S3FileSystem, "call_s3", called)
    with pytest.raises(
        ConverterError, match=r"`s3://bucket/y\.safetensors` can't be written: S3 refuses it: access denied"
    ):
        converter.convert(large(tmp_path), "s3://bucket/y.safetensors")
    monkeypatch.setattr(S3FileSystem, "call_s3", call)

    assert not bucket.exists("bucket/y.safetensors")  # type: ignore[attr-defined]
    assert uploads(bucket) is None


def test_what_is_not_there_is_one_sentence(bucket: object) -> None:
    for location in ("s3://bucket/nothing.bin", "s3://no-such-bucket/x.bin"):
        with pytest.raises(SourceError) as caught:
            converter.inspect(location)
        assert str(caught.value) == f"`{location}` is not there: S3 has no such object or folder"


def test_without_credentials_the_way_on_is_said(bucket: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(SourceError) as caught:
        converter.inspect("s3://bucket/x.bin")

    assert str(caught.value) == (
        "`s3://bucket/x.bin` can't be read: there are no credentials for S3; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run `aws configure`"
    )


def test_an_object_that_is_replaced_is_refused(bucket: object, tmp_path: Path) -> None:
    write_sample(tmp_path / "source", "tiny")
    put(bucket, tmp_path / "source", "bucket/m")
    with converter.open("s3://bucket/m") as catalogue:
        data = (tmp_path / "source" / "pytorch_model.bin").read_bytes()
        bucket.pipe_file("bucket/m/pytorch_model.bin", bytes(reversed(data)))  # type: ignore[attr-defined]
        with pytest.raises(SourceError, match="was changed while it was read: start again"):
            converter.convert(catalogue, tmp_path / "x.safetensors")

    assert not (tmp_path / "x.safetensors").exists()
