"""What a pickle becomes here: inert values, which record what the pickle asked for and do nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

# Added to the name of a global of the table if its row refuses the arguments or the state that a pickle gives it.
ODD: Final = "(…)"
# Stands in `Opaque.how` for an attribute of an object. Nobody knows what calling it would do.
BOUND: Final = "bound"
# Functions that picklers call to name something. `pickles.references` says which calls these are.
NAMING: Final = frozenset((("builtins", "getattr"), ("builtins", "type"), ("_operator", "getitem")))


class Dict(list[Any]):
    """A dict or OrderedDict as a list of its keys and values: `[key, value, key, value, …]`. BUILD sets `state`."""

    __slots__ = ("state",)

    state: object

    def pairs(self) -> Iterator[tuple[Any, Any]]:
        """Return the keys with their values, in order."""
        values = iter(self)
        return zip(values, values, strict=True)


class Made:
    """What calling a global would have made: `args` are the arguments.

    `state` lists what BUILD was given, `items` what was put in, both in order; `items` is a Dict where only keys with
    values were put in.
    """

    __slots__ = ("args", "items", "state")

    args: object
    state: list[object] | None
    items: list[object] | None

    def fill(self, items: list[object], pairs: bool = False) -> None:
        """Note what is put into it; `pairs` says that it is keys with values.

        The list is extended in place: to copy it at every call would take quadratic time.
        """
        if self.items is None:
            self.items = Dict(items) if pairs else items
            return
        if type(self.items) is Dict and not pairs:
            self.items = list(self.items)  # once: from now on it is a list
        self.items += items

    def build(self, state: object) -> None:
        """Note the state that BUILD sets."""
        if self.state is None:
            self.state = []
        self.state.append(state)


class Opaque(Made):
    """A global outside the table, or the value that calling it would have made. Nothing was called.

    `args` is None for the bare global. `how` is the opcode that would have called it, or BOUND. `callee` is what would have been
    called, where that is not the global itself but something it had made.
    """

    __slots__ = ("callee", "how", "kwargs", "module", "name")

    def __init__(
        self, module: str, name: str, args: object = None, how: str = "", callee: Opaque | None = None
    ) -> None:
        self.module = module
        self.name = name
        self.args = args
        self.how = how
        self.callee = callee
        self.kwargs: object = None
        self.state = self.items = None

    def __repr__(self) -> str:
        called = "" if self.args is None else ODD
        return f"<Opaque {self.module}.{self.name}{called}>"


class ValueRow:
    """A global of the closed table that makes plain values, if `takes` accepts its arguments.

    `states` says which states BUILD may set on a value, which it is given as it was before, and `fills` what may be put
    in: "items", "pairs" or nothing.
    `make` makes something other than a `Value` from the arguments, or None for arguments that it does not accept; its
    second argument says whether `__new__` is called instead of the class.
    """

    __slots__ = ("fills", "make", "module", "name", "states", "takes")

    def __init__(
        self,
        module: str,
        name: str,
        takes: Callable[[tuple[Any, ...]], bool],
        states: Callable[[Value, object], bool],
        fills: str = "",
        make: Callable[[tuple[Any, ...], bool], object] | None = None,
    ) -> None:
        self.module = module
        self.name = name
        self.takes = takes
        self.states = states
        self.fills = fills
        self.make = make

    def made(self, args: tuple[Any, ...], new: bool = False) -> object:
        """The result of a call; None if it may be more than a plain value with these arguments."""
        if self.make is not None:
            return self.make(args, new)
        return Value(self, args) if self.takes(args) else None


class Value(Made):
    """A plain value made by a row of the closed table: a set, an array, a date … `row` says which.

    `checked` is what the row's check of the state found out, if later checks need it. A value has few slots, because
    one byte of a pickle makes an empty set.
    """

    __slots__ = ("checked", "row")

    checked: object
    # A value is made by calling its global, never a method of it, and without named arguments.
    callee: ClassVar[None] = None
    kwargs: ClassVar[None] = None

    def __init__(self, row: ValueRow, args: tuple[Any, ...]) -> None:
        self.row = row
        self.args = args
        self.state = self.items = self.checked = None

    @property
    def module(self) -> str:
        """The module of the global."""
        return self.row.module

    @property
    def name(self) -> str:
        """The name of the global in its module."""
        return self.row.name

    def __repr__(self) -> str:
        return f"<Value {self.module}.{self.name}{ODD}>"


class PersistentId:
    """A persistent id, if the caller did not say what it stands for. `value` is the id."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


class TableEntry:
    """A global of the closed table. `build` makes a value from the arguments; None if the global can only be named.

    `new` does the same for NEWOBJ, which calls a class's `__new__` and not its `__init__`; it is None for functions.
    `value` is what the name stands for, such as a dtype.
    """

    __slots__ = ("build", "module", "name", "new", "value")

    def __init__(
        self,
        module: str,
        name: str,
        build: Callable[[tuple[Any, ...]], object] | None = None,
        value: object = None,
        new: Callable[[tuple[Any, ...]], object] | None = None,
    ) -> None:
        self.module = module
        self.name = name
        self.build = build
        self.new = new
        self.value = value


Table = Mapping[tuple[str, str], TableEntry | ValueRow]


@dataclass(slots=True)
class Pickled:
    """The content of one pickle: its value, its end, and the globals it names, with the byte of their first mention."""

    value: object
    end: int
    globals: dict[tuple[str, str], int] = field(default_factory=dict)


def grown(items: list[object] | None, more: list[object]) -> list[object]:
    """Extend a list in place, because copying it at every call would be quadratic."""
    if items is None:
        return more
    items += more
    return items
