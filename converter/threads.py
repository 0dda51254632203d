"""Work on the tiles of a tensor in two threads, its results in order: numpy lets go of the interpreter while it computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

PIECE: Final = (
    256 << 10
)  # bytes that a step gets at most: they stay in the cache, whole elements and blocks of every kind
_THREADS: Final = 2

Step = Callable[[memoryview], memoryview]


def in_order(tiles: Iterator[memoryview], step: Callable[[], Step]) -> Iterator[memoryview]:
    """Give what a step makes of `tiles`, piece by piece; a piece is valid until the next is asked for.

    `step` makes a step with memory of its own, whose result is valid until it is called again. What a step raises comes
    in the place of its piece.
    """
    pieces = (tile[at : at + PIECE] for tile in tiles for at in range(0, len(tile), PIECE))
    first = next(pieces, None)
    if first is None:
        return
    second = None
    if len(first) == PIECE:  # else it is likely the only one, and threads would cost more than they save
        first = memoryview(bytes(first))
        second = next(pieces, None)
    if second is None:
        only = step()
        yield only(first)
        yield from map(only, pieces)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    idle: list[tuple[Step, memoryview]] = []
    waiting: deque[tuple[Future[memoryview], tuple[Step, memoryview]]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:

        def begin(piece: memoryview) -> None:
            # The tile's memory is used again for the next one, before this one is worked on.
            place = idle.pop() if idle else (step(), memoryview(bytearray(PIECE)))
            place[1][: len(piece)] = piece
            waiting.append((pool.submit(place[0], place[1][: len(piece)]), place))

        begin(first)
        begin(second)
        for piece in pieces:
            begin(piece)
            done, place = waiting.popleft()
            yield done.result()
            idle.append(place)
        for done, _ in waiting:
            yield done.result()
