"""The parent's side of the process that the loaders run in: it is started again when a file ends it."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_PATIENCE = 60  # seconds without an answer
_ROOT = Path(__file__).parent.parent.parent.parent
NOTHING: dict[str, Any] = {
    "asked": [],
    "weights": None,
    "ran": [],
    "died": True,
}  # the answer about a file that ended it


class Child:
    """One such process. `ask` sends files, and `answers` returns what was found in each."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="oracle-")
        Path(self.folder.name).chmod(0o777)
        self.deaths = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.sent: list[tuple[int, bytes]] = []

    def start(self) -> subprocess.Popen[bytes]:
        environment = {"PYTHONPATH": str(_ROOT), "OMP_NUM_THREADS": "1", "HOME": self.folder.name, "LANG": "C.UTF-8"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.peers.oracle.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("ORACLE_STDERR") else subprocess.DEVNULL,
            cwd=self.folder.name,
            env=environment,
        )
        return self.process

    def ask(self, files: Sequence[tuple[int, bytes]]) -> None:
        """Send files, each with the question about it. The child reads all of them before it answers."""
        process = self.process or self.start()
        self.sent = list(files)
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(struct.pack("<I", len(files)))
            for what, data in files:
                process.stdin.write(struct.pack("<BI", what, len(data)) + data)
            process.stdin.flush()

    def answers(self) -> list[dict[str, Any]]:
        """Wait for the answers to what was sent."""
        found: list[dict[str, Any]] = []
        waiting = self.sent
        while len(found) < len(waiting):
            answer = self._answer()
            if answer is not None:
                found.append(answer)
                continue
            self.deaths += 1
            self.stop()
            found.append(NOTHING)
            self.ask(waiting[len(found) :])
            self.sent = waiting
        return found

    def one(self, what: int, data: bytes) -> dict[str, Any]:
        """What was found in one file."""
        self.ask([(what, data)])
        return self.answers()[0]

    def _answer(self) -> dict[str, Any] | None:
        assert self.process is not None
        stream = self.process.stdout
        assert stream is not None
        if not stream.peek(1)[:1] and not select.select([stream], [], [], _PATIENCE)[0]:  # type: ignore[attr-defined]
            return None
        size = stream.read(4)
        if len(size) < 4:
            return None
        packed = stream.read(struct.unpack("<I", size)[0])
        return json.loads(packed) if packed else None

    def close(self) -> None:
        """End the process for good."""
        self.stop()
        self.folder.cleanup()

    def stop(self) -> None:
        """End the process; the next question starts another."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    with suppress(BrokenPipeError):
                        stream.close()
            self.process = None
