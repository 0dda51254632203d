"""A remote object as a source. It keeps what was read, and fetches ahead what will be read, over several connections.

Nothing here knows HTTP: an object is a name, a size and `fetch`. We fetch ahead in the order of the checkpoint's
storages, which `arrange` announces. A range that is not read in order (a transposed matrix) is first copied to a
temporary file.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, Protocol

from converter.errors import LimitError, SourceError
from converter.io.pool import CONNECTIONS, Pool, awaited
from converter.io.source import Source
from converter.io.spool import Spool
from converter.limits import limits
from converter.text import os_reason

_BLOCKS: Final = 64  # the most requests at once, however small they are
_AHEAD: Final = 4 << 10  # extra bytes after those that were asked for: often the next header
_GAP: Final = 256  # padding of at most this many bytes between two storages is fetched with them
_COPIED: Final = 1 << 20  # bytes that are copied to the temporary file at a time

Span = tuple[int, int]  # the first byte, and the one after the last


class Object(Protocol):
    """Something that is read by ranges and does not change. `etag` tells it from other versions of itself.

    `sha256` is the hash of all bytes, if the server states it.
    """

    name: str
    size: int
    etag: str
    sha256: str | None

    def fetch(self, start: int, size: int) -> memoryview:
        """Exactly `size` bytes, or SourceError; from any thread."""
        ...

    def patience(self, size: int) -> float:
        """Seconds after which a fetch counts as failed, whatever it is waiting for."""
        ...


@dataclass(frozen=True, slots=True)
class Fetching:
    """How remote objects are fetched: connections, and bytes."""

    connections: int = CONNECTIONS
    block: int = 4 << 20  # bytes of a request while tensors are read
    window: int = 32 << 20  # bytes that are fetched ahead; at worst, this many are fetched for nothing
    peek: int = 4 << 10  # bytes; a shorter read looks something up, and says nothing about where reading continues


FETCHING: Final = Fetching()


class RemoteFile(Source):
    """A source over an object. Its `first` bytes are given: they were read to find out its size.

    Reading is fastest by one thread and in one order, because the file's own connections fetch ahead of it.
    """

    concurrent = False

    def __init__(self, object: Object, pool: Pool, first: memoryview, fetching: Fetching = FETCHING) -> None:
        self.name, self.size, self.version, self.sha256 = object.name, object.size, object.etag, object.sha256
        self._object, self._pool, self._fetching = object, pool, fetching
        self._limits = limits()  # those in force at opening: reads come later, and from other threads
        self._lock = threading.RLock()
        self._kept = [(0, first)]  # by offset; none overlap
        self._kept_nbytes, self._loads = len(first), 0
        self._orders: tuple[_Order, ...] = ()
        self._spans: list[Span] = []  # in the order of the file
        self._arranged = self._told = False
        self._span: Span | None = None
        self._begun: set[Span] = set()
        self._stream = _Stream(object, pool, (), fetching)
        self._spool = Spool()
        self._spooled: Span = (0, 0)
        self._closed = False

    def check_open(self) -> None:
        """Raise SourceError if it was closed."""
        if self._closed:
            raise SourceError(f"`{self.name}` was closed")

    def close(self) -> None:
        """Drop everything that was fetched, and the temporary file; later reads fail."""
        with self._lock:
            self._closed = True
            self._stream.drop()
            self._kept, self._kept_nbytes = [], 0
            self._spooled = (0, 0)
            self._spool.close()

    def arrange(self, spans: Iterable[Span]) -> None:
        """Note where the storages lie, in the order of the catalogue. This ends the opening of the checkpoint.

        Until `expect` is called, we fetch ahead if the storages are read in this order or in the file's.
        """
        order = list(dict.fromkeys(spans))
        self._spans = sorted(order)
        self._orders = (_Order(order), _Order(self._spans))
        self._arranged = True

    def expect(self, spans: Iterable[Span]) -> None:
        """Take note of the order in which storages will be read. Neighbours that are read soon are fetched together."""
        with self._lock:
            self._orders, self._told = (_Order(list(dict.fromkeys(spans)), self._fetching.window // 2),), True
            self._begun, self._span = set(), None

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        if not self._arranged and size > self._limits.remote_bytes:
            raise LimitError(
                f"`{self.name}` needs {size:,} bytes for names and layouts: at most {self._limits.remote_bytes:,} bytes are read"
            )
        return super().read(offset, size)

    def _fill(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            self.check_open()
            while buffer:
                done = self._some(offset, buffer)
                offset, buffer = offset + done, buffer[done:]

    def release(self, offset: int, size: int) -> None:
        """Drop the fetched bytes of a range that was read for the last time."""
        with self._lock:
            self._stream.release(offset, offset + size)

    def prefetch(self, offset: int, size: int) -> None:
        """Copy a range to a temporary file, where it can be read in any order and more than once."""
        self._check(offset, size)
        with self._lock:
            if self._spooled[0] <= offset and offset + size <= self._spooled[1]:
                return
            self._spooled = (0, 0)
            try:
                self._spool.clear()
                self._spool.append(self._pieces(offset, size))
            except OSError as error:
                raise SourceError(
                    f"`{self.name}`: {size:,} bytes can't be put into a temporary file: {os_reason(error)}"
                ) from error
            self._spooled = (offset, offset + size)

    def _pieces(self, offset: int, size: int) -> Iterator[memoryview]:
        """Yield a range in pieces; each is valid until the next is asked for."""
        buffer = memoryview(bytearray(min(size, _COPIED)))
        for start in range(offset, offset + size, _COPIED):
            piece = buffer[: offset + size - start]
            self.readinto(start, piece)
            yield piece

    def _some(self, offset: int, buffer: memoryview) -> int:
        """Fill the start of `buffer`, and return how many bytes. If the bytes are not kept yet, they are fetched first."""
        while True:
            start, end = self._spooled
            if start <= offset < end:
                count = min(len(buffer), end - offset)
                self._spool.readinto(offset - start, buffer[:count], self.name)
                return count
            data = self._find(offset)
            if data is None and (data := self._stream.find(offset, len(buffer), self._span_at(offset))) is not None:
                self._enter(offset)
            if data is not None:
                count = min(len(data), len(buffer))
                buffer[:count] = data[:count]
                return count
            self._load(offset, len(buffer))

    def _find(self, offset: int) -> memoryview | None:
        index = bisect_right(self._kept, offset, key=_start) - 1
        if index < 0:
            return None
        start, data = self._kept[index]
        return data[offset - start :] if offset - start < len(data) else None

    def _load(self, offset: int, size: int) -> None:
        """Fetch what is being read: by itself, or as the start of a stream."""
        if not self._arranged:
            self._keep(offset, size)
            return
        start, end = self._span_at(offset)
        peek = self._fetching.peek
        if size < peek and offset - start >= peek and end - start > self._fetching.block:
            self._keep(offset, size)
            return
        self._stream.drop()
        order = self._enter(offset)
        ahead = iter([(offset, end)]) if order is None else order.from_here(self._span_at(offset), offset, self._begun)
        lacking = chain.from_iterable(map(self._lacking, ahead))
        self._stream = _Stream(self._object, self._pool, lacking, self._fetching)

    def _lacking(self, span: Span) -> Iterator[Span]:
        """Yield the parts of a span that are not kept yet. The end of a zip is kept: it was read with the directory."""
        start, end = span
        for kept, data in self._kept[max(0, bisect_right(self._kept, start, key=_start) - 1) :]:
            if kept >= end:
                break
            if start < kept:
                yield start, kept
            start = max(start, kept + len(data))
        if start < end:
            yield start, end

    def _keep(self, offset: int, size: int) -> None:
        """Fetch a range and some bytes after it, but nothing twice, and keep them."""
        size += _AHEAD
        index = bisect_right(self._kept, offset, key=_start)
        end = self._kept[index][0] if index < len(self._kept) else self.size
        size = min(size, end - offset, self._limits.remote_bytes)
        if self._kept_nbytes + size > self._limits.remote_bytes:
            if not self._arranged:
                raise LimitError(
                    f"`{self.name}` needs more than {self._limits.remote_bytes:,} bytes for names and layouts alone"
                )
            self._kept, self._kept_nbytes, index = [], 0, 0
        self._loads += 1
        if self._loads > self._limits.remote_requests and not self._arranged:
            raise LimitError(
                f"`{self.name}` needs more than {self._limits.remote_requests:,} requests for names and layouts alone"
            )
        future = _submit(self._object, self._pool, offset, size)
        self._kept.insert(index, (offset, awaited(future, self.name, self._object.patience(size))))
        self._kept_nbytes += size

    def _span_at(self, offset: int) -> Span:
        """The storage that a byte belongs to; for a byte between storages, the gap."""
        index = bisect_right(self._spans, offset, key=_start)
        if index and offset < self._spans[index - 1][1]:
            return self._spans[index - 1]
        return offset, self._spans[index][0] if index < len(self._spans) else self.size

    def _enter(self, offset: int) -> _Order | None:
        """Note which storage is being read. Return the order in which others will be read after it, if it is known."""
        before = self._span
        if before is None or not before[0] <= offset < before[1]:
            self._span = self._span_at(offset)
            self._begun.add(self._span)
            for order in self._orders:
                if self._told or (before and next(order.after(before, self._begun - {self._span}), None) == self._span):
                    return order
        return None


class _Order:
    """Storages in an order in which they may be read, in groups of up to `most` bytes that are fetched together.

    Within a group the storages are in the order of the file, so that neighbours take one request.
    """

    def __init__(self, spans: Sequence[Span], most: int = 0) -> None:
        self._spans = spans
        self._places = {span: place for place, span in enumerate(spans)}
        self._groups = list(_grouped(spans, most))
        self._group_of = {span: number for number, group in enumerate(self._groups) for span in group}

    def after(self, span: Span, begun: Collection[Span]) -> Iterator[Span]:
        """Yield the spans that come after this one and have not been started."""
        place = self._places.get(span, len(self._spans))
        return (later for later in islice(self._spans, place + 1, None) if later not in begun)

    def from_here(self, span: Span, offset: int, begun: Collection[Span]) -> Iterator[Span]:
        """Yield the rest of the span that is being read, then the rest of its group, and then the groups that follow."""
        number = self._group_of.get(span, len(self._groups))
        group = self._groups[number] if number < len(self._groups) else []
        yield from sorted([(offset, span[1]), *(other for other in group if other not in begun)])
        for later in islice(self._groups, number + 1, None):
            yield from (other for other in later if other not in begun)


def _grouped(spans: Sequence[Span], most: int) -> Iterator[list[Span]]:
    """Cut spans, in their order, into groups of at most `most` bytes, each sorted as the file is."""
    group: list[Span] = []
    nbytes = 0
    for start, end in spans:
        if group and nbytes + end - start > most:
            yield sorted(group)
            group, nbytes = [], 0
        group.append((start, end))
        nbytes += end - start
    if group:
        yield sorted(group)


@dataclass(slots=True)
class _Block:
    """Bytes that are being fetched. `left` is how many of them will still be read."""

    start: int
    end: int
    data: Future[memoryview]
    left: int


class _Stream:
    """Blocks that are being fetched, in the order in which they will probably be read."""

    def __init__(self, object: Object, pool: Pool, spans: Iterable[Span], fetching: Fetching) -> None:
        self._object, self._pool, self._fetching = object, pool, fetching
        self._coming = _blocks(spans, fetching.block)
        self._blocks: list[_Block] = []
        self._nbytes = 0
        self._released: set[Span] = set()
        self._fill()

    def find(self, offset: int, size: int, span: Span) -> memoryview | None:
        """A block's bytes from `offset` on, or None if no block with them is being fetched.

        A long read drops what lies before it in the storage `span`, because a storage is read from start to end.
        """
        block = next((block for block in self._blocks if block.start <= offset < block.end), None)
        if block is None:
            return None
        long = size >= self._fetching.peek
        if long:
            self._keep(lambda other: not (span[0] <= other.start and other.end <= offset))
        try:
            data = awaited(block.data, self._object.name, self._object.patience(block.end - block.start))
        except BaseException:
            self.drop()
            raise
        if long and span[0] <= block.start and block.end <= min(offset + size, span[1]):
            self._keep(lambda other: other is not block)
        return data[offset - block.start :]

    def release(self, start: int, end: int) -> None:
        """Drop blocks if none of their bytes will be read again."""
        if (start, end) in self._released:  # two views of one storage release it twice
            return
        self._released.add((start, end))
        for block in self._blocks:
            block.left -= max(0, min(end, block.end) - max(start, block.start))
        self._keep(lambda block: block.left > 0)

    def drop(self) -> None:
        """Drop everything."""
        self._coming = iter(())
        self._keep(lambda block: False)

    def _keep(self, wanted: Callable[[_Block], bool]) -> None:
        """Drop the other blocks, and fetch on."""
        for block in self._blocks:
            if not wanted(block):
                block.data.cancel()
                self._nbytes -= block.end - block.start
        self._blocks = [block for block in self._blocks if wanted(block)]
        self._fill()

    def _fill(self) -> None:
        while (
            self._nbytes + self._fetching.block <= self._fetching.window
            and len(self._blocks) < _BLOCKS
            and (found := next(self._coming, None)) is not None
        ):
            start, end, wanted = found
            self._blocks.append(_Block(start, end, _submit(self._object, self._pool, start, end - start), wanted))
            self._nbytes += end - start


def _blocks(spans: Iterable[Span], most: int) -> Iterator[tuple[int, int, int]]:
    """Cut spans into blocks of up to `most` bytes; neighbours share one. Yield start, end, and how many bytes belong to spans."""
    start = end = wanted = 0
    for first, last in spans:
        if start == end or not 0 <= first - end <= _GAP:
            if start < end:
                yield start, end, wanted
            start, wanted = first, 0
        at, end = first, last
        while end - start >= most:
            yield start, start + most, wanted + start + most - at
            start, wanted = start + most, 0
            at = start
        wanted += end - at
    if start < end:
        yield start, end, wanted


def _submit(object: Object, pool: Pool, start: int, size: int) -> Future[memoryview]:
    return pool.submit(lambda: object.fetch(start, size))


def _start(piece: tuple[int, Any]) -> int:
    return piece[0]
