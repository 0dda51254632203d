"""Progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console

from converter.text import safe_text


class Progress:
    """Bytes gone by, told to whoever watches; `start` says how many there will be."""

    def __init__(
        self, advance: Callable[[int], None] | None = None, total: Callable[[int], None] | None = None
    ) -> None:
        self._advance, self._total = advance, total

    def __call__(self, nbytes: int) -> None:
        """Say that so many bytes more went by."""
        if self._advance is not None:
            self._advance(nbytes)

    def start(self, total: int) -> None:
        """Say how many bytes there will be."""
        if self._total is not None:
            self._total(total)


@contextmanager
def showing(what: str, total: int, *, quiet: bool = False) -> Iterator[Progress]:
    """Show bytes, speed and time left on stderr while the work runs; nothing where stderr is no terminal."""
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
