"""Which answers are tried again, how many redirects are followed, and what is never asked for."""

import tracemalloc
from typing import Any

import pytest

from converter.errors import LimitError, SourceError
from converter.hub.repository import open_remote
from converter.io.pool import Pool
from converter.io.ranges import RemoteFile
from converter.limits import Limits, using
from tests.build.hub_server import Exchange, Hub, serve
from tests.build.seeds import safetensors_file

CONTENT = safetensors_file({"w": ("F32", [2], bytes(8))})
PASSING = [408, 425, 429, 500, 502, 503, 504]
LASTING = [400, 404, 405, 406, 409, 410, 411, 412, 418, 422, 423, 424, 426, 428, 431, 501, 505]


def failing(status: int, times: int) -> Any:
    """Serve CONTENT under /x after `status` was answered this many times."""
    left = times
    well = serve({"/x": CONTENT})

    def answer(exchange: Exchange) -> bool:
        nonlocal left
        if exchange.path == "/x" and left:
            left -= 1
            exchange.reply(status)
            return True
        return well(exchange)

    return answer


@pytest.mark.parametrize("status", PASSING)
def test_what_may_pass_is_tried_again(status: int, hub: Hub) -> None:
    hub.on_elsewhere = failing(status, 2)

    assert list(open_remote(f"{hub.url('elsewhere')}/x")) == ["w"]
    assert hub.asked("elsewhere").count("/x") == 3


@pytest.mark.parametrize("status", PASSING)
def test_it_is_tried_six_times(status: int, hub: Hub) -> None:
    hub.on_elsewhere = failing(status, 6)

    with pytest.raises(SourceError, match=rf"answered {status} \(attempt 6 of 6\)"):
        open_remote(f"{hub.url('elsewhere')}/x")
    assert hub.asked("elsewhere").count("/x") == 6


@pytest.mark.parametrize("status", LASTING)
def test_what_lasts_is_asked_for_once(status: int, hub: Hub) -> None:
    hub.on_elsewhere = failing(status, 6)

    with pytest.raises(SourceError):
        open_remote(f"{hub.url('elsewhere')}/x")
    assert hub.asked("elsewhere").count("/x") == 1


def leading(hops: int) -> Any:
    """Redirect from /hop/1 on, this many times, and then serve CONTENT."""
    well = serve({"/x": CONTENT})

    def answer(exchange: Exchange) -> bool:
        if exchange.path.startswith("/hop/"):
            number = int(exchange.path.removeprefix("/hop/"))
            exchange.redirect("/x" if number == hops else f"/hop/{number + 1}")
            return True
        return well(exchange)

    return answer


@pytest.mark.parametrize("hops", range(1, 6))
def test_five_redirects_are_followed(hops: int, hub: Hub) -> None:
    hub.on_elsewhere = leading(hops)

    assert list(open_remote(f"{hub.url('elsewhere')}/hop/1")) == ["w"]


def moving(status: int) -> Any:
    """Answer with this status and where /x is, and serve CONTENT there."""
    well = serve({"/x": CONTENT})

    def answer(exchange: Exchange) -> bool:
        if exchange.path == "/x":
            return well(exchange)
        exchange.moved(status, "/x")
        return True

    return answer


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_of_every_kind_is_followed(status: int, hub: Hub) -> None:
    hub.on_elsewhere = moving(status)

    assert list(open_remote(f"{hub.url('elsewhere')}/moved")) == ["w"]


@pytest.mark.parametrize("status", [300, 304, 305, 306])
def test_an_answer_that_only_looks_like_a_redirect_is_not_followed(status: int, hub: Hub) -> None:
    hub.on_elsewhere = moving(status)

    with pytest.raises(SourceError, match=f"answered {status}"):
        open_remote(f"{hub.url('elsewhere')}/moved")
    assert "/x" not in hub.asked("elsewhere")


def test_six_redirects_are_not(hub: Hub) -> None:
    hub.on_elsewhere = leading(6)

    with pytest.raises(SourceError, match="it was redirected more than 5 times"):
        open_remote(f"{hub.url('elsewhere')}/hop/1")
    assert "/x" not in hub.asked("elsewhere")


class Endless:
    """An object that claims to hold a terabyte. The ranges that are fetched are noted."""

    name, size, etag = "endless", 1 << 40, '"1"'
    sha256: str | None = None

    def __init__(self) -> None:
        self.fetched: list[tuple[int, int]] = []

    def fetch(self, start: int, size: int) -> memoryview:
        self.fetched.append((start, size))
        return memoryview(bytes(size))

    def patience(self, size: int) -> float:
        return 5.0


def test_names_past_the_limit_are_neither_asked_for_nor_given_room() -> None:
    endless = Endless()
    source = RemoteFile(endless, Pool(1), memoryview(bytes(100)))
    tracemalloc.start()
    try:
        with pytest.raises(LimitError, match="needs 67,108,865 bytes for names and layouts: at most 67,108,864"):
            source.read(100, (64 << 20) + 1)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1 << 20
    assert endless.fetched == []


def test_names_up_to_the_limit_are_read() -> None:
    with using(Limits(remote_bytes=60_000)):
        source = RemoteFile(Endless(), Pool(1), memoryview(bytes(100)))

    assert bytes(source.read(100, 50_000)) == bytes(50_000)
    with pytest.raises(LimitError):
        source.read(100, 60_001)
