"""The machine behind the opcodes: memo, globals and calls, and what each opcode does that is rare in checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from converter.errors import LimitError, PickleError, UnsupportedError
from converter.limits import limits
from converter.pickles import opcodes as op
from converter.pickles.fast_tensors import FastTensors
from converter.pickles.filling import Filling
from converter.pickles.leniency import Lost, Note, in_python_3, python2_string, writable
from converter.pickles.opcodes import NAMES
from converter.pickles.value_rows import FROZENSET, SET, copied
from converter.pickles.values import BOUND, NAMING, Dict, Made, Opaque, Table, TableEntry, Value, ValueRow


class Reader:
    """Whoever runs a pickle that has bytes between its opcodes, or is longer than the data at hand."""

    def behind(self, position: int, made: Made) -> tuple[bytes, int, object] | None:
        """Called after BUILD with the byte that follows and the object.

        If bytes that are not opcodes follow there, it returns the data to go on with, where the next opcode is in it, and
        what takes the object's place on the stack; otherwise None.
        """

    def longer(self, needs: int) -> bytes | None:
        """The data at hand with more after it, at least `needs` bytes in all; None if there are not that many."""


class Machine(Filling):
    """The stack, marks and memo of one run."""

    def __init__(
        self,
        table: Table,
        persistent: Callable[[object], object],
        used: dict[tuple[str, str], int],
        called: Callable[[int, Opaque], None] | None,
        note: Note | None,
        reader: Reader | None,
    ) -> None:
        self.table = table
        self.persistent = persistent
        super().__init__(used, called, note)
        self.reader = reader
        self.stopped: list[PickleError] = []  # errors at which every unpickler stops
        self.protocol = 0
        self.frame = 0  # where the last frame ends
        self.buffers = False  # whether it asks for one
        self.limits = limits()
        self.found: dict[tuple[str, str], TableEntry | ValueRow | tuple[str, str]] = {}  # an unknown one by its names
        self.naming: dict[tuple[str, str], int] = {}  # functions of NAMING, with the byte of their first mention
        # Picklers number memo entries from 0 on, so the memo is a list. Other numbers go into a dict, keyed by number XOR a
        # random salt, so that a pickle cannot choose numbers that collide.
        self.memo: list[Any] = []
        self.sparse: dict[int, Any] = {}
        self.salt = int.from_bytes(os.urandom(7), "little")
        self.fast = FastTensors(self.memo, self.sparse, persistent)

    def put(self, number: int, value: object) -> None:
        """Put a value into the memo. It replaces an earlier value with the same number."""
        if number < len(self.memo):
            self.memo[number] = value
        elif number > len(self.memo):
            self.sparse[number ^ self.salt] = value
        else:
            self.memo.append(value)
            self.sparse.pop(number ^ self.salt, None)

    def unmarked(self, below: list[list[Any]], code: int, at: int) -> list[Any]:
        """Return the stack as it was at the last MARK."""
        if not below:
            raise PickleError(f"{NAMES[code]} at byte {at:,} without a MARK before it")
        return below.pop()

    def find(self, module: str, name: str, at: int) -> TableEntry | ValueRow | Opaque:
        """Return the table's entry for a global, or an Opaque if it has none. Nothing is imported."""
        pair = (module, name)
        overlong = len(module) + len(name) > self.limits.line
        if overlong:
            long = f"the name of a global at byte {at:,} has more than {self.limits.line:,} characters"
            self.refuse(at, LimitError(long))
        found = self.found.get(pair)
        if found is None:
            found = self.table.get(pair)
            if found is None:
                pair = in_python_3(module, name) if self.protocol < 3 else pair
                if self.note is not None and (overlong or not (module.isascii() and name.isascii())):
                    pair = writable(pair[0]), writable(pair[1])
                found = self.table.get(pair, pair)
            (self.naming if pair in NAMING else self.used).setdefault(pair, at)
            self.found[module, name] = found
        return Opaque(*found) if isinstance(found, tuple) else found

    def call(self, callee: Any, args: Any, code: int, at: int) -> object:
        """Return the result of a call. Only functions of the table run, and they get plain values."""
        if type(callee) is TableEntry:
            if type(args) is not tuple:
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} gives {callee.module}.{callee.name} no tuple of arguments"
                )
            build = callee.new if code in (op.NEWOBJ, op.NEWOBJ_EX) else callee.build
            if build is None:
                raise PickleError(
                    f"{NAMES[code]} at byte {at:,} calls {callee.module}.{callee.name}, which can't be called"
                )
            return build(args)
        if type(callee) is ValueRow:
            known = callee.made(args, code in (op.NEWOBJ, op.NEWOBJ_EX)) if type(args) is tuple else None
            if known is not None:
                self.copy(copied(known.args) if type(known) is Value else len(known), at)  # type: ignore[arg-type]
                return known
            self.odd(callee.module, callee.name, at)
            callee = Opaque(callee.module, callee.name)
        if type(callee) is Opaque:
            how = NAMES[code]
            if callee.how == BOUND:
                self.settle(None)
            naming = callee.args is None and (callee.module, callee.name) in self.naming
            if naming and (named := self.named(callee, args, at)) is not None:
                return named
            made = Opaque(callee.module, callee.name, args, how, callee if callee.args is not None else None)
            if self.called is not None:
                self.called(at, made)
            return made
        raise PickleError(f"{NAMES[code]} at byte {at:,} calls a {type(callee).__name__}, which can't be called")

    def named(self, callee: Opaque, args: Any, at: int) -> object:
        """What a call of a function of NAMING names. For any other call of it, the function counts as any global."""
        from converter.pickles.references import referred

        named = referred(callee, args, lambda module, name: self.find(module, name, at))
        if named is None:
            self.settle(callee)
        elif self.called is not None:
            self.called(at, Opaque(callee.module, callee.name, args, NAMES[op.REDUCE]))
        return named

    def settle(self, only: Opaque | None) -> None:
        """Let these functions, or one of them, count as globals that the pickle uses."""
        for pair, at in list(self.naming.items()):
            if only is None or pair == (only.module, only.name):
                self.used.setdefault(pair, at)

    def check(self, count: int, memo: int, stack: int, at: int) -> None:
        """Raise LimitError if the pickle asks for more work than any checkpoint needs."""
        for number, limit, what in (
            (count, self.limits.opcodes, "opcodes"),
            (memo, self.limits.memo, "memo entries"),
            (stack, self.limits.stack, "values on the stack"),
        ):
            if number > limit:
                raise LimitError(f"{number:,} {what} at byte {at:,}: at most {limit:,} are allowed")

    def refuse_buffer(self, code: int, at: int) -> None:
        """Refuse an opcode that takes a buffer from its caller; one is enough."""
        if self.buffers:
            return
        self.buffers = True
        outside = f"{NAMES[code]} at byte {at:,} refers to a buffer outside the pickle, which a file does not have"
        self.refuse(at, PickleError(outside))


