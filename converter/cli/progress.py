"""How far a command has come: one line on the terminal for all that it does, and the times of its steps.

The line is redrawn from where it begins, so whatever is left of it after the window was resized is erased.
"""

from __future__ import annotations

import os
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TextIO

import typer

from converter.cli.render import set_columns
from converter.cli.streams import Over
from converter.errors import OutputError
from converter.steps import Follower, followed_by
from converter.text import cells, in_columns, nbytes_text, os_reason, safe_text

_AGAIN: Final = 0.1  # seconds between two drawings
_FIRST: Final = 0.3  # seconds until the first: what is done by then needs no bar
_SAMPLES: Final = 100  # drawings over which speed is measured
_BAR: Final = 20  # columns
_TOLD: Final = 0.01  # share of the work; how long a smaller share took says nothing about the rest
_UNKNOWN: Final = 80  # columns of a terminal that does not say
_NAME: Final = 12  # columns of a name, at least: a shorter one would say nothing
_OURS: Final = re.compile(rb"\d{4}-\d\d-\d\dT")  # how every line of a log begins


class Bar:
    """The line on the terminal. Any thread may move it on; a thread of its own draws it."""

    def __init__(self, what: str, out: TextIO, unit: str) -> None:
        self._what, self._out, self._unit = what, out, unit
        self._done = self._total = 0.0
        self._name = ""
        self._samples: deque[tuple[float, float]] = deque(maxlen=_SAMPLES)  # time and what was done by then
        self._drawn = False
        self._lock, self._ended = threading.RLock(), threading.Event()

    def add(self, amount: float) -> None:
        """Move it on."""
        with self._lock:
            self._done += amount

    def expect(self, total: float) -> None:
        """Say how much there is to do, after what is done already."""
        with self._lock:
            self._total = self._done + total
            self._samples.clear()
            self.draw()

    def more(self, amount: float) -> None:
        """Say that there is more to do than was expected."""
        with self._lock:
            self._total += amount

    def at(self, name: str) -> None:
        """Say what is worked on now."""
        self._name = name

    def write(self, text: str) -> None:
        """Write a text of whole lines above it."""
        with self._lock:
            self.erase()
            self._out.write(text)
            self._out.flush()

    def draw(self) -> None:
        """Draw it in the width that the terminal has now."""
        with self._lock:
            width = _width(self._out)
            # Everything below is erased, too: that is where a line goes that no longer fits into a narrower window.
            self._out.write(f"\x1b[J{self.line(width - 1, time.monotonic())}\r")
            self._out.flush()
            self._drawn = True

    def erase(self) -> None:
        """Remove it, until it is drawn again."""
        if self._drawn:
            self._out.write("\x1b[J")
            self._out.flush()
            self._drawn = False

    def line(self, width: int, now: float) -> str:
        """Its text in `width` columns: what has no room is left out, and a name is cut in its middle."""
        self._samples.append((now, self._done))
        found = [self._what]
        for piece in self._numbers(now):
            if len("  ".join([*found, piece])) > width:
                break
            found.append(piece)
        said = "  ".join(found)
        name, room = safe_text(self._name, 8000), width - len(said) - 2
        if self._name and room >= min(_NAME, cells(name)):
            said += f"  {in_columns(name, room)}"
        return in_columns(said, width)

    def _numbers(self, now: float) -> Iterator[str]:
        if not self._total:
            return
        share = min(self._done / self._total, 1.0)
        if self._unit == "files":
            yield f"{self._done:,.0f}/{self._total:,.0f}"
            return
        yield f"{share:4.0%}"
        (since, before), left = self._samples[0], self._total - self._done
        speed = (self._done - before) / (now - since) if now > since else 0.0
        if speed and left > 0 and share >= _TOLD:
            yield _clock(left / speed)
        yield f"[{'#' * int(share * _BAR):.<{_BAR}}]"
        if self._unit == "bytes":
            yield f"{nbytes_text(int(self._done))} of {nbytes_text(int(self._total))}"
            if speed:
                yield f"{nbytes_text(int(speed))}/s"

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Draw it again and again in the body of a `with`, and remove it at the end."""
        thread = threading.Thread(target=self._follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join()
            with self._lock:
                self.erase()

    def _follow(self) -> None:
        wait = _FIRST
        while not self._ended.wait(wait):
            self.draw()
            wait = _AGAIN


def _width(out: TextIO) -> int:
    """The columns of the terminal behind a stream, or fewer if COLUMNS asks for that."""
    try:
        found = os.get_terminal_size(out.fileno()).columns or _UNKNOWN
    except OSError:
        found = _UNKNOWN
    return min(found, set_columns() or found)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds) + 1, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class Above(Over):
    """A stream for everything else that is written while a bar is shown. It writes lines above the bar."""

    def __init__(self, bar: Bar, stream: TextIO) -> None:
        super().__init__(stream)
        self._bar = bar

    def write(self, text: str) -> int:
        """Write above the bar."""
        self._bar.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the underlying stream."""
        self._stream.flush()


