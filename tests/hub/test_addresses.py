"""Which host we connect to: the address that was checked, in every spelling; and how soon we say that nobody answers."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants

from converter.errors import SourceError
from converter.hub import client as asking
from converter.hub.addresses import UnknownHostError, addresses, is_loopback, is_private
from converter.hub.client import Client
from converter.hub.download import download
from converter.hub.locations import checked_url
from converter.hub.patience import Patience, waiting
from converter.hub.repository import open_remote
from tests.attacks.commands import assert_sentence, run
from tests.build.depth import share
from tests.build.hub_server import TINY, Hub

ROOT = Path(__file__).parent.parent.parent

PROMPTLY = 30.0  # seconds that a busy machine may take, where attempts with pauses between would take longer

# Address, and whether it is one of this machine or of a private network, or leads to one.
ADDRESSES: dict[str, bool] = {
    "8.8.8.8": False,
    "93.184.216.34": False,
    "127.0.0.1": True,
    "127.255.255.254": True,
    "0.0.0.0": True,
    "10.0.0.1": True,
    "172.16.0.1": True,
    "172.32.0.1": False,
    "192.168.0.1": True,
    "169.254.169.254": True,
    "100.64.0.1": True,
    "192.0.2.1": True,
    "198.18.0.1": True,
    "224.0.0.1": True,
    "239.1.1.1": True,
    "240.0.0.1": True,
    "255.255.255.255": True,
    "2606:4700::1": False,
    "::": True,
    "::1": True,
    "fe80::1": True,
    "fe80::1%eth0": True,
    "fe80::1%1": True,
    "2606:4700::1%eth0": False,
    "fc00::1": True,
    "fd00:ec2::254": True,
    "fec0::1": True,
    "ff02::1": True,
    "ff0e::1": True,
    "2001:db8::1": True,
    "::ffff:10.0.0.1": True,
    "::ffff:127.0.0.1": True,
    "::ffff:8.8.8.8": False,
    "::ffff:169.254.169.254%eth0": True,
    "::10.0.0.1": True,
    "::8.8.8.8": False,
    "::ffff:0:10.0.0.1": True,
    "::ffff:0:8.8.8.8": False,
    "64:ff9b::10.0.0.1": True,
    "64:ff9b::169.254.169.254": True,
    "64:ff9b::127.0.0.1": True,
    "64:ff9b::8.8.8.8": False,
    "64:ff9b::7f00:1": True,
    "64:ff9b:1::10.0.0.1": True,
    "64:ff9b:1::8.8.8.8": False,
    "64:ff9b:1:5db8:d8:2200::": False,  # 93.184.216.34 behind a prefix of 48 bits
    "64:ff9b:1:a00:0:100::": True,  # 10.0.0.1 behind a prefix of 48 bits
    "64:ff9b:1:a:0:1::": True,  # 10.0.0.1 behind a prefix of 56 bits
    "64:ff9b:1:0:a:0:100:0": True,  # 10.0.0.1 behind a prefix of 64 bits
    "64:ff9b:1::": True,
    "2002:a00:1::": True,  # 6to4 of 10.0.0.1
    "2002:7f00:1::1": True,
    "2002:a9fe:a9fe::": True,
    "2002:808:808::1": False,
    "2001:0:808:808:0:0:f5ff:fffe": True,  # Teredo: client 10.0.0.1
    "2001:0:808:808:0:0:80ff:fffe": True,  # Teredo: client 127.0.0.1
    "2001:0:808:808:0:0:a247:27dd": False,  # Teredo: client 93.184.216.34
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_counts_as_what_it_leads_to(address: str) -> None:
    assert is_private(address) == ADDRESSES[address]


@pytest.mark.parametrize(
    ("address", "here"),
    [
        ("127.0.0.1", True), ("127.1.2.3", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
        ("64:ff9b::127.0.0.1", False), ("0.0.0.0", False), ("::1%lo", True), ("8.8.8.8", False),
    ],
)  # fmt: skip
def test_http_is_for_this_machine_alone(address: str, here: bool) -> None:
    assert is_loopback(address) == here


@pytest.mark.parametrize(
    "host", ["0x7f.1", "0177.0.0.1", "127.1", "2130706433", "0x7f000001", "017700000001", "127.0.1", "localhost"]
)
def test_every_spelling_of_this_machine_is_inside(host: str) -> None:
    # The system reads them as inet_aton does; we judge the address that it reads.
    assert all(map(is_private, addresses(host, 5)))
    with pytest.raises(SourceError, match="leads into a private network"):
        Client().redirected("https://hub.example/x", f"https://{host}/x", inside=False)


@pytest.mark.parametrize(
    "host", ["0x7f.1", "127.1", "2130706433", "localhost.", "x.localhost", "[::ffff:10.0.0.1]", "0.0.0.0", "127.0.0.1.nip.example"]
)  # fmt: skip
def test_http_takes_this_machine_by_its_plain_names_alone(host: str) -> None:
    with pytest.raises(
        SourceError, match=r"http is read from this machine only|its address is not one of this machine"
    ):
        open_remote(f"http://{host}/x.bin")


class Resolver:
    """Answers in the place of the system's resolver: for each host a list of answers, the last of which is repeated."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): rows for name, rows in answers.items()}
        self.asked: list[str] = []

    def __call__(self, host: str, port: object, *rest: object, **options: object) -> list[Any]:
        self.asked.append(host)
        if host not in self.answers:
            if host.replace(".", "").isdigit() or ":" in host:
                return [
                    (socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port or 0))
                ]
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        rows = self.answers[host]
        row = rows.pop(0) if len(rows) > 1 else rows[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0)) for address in row]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every address that is connected to; none outside this machine is."""
    found: list[Any] = []
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        found.append(address[0])
        if not address[0].startswith("127."):
            raise ConnectionRefusedError(111, "Connection refused")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    return found


def test_an_address_that_changes_between_check_and_connection_is_not_connected_to(
    connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(rebinding_example=[["93.184.216.34"], ["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", resolver)

    with pytest.raises(SourceError, match="its address now belongs to a private network"):
        open_remote("https://rebinding.example/x.bin")

    # The first attempt went to what was checked; the second was looked up again, and refused.
    assert connected == ["93.184.216.34"]


def test_a_redirect_to_a_host_that_rebinds_is_not_followed_inside(
    hub: Hub, connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(rebinding_example=[["93.184.216.34"], ["10.0.0.1"]]))
    assert client.redirected("https://hub.example/x", "https://rebinding.example/y", inside=False)

    with pytest.raises(SourceError, match=r"no connection|private network"):
        client.load("https://rebinding.example/y", 10, lambda status, headers: None)
    assert "10.0.0.1" not in connected


@pytest.mark.parametrize(
    "row", [["93.184.216.34", "10.0.0.1"], ["10.0.0.1", "93.184.216.34"], ["93.184.216.34", "::1"]]
)
def test_one_private_address_of_several_is_enough_to_refuse_a_redirect(
    row: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(mixed_example=[row]))

    with pytest.raises(SourceError, match="leads into a private network"):
        Client().redirected("https://hub.example/x", "https://mixed.example/y", inside=False)


def test_localhost_that_is_another_machine_is_not_asked_over_http(
    connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(localhost=[["127.0.0.1", "93.184.216.34"]]))

    with pytest.raises(SourceError, match="its address is not one of this machine"):
        open_remote("http://localhost:1/x.bin")
    assert connected == []


# ---- over TLS ---------------------------------------------------------------------------------------------------------

asked_for: list[str] = []


class Served(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        asked_for.append(self.headers["Host"])
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A server on this machine with a certificate for `hub.example` alone, which is trusted; its port."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    words = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=x",
    ]
    words += ["-addext", "subjectAltName=DNS:hub.example", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([openssl, *words], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    names: list[str | None] = []
    context.sni_callback = lambda socket, name, context: names.append(name)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Served)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    asking._certificates.cache_clear()
    asked_for.clear()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    asking._certificates.cache_clear()
    assert set(names) <= {"hub.example", "other.example"}


def test_the_host_keeps_its_name_where_its_address_is_connected_to(
    tls: int, connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(hub_example=[["127.0.0.1"]])
    monkeypatch.setattr(socket, "getaddrinfo", resolver)

    with pytest.raises(SourceError, match="there is no such file"):
        open_remote(f"https://hub.example:{tls}/x.bin")

    assert asked_for == [f"hub.example:{tls}"]
    assert connected == ["127.0.0.1"]
    assert resolver.asked.count("hub.example") == 1


def test_a_certificate_is_checked_for_the_host_and_not_for_the_address(
    tls: int, connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(hub_example=[["127.0.0.1"]], other_example=[["127.0.0.1"]]))
    client = Client()
    assert client.load(f"https://hub.example:{tls}/x", 10, lambda status, headers: None) is None

    # The connection that was made for another host at the same address is not used for it, either.
    with pytest.raises(SourceError, match=r"its certificate is not trusted .*other\.example"):
        client.load(f"https://other.example:{tls}/x", 10, lambda status, headers: None)
    assert asked_for == [f"hub.example:{tls}"]


def test_the_next_address_is_tried_where_one_does_not_answer(
    tls: int, connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", Resolver(hub_example=[["192.0.2.1", "127.0.0.1"]]))

    assert Client().load(f"https://hub.example:{tls}/x", 10, lambda status, headers: None) is None
    assert connected == ["192.0.2.1", "127.0.0.1"]


# ---- proxies ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "https://hub.example/x", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https://hub.example/x", "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "https://hub.example/x", "http://proxy:3128"),
        ({"ALL_PROXY": "http://proxy:3128"}, "https://hub.example/x", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "hub.example"}, "https://hub.example/x", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".example"}, "https://hub.example:8443/x", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, "https://hub.example/x", None),
        (
            {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "other.example"},
            "https://hub.example/x",
            "http://proxy:3128",
        ),
        ({"HTTP_PROXY": "http://proxy:3128"}, "http://127.0.0.1/x", None),
        ({"ALL_PROXY": "http://proxy:3128"}, "http://127.0.0.1/x", None),
    ],
)
def test_which_proxy_is_asked(
    environment: dict[str, str], url: str, proxy: str | None, connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert asking._proxy(checked_url(url)) == proxy


def test_a_proxy_is_given_the_name_and_looks_it_up_itself(
    connected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[bytes] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            accepted, _ = listening.accept()
            lines.append(accepted.recv(1000).split(b"\r\n")[0])
            accepted.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            accepted.close()

    threading.Thread(target=serve, daemon=True).start()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listening.getsockname()[1]}")

    with pytest.raises(SourceError, match="no connection"):
        open_remote("https://behind-the-proxy.invalid/x.bin")

    assert set(lines) == {b"CONNECT behind-the-proxy.invalid:443 HTTP/1.1"}


def test_with_a_proxy_an_unknown_host_is_looked_up_once(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    client = Client()

    for _ in range(5):
        assert client.redirected("https://hub.example/x", "https://cdn.example/y", inside=False)
    assert resolver.asked == ["cdn.example"]


@pytest.mark.parametrize("proxy", ["socks9://x:1", "gopher://x", "http://[::1"])
def test_an_invalid_proxy_gives_one_sentence(proxy: str, connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)

    ended = run("inspect", "https://hub.invalid/x.bin")
    assert ended.code == 2
    assert_sentence(ended.err)


# ---- without a network ------------------------------------------------------------------------------------------------


def no_answer(*_: object, **__: object) -> list[Any]:
    time.sleep(120)
    return []


def nobody(*_: object, **__: object) -> list[Any]:
    raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


def refusing(self: socket.socket, address: Any) -> None:
    raise ConnectionRefusedError(111, "Connection refused")


def unreachable(self: socket.socket, address: Any) -> None:
    raise OSError(101, "Network is unreachable")


def silent(self: socket.socket, address: Any) -> None:
    timeout = self.gettimeout()
    time.sleep(30 if timeout is None else timeout)
    raise TimeoutError("timed out")


public = Resolver(huggingface_co=[["93.184.216.34", "93.184.216.35"]], example_org=[["93.184.216.34"]])

WITHOUT: dict[str, tuple[Callable[..., Any], Callable[..., Any], str]] = {
    "no resolver": (nobody, refusing, "temporary failure in name resolution"),
    "a resolver that is silent": (no_answer, refusing, "its address was asked for, and no answer came"),
    "no such host": (Resolver(), refusing, "name or service not known"),
    "refused": (public, refusing, "connection refused"),
    "unreachable": (public, unreachable, "network is unreachable"),
    "a black hole": (public, silent, "nobody answered in time"),
}


ASKING = [
    "inspect cerebras/Cerebras-GPT-111M", "inspect hf://cerebras/Cerebras-GPT-111M", "inspect https://example.org/x.bin",
    "download 111M", "download cerebras/Cerebras-GPT-111M", "scan hf://cerebras/Cerebras-GPT-111M --no-fickling",
]  # fmt: skip


# Five have no divisor in common with the six ways and the six lines: each of them is tried in a short run, too.
@pytest.mark.parametrize(("how", "line"), share([(how, line) for how in WITHOUT for line in ASKING], 0, 5))
def test_without_a_network_there_is_one_sentence_soon(
    how: str, line: str, connected: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    resolver, connect, said = WITHOUT[how]
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setattr(constants, "ENDPOINT", "https://huggingface.co")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()

    ended = run(*line.split())

    assert time.monotonic() - began < PROMPTLY
    assert (ended.code, ended.out) == (2, "")
    *announced, sentence = ended.err.splitlines(keepends=True)
    assert len(announced) <= 1
    assert_sentence(sentence)
    assert said in sentence
    assert "is there a network? With `--offline` only the local cache is read" in sentence


def test_a_program_without_a_network_ends(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and name[:3] != "HF_"}
    settings = {"HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "HF_ENDPOINT": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "converter", "inspect", "hf://owner/name"],
        env=clean | settings, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "no connection" in done.stderr


def test_once_somebody_answered_a_connection_is_tried_for_longer(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    assert client.load(f"{hub.url('elsewhere')}/x", 10, lambda status, headers: None) is None
    real, refused = socket.socket.connect, iter([True, True, False])

    def sometimes(self: socket.socket, address: Any) -> None:
        if next(refused, False):
            raise ConnectionRefusedError(111, "Connection refused")
        real(self, address)

    monkeypatch.setattr(socket.socket, "connect", sometimes)
    assert client.load(f"{hub.url('store')}/a/b/c", 10, lambda status, headers: None) is None


def test_a_resolver_that_is_slow_is_waited_for_no_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", no_answer)
    began = time.monotonic()

    with pytest.raises(UnknownHostError, match="no answer"):
        addresses("hub.example", 0.1)
    assert time.monotonic() - began < PROMPTLY


@pytest.mark.parametrize("host", ["x" * 300, "a..b", "\udcff", "-"])
def test_a_host_that_can_be_none_has_no_address(host: str) -> None:
    with pytest.raises(UnknownHostError):
        addresses(host, 5)


@pytest.mark.parametrize(
    ("options", "said"),
    [((), "HF_HUB_OFFLINE is set"), (("--offline",), "`--offline` is given")],
    ids=["by environment", "by option"],
)
def test_offline_nothing_is_looked_up(
    options: tuple[str, ...], said: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("a host was looked up"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not options)
    with waiting(Patience()):
        for words in (
            ("inspect", TINY), ("inspect", f"hf://{TINY}"), ("inspect", "https://example.org/x.bin"), ("scan", f"hf://{TINY}"),
            ("download", TINY), ("download", "111M"), ("convert", TINY, "x.gguf"), ("models",), ("models", "111M"),
        ):  # fmt: skip
            ended = run(*options, *words)
            assert ended.code == (0 if words[0] == "models" else 2), words
            assert ended.code == 0 or said in ended.err
    if not options:
        with pytest.raises(SourceError, match=said):
            download(TINY)
    assert hub.seen == []


def test_the_option_holds_for_one_invocation(hub: Hub, tmp_path: Path) -> None:
    download(TINY)
    hub.seen.clear()

    assert run("--offline", "inspect", TINY).code == 0
    assert hub.seen == []
    assert run("inspect", TINY).code == 0
    assert hub.seen != []
