"""Reads and writes the header of an npy array. Nothing in it is ever run.

Source: numpy/lib/_format_impl.py (`_read_array_header`, `_write_array_header`); the NEP of the npy format.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, Final

from converter.dtypes import BOOL, C64, C128, F16, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64, Dtype
from converter.errors import FormatError, LayoutError, LimitError, UnsafeError, UnsupportedError
from converter.formats.marks import NPY_MAGIC
from converter.limits import limits
from converter.text import plural

LONGEST: Final = 12 + 10_000  # bytes of a header and what comes before it; numpy refuses a longer one
NATIVE: Final = (F64, F32, F16, I64, I32, I16, I8, U8, BOOL, U16, U32, U64, C64, C128)  # the dtypes that numpy has, too
_KEYS: Final = ["descr", "fortran_order", "shape"]
_WIDTHS: Final = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}  # bytes of the header's length, by version
_ALIGNED: Final = 64  # bytes; the data start at a multiple of this
_TEXT: Final = 2_000  # characters of a header without its padding: 64 dimensions take 1,400
_GROWTH: Final = 21  # digits that numpy leaves room for, so that an array can grow in place
# All tokens of such a literal, and what closes each bracket.
_TOKEN: Final = re.compile(r"([,:{}()\[\]]|'[^'\\]*'|\"[^\"\\]*\"|True|False|0|[1-9][0-9]{0,19})\s*")
_CLOSES: Final = {"(": ")", "[": "]", "{": "}"}
_DEPTH: Final = 16  # brackets in brackets: a structured dtype has three
_OTHERS: Final = {  # the letter of a dtype that tensors don't have, and what such an array holds
    "U": "texts",
    "S": "texts",
    "a": "texts",
    "M": "dates",
    "m": "lengths of time",
    "V": "raw bytes: save a bfloat16 array of ml_dtypes as `array.view('uint16')`",
}


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an array says. `start` is where the data begin, in bytes of the array's record."""

    dtype: Dtype
    byteorder: str
    shape: tuple[int, ...]
    fortran: bool
    start: int

    @property
    def stride(self) -> tuple[int, ...]:
        """Elements from one to the next along each dimension."""
        order = self.shape if self.fortran else self.shape[::-1]
        steps = tuple(math.prod(order[:axis]) for axis in range(len(order)))
        return steps if self.fortran else steps[::-1]

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return math.prod(self.shape) * self.dtype.itemsize


def descr(dtype: Dtype) -> str:
    """The name that numpy has for a dtype; for one that it lacks, the unsigned integer that holds its bits."""
    return "|b1" if dtype is BOOL else dtype.numpy


_BY_CODE: Final = {descr(dtype)[1:]: dtype for dtype in NATIVE}


def start_of_data(head: bytes, what: str) -> int:
    """Where an array's data begin, by its first 12 bytes.

    Raises FormatError if it is not an array of a known version, and LimitError for a header that is too long.
    """
    if not head.startswith(NPY_MAGIC) or len(head) < 12:
        raise FormatError(f"{what} is not a numpy array: it does not start with the bytes `\\x93NUMPY` and a header")
    width = _WIDTHS.get(head[6:8])
    if width is None:
        raise FormatError(f"{what}: the numpy array is of version {head[6]}.{head[7]}; 1.0, 2.0 and 3.0 are known")
    start = 8 + width + int.from_bytes(head[8 : 8 + width], "little")
    if start > LONGEST:
        raise LimitError(
            f"{what}: the numpy array has a header of {plural(start, 'byte')}; at most {LONGEST:,} are read"
        )
    return start


def parse(head: bytes, what: str) -> Header:
    """Read the header of an array. `head` has all bytes before the data.

    Raises FormatError for a malformed header, UnsafeError for an array of objects, UnsupportedError for other dtypes
    that tensors do not have.
    """
    fields = _fields(_text(head, what), what)
    dtype, byteorder = _dtype(fields["descr"], what)
    shape, fortran = fields["shape"], fields["fortran_order"]
    if type(fortran) is not bool:
        raise FormatError(f"{what}: `fortran_order` of the numpy array is neither True nor False")
    if type(shape) is not tuple or not all(type(size) is int for size in shape):
        raise FormatError(f"{what}: `shape` of the numpy array is not a tuple of whole numbers")
    if len(shape) > limits().rank:
        raise LayoutError(
            f"{what}: the numpy array has {plural(len(shape), 'dimension')}; at most {limits().rank} are read"
        )
    return Header(dtype, byteorder, shape, fortran, len(head))


def descriptor(head: bytes, what: str) -> Any:
    """What the header of an array says about its dtype: a text, or tuples and lists of texts. Raises as `parse` does."""
    return _fields(_text(head, what), what)["descr"]


