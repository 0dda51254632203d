"""A catalogue whose bytes are compared with the archive's CRCs as they are read, which torch itself never does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Final

from converter.errors import ArchiveError
from converter.io.checksums import crc32, crc32_combine
from converter.io.source import STEP, Derived

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Storage, Tensor

_RUNS: Final = 32  # separate runs of a storage that are kept; if there are more, the storage is read again, in order


def checked(catalogue: Catalogue) -> tuple[Catalogue, Callable[[], None]]:
    """The same catalogue over sources that check CRCs, and a function to call at the end.

    Reading raises ArchiveError if a storage's bytes are not those that were saved. The call at the end checks storages
    that were only read in part, so that every byte that was read is checked.
    """
    sources: dict[int, _Checked] = {}
    storages: dict[int, Storage] = {}

    def wrapped(storage: Storage) -> Storage:
        if storage.crc32 is None or not storage.nbytes:
            return storage
        if id(storage) not in storages:
            sources[id(storage)] = _Checked(storage)
            storages[id(storage)] = replace(storage, source=sources[id(storage)], offset=0)
        return storages[id(storage)]

    tensors = {name: replace(tensor, storage=wrapped(tensor.storage)) for name, tensor in catalogue.items()}
    copy = catalogue.with_tensors(tensors, [wrapped(storage) for storage in catalogue.storages])

    def finish() -> None:
        for source in sources.values():
            if source.begun:
                source.check()

    return copy, finish


def checked_tensor(tensor: Tensor) -> tuple[Tensor, Callable[[], None]]:
    """The same for one tensor alone."""
    storage = tensor.storage
    if storage.crc32 is None or not storage.nbytes:
        return tensor, _nothing
    source = _Checked(storage)
    return replace(tensor, storage=replace(storage, source=source, offset=0)), source.check


def _nothing() -> None:
    """Check nothing: the file has no CRC."""


class _Checked(Derived):
    """A storage's bytes. Their CRC is taken as they are read, in runs that any thread may read in any order.

    Runs that meet become one, by combining their CRCs. A storage that was read in too many runs, or not completely, is
    read once more from start to end.
    """

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.source, storage.source.name, storage.nbytes)
        self.begun = False
        self._storage = storage
        self._lock = Lock()
        # By the byte that they end at. A thread takes a run out while it makes the run longer.
        self._runs: dict[int, _Run] = {}
        self._scattered = self._settled = False

    def prefetch(self, offset: int, size: int) -> None:
        """Announce the whole storage, because all of it is read to check it."""
        self._scattered = True
        self._storage.prefetch(0, self.size)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        return self._storage.offset + offset, size

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self.begun = True
        run = None if self._settled or not buffer else self._run_from(offset)
        if run is None:
            self._storage.readinto(offset, buffer)
            return
        for start in range(0, len(buffer), STEP):  # the bytes that were just read are in the cache
            piece = buffer[start : start + STEP]
            self._storage.readinto(offset + start, piece)
            run.take(piece)
        self._add(run)

    def check(self) -> None:
        """Read the bytes that were not read yet, and compare the CRC."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
            runs = {run.start: run for run in self._runs.values()}
            self._runs.clear()
        try:
            whole = self._completed(runs)
        except BaseException:
            self._settled = False  # the CRC was not compared, so the next reader compares it
            raise
        storage = self._storage
        if whole.crc != storage.crc32:
            raise ArchiveError(
                f"storage `{storage.key}` in `{storage.source.name}` is damaged: its CRC-32 is {whole.crc:08x}, the "
                f"archive says {storage.crc32:08x}; get the file again"
            )

    def _completed(self, runs: dict[int, _Run]) -> _Run:
        """The whole storage as one run: `runs` by their starts, and the bytes between them, which are read now."""
        whole = _Run(0)
        buffer = memoryview(bytearray(min(STEP, self.size)))
        while whole.end < self.size:
            if whole.end in runs:
                whole.join(runs[whole.end])
                continue
            next_run = min((start for start in runs if start > whole.end), default=self.size)
            piece = buffer[: min(STEP, next_run - whole.end)]
            self._storage.readinto(whole.end, piece)
            whole.take(piece)
        return whole

    def _run_from(self, offset: int) -> _Run | None:
        """Remove and return the run that ends at `offset`, or begin one; None if another run already holds that byte."""
        with self._lock:
            known = self._runs.pop(offset, None)
            if known is None and any(run.start <= offset < run.end for run in self._runs.values()):
                return None
            return known or _Run(offset)

    def _add(self, run: _Run) -> None:
        """Put back a run that has become longer. Compare the CRC if the run is all of the storage but a few bytes."""
        with self._lock:
            if self._settled:
                return
            for other in list(self._runs.values()):
                if other.start == run.end:
                    run.join(self._runs.pop(other.end))
                elif other.end == run.start:
                    del self._runs[other.end]
                    other.join(run)
                    run = other
            known = self._runs.get(run.end)
            if known is None or known.start > run.start:
                self._runs[run.end] = run
            left = self.size - run.end if run.start == 0 else self.size
            # The last row of a transposed matrix ends with bytes that the first columns don't need.
            finished = left == 0 or (self._scattered and left <= STEP)
        if finished or len(self._runs) > _RUNS:
            self.check()


class _Run:
    """Bytes from `start` up to `end` that have been read, and their CRC."""

    __slots__ = ("crc", "end", "start")

    def __init__(self, start: int) -> None:
        self.start = self.end = start
        self.crc = 0

    def take(self, data: memoryview) -> None:
        """Add the bytes that follow."""
        self.crc = crc32(data, self.crc)
        self.end += len(data)

    def join(self, other: _Run) -> None:
        """Add the run that follows."""
        self.crc = crc32_combine(self.crc, other.crc, other.end - other.start)
        self.end = other.end
