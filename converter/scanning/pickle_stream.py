"""Runs pickles one after another without loading anything, and reads no more of a source than its pickles take.

All globals are kept inert here, even those of the closed table, so that a pickle whose tensors make no sense is still
read to its end. Nothing is reported here.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

from converter.errors import (
    ConverterError,
    FrameError,
    LimitError,
    PickleError,
    TruncatedPickleError,
)
from converter.formats import uncollected
from converter.io.source import Memory, Source
from converter.limits import limits
from converter.pickles.arguments import is_harmless
from converter.pickles.closed_table import TABLE
from converter.pickles.loop import run
from converter.pickles.opcodes import (
    FIXED_WIDTHS,
    OPCODES,
    STOP,
    Refuse,
    decode,
    strictly,
)
from converter.pickles.value_rows import VALUES
from converter.pickles.values import ODD, Opaque, PersistentId, Table
from converter.scanning.budget import Budget
from converter.scanning.danger import danger
from converter.scanning.place import Claim
from converter.words import raising

FIRST: Final = 64 << 10  # bytes read to see whether there is a pickle; if there is one, more are read
_GROWTH: Final = 16  # if a pickle goes on, this many times as much is read, and it is run again from its start
_ENOUGH: Final = 32  # opcodes in a row that text which happens to start like a pickle does not have
_FEW: Final = 6  # opcodes in a row that binary data does not start with by chance
_SHORT: Final = 10  # characters; a text this short holds no pickle
_HEAD: Final = 512  # bytes that show whether data is text
_TEXT: Final = bytes(range(0x20, 0x7F)) + b"\t\n\v\f\r"
_CALLS: Final = ("REDUCE", "NEWOBJ", "NEWOBJ_EX", "INST", "OBJ", "BUILD", "EXT1", "EXT2", "EXT4")
_CALLS_WITHOUT_ARGUMENT: Final = frozenset(
    OPCODES[name][0] for name in _CALLS if not FIXED_WIDTHS.get(OPCODES[name][1], 1)
)
_CALL_WITH_ARGUMENT: Final = re.compile(rb"i[^\n]*+\n[^\n]*+\n|\x82.|\x83..|\x84.{4}", re.DOTALL).match
# A call and the opcodes of one byte after it. A pickle may hold almost nothing else.
_WITHOUT_ARGUMENT: Final = re.compile(
    b"[%s]{1,1000}+"
    % re.escape(bytes(code for code, written in OPCODES.values() if not FIXED_WIDTHS.get(written, 1) and code != STOP))
).match
_AT_A_TIME: Final = 10_000  # opcodes that are passed over in one match
_IDENTIFIER: Final = re.compile(r"[A-Za-z_][\w.]*")
_SPELLED: Final = re.compile(rb"[ci][A-Za-z_][\w.]{0,60}\n[A-Za-z_][\w.]{0,60}\n")  # GLOBAL and INST, as text
_BASE64: Final = re.compile(rb"(?:gA[A-Za-z0-9+/]|[YK][A-Za-z0-9+/]{2})[A-Za-z0-9+/\s]{9,}+={0,2}")
_NAMING: Final = re.compile(rb"[ci\x82-\x84\x93]|gA|[YK][A-Za-z0-9+/]{2}")  # an opcode that names a global, or base64


@dataclass(frozen=True, slots=True)
class PickleRun:
    """One pickle, run inert.

    `error` says why no unpickler runs it to its end, and `failed` is the byte of that error; `reached` is how far the
    pickle could be decoded. `notes` are mistakes that some unpickler accepts, each with its byte.

    `globals` have the byte of their first mention, `calls` and `texts` the byte of their opcode. `calls` are those
    outside the closed table, up to the limit on how many are listed; `opcodes` counts the opcodes that construct calls;
    `texts` may be pickles themselves.
    """

    start: int
    end: int | None
    globals: dict[tuple[str, str], int]
    calls: list[tuple[int, Opaque]]
    error: ConverterError | None
    reached: int
    opcodes: dict[str, int]
    texts: list[tuple[int, bytes]]
    tensors: int
    decoded: int  # opcodes up to the first error, or one more than `_ENOUGH`
    failed: int
    notes: list[tuple[int, ConverterError]]
    framed: int  # the end of a frame that some opcode crosses; 0 if there is none

    @property
    def plausible(self) -> bool:
        """Whether the globals it names look like names: sometimes bytes that are not a pickle can be run, too."""
        named = self.named
        if not named or self.error is None:
            return bool(named)
        return bool(self.calls) or self.decoded > _ENOUGH or any(danger(module, name) for module, name in named)

    @property
    def named(self) -> list[tuple[str, str]]:
        """The globals that look like names."""
        return [pair for pair in self.globals if all(map(_IDENTIFIER.fullmatch, pair))]


class PickleStream:
    """The pickles that follow one another in a source. `budget` counts what they take.

    After `runs`, `end` is the byte where the pickles end. `cut` is the byte where it stopped because too many pickles
    were listed, or None.
    """

    def __init__(self, source: Source, budget: Budget, claim: Claim, table: Table = VALUES) -> None:
        self.source = source
        self.budget = budget
        self.claim = claim
        self.table = table
        self.end = 0
        self.cut: int | None = None
        self._data = b""  # the source, as far as it was read

    def runs(self, start: int = 0, most: int | None = None) -> Iterator[PickleRun]:
        """Yield the pickles from `start` on, at most `most`. If there is none, `end` stays at `start`."""
        source, count = self.source, 0
        position = self.end = start
        unproven: list[PickleRun] = []  # runs that prove nothing: a text that starts with `N.` can be run, too
        framed = False  # whether the bytes after a frame that reaches past its pickle were looked at
        while position < source.size and (most is None or count + len(unproven) < most):
            if len(unproven) >= self.budget.pickles_left:
                self.cut, self.end = position, source.size
                return
            found = self.run_at(position)
            proven = found.plausible or self._is_expected(found, first=not count)
            if found.error is not None and not proven:
                break
            unproven.append(found)
            if proven or found.end == source.size:
                yield from unproven
                count += len(unproven)
                unproven.clear()
                # If a frame reaches past STOP, Python's unpickler continues its file after the frame.
                if found.end is not None and found.end < found.framed < source.size and not framed:
                    framed = True
                    behind = self.run_at(found.framed)
                    if behind.plausible:
                        yield behind
            if found.end is None:
                self.end = source.size
                return
            position = found.end
        self.end = unproven[0].start if unproven else position

    def run_at(self, start: int) -> PickleRun:
        """Run the pickle at `start`. While a pickle goes on, more of the source is read."""
        source, expected = self.source, self.claim is not Claim.DATA
        most = min(source.size, start + max(0, self.budget.pickle_nbytes))
        data = self._data
        if isinstance(source, Memory) and (expected or bytes(source.read(start, 1)) == b"\x80"):
            # Made once for all the pickles of a record.
            data = data if len(data) >= most else bytes(source.read(0, most))
        elif len(data) < min(start + FIRST, source.size):
            data = bytes(source.read(0, min(max(start + FIRST, 2 * len(data)), source.size)))
        while True:
            found = run_pickle(data, start, source.size, self.table)
            error = found.error
            if not isinstance(error, TruncatedPickleError) or error.needs > source.size:
                break
            # If no pickle is expected, more is read only for data that starts like one.
            if not (expected or found.plausible or data[start : start + 1] == b"\x80"):
                break
            if error.needs > most:
                past = (
                    f"its pickles have more than {limits().pickle_bytes:,} bytes: {raising('pickle_bytes')} to read on"
                )
                found = replace(found, error=LimitError(past))
                break
            size = max(error.needs, _GROWTH * len(data))
            # Read all of it if that is not much more, because the pickle is run again from its start each time.
            data = bytes(source.read(0, min(most, size if 2 * size < source.size else source.size)))
        self._data = data
        self.budget.run_nbytes += max(found.reached - start, 0)
        return found

    def _is_expected(self, found: PickleRun, *, first: bool) -> bool:
        """Whether a pickle that names nothing plausible still counts as a pickle."""
        if self.claim is Claim.DATA:
            return False
        if (self.claim is Claim.PICKLE and first) or isinstance(found.error, LimitError):
            return True
        head = self._data[found.start : found.start + _HEAD]
        if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
            return True
        # Two lines of a text that starts with `c` are a GLOBAL, and a text of `N` and `V` has many opcodes.
        return not _is_text(head) and (bool(found.named) or (first and found.decoded > _FEW))


def run_pickle(data: bytes, start: int, total: int | None = None, table: Table = VALUES) -> PickleRun:
    """Run a pickle inert, as leniently as any unpickler does, and pass over it once more for texts that are pickles.

    `total` is the size of all that there is, where `data` is only its beginning. Globals of `table` make plain values.
    """
    total, most = len(data) if total is None else total, limits().scan_findings
    used: dict[tuple[str, str], int] = {}
    calls: list[tuple[int, Opaque]] = []
    notes: list[tuple[int, ConverterError]] = []
    errors: list[tuple[int, ConverterError]] = []
    end: int | None = None
    tensors = framed = 0
    apart = False  # whether unpicklers read a frame differently

    def called(at: int, made: Opaque) -> None:
        nonlocal tensors
        if (made.module, made.name) in TABLE:
            tensors += made.name.startswith("_rebuild_")
            if made.args is not None and not is_harmless(made):
                used.setdefault((made.module, f"{made.name}{ODD}"), at)
            if made.args is None and len(notes) < most:
                notes.append((at, PickleError(f"BUILD at byte {at:,} changes {made.module}.{made.name} itself")))
        elif len(calls) < most:
            calls.append((at, made))

    def note(at: int, problem: ConverterError, dead_end: bool) -> None:
        nonlocal framed, apart
        if isinstance(problem, FrameError):
            framed, apart = max(framed, problem.end), apart or problem.apart
        problem = _let_go(problem)
        if dead_end:
            errors.append((at, problem))
        elif not errors and len(notes) < most:
            notes.append((at, problem))

    # If no dead end was noted, a limit ended the run.
    reached = len(data)
    try:
        with uncollected():
            end = run(data, table, _persistent, start, used=used, called=called, note=note, total=total).end
    except ConverterError as last:
        reached = errors[-1][0] if errors else len(data)
        errors.append((reached, _let_go(last)))
    counts, texts, reached = [0] * 256, dict[bytes, int](), reached if end is None else end
    with suppress(ConverterError):
        for code, argument, at in noteworthy(data, start, refuse=_let_pass, total=total):
            if at > reached:
                break
            counts[code] += 1
            if argument is not None and (raw := _pickle_in(argument)):
                texts.setdefault(raw, at)
    if apart:
        listed = {at for at, _ in calls}
        with suppress(ConverterError), uncollected():
            run(
                data, table, _persistent, start, used=used, note=_let_pass, total=total, skips=True,
                called=lambda at, made: None if at in listed else called(at, made),
            )  # fmt: skip
    return PickleRun(
        start, end, used, calls, errors[0][1] if errors else None, reached,
        {name: counts[OPCODES[name][0]] for name in _CALLS if counts[OPCODES[name][0]]},
        [(at, text) for text, at in texts.items()], tensors, _decoded(data, start, total, errors),
        errors[0][0] if errors else start, notes, framed,
    )  # fmt: skip


def _let_go(error: ConverterError) -> ConverterError:
    """Return an error without its traceback, whose frames would keep everything that the pickle made."""
    error.__context__ = error.__cause__ = None
    return error.with_traceback(None)


def _persistent(value: Any) -> object:
    """Keep a persistent id inert. `('module', class, …)`, which torch before 0.4 wrote, stands for the class."""
    if type(value) is tuple and len(value) == 4 and value[0] == "module":
        return value[1]
    return PersistentId(value)


def _decoded(data: bytes, start: int, total: int, errors: list[tuple[int, ConverterError]]) -> int:
    """How many opcodes any unpickler can decode before the first error; `_ENOUGH` + 1 if there are more than `_ENOUGH`."""
    until = errors[0][0] + isinstance(errors[0][1], TruncatedPickleError) if errors else len(data)
    count = 0
    with suppress(ConverterError):
        for _, _, at in islice(decode(data, start, refuse=_let_pass, total=total), _ENOUGH + 1):
            count += at < until
    return count


def _let_pass(at: int, error: ConverterError, dead_end: bool = False) -> None:
    _let_go(error)


def _is_text(head: bytes) -> bool:
    """Whether the beginning of some data is text: UTF-8 without control characters."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return not head.translate(None, _TEXT) or not head.translate(None, _TEXT + bytes(range(0x80, 0x100)))


