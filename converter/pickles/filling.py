"""What a pickle puts into values that it made earlier, and what the machine counts and notes about that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from converter.errors import ConverterError, LimitError, PickleError
from converter.pickles.leniency import MISTAKES, Note, sets_nothing
from converter.pickles.opcodes import NAMES
from converter.pickles.value_rows import copied, plain_attributes
from converter.pickles.values import ODD, Dict, Opaque, Value


class Filling:
    """The part of a machine that fills containers and sets states.

    `used` are the globals named so far, with their bytes; `size` is the bytes of the pickle; `copied` counts the values
    that calls have copied out of their arguments.
    """

    def __init__(
        self,
        used: dict[tuple[str, str], int],
        called: Callable[[int, Opaque], None] | None,
        note: Note | None,
    ) -> None:
        self.used = used
        self.called = called
        self.note = note
        self.size = self.copied = self.mistakes = 0

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
            raise LimitError(f"at byte {at:,} a list is passed to more calls than a checkpoint needs: they multiply it")

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
            problem = PickleError(f"BUILD at byte {at:,} sets the state of a {type(target).__name__}")
            if not sets_nothing(state):
                raise problem
            self.refuse(at, problem)
