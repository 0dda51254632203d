"""The browser: modules, tensors, and what is known of the one under the cursor. Whatever takes time is done in a thread."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from rich.text import Text
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Footer, Input, Sparkline, Static, Tree
from textual.worker import get_current_worker

from converter.browsing.listing import Listing
from converter.browsing.rows import SORTS, Module, Row, chosen, modules, rows
from converter.errors import ConverterError
from converter.inspection.report import inspect, stored_nbytes
from converter.inspection.said import heading, place
from converter.statistics.measuring import measured
from converter.tensors.crc_checked import checked_tensor
from converter.text import nbytes_text, plural, safe_text

if TYPE_CHECKING:
    from textual.widgets.tree import TreeNode

    from converter.reports.details import StatisticsReport
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_CHILDREN: Final = 2000  # modules that a branch shows
_NARROW: Final = 70  # columns: with fewer, the modules are not shown
_LOW: Final = 24  # lines: with fewer, less is said about a tensor, so that its histogram and the list have room


def run(app: App[None]) -> None:
    """Show a browser until the user leaves."""
    gc.freeze()  # a search through the objects of 100,000 tensors would stop the screen for 150 ms
    app.run()


class StoppedError(Exception):
    """Nobody waits for a tensor any more: another one was chosen, or the browser was left."""


class Browser(App[None]):
    """Shows a checkpoint that is open. It must stay open while the browser runs."""

    TITLE = "cerebras-tool"
    ENABLE_COMMAND_PALETTE = False
    ORDERS: ClassVar[tuple[str, ...]] = SORTS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "filter", "Filter"),
        Binding("s", "sort", "Sort"),
        Binding("c", "copy", "Copy the name"),
        Binding("escape", "clear", "All", show=False),
        Binding("q", "quit", "Quit"),
    ]
    CSS = """
    #heading { height: auto; padding: 0 1; }
    #filter { margin: 0 1; }
    Tree { width: 30%; max-width: 44; margin: 0 1 0 0; }
    #right { width: 1fr; }
    Listing { height: 1fr; }
    #status { height: 1; padding: 0 1; color: $text-muted; }
    #details { height: auto; max-height: 12; padding: 0 1; border-top: solid $primary; }
    #histograms { height: auto; }
    Sparkline { height: 3; width: 1fr; margin: 0 1; display: none; }
    .-narrow #modules { display: none; }
    """
    # Where it is narrow, the names need the columns of the modules.
    HORIZONTAL_BREAKPOINTS = [  # noqa: RUF012 (textual declares it as a variable of the instance)
        (0, "-narrow"),
        (_NARROW, "-wide"),
    ]

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__()
        self._catalogue = catalogue
        self._rows = self._listed()
        self._module, self._text, self._sort = "", "", SORTS[0]

    def _heading(self) -> Text:
        """The headline while the checkpoint is still being read: its location."""
        return Text(safe_text(self._catalogue.location))

    def _listed(self) -> Sequence[Row]:
        """A row for each tensor."""
        return rows(self._catalogue)

    def compose(self) -> ComposeResult:
        """Yield what the screen is made of."""
        yield Static(self._heading(), id="heading")
        yield Input(placeholder="Filter: part of a name", id="filter", compact=True)
        with Horizontal():
            yield Tree[Module]("all", id="modules")
            with Vertical(id="right"):
                yield Listing(id="tensors")
                yield Static(id="status")
                yield Static(id="details", markup=False)
                with Horizontal(id="histograms"):
                    yield Sparkline([])
                    yield Sparkline([])
        yield Footer()

    def on_mount(self) -> None:
        """Show all tensors at once, and what takes longer when it is known."""
        self.query_one(Listing).fill(self._rows)
        self._said()
        self.query_one(Listing).focus()
        self.call_after_refresh(self._look)  # the first screen does not share the processor with what takes longer
        self.call_after_refresh(self._find_modules)

    # ---- what takes time -----------------------------------------------------------------------------------------------

    @work(thread=True, group="look")
    def _look(self) -> None:
        """Find out what the checkpoint is."""
        try:
            found = inspect(self._catalogue, filter=())  # the list has the tensors
        except ConverterError as error:
            said = Text(safe_text(str(error), 400))
        else:
            safety = f" · pickle: {found.safety.verdict}" if found.safety.globals else ""
            said = Text(f"{heading(found)}\n{safe_text(found.source.location)} · {place(found)}{safety}")
        self.call_from_thread(self.query_one("#heading", Static).update, said)

    @work(thread=True, group="modules")
    def _find_modules(self) -> None:
        self.call_from_thread(self._show_modules, modules(self._rows))

    @work(thread=True, exclusive=True, group="filter")
    def _choose(self) -> None:
        """Find the rows that fit. A later choice makes this one void."""
        found = chosen(self._rows, self._module, self._text, self._sort)
        if not get_current_worker().is_cancelled:
            self.call_from_thread(self._fill, found)

    @work(thread=True, exclusive=True, group="statistics")
    def _measure(self, row: Row) -> None:
        """Read a tensor. If another one is chosen meanwhile, the result is not shown."""
        worker = get_current_worker()

        def go_on(nbytes: int) -> None:
            if worker.is_cancelled:
                raise StoppedError

        try:
            found = [_measured(tensor, go_on) for _, tensor in row.sides]
        except StoppedError:
            return
        if not worker.is_cancelled:
            self.call_from_thread(self._show_statistics, row, found)

    # ---- what is shown -------------------------------------------------------------------------------------------------

    def _show_modules(self, root: Module) -> None:
        tree = self.query_one("#modules", Tree)
        tree.root.data = root
        tree.root.set_label(_label(root))
        self._grow(tree.root)
        tree.root.expand()

    def _grow(self, node: TreeNode[Module]) -> None:
        """Add the modules below a branch, when it is first opened."""
        if node.data is None or node.children:
            return
        inner = list(node.data.inner.values())
        for module in inner[:_CHILDREN]:
            node.add(_label(module), module, allow_expand=bool(module.inner))
        if len(inner) > _CHILDREN:
            node.add_leaf(Text(f"and {plural(len(inner) - _CHILDREN, 'more module')}: filter"))

    def _fill(self, found: list[Row]) -> None:
        self.query_one(Listing).fill(found)
        self._said(len(found))

    def _said(self, count: int | None = None) -> None:
        all = len(self._rows)
        shown = f"{count:,} of {plural(all, 'tensor')}" if count not in (None, all) else plural(all, "tensor")
        self.query_one("#status", Static).update(Text(f"{shown} · in the order of: {self._sort}"))

    @property
    def _small(self) -> bool:
        """Whether the screen is too small to show everything about a tensor."""
        return self.size.height < _LOW or self.size.width < _NARROW

    def _show_tensor(self, row: Row | None, more: str = "") -> None:
        details = self.query_one("#details", Static)
        for line in self.query(Sparkline):
            line.display = False
        if row is None:
            details.update("")
            return
        sides = [f"{label} {_layout(tensor, brief=self._small)}".lstrip() for label, tensor in row.sides]
        details.update("\n".join(filter(None, (row.shown, *sides, row.said))) + more)

    def _show_statistics(self, row: Row, found: Sequence[StatisticsReport | ConverterError]) -> None:
        if self.query_one(Listing).row is not row:
            return
        alone = len(found) == 1 and not self._small  # else there is no room for everything
        said = [
            f"{label} {_statistics(one, whole=alone, digits=3 if self._small else 6)}".lstrip()
            for (label, _), one in zip(row.sides, found, strict=True)
        ]
        self._show_tensor(row, "".join(f"\n{text}" for text in said))
        for line, one in zip(self.query(Sparkline), found, strict=False):
            if not isinstance(one, ConverterError) and one.histogram is not None and len(one.histogram.counts) > 1:
                line.data = [float(count) for count in one.histogram.counts]
                line.display = True

    # ---- what people do ------------------------------------------------------------------------------------------------

    def on_listing_moved(self, event: Listing.Moved) -> None:
        """Show the tensor under the cursor."""
        self._show_tensor(event.row, "\nEnter: read it for statistics")

    def on_listing_chosen(self, event: Listing.Chosen) -> None:
        """Read the tensor that was chosen."""
        self._show_tensor(event.row, "\nreading …")
        self._measure(event.row)

    def on_tree_node_expanded(self, event: Tree.NodeExpanded[Module]) -> None:
        """Add what is below a branch."""
        self._grow(event.node)

    def on_tree_node_selected(self, event: Tree.NodeSelected[Module]) -> None:
        """List the tensors of a module alone."""
        if event.node.data is not None:
            self._module = event.node.data.path
            self._choose()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter as one types."""
        self._text = event.value
        self._choose()

    def on_input_submitted(self) -> None:
        """Go from the filter to the list."""
        self.query_one(Listing).focus()

    def action_filter(self) -> None:
        """Go to the filter."""
        self.query_one(Input).focus()

    def action_clear(self) -> None:
        """List all tensors again."""
        self._module = ""
        self.query_one(Input).value = ""
        self._choose()
        self.query_one(Listing).focus()

    def action_sort(self) -> None:
        """Take the next order."""
        self._sort = self.ORDERS[(self.ORDERS.index(self._sort) + 1) % len(self.ORDERS)]
        self._choose()

    def action_copy(self) -> None:
        """Copy the name under the cursor, as it is in the file."""
        row = self.query_one(Listing).row
        if row is not None:
            self.copy_to_clipboard(row.name)
            self.notify(row.shown, title="Copied", markup=False)


