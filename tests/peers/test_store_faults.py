"""What goes wrong in S3 while s3fs reads and writes: it is tried again or is one sentence, and nothing is left half written."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import converter
from converter.errors import ConverterError
from converter.hub.patience import Patience, waiting
from converter.sample import write_sample
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.s3_server import S3, Fault, Request, s3_server

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: pip install 's3fs'")

WEIGHTS = "bucket/in/large.bin"
MEGABYTES = 12


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """A store with a checkpoint of 12 MB, read in a dozen ranges and written in three parts; nobody waits long for it."""
    views = {f"w{n}": view(str(n), (250_000,)) for n in range(MEGABYTES)}
    path = write_checkpoint(tmp_path / "large.bin", views, {str(n): floats(n) * 250_000 for n in range(MEGABYTES)})
    with s3_server(tmp_path / "s3") as s3, waiting(Patience(backoff=0.01, shortest=30.0, slowest=1_000_000)):
        for name, value in {**s3.environment(), "AWS_MAX_ATTEMPTS": "2"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
        s3fs.S3FileSystem.clear_instance_cache()
        s3.put(WEIGHTS, path.read_bytes())
        yield s3
        s3fs.S3FileSystem.clear_instance_cache()


def is_read(request: Request) -> bool:
    return request.method == "GET" and request.name == WEIGHTS


def is_looked_up(request: Request) -> bool:
    return request.method == "HEAD" and request.name == WEIGHTS


def is_checked(request: Request) -> bool:
    return request.method == "HEAD" and request.name == "bucket/out/x.safetensors"


def is_begun(request: Request) -> bool:
    return request.method == "POST" and "uploads" in request.query


def is_part(request: Request) -> bool:
    return "partNumber" in request.query


def is_completed(request: Request) -> bool:
    return request.method == "POST" and "uploadId" in request.query


def nth(what: Callable[[Request], bool], first: int, count: int, fault: Fault) -> Callable[[Request], Fault | None]:
    """The fault for so many requests of a kind, from the `first` on."""
    seen = [0]

    def found(request: Request) -> Fault | None:
        if not what(request):
            return None
        seen[0] += 1
        return fault if first <= seen[0] < first + count else None

    return found


def converted(s3: S3) -> None:
    converter.convert("s3://bucket/in/large.bin", "s3://bucket/out/x.safetensors")


EVER = 10**6
BUSY, BROKEN = Fault(503, "SlowDown"), Fault(500, "InternalError")
PASSES = {
    "the first read is told to slow down": (is_read, 1, 1, BUSY),
    "reads in the middle are told to slow down": (is_read, 4, 3, BUSY),
    "a read meets an internal error": (is_read, 3, 1, BROKEN),
    "a request times out at the server": (is_read, 3, 1, Fault(400, "RequestTimeout")),
    "an answer breaks off": (is_read, 3, 1, Fault(cut=1000)),
    "an answer breaks off before its first byte": (is_read, 3, 1, Fault(cut=0)),
    "the connection is closed without an answer": (is_read, 3, 1, Fault(drop=True)),
    "reads are slow": (is_read, 1, 4, Fault(wait=0.3)),
    "a look-up is told to slow down": (is_looked_up, 1, 1, BUSY),
    "a part is told to slow down": (is_part, 2, 1, BUSY),
    "the connection is closed while a part is sent": (is_part, 2, 1, Fault(drop=True)),
    "the beginning of an upload meets an internal error": (is_begun, 1, 1, BROKEN),
    "the end of an upload is told to slow down": (is_completed, 1, 1, BUSY),
    "the end of an upload is done and not answered": (is_completed, 1, 1, Fault(mute=True)),
    "the connection is closed at the end of an upload": (is_completed, 1, 1, Fault(drop=True)),
    "a part is there and not answered": (is_part, 2, 1, Fault(mute=True)),
    "a part meets internal errors": (is_part, 1, 2, BROKEN),
    "a part times out at the server": (is_part, 3, 1, Fault(400, "RequestTimeout")),
    "a part arrives damaged once": (is_part, 2, 1, Fault(400, "BadDigest")),
    "the look at what is there then is told to slow down": (is_checked, 1, 2, BUSY),
    "the connection is closed at every other read": (is_read, 2, 1, Fault(drop=True)),
}


@pytest.mark.parametrize("what", PASSES)
def test_what_passes_is_tried_again(s3: S3, what: str, tmp_path: Path) -> None:
    s3.fault = nth(*PASSES[what])
    converted(s3)
    converter.convert(tmp_path / "large.bin", tmp_path / "x.safetensors")

    assert s3.get("bucket/out/x.safetensors") == (tmp_path / "x.safetensors").read_bytes()
    assert s3.uploads == {}


SIGN_IN = "; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or AWS_PROFILE, or run `aws configure`"
READ, WRITTEN = "`s3://bucket/in/large.bin` can't be read: ", "`s3://bucket/out/x.safetensors` can't be written: "
LASTS = {
    "reads are told to slow down": (
        (is_read, 1, EVER, BUSY),
        READ + "please reduce your request rate (attempt 4 of 4)",
    ),
    "the credentials expire while it is read": (
        (is_read, 4, EVER, Fault(400, "ExpiredToken")),
        READ + "S3 refuses it: the provided token has expired" + SIGN_IN,
    ),
    "reading is not allowed": (
        (is_read, 1, EVER, Fault(403, "AccessDenied")),
        READ + "S3 refuses it: access denied" + SIGN_IN,
    ),
    "looking up is not allowed": ((is_looked_up, 1, EVER, Fault(403, "")), READ + "S3 refuses it: forbidden" + SIGN_IN),
    "the key is unknown": (
        (is_read, 1, EVER, Fault(403, "InvalidAccessKeyId")),
        READ + "S3 refuses it: the aws access key id you provided does not exist in our records" + SIGN_IN,
    ),
    "answers always break off": ((is_read, 3, EVER, Fault(cut=10)), READ + "response payload is not completed"),
    "uploads are not allowed": (
        (is_begun, 1, EVER, Fault(403, "AccessDenied")),
        WRITTEN + "S3 refuses it: access denied" + SIGN_IN,
    ),
    "parts are told to slow down": ((is_part, 2, EVER, BUSY), WRITTEN + "please reduce your request rate"),
    "the credentials expire while it is written": (
        (is_part, 2, EVER, Fault(400, "ExpiredToken")),
        WRITTEN + "S3 refuses it: the provided token has expired" + SIGN_IN,
    ),
    "the clock of this machine is wrong": (
        (is_read, 2, EVER, Fault(403, "RequestTimeTooSkewed")),
        READ + "S3 refuses it: requesttimetooskewed" + SIGN_IN,
    ),
    "the secret is wrong": (
        (is_read, 1, EVER, Fault(403, "SignatureDoesNotMatch")),
        READ + "S3 refuses it: signaturedoesnotmatch" + SIGN_IN,
    ),
    "the upload was given up by somebody else": (
        (is_part, 2, EVER, Fault(404, "NoSuchUpload")),
        WRITTEN + "the specified upload does not exist",
    ),
    "the bucket to write to is not there": (
        (is_begun, 1, EVER, Fault(404, "NoSuchBucket")),
        WRITTEN + "the specified bucket does not exist",
    ),
    "there is no more room": (
        (is_part, 2, EVER, Fault(507, "QuotaExceeded")),
        WRITTEN + "an error occurred (quotaexceeded)",
    ),
    "parts are never answered": ((is_part, 2, EVER, Fault(drop=True)), WRITTEN),
    "a part arrives damaged": (
        (is_part, 2, EVER, Fault(400, "BadDigest")),
        WRITTEN + "the content-md5 you specified did not match what we received",
    ),
    "the end of the upload is not allowed": (
        (is_completed, 1, EVER, Fault(403, "AccessDenied")),
        WRITTEN + "S3 refuses it: access denied" + SIGN_IN,
    ),
    "the end of the upload meets internal errors": (
        (is_completed, 1, EVER, BROKEN),
        WRITTEN + "we encountered an internal error. please try again",
    ),
}


@pytest.mark.parametrize("what", LASTS)
def test_what_lasts_is_one_sentence_and_leaves_nothing(s3: S3, what: str) -> None:
    fault, said = LASTS[what]
    s3.fault = nth(*fault)
    with pytest.raises(ConverterError) as caught:
        converted(s3)

    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert (s3.names(), s3.uploads) == ([WEIGHTS], {})
    assert "canary" not in str(caught.value)


def test_an_upload_that_was_killed_goes_on_with_the_part_where_it_was(s3: S3, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "converter",
        "convert",
        "s3://bucket/in/large.bin",
        "s3://bucket/out/x.safetensors",
    ]
    s3.fault = nth(is_part, 3, EVER, Fault(wait=600))
    with subprocess.Popen([*command, "--resume", "-q"]) as writer:
        deadline = time.monotonic() + 120
        while sum(map(is_part, s3.asked)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        writer.kill()
    assert (s3.names(), [sorted(parts) for parts in s3.uploads.values()]) == ([WEIGHTS], [[1, 2]])

    s3.fault = lambda request: None
    s3.asked.clear()
    assert subprocess.run([*command, "--resume", "-q"], check=False).returncode == 0
    converter.convert(tmp_path / "large.bin", tmp_path / "x.safetensors")
    assert [request.query["partNumber"] for request in s3.asked if is_part(request)] == ["3"]
    assert s3.get("bucket/out/x.safetensors") == (tmp_path / "x.safetensors").read_bytes()
    assert s3.uploads == {}


def test_an_object_that_was_put_together_wrongly_is_refused(s3: S3) -> None:
    """It has the right size, and its ETag says that it is made of other parts."""

    def completed(name: str, path: Path) -> None:
        (upload,) = s3.uploads
        s3.uploads[upload] = dict.fromkeys(s3.uploads[upload], "0" * 32)

    s3.completed = completed
    with pytest.raises(ConverterError, match="what the store has put together is not what was sent"):
        converted(s3)

    assert (s3.names(), s3.uploads) == ([WEIGHTS], {})


def replaced(s3: S3, request: Request) -> None:
    s3.put(WEIGHTS, bytes(reversed(s3.get(WEIGHTS))))


def removed(s3: S3, request: Request) -> None:
    s3.etags.pop(WEIGHTS, None)


@pytest.mark.parametrize("change", [replaced, removed])
@pytest.mark.parametrize("number", [3, 8])
def test_an_object_that_changes_while_it_is_read_is_refused(
    s3: S3, change: Callable[[S3, Request], None], number: int
) -> None:
    seen = [0]

    def fault(request: Request) -> None:
        seen[0] += is_read(request)
        if seen[0] == number and is_read(request):
            change(s3, request)

    s3.fault = fault
    with pytest.raises(ConverterError, match=r"`s3://bucket/in/large\.bin` was changed while it was read: start again"):
        converted(s3)

    assert ([name for name in s3.names() if name != WEIGHTS], s3.uploads) == ([], {})


def test_an_object_that_came_to_be_shorter_than_what_was_sent_is_refused(s3: S3) -> None:
    s3.completed = lambda name, path: os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ConverterError, match=r"the store then has .*, not"):
        converted(s3)

    assert (s3.names(), s3.uploads) == ([WEIGHTS], {})


MEASURED = """
import re, sys
import converter
converter.convert("s3://bucket/m", "s3://bucket/out/x.safetensors")
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]))
"""


@pytest.mark.large
@pytest.mark.skipif(sys.platform == "darwin", reason="Linux says how much memory a process had at most")
def test_from_a_store_to_a_store_half_a_gigabyte_takes_150_megabytes(tmp_path: Path) -> None:
    write_sample(tmp_path / "m", "111M")
    with s3_server(tmp_path / "s3") as s3:
        for path in (tmp_path / "m").iterdir():
            s3.put(f"bucket/m/{path.name}", path)
        done = subprocess.run(
            [sys.executable, "-c", MEASURED],
            env=os.environ | s3.environment(),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        written = s3.path("bucket/out/x.safetensors").stat().st_size

    assert written > 400_000_000
    assert int(done.stdout) * 1024 <= 150_000_000
