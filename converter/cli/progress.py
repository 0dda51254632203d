"""Progress on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from converter.text import safe_text


class Progress:
    """Counts bytes that are done, and tells a progress bar. `start` sets the total."""

    def __init__(
        self, advance: Callable[[int], None] | None = None, total: Callable[[int], None] | None = None
    ) -> None:
        self._advance, self._total = advance, total

    def __call__(self, nbytes: int) -> None:
        """Add bytes that are done."""
        if self._advance is not None:
            self._advance(nbytes)

    def start(self, total: int) -> None:
        """Set the total of bytes."""
        if self._total is not None:
            self._total(total)


@contextmanager
def showing(what: str, total: int, *, quiet: bool = False) -> Iterator[Progress]:
    """Show bytes, speed and remaining time on stderr while the work runs; nothing if stderr is not a terminal."""
    if quiet or not sys.stderr.isatty():
        yield Progress()
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=Console(stderr=True, markup=False, emoji=False), transient=True) as bar:
        task = bar.add_task(safe_text(what), total=total or None)
        yield Progress(lambda nbytes: bar.advance(task, nbytes), lambda known: bar.update(task, total=known))
