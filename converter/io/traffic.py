"""Counts the requests and bytes that reading something remote took."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """The requests and bytes that reading something remote took."""

    requests: int = 0
    nbytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, requests: int, nbytes: int) -> None:
        """Count; from any thread."""
        with self._lock:
            self.requests += requests
            self.nbytes += nbytes
