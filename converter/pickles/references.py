"""Calls by which Python's own picklers write the name of something, and which therefore count as naming it.

A pickler writes a global by its module and name where it can. It has no other way than a call for these:

- a method or nested class before protocol 4, and an enum's member in Python 3.11: `getattr(Class, "name")`;
- a bound method, such as a hook of a module: `getattr(object, "name")`;
- the type of None, Ellipsis or NotImplemented: `type(None)`;
- a type of the module typing with its parameters: `getitem(typing.Union, …)`.

Any other use of these functions can do harm. So they are left out of the globals of a pickle only if each mention of
them is called like this, at once, and goes nowhere else. `only_called` checks that over the opcodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from converter.errors import ConverterError
from converter.pickles import opcodes as op
from converter.pickles.values import BOUND, Opaque, TableEntry, ValueRow


def _attribute(args: tuple[Any, ...], find: Callable[[str, str], object]) -> object:
    """The attribute as a global, if a class has it. An attribute of an object is named after the object's class, too."""
    if len(args) != 2 or type(args[1]) is not str or not args[1].isidentifier():
        return None
    owner, name = args
    if not isinstance(owner, Opaque | TableEntry | ValueRow):
        return None
    if not isinstance(owner, Opaque) or owner.args is None:
        return find(owner.module, f"{owner.name}.{name}")
    if owner.how == BOUND or owner.callee is not None:
        return None
    find(owner.module, f"{owner.name}.{name}")
    return Opaque(owner.module, f"{owner.name}.{name}", args, BOUND)


def _type_of(args: tuple[Any, ...], find: Callable[[str, str], object]) -> object:
    if args == (None,):
        return Opaque("types", "NoneType")
    if len(args) == 1 and type(args[0]) is ValueRow and (args[0].module, args[0].name) in _SINGLE:
        return Opaque("types", f"{args[0].name}Type")
    return None


_SINGLE: Final = (("builtins", "Ellipsis"), ("builtins", "NotImplemented"))  # values that a pickle names as globals


def _parametrised(args: tuple[Any, ...], find: Callable[[str, str], object]) -> object:
    if len(args) != 2 or type(args[0]) is not Opaque or args[0].args is not None or args[0].module != "typing":
        return None
    return Opaque("typing", args[0].name, args, BOUND)


_REFERENCES: Final[dict[tuple[str, str], Callable[[tuple[Any, ...], Callable[[str, str], object]], object]]] = {
    ("builtins", "getattr"): _attribute,
    ("builtins", "type"): _type_of,
    ("_operator", "getitem"): _parametrised,
}


def referred(callee: Opaque, args: object, find: Callable[[str, str], object]) -> object:
    """What a call of one of these functions names; None for a call that no pickler writes. `find` finds a global."""
    return _REFERENCES[callee.module, callee.name](args, find) if type(args) is tuple else None


_CALLEE, _MADE = object(), object()  # values on the stack: one of these functions, and what a call of one made
_TEXTS: Final = frozenset((op.SHORT_BINUNICODE, op.BINUNICODE, op.BINUNICODE8, op.UNICODE))
_GETS: Final = frozenset((op.BINGET, op.LONG_BINGET, op.GET))
_PUTS: Final = frozenset((op.BINPUT, op.LONG_BINPUT, op.PUT, op.MEMOIZE))
_NOTHING: Final = frozenset((op.PROTO, op.FRAME))
# How many values an opcode takes from the stack. Each of these opcodes puts one value there.
_TAKES: Final = {
    op.TUPLE1: 1, op.TUPLE2: 2, op.TUPLE3: 3, op.BINPERSID: 1, op.STACK_GLOBAL: 2, op.REDUCE: 2, op.NEWOBJ: 2,
    op.NEWOBJ_EX: 3, op.BUILD: 2, op.APPEND: 2, op.SETITEM: 3,
}  # fmt: skip
# Opcodes that make one value of all values after MARK.
_SLICES: Final = frozenset((op.TUPLE, op.LIST, op.DICT, op.FROZENSET, op.OBJ, op.INST))
_FILLS: Final = frozenset((op.APPENDS, op.SETITEMS, op.ADDITEMS))  # all after MARK go into the value below
_ENDS: Final = _SLICES | _FILLS | {op.POP, op.POP_MARK}  # all remove the last MARK
_CHANGES: Final = frozenset((op.BUILD, op.APPEND, op.SETITEM))  # the value below is changed
_OTHERS: Final = frozenset((op.DUP, op.READONLY_BUFFER, op.NEXT_BUFFER, op.EXT1, op.EXT2, op.EXT4))


def only_called(data: bytes, position: int, named: Callable[[str, str], bool]) -> bool:
    """Whether each global that `named` accepts is at once the callee of a REDUCE, wherever it is on the stack.

    What such a call makes is never changed. The pickle that starts at `position` is decoded again, and nothing is
    made. False for opcodes that picklers do not write, and for whatever can't be decoded.
    """
    try:
        return _Flow(named).holds(data, position)
    except (ConverterError, IndexError, KeyError):
        return False


class _Flow:
    """The stack of a pickle, as far as these functions are concerned: texts that may name one, and None for the rest."""

    def __init__(self, named: Callable[[str, str], bool]) -> None:
        self.named = named
        # Only numbers that picklers write, which count up from 0. So a file can't choose numbers whose hashes collide.
        self.memo: dict[int, object] = {}
        self.stack: list[object] = []

    def holds(self, data: bytes, position: int) -> bool:
        below: list[list[object]] = []
        for code, argument, _ in op.decode(data, position):
            stack = self.stack
            if code in _GETS:
                stack.append(self.memo[argument])
            elif code in _PUTS:
                number = len(self.memo) if code == op.MEMOIZE else argument
                if number != len(self.memo):
                    return False
                self.memo[number] = stack[-1]
            elif code in _TAKES:
                taken = stack[-_TAKES[code] :]
                if len(taken) < _TAKES[code]:
                    return False
                made = self._made(code, taken)
                if made is _CALLEE and code != op.STACK_GLOBAL:
                    return False
                stack[-len(taken) :] = [made]
            elif code == op.MARK:
                below.append(stack)
                self.stack = []
            elif code == op.POP and (stack or not below):
                if stack.pop() is _CALLEE:
                    return False
            elif code in _ENDS:
                if _CALLEE in stack or (code == op.INST and self.named(*argument)):
                    return False
                self.stack = below.pop()
                if code in _SLICES:
                    self.stack.append(None)
                elif code in _FILLS and (self.stack[-1] is _CALLEE or self.stack[-1] is _MADE):
                    return False
            elif code == op.GLOBAL:
                stack.append(_CALLEE if self.named(*argument) else None)
            elif code == op.STOP:
                return stack[-1] is not _CALLEE
            elif code in _OTHERS:
                return False
            elif code not in _NOTHING:
                stack.append(argument if code in _TEXTS else None)
        return False

    def _made(self, code: int, taken: list[object]) -> object:
        """What an opcode puts on the stack; `_CALLEE` even where a function goes anywhere but into a call."""
        if code == op.STACK_GLOBAL:
            module, name = taken
            if not isinstance(module, str) or not isinstance(name, str):
                raise KeyError
            return _CALLEE if self.named(module, name) else None
        if code == op.REDUCE and taken[0] is _CALLEE:
            return _CALLEE if taken[1] is _CALLEE else _MADE
        if _CALLEE in taken or (code in _CHANGES and taken[0] is _MADE):
            return _CALLEE
        return taken[0] if code in _CHANGES else None
