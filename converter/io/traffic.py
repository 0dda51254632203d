"""What it took to read something remote."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field


@dataclass(slots=True)
class Traffic:
    """What it took to read something remote."""

    requests: int = 0
    nbytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, requests: int, nbytes: int) -> None:
        """Count; from any thread."""
        with self._lock:
            self.requests += requests
            self.nbytes += nbytes