def written(dtype: Dtype, shape: tuple[int, ...]) -> bytes:
    """The bytes before the data of a row-major array, as numpy writes them."""
    text = f"{{'descr': '{descr(dtype)}', 'fortran_order': False, 'shape': {shape!r}, }}"
    text += " " * (_GROWTH - len(str(shape[0])) if shape else 0)
    length = len(text) + 1
    padding = -(10 + length) % _ALIGNED
    return NPY_MAGIC + b"\1\0" + (length + padding).to_bytes(2, "little") + text.encode() + b" " * padding + b"\n"


def _text(head: bytes, what: str) -> str:
    text = head[8 + _WIDTHS[head[6:8]] :].decode("ascii", "replace")
    if len(text.rstrip()) > _TEXT:
        raise LimitError(
            f"{what}: the header of the numpy array has {plural(len(text.rstrip()), 'character')}; at most {_TEXT:,} are read"
        )
    if not text.endswith("\n") or not text[:-1].isprintable():
        raise FormatError(
            f"{what}: the header of the numpy array is not a plain literal of texts, numbers and brackets"
        )
    return text.strip()


def _fields(text: str, what: str) -> dict[str, Any]:
    """The values by key. A key that occurs twice is refused, because readers would differ."""
    literal = _Literal(text, what)
    value = literal.value(0)
    if literal.ended and type(value) is dict and sorted(value) == _KEYS:
        return value
    raise FormatError(f"{what}: the header of the numpy array must have exactly the keys {', '.join(_KEYS)}")


class _Literal:
    """The literal of a header: dicts of texts, tuples, lists, texts, whole numbers, True and False.

    Python's own parser is not used, because it would compile text from a file.
    """

    def __init__(self, text: str, what: str) -> None:
        self._text, self._what, self._at = text, what, 0

    @property
    def ended(self) -> bool:
        """Whether this is the end of the text."""
        return self._at == len(self._text)

    def value(self, depth: int) -> Any:
        """Read the next value. Raises FormatError if there is none."""
        token = self._next()
        if token in _CLOSES and depth < _DEPTH:
            return self._within(token, depth + 1)
        if token[0] in "'\"":
            return token[1:-1]
        if token.isdigit():
            return int(token)
        if token in ("True", "False"):
            return token == "True"  # noqa: S105 (a word of the header)
        raise self._wrong()

    def _within(self, opened: str, depth: int) -> Any:
        """Read the values in brackets, up to the closing bracket."""
        items: list[Any] = []
        commas = 0
        while not self._skips(_CLOSES[opened]):
            if len(items) > commas:
                raise self._wrong()
            items.append(self.value(depth))
            if opened == "{":
                if not self._skips(":"):
                    raise self._wrong()
                items[-1] = (items[-1], self.value(depth))
            commas += self._skips(",")
        if opened == "[":
            return items
        if opened == "(":
            return items[0] if len(items) == 1 and not commas else tuple(items)
        keys = [key for key, _ in items]
        if not all(type(key) is str for key in keys) or len(set(keys)) < len(keys):
            raise self._wrong()
        return dict(items)

    def _next(self) -> str:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise self._wrong()
        self._at = match.end()
        return match[1]

    def _skips(self, token: str) -> bool:
        """Whether `token` comes next. If so, it is skipped."""
        match = _TOKEN.match(self._text, self._at)
        if match is None or match[1] != token:
            return False
        self._at = match.end()
        return True

    def _wrong(self) -> FormatError:
        return FormatError(
            f"{self._what}: the header of the numpy array is not a plain literal of texts, numbers and brackets"
        )


def _dtype(value: object, what: str) -> tuple[Dtype, str]:
    """The dtype and byte order that a `descr` names."""
    if type(value) is list:
        fields = ", ".join(f"`{field[0]!s:.40}`" for field in value[:4] if type(field) is tuple and field)
        raise UnsupportedError(
            f"{what} is a numpy array of a structured dtype with the fields {fields or 'of no name'}: save each by itself"
        )
    if type(value) is not str or not value:
        raise FormatError(f"{what}: `descr` of the numpy array is not a text")
    order, code = value[0], value[1:]
    if code == "O" or value == "O":
        raise UnsafeError(
            f"{what} is a numpy array of Python objects: loading it means running a pickle, which is not done here; save it "
            "with a dtype of numbers"
        )
    dtype = _BY_CODE.get(code)
    if dtype is None or order not in "<>|" or (order == "|" and dtype.itemsize > 1):
        held = _OTHERS.get(code[:1], "which no tensor can hold")
        raise UnsupportedError(f"{what} is a numpy array of dtype `{value:.40}`, {held}")
    return dtype, "big" if order == ">" and dtype.itemsize > 1 else "little"
