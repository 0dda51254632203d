"""The pickle machine: opcodes go in, inert values come out.

It imports nothing, looks nothing up by name and calls nothing that a pickle names.

A pickle is a program for a stack machine (CPython's Lib/pickletools.py describes it). This machine runs the same
program. Where an unpickler would import a global and call it, a closed table decides instead: for a global in the
table, a function of this package builds a plain value from plain arguments; any other global becomes an `Opaque`, which
remembers what the pickle asked for.

Nothing that a pickle made is hashed or compared. A dict is kept as a list of its keys and values, so anything can be a
key and no collision costs time. Values may be shared and may contain themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from converter.errors import ConverterError, LimitError, PickleError
from converter.limits import limits
from converter.pickles import opcodes as op
from converter.pickles.fast_tensors import FastTensors
from converter.pickles.opcodes import NAMES
from converter.pickles.value_rows import copied, plain_attributes
from converter.pickles.values import BOUND, NAMING, ODD, Dict, Made, Opaque, Table, TableEntry, Value, ValueRow

# Called with the byte, the error that a strict run would have raised, and whether every unpickler stops there.
Note = Callable[[int, ConverterError, bool], None]

DEAD_ENDS: Final = 64  # errors at which every unpickler stops; after so many of them a lenient run stops, too
MISTAKES: Final = 1000  # errors that some unpickler accepts; no program writes so many, and each takes its time


class Lost:
    """A stand-in on the stack for the result of an opcode that can't be run."""

    def __repr__(self) -> str:
        return "…"


class Reader:
    """Whoever runs a pickle that has bytes between its opcodes, or is longer than the data at hand."""

    def behind(self, position: int, made: Made) -> tuple[bytes, int, object] | None:
        """Called after BUILD with the byte that follows and the object.

        If bytes that are not opcodes follow there, it returns the data to go on with, where the next opcode is in it, and
        what takes the object's place on the stack; otherwise None.
        """

    def longer(self, needs: int) -> bytes | None:
        """The data at hand with more after it, at least `needs` bytes in all; None if there are not that many."""


class Machine:
    """What one run knows, and what opcodes do with it: memo, globals, calls, containers and states.

    `used` are the globals named so far, with their bytes; `size` is the bytes of the pickle; `copied` counts the values
    that calls have copied out of their arguments.
    """

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
        self.used = used
        self.called = called
        self.note = note
        self.reader = reader
        self.size = self.copied = self.mistakes = 0
        self.stopped: list[PickleError] = []  # errors at which every unpickler stops
        self.protocol = 0
        self.frame = 0  # where the last frame ends
        self.buffers = False  # whether an opcode that takes a buffer was refused already
        self.limits = limits()
        # Globals that were looked up before. An unknown one is kept as its module and name.
        self.found: dict[tuple[str, str], TableEntry | ValueRow | tuple[str, str]] = {}
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
                from converter.pickles.leniency import in_python_3, writable  # ordinary checkpoints need none of it

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

    def refuse(self, at: int, error: ConverterError) -> None:
        """Raise the error in a strict run. A lenient run notes it and goes on as some unpickler does."""
        if self.note is None:
            raise error
        self.mistakes += 1
        if self.mistakes > MISTAKES:
            most = LimitError(f"more than {MISTAKES:,} mistakes before byte {at:,}: what follows was not run")
            self.note(at, most, True)
            raise most
        self.note(at, error, False)

    def copy(self, count: int, at: int) -> None:
        """Count the values that a call copied out of its arguments.

        A pickle can pass one list to many calls and so multiply it. A list that is passed once is never too long,
        because it has no more items than the pickle has bytes.
        """
        self.copied += count
        if self.copied > 2 * self.size:
            raise LimitError(
                f"at byte {at:,} a list is passed to more calls than a checkpoint needs, and each copies it"
            )

    def odd(self, module: str, name: str, at: int) -> None:
        """Note a call of a global in the table that may make more than a plain value, as if the global were outside."""
        self.used.setdefault((module, f"{name}{ODD}"), at)

    def extend(self, target: Any, items: list[Any], code: int, at: int) -> None:
        """Put keys and values into a dict or an Opaque."""
        if len(items) & 1:
            raise PickleError(f"{NAMES[code]} at byte {at:,} has a key without a value")
        if type(target) is Dict:
            target += items
        elif type(target) is Opaque or (type(target) is Value and target.row.fills == "pairs"):
            target.fill(items, pairs=True)
        else:
            problem = PickleError(f"{NAMES[code]} at byte {at:,} puts keys into a {type(target).__name__}")
            # Unpicklers set items of a list by index, and do nothing if there are no items.
            if items and type(target) is not list:
                raise problem
            self.refuse(at, problem)

    def append(self, target: Any, items: list[Any], code: int, at: int) -> None:
        """Put values into a list or an Opaque."""
        if type(target) is list:
            target += items
        elif type(target) is Opaque or (type(target) is Value and target.row.fills == "items"):
            target.fill(items)
        else:
            problem = PickleError(f"{NAMES[code]} at byte {at:,} appends to a {type(target).__name__}")
            if items:
                raise problem
            self.refuse(at, problem)

    def build(self, target: Any, state: object, at: int) -> None:
        """Note the state that BUILD would set on a value."""
        if type(state) is Dict and state:
            self.copy(len(state), at)
        if type(target) is Dict:
            target.state = state
            if state and not plain_attributes(state):
                self.odd("collections", "OrderedDict", at)
        elif type(target) is Value:
            known = target.row.states(target, state)
            target.build(state)
            self.copy(copied(state), at)
            if not known:
                self.odd(target.module, target.name, at)
        elif type(target) is Opaque:
            target.build(state)
            if self.called is not None:
                self.called(at, target)
        else:
            from converter.pickles.leniency import sets_nothing

            problem = PickleError(f"BUILD at byte {at:,} sets the state of a {type(target).__name__}")
            if not sets_nothing(state):
                raise problem
            self.refuse(at, problem)
