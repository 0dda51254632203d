"""Parts of an output, which are made independently of each other, and the memory that a thread makes them in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from mmap import mmap
from typing import Final

from converter.io.checksums import crc32, crc32_combine

_ZEROS: Final = 1 << 20  # bytes of a tile of zeros


@dataclass(frozen=True, slots=True)
class Portions:
    """How many bytes are worked on at once. No output depends on it: with small portions, small files do what large ones do."""

    tiles: int = 40 << 20  # all tiles of a run, whatever the number of its threads
    run: int = 8 << 20  # a part that is read in order: a multiple of every element and every block
    strided: int = 20 << 20  # a gathered part; few are made, because each may have to read all of the storage
    together: int = 8 << 20  # small parts that a thread takes at once
    synced: int = 256 << 20  # bytes written between two entries of the journal
    behind: int = 64 << 20  # bytes written before they are sent to the disk
    noise: int = 1 << 20  # random numbers that are drawn at once: they fit in the processor's cache
    window: int = 1 << 20  # bytes read at once after an array in a file of joblib


_IN_FORCE: Final = ContextVar("converter.portions", default=Portions())  # noqa: B039 (it is frozen)
portions: Final = _IN_FORCE.get  # those in force where it is called; threads that a run starts are told by the run


@contextmanager
def portioned(wanted: Portions) -> Iterator[None]:
    """Put portions in force for the body of a `with`."""
    before = _IN_FORCE.set(wanted)
    try:
        yield
    finally:
        _IN_FORCE.reset(before)


class Buffers:
    """The memory that one thread works in; `tile` is how many bytes a tile may have.

    Memory that was lent is lent again, because getting new pages takes as long as filling them.
    """

    def __init__(self, tile: int) -> None:
        self.tile = tile
        self._free: list[mmap] = []

    @contextmanager
    def lent(self, nbytes: int) -> Iterator[memoryview]:
        """Lend `nbytes` bytes until the block ends. Their content is undefined."""
        fitting = [buffer for buffer in self._free if len(buffer) >= nbytes]
        if fitting:
            buffer = min(fitting, key=len)
            self._free.remove(buffer)
        else:
            # Drop the largest buffer, so that there are never more buffers than were lent at the same time.
            if self._free:
                self._free.remove(max(self._free, key=len))
            buffer = mmap(-1, max(1, nbytes))  # it starts at a page boundary, to which the kernel copies faster
        try:
            yield memoryview(buffer)[:nbytes]
        finally:
            self._free.append(buffer)


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of an output that depend on no other part. `tiles` yields exactly `nbytes` bytes, in order.

    Each tile is valid until the next is asked for. `seen` is called with every tile that was written, in order. A
    `late` part depends on all others, as a checksum after its data does, and is made when they are written. A `hole`
    is all zeros: it is not written, takes no room on the disk, and is not `seen`.
    """

    nbytes: int
    tiles: Callable[[Buffers], Iterator[memoryview]]
    seen: Callable[[memoryview], None] | None = field(default=None, compare=False)
    late: bool = False
    hole: bool = False

    @property
    def written(self) -> int:
        """The bytes that take room on the disk."""
        return 0 if self.hole else self.nbytes


def known(data: bytes) -> Part:
    """A part whose bytes are known already."""
    return Part(len(data), lambda buffers: iter([memoryview(data)]))


def hole(nbytes: int) -> Part:
    """A part of zeros that takes no room on the disk."""
    return Part(nbytes, lambda buffers: _zeros(nbytes), hole=True)


def _zeros(nbytes: int) -> Iterator[memoryview]:
    tile = memoryview(bytes(min(nbytes, _ZEROS)))
    for start in range(0, nbytes, _ZEROS):
        yield tile[: nbytes - start]


class Digests:
    """CRC-32 and, if wanted, SHA-256 of parts that follow each other. Each part is added by the thread that makes it.

    SHA-256 can't be combined from parts, so it needs all bytes in one part.
    """

    def __init__(self, sizes: Sequence[int], *, sha256: bool = False) -> None:
        if sha256 and len(sizes) > 1:
            raise AssertionError("SHA-256 can't be combined from parts")
        self._sizes = tuple(sizes)
        self._crcs = [0] * len(self._sizes)
        self._sha256 = hashlib.sha256() if sha256 else None

    def take(self, part: int, tile: memoryview) -> None:
        """Add the next bytes of a part."""
        self._crcs[part] = crc32(tile, self._crcs[part])
        if self._sha256 is not None:
            self._sha256.update(tile)

    @property
    def crc32(self) -> int:
        """The CRC-32 of all parts, one after another."""
        whole = 0
        for crc, size in zip(self._crcs, self._sizes, strict=True):
            whole = crc32_combine(whole, crc, size)
        return whole

    @property
    def sha256(self) -> str | None:
        """The SHA-256 in hexadecimal digits; None if it was not wanted."""
        return None if self._sha256 is None else self._sha256.hexdigest()
