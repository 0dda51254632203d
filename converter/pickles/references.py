"""Calls by which Python's own picklers write the name of something, and which therefore count as naming it.

A pickler writes a global by its module and name where it can. It has no other way than a call for these:

- a method or nested class before protocol 4, and an enum's member in Python 3.11: `getattr(Class, "name")`;
- a bound method, such as a hook of a module: `getattr(object, "name")`;
- the type of None, `...` and NotImplemented: `type(None)`;
- a type of the module typing with its parameters: `getitem(typing.Union, …)`.

Any other use of these functions can do harm. So they are left out of the globals of a pickle only if each mention of
them is called like this, at once, and goes nowhere else. `only_called` checks that over the opcodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from converter.errors import ConverterError
from converter.pickles import opcodes as op
from converter.pickles.values import Opaque, TableEntry, ValueRow

BOUND: Final = "bound"  # stands in `Opaque.how` for what an object's attribute is: nobody knows what calling it would do
_GETATTR: Final = ("builtins", "getattr")
_TYPE: Final = ("builtins", "type")


def _attribute(args: tuple[Any, ...], find: Callable[[str, str], object]) -> object:
    """The attribute as a global if a class has it; that of an object is named after the object's class, too."""
    if len(args) != 2 or type(args[1]) is not str or not args[1].isidentifier():
        return None
    owner, name = args
    if not isinstance(owner, Opaque | TableEntry | ValueRow):
        return None
    if not isinstance(owner, Opaque) or owner.args is None:
        return find(owner.module, f"{owner.name}.{name}")
    if type(owner) is not Opaque or owner.how == BOUND or owner.callee is not None:
        return None
    find(owner.module, f"{owner.name}.{name}")
    return Opaque(owner.module, f"{owner.name}.{name}", args, BOUND)


def _type_of(args: tuple[Any, ...], find: Callable[[str, str], object]) -> object:
    return Opaque("types", "NoneType") if args == (None,) else None


def _parametrised(args: tuple[Any, ...], find: Callable[[str, str], object]) -> object:
    if len(args) != 2 or type(args[0]) is not Opaque or args[0].args is not None or args[0].module != "typing":
        return None
    return Opaque("typing", args[0].name, args, BOUND)


# What a call names; None for a call that no pickler writes.
REFERENCES: Final[dict[tuple[str, str], Callable[[tuple[Any, ...], Callable[[str, str], object]], object]]] = {
    _GETATTR: _attribute,
    _TYPE: _type_of,
    ("_operator", "getitem"): _parametrised,
    ("operator", "getitem"): _parametrised,
}