class Progress(Follower):
    """What a command tells about itself: to a bar, if there is one, and to a log.

    Amounts are in bytes, or in files.
    """

    def __init__(self, bar: Bar | None, verbose: bool, log: TextIO | None) -> None:
        self._bar, self._verbose, self._log = bar, verbose, log
        self._lock = threading.Lock()

    def __call__(self, amount: int) -> None:
        """Add what is done."""
        if self._bar is not None:
            self._bar.add(amount)

    def start(self, total: int) -> None:
        """Say how much there is to do from here on."""
        if self._bar is not None:
            self._bar.expect(total)

    def at(self, name: str) -> None:
        """Show what is worked on now."""
        if self._bar is not None:
            self._bar.at(name)

    def planned(self, nbytes: float) -> None:
        """Expect more work."""
        if self._bar is not None:
            self._bar.more(nbytes)

    def worked(self, nbytes: float) -> None:
        """Add work that was done."""
        if self._bar is not None:
            self._bar.add(nbytes)

    def ended(self, verb: str, name: str, seconds: float) -> None:
        """Write a line with the time that a step took."""
        if not self._verbose and self._log is None:
            return
        said = f"{seconds:9.3f} s  {verb:<9} {safe_text(name, 2000)}"
        with self._lock:
            if self._verbose:
                typer.echo(said, err=True)
            if self._log is not None:
                moment = time.time()
                whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(moment))
                self._log.write(f"{whole}.{int(moment % 1 * 1000):03}Z  {said}\n")
                self._log.flush()


@contextmanager
def telling(what: str, out: TextIO | None, *, verbose: bool, log: Path | None, unit: str) -> Iterator[Progress]:
    """Tell how far the body of a `with` has come: by a bar on the terminal `out`, if there is one, and by the times of its steps.

    Raises OutputError if the log can't be written, or holds anything but such times.
    """
    with ExitStack() as stack:
        bar = None if out is None else Bar(safe_text(what), out, unit)
        progress = Progress(bar, verbose, None if log is None else stack.enter_context(_opened(log)))
        if bar is not None and out is not None:
            stack.callback(setattr, sys, "stderr", out)
            sys.stderr = Above(bar, out)
            stack.enter_context(bar.drawn())
        stack.enter_context(followed_by(progress))
        start = time.perf_counter()
        try:
            yield progress
        finally:
            progress.ended("total", what, time.perf_counter() - start)


def _opened(path: Path) -> TextIO:
    """A log to add lines to. A file that holds something else stays as it is."""
    if str(path) == "-":
        raise OutputError("--log takes a file: --verbose writes the same lines to stderr")
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(16)
            if head and not _OURS.match(head):
                raise OutputError(f"`{path}` exists and is not a log of this program: choose another path for --log")
        return path.open("a", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"`{path}` can't be written: {os_reason(error)}") from error
