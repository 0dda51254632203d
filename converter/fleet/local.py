"""The engine of this machine: processes that live as long as the driver does, and talk in lines of JSON."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections import deque
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from converter.fleet.engine import Engine
from converter.fleet.work import AGAIN, Order, Result, run
from converter.text import safe_text

START: Final = "import sys; sys.path.append(sys.argv[1]); from converter.fleet.local import serve; serve()"
_ONE: Final = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")  # the others have processes of their own
_LAST: Final = 1 << 12  # bytes at the end of a process's output that are looked at
_LINE: Final = 1 << 16  # bytes of an answer that are read at a time


class Local(Engine):
    """Runs orders in processes of this machine."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._idle: deque[_Worker] = deque()
        self._busy: dict[int, _Worker] = {}
        self._selector = selectors.DefaultSelector()

    def start(self, order: Order) -> None:
        """Begin an order in a process that is free, or in a new one."""
        worker = self._idle.popleft() if self._idle else _Worker()
        self._busy[order.number] = worker
        self._selector.register(worker.answers, selectors.EVENT_READ, order.number)
        worker.tell(order)

    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        """The orders that have ended. If a process has died, its attempt is reported as worth another one."""
        found = []
        for key, _ in self._selector.select(seconds):
            number, worker = key.data, self._busy[key.data]
            if (line := worker.hear()) is None:
                continue
            self._selector.unregister(worker.answers)
            del self._busy[number]
            if line:
                result = Result(**json.loads(line))
                # After a lack of memory, a new process starts with an empty heap.
                self._idle.append(worker) if result.state != "broken" else worker.end()
            else:
                result = Result(AGAIN, "", worker.ended())
            found.append((number, result))
        return found

    def give_up(self, number: int) -> None:
        """Kill the process that works on an order."""
        worker = self._busy.pop(number)
        self._selector.unregister(worker.answers)
        worker.end()

    def close(self) -> None:
        """Kill all processes. What they were writing is not under its final name."""
        for worker in (*self._busy.values(), *self._idle):
            worker.end()
        self._busy.clear()
        self._idle.clear()
        self._selector.close()


class _Worker:
    """A process that works on one order at a time."""

    def __init__(self) -> None:
        package = Path(__file__).parent.parent.parent
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (it is closed with the process)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", START, str(package)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            bufsize=0,
            start_new_session=True,  # Control-C is the driver's
            env={**os.environ, **dict.fromkeys(_ONE, "1")},
        )
        self._heard = b""

    @property
    def answers(self) -> Any:
        """Where its answers come from."""
        return self._process.stdout

    def tell(self, order: Order) -> None:
        """Give it an order. If it has died, its answer shows that."""
        assert self._process.stdin is not None  # noqa: S101 (for the type checker)
        try:
            self._process.stdin.write(json.dumps(order.as_json()).encode() + b"\n")
        except BrokenPipeError:
            return

    def hear(self) -> bytes | None:
        """A whole line, or nothing if it has died; None while a line is not whole."""
        data = os.read(self.answers.fileno(), _LINE)
        self._heard += data
        if data and not self._heard.endswith(b"\n"):
            return None
        heard, self._heard = self._heard, b""
        return heard if heard.endswith(b"\n") else b""

    def ended(self) -> str:
        """How the process died, as a reason, with the last line that it said."""
        code = self._process.wait()
        end = self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, end - _LAST))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        self.end()
        how = f"by the signal {signal.Signals(-code).name}" if code < 0 else f"with the code {code}"
        return f"the process that worked on it was ended {how}{f': {safe_text(lines[-1], 300)}' if lines else ''}"

    def end(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._said):
            if stream is not None:
                stream.close()


def serve() -> None:
    """Work on orders that come as lines on standard input, and answer on what was standard output.

    If the driver has died, the input ends, and so does this process, in the middle of what it does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # nothing else may write among the answers
    orders: SimpleQueue[Order] = SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            orders.put(Order.of(json.loads(line)))
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        os.write(answers, json.dumps(asdict(run(orders.get()))).encode() + b"\n")