def _label(module: Module) -> Text:
    return Text(f"{safe_text(module.name, 60)}  {nbytes_text(module.nbytes)}")


def _layout(tensor: Tensor, *, brief: bool) -> str:
    """How a tensor lies in the file."""
    shape = "×".join(map(str, tensor.shape)) or "scalar"
    lies = "row by row" if tensor.contiguous else f"stride {','.join(map(str, tensor.stride))}"
    encoding = tensor.storage.encoding or tensor.dtype.name
    size = plural(stored_nbytes(tensor), "byte")
    return f"{encoding} {shape}, {size}" + ("" if brief else f", {lies}, storage {safe_text(tensor.storage.key, 40)}")


def _measured(tensor: Tensor, go_on: Callable[[int], None]) -> StatisticsReport | ConverterError:
    """The statistics of a tensor, or why it can't be read."""
    sound, finish = checked_tensor(tensor)
    try:
        (found,) = measured([sound], threads=1, progress=go_on)
        finish()
    except ConverterError as error:
        return error
    return found


def _statistics(found: StatisticsReport | ConverterError, *, whole: bool, digits: int) -> str:
    """The statistics of a tensor; with quantiles if they are shown `whole`."""
    if isinstance(found, ConverterError):
        return safe_text(str(found), 400)
    numbers = (("min", found.min), ("max", found.max), ("mean", found.mean), ("std", found.std), ("norm", found.l2))
    known = [f"{name} {value:.{digits}g}" for name, value in numbers if value is not None]
    counts = [
        f"{count:,} {name}" for name, count in (("zeros", found.zeros), ("NaN", found.nan), ("Inf", found.inf)) if count
    ]
    points = [f"{float(share):.1%} {value:.4g}" for share, value in found.quantiles.items()] if whole else []
    return "\n".join(filter(None, (", ".join([*known, *counts]), ", ".join(points))))
