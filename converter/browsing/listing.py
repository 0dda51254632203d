"""A list of any number of rows, of which only those on the screen are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from rich.segment import Segment
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from converter.text import cells, in_columns

if TYPE_CHECKING:
    from rich.style import Style
    from textual.events import Click

    from converter.browsing.rows import Row

_LEAST: Final = 32  # columns that a name gets at least; if it has fewer, cells beside it are left out


class Listing(ScrollView, can_focus=True):
    """Rows with a cursor. It posts a message when another row is under the cursor, and when one is chosen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "move(-1000000000)", "First", show=False),
        Binding("end", "move(1000000000)", "Last", show=False),
        Binding("enter", "choose", "Statistics"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {"listing--cursor"}
    # A line is as wide as there is room, so there is nothing to scroll to sideways.
    DEFAULT_CSS = """
    Listing { overflow-x: hidden; }
    Listing > .listing--cursor { background: $primary; color: $text; }
    """
    cursor = reactive(0)

    class Moved(Message):
        """Another row is under the cursor; None if there is no row."""

        def __init__(self, row: Row | None) -> None:
            super().__init__()
            self.row = row

    class Chosen(Message):
        """A row was chosen."""

        def __init__(self, row: Row) -> None:
            super().__init__()
            self.row = row

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._rows: Sequence[Row] = ()

    def fill(self, rows: Sequence[Row]) -> None:
        """Show other rows, from the first on."""
        self._rows = rows
        self.virtual_size = Size(self.size.width, len(rows))
        self.scroll_to(0, 0, animate=False)
        self.cursor = 0
        self.refresh()
        self.post_message(self.Moved(self.row))

    @property
    def row(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self.cursor] if self._rows else None

    def render_line(self, y: int) -> Strip:
        """Draw a line of the screen."""
        width, at = self.scrollable_content_region.width, y + int(self.scroll_offset.y)
        if at >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        style = self.get_component_rich_style("listing--cursor") if at == self.cursor else self.rich_style
        return _line(self._rows[at], width, style)

    def watch_cursor(self) -> None:
        """Keep the cursor on the screen."""
        self.scroll_to_region(Region(0, self.cursor, 1, 1), animate=False)
        self.refresh()

    def action_move(self, by: int) -> None:
        """Move the cursor by a number of rows."""
        self.cursor = max(0, min(len(self._rows) - 1, self.cursor + by))
        self.post_message(self.Moved(self.row))

    def action_page(self, by: int) -> None:
        """Move the cursor by a number of screens."""
        self.action_move(by * max(1, self.size.height - 1))

    def action_choose(self) -> None:
        """Choose the row under the cursor."""
        if self.row is not None:
            self.post_message(self.Chosen(self.row))

    def on_click(self, event: Click) -> None:
        """Move the cursor to the row that was clicked; a second click chooses it."""
        at = event.y + int(self.scroll_offset.y)
        if at >= len(self._rows):
            return
        if at == self.cursor:
            self.action_choose()
        else:
            self.action_move(at - self.cursor)


def _line(row: Row, width: int, style: Style) -> Strip:
    """A row, `width` columns wide. If there is no room, cells beside the name are left out."""
    beside = list(zip(row.cells, row.WIDTHS, strict=True))
    for index in row.DISPENSABLE:
        if width - sum(room for _, room in beside) < _LEAST:
            del beside[index]
    room = width - sum(space for _, space in beside)
    name = in_columns(row.shown, max(1, room - 1))
    text = (
        name
        + " " * max(0, room - cells(name))
        + "".join(f"{word[: space - 1]:>{space - 1}} " for word, space in beside)
    )
    return Strip([Segment(text, style)]).adjust_cell_length(width, style)