def noteworthy(
    data: bytes, position: int, refuse: Refuse | None = None, total: int | None = None
) -> Iterator[tuple[int, str | bytes | None, int]]:
    """Yield those opcodes of a pickle that construct calls, and those whose text may be a pickle.

    `refuse` and `total` are as in `decode`. Frames are passed over: they change no opcode.
    """
    start = position
    while True:
        while (end := _PASS_OVER(data, position).end()) - position >= _AT_A_TIME:  # type: ignore[union-attr]
            position = end
        position = end
        if position == len(data):
            return
        code = data[position]
        if code in _CALLS_WITHOUT_ARGUMENT:
            for at, code in enumerate(_WITHOUT_ARGUMENT(data, position)[0], position):  # type: ignore[index]
                if code in _CALLS_WITHOUT_ARGUMENT:
                    yield code, None, at
            position = at + 1
            continue
        if (call := _CALL_WITH_ARGUMENT(data, position)) is not None:
            yield code, None, position
            position = call.end()
            continue
        here = decode(data, position, start=start, refuse=refuse or strictly, total=total)
        code, argument, at = next(here)
        yield code, argument if isinstance(argument, str | bytes) and len(argument) > _SHORT else None, at
        if code == STOP:
            return
        position = next(here)[2]


def _passing_over() -> Callable[[bytes, int], re.Match[bytes] | None]:
    """One regular expression for opcodes that are neither calls nor long texts, so that Python doesn't look at each."""
    codes: dict[int, bytes] = {}
    for name, (code, written) in OPCODES.items():
        if written in FIXED_WIDTHS and name not in _CALLS and name != "STOP":
            width = FIXED_WIDTHS[written]
            codes[width] = codes.get(width, b"") + re.escape(bytes([code]))
    choices = [b"[" + those + b"]" + (b".{%d}" % width if width else b"++") for width, those in codes.items()]
    short = [(length, b".{%d}" % length) for length in range(_SHORT + 1)]
    for names, zeros in ((("SHORT_BINUNICODE", "SHORT_BINBYTES", "SHORT_BINSTRING", "LONG1"), b""),
                         (("BINUNICODE", "BINBYTES", "BINSTRING"), b"\0\0\0")):  # fmt: skip
        those = b"".join(re.escape(bytes([OPCODES[name][0]])) for name in names)
        choices += [b"[" + those + b"]" + re.escape(bytes([length])) + zeros + rest for length, rest in short]
    choices += [
        b"c[^\n]*+\n[^\n]*+\n",
        b"[ILFgp][^\n]*+\n",
        b"V[^\n]{0,%d}+\n" % _SHORT,
        b"S[^\n]{0,%d}+\n" % (_SHORT + 2),
    ]
    # At most this many at a time, because each takes memory until the match ends. A possessive repeat would take
    # none, but Python before 3.11.5 runs possessive repeats of groups wrongly.
    return re.compile(b"(?:" + b"|".join(choices) + b"){0,%d}" % _AT_A_TIME, re.DOTALL).match


_PASS_OVER: Final = _passing_over()


def _pickle_in(text: str | bytes) -> bytes | None:
    """The bytes of a text that may be a pickle, decoded if it is base64; None for any other text."""
    if isinstance(text, str):
        if not (text[0] == "\x80" or text[0].isascii()):
            return None
        try:
            text = text.encode("latin-1")
        except UnicodeEncodeError:
            return None
    if text[0] == 0x80:
        return text if text[1] <= 5 and _NAMING.search(text) else None
    if _SPELLED.search(text, 0, 4096):
        return text
    if _BASE64.fullmatch(text.rstrip()):
        try:
            raw = base64.b64decode(text)
        except (binascii.Error, ValueError):
            return None
        return raw if (raw[:1] == b"\x80" and _NAMING.search(raw)) or _SPELLED.search(raw, 0, 4096) else None
    return None
