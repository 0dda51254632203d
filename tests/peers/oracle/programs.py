"""Pickles made at random: programs over every opcode of every protocol, and honest pickles with some opcodes changed.

A pickle is a list of pieces here, each an opcode with its argument, so that it can be changed and shortened by opcodes.
"""

from __future__ import annotations

import pickletools
import random
import struct
from collections.abc import Callable, Sequence

from converter.pickles.closed_table import TABLE

Pair = tuple[str, str]
Pieces = list[bytes]

INSIDE: list[Pair] = sorted(TABLE)
OUTSIDE: list[Pair] = [
    ("os", "system"), ("posix", "mkdir"), ("builtins", "eval"), ("builtins", "getattr"), ("__builtin__", "apply"),
    ("torch", "load"), ("numpy", "load"), ("functools", "partial"), ("copyreg", "_reconstructor"), ("x", "y"),
    ("copy_reg", "_reconstructor"), ("cPickle", "loads"), ("torch.nn.modules.linear", "Linear"), ("my_module", "f"),
    ("collections", "OrderedDict.fromkeys"), ("torch", "_utils._rebuild_tensor_v2"), ("torch.", "Size"), ("os", ""),
    ("", "x"), ("os\r", "system"), (" os", "system"), ("\u00e9", "\u00fc"), ("o\x00s", "x"), ("my module", "f g"), ("1", "2"),
    ("torch._utils", "_rebuild_tensor_v9"), ("collections", "ordereddict"), ("Collections", "OrderedDict"), ("a" * 300, "b"),
    ("torch", "Tensor.__class__"), ("UserDict", "UserDict"), ("__builtin__", "xrange"), ("a.b.c", "d"), ("x" * 70, "y" * 70),
]  # fmt: skip
_ODD_BYTES = (b"\xed\xa0\x80", b"a\xed\xb0\x80", b"\xff", b"\xc0\x80", b"\xf0\x9f\x98\x80", b"", b"\x00", b"a\nb")


def joined(pieces: Pieces) -> bytes:
    return b"".join(pieces)


def split(data: bytes) -> Pieces:
    """The pieces of a sound pickle."""
    places = [position for _, _, position in pickletools.genops(data)]
    return [data[start:end] for start, end in zip(places, [*places[1:], len(data)], strict=True)]


