"""Steps in two threads: their results come in order, each before its memory is used again."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from converter.threads import PIECE, in_order


def upper() -> Callable[[memoryview], memoryview]:
    memory = bytearray(PIECE)

    def step(data: memoryview) -> memoryview:
        if data[0] == ord("!"):
            raise ValueError(f"{len(data)} bytes")
        memory[: len(data)] = bytes(data).upper()
        return memoryview(memory)[: len(data)]

    return step


def tiles(*sizes: int, bad: int | None = None) -> Iterator[memoryview]:
    """Tiles of one letter each, in one buffer that is used again."""
    buffer = bytearray(max(sizes, default=0))
    for number, size in enumerate(sizes):
        buffer[:size] = (b"!" if number == bad else b"%c" % (97 + number % 26)) * size
        yield memoryview(buffer)[:size]


@pytest.mark.parametrize(
    "sizes", [(), (1,), (PIECE,), (PIECE, PIECE), (PIECE, 3), (3, PIECE, 5), (3 * PIECE + 1,) * 3, (PIECE,) * 40]
)
def test_results_come_in_order(sizes: tuple[int, ...]) -> None:
    pieces = [bytes(piece) for piece in in_order(tiles(*sizes), upper)]

    assert b"".join(pieces) == b"".join(bytes(tile).upper() for tile in tiles(*sizes))
    assert all(len(piece) <= PIECE for piece in pieces)


@pytest.mark.parametrize("bad", [0, 1, 5, 9])
def test_what_a_step_raises_comes_in_its_place(bad: int) -> None:
    results = in_order(tiles(*(PIECE,) * 10, bad=bad), upper)

    assert [bytes(next(results)[:1]) for _ in range(bad)] == [b"%c" % (65 + number) for number in range(bad)]
    with pytest.raises(ValueError, match=f"{PIECE} bytes"):
        next(results)


def test_three_steps_are_made_at_most() -> None:
    made = []

    def step() -> Callable[[memoryview], memoryview]:
        made.append(1)
        return upper()

    assert sum(1 for _ in in_order(tiles(*(PIECE,) * 50), step)) == 50
    assert len(made) == 3


def test_results_may_be_left_unread() -> None:
    results = in_order(tiles(*(PIECE,) * 50), upper)
    next(results)

    results.close()  # type: ignore[attr-defined]
