"""Decodes a storage once, for views that gather from all over it."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING

from converter.io.source import STEP
from converter.io.spool import Spool, Spooled

if TYPE_CHECKING:
    from converter.tensors.tensor import Storage, Tensor


class Decoded:
    """The elements of a storage in a temporary file, from the first read of one of its `views` to the last.

    Without it, every tile of a transposed matrix would decode all of the storage again.
    """

    def __init__(self, storage: Storage, views: int) -> None:
        self._storage, self._left = storage, views
        self._spool, self._lock = Spool(), Lock()
        self._spooled: Storage | None = None

    def view(self, view: Tensor) -> Tensor:
        """The same view of the decoded elements; or the view itself if the disk has no room for them."""
        with self._lock:
            if self._spooled is None:
                try:
                    if self._spool.room() < self._storage.nbytes:
                        return view
                    buffer = memoryview(bytearray(min(STEP, self._storage.nbytes)))
                    self._spool.append(self._storage.tiles(0, self._storage.nbytes, buffer))
                except OSError:  # the system gives no temporary file, or others have filled the disk
                    self._spool.close()
                    return view
                source = Spooled(self._spool, self._storage.nbytes, self._storage.source.name)
                self._spooled = replace(self._storage, source=source, offset=0)
        return replace(view, storage=self._spooled)

    def read(self) -> None:
        """Note that one more view was read."""
        with self._lock:
            self._left -= 1
            if self._left <= 0:
                self._spool.close()
                self._spooled = None
