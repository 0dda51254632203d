"""A catalogue whose bytes are checked against the archive's CRCs as they are read: torch itself never does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from converter.errors import ArchiveError
from converter.io.checksums import crc32
from converter.io.source import STEP, Derived

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Storage


def checked(catalogue: Catalogue) -> tuple[Catalogue, Callable[[], None]]:
    """Give the same catalogue over sources that check, and what to call at the end.

    Reading raises ArchiveError where a storage's bytes are not those that were saved; the call at the end looks at
    storages that were read in part only, so that no byte that was read goes unchecked.
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


class _Checked(Derived):
    """A storage's bytes. Read from start to end, the CRC is taken as they go by; read otherwise, by a pass of its own."""

    def __init__(self, storage: Storage) -> None:
        super().__init__(storage.source, storage.source.name, storage.nbytes)
        self.begun = False
        self._storage = storage
        self._crc = self._next = 0
        self._done = False

    def prefetch(self, offset: int, size: int) -> None:
        """Announce all of it: it is read whole to be checked, so all is worth fetching."""
        self._storage.prefetch(0, self.size)

    def _base_range(self, offset: int, size: int) -> tuple[int, int]:
        return self._storage.offset + offset, size

    def _fill(self, offset: int, buffer: memoryview) -> None:
        self.begun = True
        if not self._done and offset != self._next:
            self.check()
        if self._done:
            self._storage.readinto(offset, buffer)
            return
        for start in range(0, len(buffer), STEP):  # what was just read is in the cache
            piece = buffer[start : start + STEP]
            self._storage.readinto(offset + start, piece)
            self._take(piece)

    def check(self) -> None:
        """Read what has not gone by yet, and compare."""
        if self._done:
            return
        buffer = memoryview(bytearray(min(STEP, self.size)))
        while not self._done:
            piece = buffer[: min(STEP, self.size - self._next)]
            self._storage.readinto(self._next, piece)
            self._take(piece)

    def _take(self, data: memoryview) -> None:
        self._crc = crc32(data, self._crc)
        self._next += len(data)
        if self._next < self.size:
            return
        self._done = True
        storage = self._storage
        if self._crc != storage.crc32:
            raise ArchiveError(
                f"storage `{storage.key}` in `{storage.source.name}` is damaged: its CRC-32 is {self._crc:08x}, the "
                f"archive says {storage.crc32:08x}; get the file again"
            )