# What an opcode does, given its argument, its byte, the stack and those under each open MARK. Returns the stack to go on with.
Rare = Callable[[Machine, Any, int, list[Any], list[list[Any]]], list[Any]]


def _push(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(argument)  # None is the argument of NONE
    return stack


def _true(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(True)
    return stack


def _string(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(python2_string(argument, lenient=machine.note is not None))
    return stack


def _empty_dict(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(Dict())
    return stack


def _empty_list(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append([])
    return stack


def _empty_set(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(Value(SET, ()))
    return stack


def _list(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.LIST, at)
    stack.append(items)
    return stack


def _dict(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.DICT, at)
    stack.append(Dict())
    machine.extend(stack[-1], items, op.DICT, at)
    return stack


def _frozenset(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.FROZENSET, at)
    stack.append(Value(FROZENSET, (items,)))
    return stack


def _setitem(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    value, key = stack.pop(), stack.pop()
    machine.extend(stack[-1], [key, value], op.SETITEM, at)
    return stack


def _append(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    value = stack.pop()
    machine.append(stack[-1], [value], op.APPEND, at)
    return stack


def _appends(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.APPENDS, at)
    machine.append(stack[-1], items, op.APPENDS, at)
    return stack


def _additems(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.ADDITEMS, at)
    machine.append(stack[-1], items, op.ADDITEMS, at)
    return stack


def _pop(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    # As in CPython: where nothing lies above the MARK, POP removes the MARK.
    if not stack and below:
        return below.pop()
    stack.pop()
    return stack


def _pop_mark(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    return machine.unmarked(below, op.POP_MARK, at)


def _dup(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(stack[-1])
    return stack


def _build(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    state = stack.pop()
    machine.build(stack[-1], state, at)
    return stack


def _newobj(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    args = stack.pop()
    stack[-1] = machine.call(stack[-1], args, op.NEWOBJ, at)
    return stack


def _newobj_ex(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    kwargs, args = stack.pop(), stack.pop()
    made = machine.call(stack[-1], args, op.NEWOBJ_EX, at)
    if type(made) is Opaque:
        made.kwargs = kwargs
    elif kwargs:
        raise PickleError(f"NEWOBJ_EX at byte {at:,} gives arguments by name to a call that takes none")
    stack[-1] = made
    return stack


def _obj(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    items, stack = stack, machine.unmarked(below, op.OBJ, at)
    stack.append(machine.call(items[0], tuple(items[1:]), op.OBJ, at))
    return stack


def _inst(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    # Before the MARK is looked for: Python's unpickler imports it without one.
    found = machine.find(argument[0], argument[1], at)
    items, stack = stack, machine.unmarked(below, op.INST, at)
    stack.append(machine.call(found, tuple(items), op.INST, at))
    return stack


def _extension(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    # The number of a global that some process registered with copyreg; the file does not say which.
    if machine.note is not None:
        number = f"EXT at byte {at:,} names a global by a number, whose meaning the file does not hold"
        machine.refuse(at, UnsupportedError(number))
    stack.append(machine.find("copyreg", f"_extension_registry[{argument}]", at))
    return stack


def _persid(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    stack.append(machine.persistent(argument))
    return stack


def _proto(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.protocol = argument
    machine.found.clear()  # protocols 0 to 2 have other names for some globals
    return stack


def _frame(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.frame = at + 9 + argument
    return stack


def _next_buffer(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.refuse_buffer(op.NEXT_BUFFER, at)
    stack.append(Lost())
    return stack


def _readonly_buffer(machine: Machine, argument: Any, at: int, stack: list[Any], below: list[list[Any]]) -> list[Any]:
    machine.refuse_buffer(op.READONLY_BUFFER, at)
    stack.append(stack.pop())
    return stack


_PUSHED: Final = (
    op.NONE, op.INT, op.LONG, op.LONG1, op.LONG4, op.FLOAT, op.BINFLOAT,
    op.UNICODE, op.BINUNICODE8, op.BINBYTES, op.SHORT_BINBYTES, op.BINBYTES8, op.BYTEARRAY8,
)  # fmt: skip
RARE: Final[dict[int, Rare]] = {
    **dict.fromkeys(_PUSHED, _push),
    **dict.fromkeys((op.STRING, op.BINSTRING, op.SHORT_BINSTRING), _string),
    **dict.fromkeys((op.EXT1, op.EXT2, op.EXT4), _extension),
    op.NEWTRUE: _true, op.EMPTY_DICT: _empty_dict, op.EMPTY_LIST: _empty_list, op.EMPTY_SET: _empty_set,
    op.LIST: _list, op.DICT: _dict, op.FROZENSET: _frozenset, op.SETITEM: _setitem, op.APPEND: _append,
    op.APPENDS: _appends, op.ADDITEMS: _additems, op.POP: _pop, op.POP_MARK: _pop_mark, op.DUP: _dup,
    op.BUILD: _build, op.NEWOBJ: _newobj, op.NEWOBJ_EX: _newobj_ex, op.OBJ: _obj, op.INST: _inst,
    op.PERSID: _persid, op.PROTO: _proto, op.FRAME: _frame, op.NEXT_BUFFER: _next_buffer,
    op.READONLY_BUFFER: _readonly_buffer,
}  # fmt: skip
