"""Servers that lie, change their answers, redirect elsewhere or ask for too much. Numbers: README.md."""

from __future__ import annotations

import gzip
import json
import re
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.errors import ArchiveError, FormatError, LimitError, ManifestError, SourceError
from converter.hub.client import Client
from converter.hub.repository import open_remote
from converter.opening import open_checkpoint
from tests.attacks.commands import assert_sentence, run
from tests.build.checkpoints import Entry as Record
from tests.build.checkpoints import zip_bytes
from tests.build.depth import share
from tests.build.hub_server import (
    COMMIT,
    SIGNATURE,
    TINY,
    Asked,
    Exchange,
    Hub,
    Repository,
    answer,
    assert_no_secret,
    every,
    later,
    serve,
)


def replied(exchange: Exchange, *reply: Any) -> bool:
    exchange.reply(*reply)
    return True


def redirected(exchange: Exchange, to: str, **headers: str) -> bool:
    exchange.redirect(to, **headers)
    return True


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("hf://owner", "`hf://owner/name[@revision][/path]` was expected"),
        ("hf://datasets/owner/name", "is not a model on the Hub"),
        ("hf://owner/name/../../x.bin", "leads out of its repository"),
        ("hf://owner/name@%2e%2e/x.bin", "leads out of its repository"),
        ("ftp://example.org/x.bin", "only https:// and hf:// are read"),
        ("file:///etc/passwd", "only https:// and hf:// are read"),
        ("http://example.org/x.bin", "http is read from this machine only"),
        ("http://127.0.0.1.example.org/x.bin", "http is read from this machine only"),
        ("https://user:canary@example.org/x.bin", "it holds a user's name or password"),
        ("https:///x.bin", "is not a valid URL"),
        ("https://[::1/x.bin", "is not a valid URL"),
        ("https://example.org:port/x.bin", "is not a valid URL"),
    ],
)  # fmt: skip
def test_r08_a_place_that_is_none_is_refused_before_anything_is_asked(location: str, said: str, hub: Hub) -> None:
    with pytest.raises(SourceError, match=re.escape(said)) as raised:
        open_remote(location)

    assert hub.seen == []
    assert "canary" not in str(raised.value)


# ---- answers ---------------------------------------------------------------------------------------------------


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


MISBEHAVIOURS: dict[str, tuple[Any, str]] = {
    "R01 it ignores the range": (answer(200, without="content-range"), "sends it whole"),
    "R02 no Content-Range": (answer(without="content-range"), "other bytes .* without saying which"),
    "R02 another start": (answer(Content_Range="bytes 1-{last}/{total}"), "other bytes .* bytes 1 to"),
    "R02 another end": (answer(Content_Range="bytes {first}-5/{total}"), "other bytes"),
    "R02 another total": (answer(Content_Range="bytes {first}-{last}/99"), "was changed"),
    "R02 an unknown total": (answer(Content_Range="bytes {first}-{last}/*"), "other bytes"),
    "R02 an empty range": (answer(Content_Range="bytes 10-9/{total}"), "other bytes"),
    "R02 items instead of bytes": (answer(Content_Range="items {first}-{last}/{total}"), "other bytes"),
    "R02 numbers in other digits": (answer(Content_Range="bytes {first}-{last}/" + "\u0661".encode().decode("latin-1")), "other bytes"),
    "R02 several ranges": (answer(Content_Range="", Content_Type="multipart/byteranges; boundary=x"), "other bytes"),
    "R03 a lying length": (answer(Content_Length="10"), "10 bytes where"),
    "R03 a body that is too short": (short, r"broke off \(attempt 6 of 6\)"),
    "R03 a body that is too short without a length": (without_length(lambda data: data[:-1]), "too short"),
    "R03 a body that is too long": (without_length(lambda data: data + b"x"), "more than was asked for"),
    "R05 gzip": (answer(body=gzip.compress, Content_Encoding="gzip"), r"sent it encoded \(gzip\)"),
    "R04 another ETag": (later(answer(ETag='"other"')), "was changed"),
    "R04 no ETag any more": (later(answer(without="etag")), "was changed"),
    "R04 another total later": (later(answer(Content_Range="bytes {first}-{last}/9000000")), "was changed"),
    "R04 it is shorter now": (later(answer(416)), "was changed"),
    "R03 errors for ever": (answer(500), r"answered 500 \(attempt 6 of 6\)"),
    "R03 too many requests, for an hour": (answer(429, Retry_After="3600"), r"answered 429 \(attempt 1 of 6\)"),
    "R06 a link that never works": (answer(403), "answered 403"),
    "R06 a link that stops working": (later(answer(403)), "answered 403"),
    "R01 another status": (answer(418), "answered 418"),
    "R03 it stalls": (stall, "nothing came"),
    "R03 it trickles": (trickle, "too slowly"),
    "R03 it trickles headers": (trickled_headers, "no complete answer|nothing came|too slowly|broke off"),
    "R03 it hangs up": (hang_up, "broke off"),
    "R02 garbage": (garbage, "broke off"),
    "R09 a megabyte of headers": (many_headers, "broke off"),
    "R06 redirects in a circle": (lead_to("{store}{path}"), "redirected more than 5 times"),
    "R08 a redirect to a file": (lead_to("file:///etc/passwd"), "only https:// and hf:// are read"),
    "R08 a redirect to ftp": (lead_to("ftp://127.0.0.1/x"), "only https:// and hf:// are read"),
    "R08 a redirect to data": (lead_to("data:text/plain,x"), "only https:// and hf:// are read|not a valid URL"),
    "R08 a redirect to http elsewhere": (lead_to("http://example.org/x"), "http is read from this machine only"),
    "R08 a redirect with a password": (lead_to("http://u:p@127.0.0.1/x"), "a user's name or password"),
    "R06 a redirect to nowhere": (lead_to(""), "redirect has no target"),
    "R06 a redirect to nonsense": (lead_to("http://[::1/"), "no target|not a valid URL"),
}  # fmt: skip