class Program:
    """A program that is being written. `odd` is how often something is written in an unusual way."""

    def __init__(self, rng: random.Random, odd: float) -> None:
        self.rng, self.odd = rng, odd
        self.out: Pieces = []
        self.memo: list[int] = []  # numbers that were put
        self.count = 0  # how often MEMOIZE would have counted

    def add(self, *pieces: bytes) -> None:
        self.out += pieces

    def is_odd(self) -> bool:
        return self.rng.random() < self.odd

    # Numbers and texts

    def integer(self) -> None:
        rng = self.rng
        value = rng.choice((0, 1, 2, 3, 7, 255, 256, 65535, 65536, -1, -7, 2**31 - 1, -(2**31), rng.randrange(1000)))
        way = rng.randrange(8)
        if way < 2 and 0 <= value < 256:
            self.add(b"K" + bytes([value]))
        elif way < 4 and 0 <= value < 65536:
            self.add(b"M" + struct.pack("<H", value))
        elif way < 5:
            self.add(b"J" + struct.pack("<i", value % 2**32 - 2**32 * (value % 2**32 >= 2**31)))
        elif way < 6:
            self.add(self.long(value))
        else:
            self.add(rng.choice((b"I", b"L")) + self.spelled(value) + b"\n")

    def long(self, value: int) -> bytes:
        raw = value.to_bytes(value.bit_length() // 8 + 1 + 3 * self.is_odd(), "little", signed=True)
        if self.is_odd():
            raw = self.rng.choice((b"", raw, bytes(200), raw + bytes(100)))
        if self.rng.random() < 0.7:
            return b"\x8a" + bytes([len(raw)]) + raw
        return b"\x8b" + struct.pack("<i", -1 if self.is_odd() and self.is_odd() else len(raw)) + raw

    def spelled(self, value: int) -> bytes:
        """A number as text."""
        if not self.is_odd():
            return b"%d" % value
        sign, plain = b"-" * (value < 0), abs(value)
        return self.rng.choice(
            (sign + b"0x%x" % plain, sign + b"0o%o" % plain, b"0%o" % plain, sign + bin(plain).encode(), b" %d" % value,
             b"%d " % value, b"+%d" % plain, b"%d\r" % value, b"\t%d" % value, b"%dL" % value, b"%d_0" % value, b"00", b"01",
             b"0b", b"", b"1.0", b"\x0c%d" % value, "\u0661".encode(), b"1" * 50, b"%d\x00" % value, b"0X%X" % plain, b"-0", b"000%d" % plain)
        )  # fmt: skip

    def real(self) -> None:
        if self.rng.random() < 0.6:
            self.add(b"G" + struct.pack(">d", self.rng.choice((0.0, -1.5, 1e300, float("inf"), float("nan")))))
            return
        odd = (
            b"1_0.5",
            b" 1.5",
            b"1.5 ",
            b"nan",
            b"-inf",
            b"infinity",
            b"0x1p3",
            b"1e400",
            b"",
            b"1.",
            b".5",
            b"1\r",
            b"1,5",
        )
        self.add(b"F" + (self.rng.choice(odd) if self.is_odd() else b"1.5") + b"\n")

    def text(self, value: str | bytes) -> None:
        """A str, in any of the ways to write one."""
        raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")
        way = self.rng.randrange(8 if self.is_odd() else 4)
        if way < 2 and len(raw) < 256:
            self.add(b"\x8c" + bytes([len(raw)]) + raw)
        elif way < 4:
            self.add(b"X" + struct.pack("<I", len(raw)) + raw)
        elif way == 4:
            self.add(b"\x8d" + struct.pack("<Q", len(raw)) + raw)
        elif way == 5:
            text = raw.decode("utf-8", "replace").encode("raw-unicode-escape").replace(b"\n", b"\\u000a")
            if self.is_odd():
                text = b"".join(b"\\u%04x" % byte for byte in raw[:40]) + self.rng.choice(
                    (b"", b"\\ud800", b"\\", b"\\u12")
                )
            self.add(b"V" + text + b"\n")
        elif way == 6 and len(raw) < 256:
            self.add(b"U" + bytes([len(raw)]) + raw)
        elif way == 7:
            self.add(b"S" + self.quoted(raw) + b"\n")
        else:
            self.add(b"T" + struct.pack("<i", len(raw)) + raw)

    def quoted(self, raw: bytes) -> bytes:
        """A string as Python 2 writes one."""
        quote = self.rng.choice((b"'", b'"'))
        inner = raw.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(quote, b"\\" + quote)
        if self.is_odd():
            inner = self.rng.choice(
                (b"".join(b"\\x%02x" % byte for byte in raw), b"".join(b"\\%o" % byte for byte in raw), inner + b"\\8", inner + b"\\x4",
                 inner + b"\\u0041", inner + b"\\N{DIGIT ONE}", inner + b"\\", inner + quote, inner + b"\\400", inner + b"\\q")
            )  # fmt: skip
        text = quote + inner + quote
        if self.is_odd() and self.is_odd():
            text = self.rng.choice((text + b" ", b" " + text, inner, quote + inner, text + b"\r", quote))
        return text

    def data(self) -> None:
        """Bytes, sometimes a pickle."""
        rng = self.rng
        raw = rng.choice((b"", b"abc", bytes(20), b"\x80\x02N."))
        if rng.random() < 0.3:
            inner = Program(rng, 0.0)
            inner.glob(rng.choice(OUTSIDE))
            raw = b"\x80\x02" + joined(inner.out) + b"."
        way = rng.randrange(4)
        if way == 0 and len(raw) < 256:
            self.add(b"C" + bytes([len(raw)]) + raw)
        elif way == 1:
            self.add(b"B" + struct.pack("<I", len(raw)) + raw)
        elif way == 2:
            self.add(b"\x8e" + struct.pack("<Q", len(raw)) + raw)
        else:
            self.add(b"\x96" + struct.pack("<Q", len(raw)) + raw)

    # Globals

    def glob(self, pair: Pair) -> None:
        """Name a global: by GLOBAL, by STACK_GLOBAL with its texts written in any way, through the memo."""
        module, name = (part.encode("utf-8", "surrogatepass") for part in pair)
        if self.rng.random() < 0.5 and b"\n" not in module + name:
            self.add(b"c" + module + b"\n" + name + b"\n")
            return
        for part in (module, name):
            self.text(part)
            if self.rng.random() < 0.3:
                self.noise()
        self.add(b"\x93")

    def some(self) -> Pair:
        return self.rng.choice(INSIDE if self.rng.random() < 0.8 else OUTSIDE)

    # Values

    def value(self, depth: int = 0) -> None:
        """Leave one value on the stack."""
        rng = self.rng
        choice: list[Callable[[], None]] = [self.integer, self.real, self.short, self.data, self.word, self.word]
        if depth < 4:
            choice += [
                lambda way=way: way(depth + 1)
                for way in (self.tuple, self.list, self.dict, self.set, self.call, self.call)
            ]  # type: ignore[misc]
        rng.choice(choice)()
        if rng.random() < 0.3:
            self.put()
        if rng.random() < 0.15:
            self.noise()

    def word(self) -> None:
        odd = self.is_odd() and self.is_odd()
        self.text(
            self.rng.choice(_ODD_BYTES) if odd else self.rng.choice(("a", "w", "os", "system", "k" * 30, "\u00e9"))
        )

    def short(self) -> None:
        if self.memo and self.rng.random() < 0.4:
            self.get(self.rng.choice(self.memo))
            return
        self.add(self.rng.choice((b"N", b"\x88", b"\x89", b")", b"]", b"}", b"\x8f", b"I00\n", b"I01\n")))

    def tuple(self, depth: int) -> None:
        count = self.rng.randrange(4)
        if count and self.rng.random() < 0.5:
            self.values(count, depth)
            self.add(bytes([0x84 + count]))
        else:
            self.add(b"(")
            self.values(count, depth)
            self.add(b"t")

    def values(self, count: int, depth: int) -> None:
        for _ in range(count):
            self.value(depth)

    def list(self, depth: int) -> None:
        way = self.rng.randrange(3)
        if way == 0:
            self.add(b"(")
            self.values(self.rng.randrange(3), depth)
            self.add(b"l")
            return
        self.add(b"]")
        if way == 1:
            self.value(depth)
            self.add(b"a")
        else:
            self.add(b"(")
            self.values(self.rng.randrange(3), depth)
            self.add(b"e")

    def dict(self, depth: int) -> None:
        way = self.rng.randrange(3)
        if way == 0:
            self.add(b"(")
        else:
            self.add(b"}")
            self.add(*[b"("] * (way == 2))
        for _ in range(1 if way == 1 else self.rng.randrange(3)):
            self.rng.choice((self.word, self.integer, self.short))()
            self.value(depth)
        self.add((b"d", b"s", b"u")[way])

    def set(self, depth: int) -> None:
        way = self.rng.randrange(2)
        self.add(b"\x8f(" if way else b"(")
        for _ in range(self.rng.randrange(3)):
            self.rng.choice((self.word, self.integer, self.real))()
        self.add(b"\x90" if way else b"\x91")

    def call(self, depth: int) -> None:
        rng, pair = self.rng, self.some()
        way = rng.randrange(8)
        if way == 5 and "\n" not in pair[0] + pair[1]:
            self.add(b"(")
            self.values(rng.randrange(3), depth)
            self.add(b"i" + "\n".join(pair).encode() + b"\n")
        elif way == 6:
            self.add(b"(")
            self.glob(pair)
            self.values(rng.randrange(3), depth)
            self.add(b"o")
        elif way == 7:
            self.value(depth)
            self.add(b"Q") if rng.random() < 0.7 else self.add(
                b"0", b"P" + rng.choice((b"1", b"a b", b"", b"\xff")) + b"\n"
            )
        else:
            self.glob(pair)
            if rng.random() < 0.3:
                self.put()
            self.tuple(depth) if way < 4 else self.value(depth)
            if way == 1:
                self.add(b"}")
                self.add(b"\x92")
            else:
                self.add(b"\x81" if way == 2 else b"R")
        if rng.random() < 0.3:
            self.value(depth)
            self.add(b"b")

    # The memo, marks, frames, and opcodes that leave the stack as it was

    def number(self, number: int, codes: Sequence[bytes]) -> bytes:
        text, byte, four = codes
        way = self.rng.randrange(3)
        if way == 0 and number < 256:
            return byte + bytes([number])
        if way == 1:
            return four + struct.pack("<I", number)
        return text + self.spelled(number) + b"\n"

    def put(self) -> None:
        if self.rng.random() < 0.4:
            self.add(b"\x94")
            self.memo.append(len(self.memo))
            return
        number = self.rng.choice((len(self.memo), len(self.memo), self.rng.randrange(300), 70000))
        self.memo.append(number)
        self.add(self.number(number, (b"p", b"q", b"r")))

    def get(self, number: int) -> None:
        self.add(self.number(number, (b"g", b"h", b"j")))

    def noise(self) -> None:
        rng = self.rng
        way = rng.randrange(12 if self.is_odd() else 5)
        if way == 0:
            self.add(b"2", b"0")
        elif way == 1:
            self.add(b"N", b"0")
        elif way == 2:
            self.add(b"(", b"N", b"1")
        elif way == 3:
            self.add(b"(", b"0")
        elif way == 4:
            self.put()
        elif way == 5:
            self.add(b"\x80" + bytes([rng.choice((0, 1, 2, 3, 4, 5, 5, 6, 255))]))
        elif way == 6:
            self.add(b"\x95" + struct.pack("<Q", rng.choice((0, 1, 2, 5, 9, 40, 1000, 2**40, 2**63))))
        elif way == 7:
            self.add(rng.choice((b"\x82\x01", b"\x83\x01\x02", b"\x84\x01\x02\x03\x00", b"\x82\x00")), b"0")
        elif way == 8:
            self.add(rng.choice((b"\x97", b"\x98")))
        elif way == 9:
            self.add(bytes([rng.randrange(256)]))
        elif way == 10:
            self.add(b"2")
        else:
            self.get(rng.choice((0, 1, 5, 255, 2**20)))


def program(rng: random.Random) -> Pieces:
    """A program at random, most with a global outside the table somewhere."""
    made = Program(rng, rng.choice((0.0, 0.0, 0.05, 0.2, 0.5)))
    if rng.random() < 0.8:
        made.add(b"\x80" + bytes([rng.randrange(6)]))
    if rng.random() < 0.2:
        made.add(b"\x95" + struct.pack("<Q", rng.choice((0, 3, 10, 30, 200))))
    made.value()
    if rng.random() < 0.6:
        place = len(made.out)
        made.glob(rng.choice(OUTSIDE))
        payload = [*made.out[place:], *rng.choice(([b"0"], [b")", b"R", b"0"], [b"0"], []))]
        del made.out[place:]
        at = rng.randrange(len(made.out) + 1) if rng.random() < 0.5 else place
        made.out[at:at] = payload
    made.add(b".")
    return made.out


def mutated(rng: random.Random, pieces: Pieces, times: int) -> Pieces:
    """A pickle with some opcodes swapped, doubled, left out, put in, or with a byte changed."""
    pieces = list(pieces)
    for _ in range(times):
        if not pieces:
            break
        at, other = rng.randrange(len(pieces)), rng.randrange(len(pieces))
        way = rng.randrange(7)
        if way == 0:
            pieces[at], pieces[other] = pieces[other], pieces[at]
        elif way == 1:
            pieces.insert(at, pieces[other])
        elif way == 2:
            del pieces[at]
        elif way == 3:
            extra = Program(rng, 0.4)
            rng.choice((extra.noise, extra.integer, extra.word, lambda extra=extra: extra.glob(extra.some())))()  # type: ignore[misc]
            pieces[at:at] = extra.out
        elif way == 4:
            piece = bytearray(pieces[at])
            if piece:
                piece[rng.randrange(len(piece))] = rng.randrange(256)
            pieces[at] = bytes(piece)
        elif way == 5:
            extra = Program(rng, 0.3)
            extra.glob(rng.choice(OUTSIDE))
            pieces[at:at] = [*extra.out, b"0"]
        else:
            pieces[at:at] = rng.choice(([b"("], [b"."], [b"0"], [b"1"], [b"t"], [b"R"], [b"b"], [b"\x93"], [b"\x94"]))
    return pieces


def pickle_pieces(rng: random.Random, seeds: Sequence[Pieces]) -> Pieces:
    """One pickle of any kind."""
    way = rng.random()
    if way < 0.55:
        pieces = program(rng)
        if rng.random() < 0.3:
            pieces = mutated(rng, pieces, rng.randrange(1, 4))
    else:
        pieces = mutated(rng, rng.choice(seeds), rng.choice((1, 1, 2, 3, 5)))
    way = rng.random()
    if way < 0.05:
        pieces = pieces + program(rng)
    elif way < 0.08:
        pieces = [*pieces, rng.choice((b"\n", b"\0" * 8, b"PK\3\4", b"garbage", b"."))]
    elif way < 0.13 and len(joined(pieces)) > 1:
        whole = joined(pieces)
        pieces = [whole[: rng.randrange(1, len(whole))]]
    return pieces
