"""The browser with two checkpoints side by side: what happened to each tensor, and both of its histograms."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual import work
from textual.widgets import Static
from textual.worker import get_current_worker

from converter.browsing.app import Browser, StoppedError
from converter.browsing.pairs import changed, pairs
from converter.browsing.rows import CHANGE, SORTS, Row
from converter.difference.comparing import Comparison
from converter.difference.measures import SIZES
from converter.difference.pairing import sides
from converter.errors import ConverterError
from converter.text import in_columns, plural, safe_text
from converter.verification.walk import Workspace

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

_LEAST: Final = 40  # columns that a location gets at least
_PAUSE: Final = 0.25  # seconds between two reports on how far the comparison is


class SideBySide(Browser):
    """Shows two checkpoints that are open. Everything is compared in a thread, and listed meanwhile."""

    ORDERS: ClassVar = (CHANGE, *SORTS)

    def __init__(self, before: Catalogue, after: Catalogue) -> None:
        self._sides = sides(before, after)
        self._other = after
        self._compared = "comparing"
        super().__init__(before)
        self._sort = CHANGE

    def _listed(self) -> Sequence[Row]:
        return pairs(*self._sides)

    @work(thread=True, group="look")
    def _look(self) -> None:
        """Compare both."""
        worker = get_current_worker()
        ours, theirs = self._sides
        done, shown = 0, time.monotonic()

        def go_on(nbytes: int) -> None:
            nonlocal done, shown
            if worker.is_cancelled:
                raise StoppedError
            done += nbytes
            if time.monotonic() - shown > _PAUSE:
                shown = time.monotonic()
                self.call_from_thread(self._say, f"comparing: {min(done, ours.nbytes) / max(1, ours.nbytes):.0%}")

        comparison = Comparison(ours, theirs, Workspace(SIZES), go_on)
        try:
            comparison.pair_all()
            comparison.compare_pairs(rank=False)
            ours.finish()
            theirs.finish()
        except StoppedError:
            return
        except ConverterError as error:
            self.call_from_thread(self._say, safe_text(str(error), 400))
            return
        found = changed(ours, theirs, comparison.changes, comparison.left_out)
        count = len(comparison.changes)
        said = f"{plural(count, 'change')}, {comparison.identical:,} equal in every bit"
        self.call_from_thread(self._know, found, said)

    def _know(self, found: Sequence[Row], said: str) -> None:
        """Show what happened to each tensor."""
        self._rows = found
        self._say(said)
        self._choose()

    def _say(self, said: str) -> None:
        self._compared = said
        self.query_one("#heading", Static).update(self._heading())

    def _heading(self) -> Text:
        room = max(_LEAST, (self.size.width or _LEAST) - 2)  # without the padding
        places = (f"before: {self._catalogue.location}", f"after: {self._other.location}")
        return Text("\n".join((*(in_columns(safe_text(place), room) for place in places), self._compared)))