@pytest.mark.parametrize("misbehaviour", share(list(MISBEHAVIOURS), 0, 2))
def test_misbehaviour_ends_in_a_sentence(
    misbehaviour: str, hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.on_store, said = MISBEHAVIOURS[misbehaviour]
    caplog.set_level("DEBUG")
    began = time.monotonic()

    ended = run("convert", f"hf://{TINY}", tmp_path / "x.safetensors")

    assert (ended.code, ended.out) == (2, "")
    assert_sentence(ended.err)
    assert re.search(said, ended.err), ended.err
    assert time.monotonic() - began < 60
    assert len(hub.seen) <= 60
    assert list(tmp_path.glob("*x.safetensors*")) == []
    assert_no_secret(hub, ended.err + caplog.text)


@pytest.mark.parametrize(
    "fault", [short, hang_up, stall, answer(500), answer(503, Retry_After="0"), answer(403), garbage, without_length(lambda d: d[:9])],
    ids=["short", "hangs up", "stalls", "500", "503 with Retry-After", "expired link", "garbage", "short without a length"],
)  # fmt: skip
def test_r03_what_passes_is_tried_again(fault: Any, hub: Hub, tiny: Path) -> None:
    turns = every(3)
    hub.on_store = lambda exchange, asked: next(turns) and bool(fault(exchange, asked))

    catalogue = open_remote(TINY)

    local = open_checkpoint(tiny)
    assert all(b"".join(catalogue[name].tiles()) == b"".join(local[name].tiles()) for name in local)


def test_r06_a_signed_link_that_expires_is_resolved_again(hub: Hub, tiny: Path) -> None:
    catalogue = open_remote(TINY)
    hub.signature = "canary-signature-next"

    local = open_checkpoint(tiny)
    assert all(b"".join(catalogue[name].tiles()) == b"".join(local[name].tiles()) for name in local)


@pytest.mark.parametrize("header", ["X_Repo_Commit", "X_Linked_Etag", "X_Linked_Size"])
def test_r04_a_link_that_is_resolved_again_must_be_the_same_file(header: str, hub: Hub) -> None:
    catalogue = open_remote(TINY)
    hub.signature = "canary-signature-next"

    def changed(exchange: Exchange) -> bool:
        path = f"{TINY}/pytorch_model.bin?Expires=1&Signature={hub.signature}"
        exchange.redirect(f"{hub.url('store')}/{path}", **{header: "1"})
        return True

    hub.on_resolve = changed
    with pytest.raises(SourceError, match="was changed while it was read"):
        catalogue.origin.sources[0].read(500_000, 100)


def test_r07_the_token_goes_to_the_hub_alone(hub: Hub, tiny: Path) -> None:
    raw = (tiny / "pytorch_model.bin").read_bytes()
    hub.on_elsewhere = serve({"/model": raw})
    hub.on_resolve = lambda exchange: (
        "bin" in exchange.path
        and redirected(exchange, f"{hub.url('elsewhere')}/model", X_Repo_Commit=COMMIT, Set_Cookie="canary=cookie")
    )

    catalogue = open_remote(TINY)

    assert len(catalogue) == 60
    assert {request.origin for request in hub.seen if "authorization" in request.headers} == {"hub"}
    assert not [request for request in hub.seen if "cookie" in request.headers]


def test_r06_small_files_may_be_redirected_within_the_hub(hub: Hub, tiny: Path) -> None:
    def resolve(exchange: Exchange) -> bool:
        if exchange.path.endswith("/config.json"):
            exchange.reply(307, headers={"Location": f"/api/resolve-cache/models/{TINY}/config.json?x=1"})
            return True
        return False

    def cache(exchange: Exchange) -> bool:
        if "/resolve-cache/" in exchange.path:
            exchange.reply(200, (tiny / "config.json").read_bytes())
            return True
        return False

    hub.on_resolve = hub.on_api = lambda exchange: resolve(exchange) or cache(exchange)

    assert open_remote(TINY).config == open_checkpoint(tiny).config


def test_r07_a_description_that_is_redirected_takes_no_token_along(hub: Hub) -> None:
    hub.on_api = lambda exchange: redirected(exchange, f"{hub.url('elsewhere')}/api")
    hub.on_elsewhere = lambda exchange: replied(exchange, 200, b'{"sha": "x"}')

    with pytest.raises(ManifestError, match="does not describe a repository"):
        open_remote(TINY)
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
def test_r02_a_description_that_is_none_is_refused(body: bytes, hub: Hub) -> None:
    hub.on_api = lambda exchange: replied(exchange, 200, body)

    with pytest.raises((ManifestError, FormatError)):
        open_remote(TINY)
    assert len(hub.seen) == 1


def test_r02_a_listing_without_sizes_is_enough(hub: Hub) -> None:
    listing = {
        "sha": COMMIT,
        "siblings": [{"rfilename": "pytorch_model.bin"}, {"rfilename": "config.json", "size": -1}],
    }
    hub.on_api = lambda exchange: replied(exchange, 200, json.dumps(listing).encode())

    assert len(open_remote(TINY)) == 60


def test_r04_a_listing_that_lies_about_a_size_is_noticed(hub: Hub) -> None:
    listing = {"sha": COMMIT, "siblings": [{"rfilename": "pytorch_model.bin", "size": 10**15}]}
    hub.on_api = lambda exchange: replied(exchange, 200, json.dumps(listing).encode())

    with pytest.raises(SourceError, match="was changed"):
        open_remote(TINY)


def test_r09_names_and_layouts_that_want_too_much_are_refused(hub: Hub) -> None:
    header = struct.pack("<Q", 90_000_000) + b"{" + b" " * 1000
    hub.on_elsewhere = lambda exchange: replied(
        exchange, 206, header[:1000], {"Content-Range": f"bytes 0-131071/{10**12}", "Content-Length": "131072"}
    )
    hub.repositories[TINY] = Repository({"model.safetensors": header + bytes(200_000)})
    listing = {"sha": COMMIT, "siblings": [{"rfilename": "model.safetensors"}]}
    hub.on_api = lambda exchange: replied(exchange, 200, json.dumps(listing).encode())

    def huge(exchange: Exchange, asked: Asked) -> bool:
        total = 10**12
        size = int(exchange.headers["Range"].partition("-")[2]) - asked.first + 1
        body = (header + bytes(size))[asked.first : asked.first + size] if asked.first < 1000 else bytes(size)
        exchange.reply(206, body, {"Content-Range": f"bytes {asked.first}-{asked.first + size - 1}/{total}"})
        return True

    hub.on_store = huge
    hub.on_resolve = lambda exchange: redirected(
        exchange, f"{hub.url('store')}/{TINY}/model.safetensors?Signature={SIGNATURE}"
    )
    with pytest.raises(LimitError, match="bytes for names and layouts"):
        open_remote(TINY)


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
def test_r08_no_redirect_leads_inside(
    first: str, target: str, said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = {"hub.example": "93.184.216.34", "inside.example": "10.1.2.3", "2130706433": "127.0.0.1"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port: [(socket.AF_INET, 1, 6, "", (addresses.get(host, host), 0))]
    )
    client = Client()
    assert not client.is_inside("hub.example")

    with pytest.raises(SourceError, match=said):
        client.redirected(first, target, inside=client.is_inside("hub.example"))
    assert client.redirected(first, "/y", inside=False) == "https://hub.example/y"


@pytest.mark.parametrize(
    "data",
    [
        zip_bytes([Record("a/x", bytes(300_000))], after=b"junk"),
        zip_bytes([Record("a/x", bytes(300_000))], end={"comment": 60_000}, after=b"PK\5\6" + bytes(59_996)),
        zip_bytes([Record("a/x", bytes(300_000))], locator={"offset": 5}),
        zip_bytes([Record("a/x", bytes(300_000))])[:-1],
        bytes(4) + zip_bytes([Record("a/x", bytes(300_000))]),
        zip_bytes([Record("a/x", bytes(300_000))], end={"nbytes": 200_000}, end64={"nbytes": 200_000}),
    ],
    ids=["bytes behind", "a comment", "a locator that lies", "cut off", "bytes before", "a directory that lies"],
)
def test_r10_a_remote_zip_that_is_not_plain_is_refused_by_its_two_ends(data: bytes, hub: Hub) -> None:
    hub.on_elsewhere = serve({"/x.bin": data})

    with pytest.raises((ArchiveError, FormatError)):
        open_remote(f"{hub.url('elsewhere')}/x.bin")
    assert len(hub.seen) <= 4


def test_r07_a_signature_in_a_url_is_in_nothing_that_is_written(hub: Hub, tiny: Path, tmp_path: Path) -> None:
    hub.on_elsewhere = serve({"/model.bin": (tiny / "pytorch_model.bin").read_bytes()})
    url = f"{hub.url('elsewhere')}/model.bin?X-Signature={SIGNATURE}"

    said = [
        run("extract", url, tmp_path / "out"),
        run("convert", url, tmp_path / "x.safetensors"),
        run("inspect", url, "--json"),
    ]

    assert [ended.code for ended in said] == [0, 0, 0]
    text = "".join(ended.out + ended.err for ended in said)
    for path in tmp_path.rglob("*"):
        text += path.read_bytes().decode("latin-1") if path.is_file() else ""
    assert_no_secret(hub, text)
