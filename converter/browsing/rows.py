"""What the browser lists: a row for each tensor, which are searched and sorted, and the modules that they lie in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import TYPE_CHECKING, Any, ClassVar, Final

from converter.inspection.report import stored_nbytes
from converter.text import natural, nbytes_text, safe_name

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_PART: Final = 1000  # rows that are sorted at once
CHANGE: Final = "change"
SORTS: Final = ("file", "name", "size")  # the orders of rows; a key goes from each to the next


@dataclass(slots=True, eq=False)
class Row:
    """A tensor. What is shown of it is made when it is drawn: a file can have very many."""

    name: str
    tensor: Tensor

    # The cells beside the name: how many columns each has, and which are left out first if there is no room.
    WIDTHS: ClassVar = (8, 16, 10)
    DISPENSABLE: ClassVar = (1, 0)

    @property
    def cells(self) -> tuple[str, ...]:
        """What stands beside its name."""
        return self.dtype, self.shape, self.size

    @property
    def sides(self) -> tuple[tuple[str, Tensor], ...]:
        """The tensors of the row, each with what it is called beside the other; of one alone, nothing."""
        return (("", self.tensor),)

    @property
    def said(self) -> str:
        """What else is known of it."""
        return ""

    @property
    def rank(self) -> tuple[float, ...]:
        """Where it stands among changes."""
        return ()

    @property
    def shown(self) -> str:
        """Its name, fit for a terminal."""
        return safe_name(self.name)

    @property
    def dtype(self) -> str:
        """Its dtype, or the encoding of its blocks."""
        return self.tensor.storage.encoding or self.tensor.dtype.name

    @property
    def shape(self) -> str:
        """Its shape in words."""
        return "×".join(map(str, self.tensor.shape)) or "scalar"

    @property
    def nbytes(self) -> int:
        """Its bytes in the file, which are those of its blocks if it is quantised."""
        return stored_nbytes(self.tensor)

    @property
    def size(self) -> str:
        """Its bytes in words."""
        return nbytes_text(self.nbytes)


@dataclass(slots=True)
class Module:
    """A part of the tensors' names up to a dot, and the modules below it."""

    name: str
    path: str  # the beginning of the names, with a dot at its end; empty for all
    nbytes: int = 0
    tensors: int = 0
    inner: dict[str, Module] = field(default_factory=dict)


def rows(catalogue: Catalogue) -> list[Row]:
    """A row for each tensor, in the order of the file."""
    return [Row(name, tensor) for name, tensor in catalogue.items()]


def modules(found: Iterable[Row]) -> Module:
    """The modules that tensors lie in, all below one."""
    root = Module("all", "")
    for row in found:
        node = root
        parts, nbytes = row.name.split("."), row.nbytes
        for at, part in enumerate(parts):
            node.nbytes += nbytes
            node.tensors += 1
            if at + 1 == len(parts):
                break
            if part not in node.inner:
                node.inner[part] = Module(part, f"{node.path}{part}.")
            node = node.inner[part]
    return root


def chosen(found: Sequence[Row], module: str, text: str, sort: str) -> list[Row]:
    """The rows of a module whose names hold a text, in an order of SORTS."""
    words = text.strip().lower()
    kept = [row for row in found if row.name.startswith(module) and words in row.name.lower()]
    if sort == CHANGE:
        return _ordered(kept, lambda row: row.rank)
    if sort == SORTS[1]:
        return _ordered(kept, lambda row: natural(row.name))
    return kept if sort == SORTS[0] else _ordered(kept, lambda row: -row.nbytes)


def _ordered(found: list[Row], key: Callable[[Row], Any]) -> list[Row]:
    """Rows in an order. Parts are sorted and merged, because sorting all at once would keep other threads waiting."""
    parts = [sorted(found[start : start + _PART], key=key) for start in range(0, len(found), _PART)]
    return list(merge(*parts, key=key))
