"""Reports what an ONNX model needs from elsewhere. A small protobuf reader, which builds nothing and follows nothing.

Source: onnx/onnx.proto3, messages ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, FunctionProto.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from converter.errors import FormatError, LimitError
from converter.io.source import Source, Window

if TYPE_CHECKING:
    from converter.scanning.walker import Walker

TITLE: Final = "ONNX model"
# The numbers of the fields of a model, a graph, a node, an attribute and a tensor.
_IR_VERSION, _PRODUCER, _GRAPH, _OPSETS, _FUNCTIONS = 1, 2, 7, 8, 25
_NODES, _INITIALIZERS = 1, 5
_OPERATOR, _ATTRIBUTES, _DOMAIN = 4, 5, 7
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS = 5, 6, 10, 11
_EXTERNAL, _KEY, _VALUE, _LOCATION = 13, 1, 2, b"location"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_STANDARD: Final = ("", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training")
_FIELDS: Final = 2_000_000  # fields that are read in one file
_DEPTH: Final = 16  # graphs inside graphs
_TEXT: Final = 4096  # bytes of a name
_MOST: Final = 8  # names that a sentence lists


class _Fields:
    """Counts the fields that are read in one file."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.left = _FIELDS

    def of(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield the fields of a message as (number, wire type, start, end). Raises FormatError for anything else."""
        position = start
        while position < end:
            self.left -= 1
            if self.left < 0:
                raise LimitError(f"an ONNX model of more than {_FIELDS:,} fields")
            key, position = self._varint(position, end)
            number, written = key >> 3, key & 7
            if not number:
                raise FormatError(f"there is no protobuf field at byte {position:,}")
            if written == _VARINT:
                value, position = self._varint(position, end)
                yield number, written, value, value
                continue
            if written == _BYTES:
                size, position = self._varint(position, end)
            elif written in (_FIXED32, _FIXED64):
                size = 8 if written == _FIXED64 else 4
            else:
                raise FormatError(f"there is no protobuf field at byte {position:,}")
            if size > end - position:
                raise FormatError(f"a protobuf field at byte {position:,} goes on after the end of its message")
            yield number, written, position, position + size
            position += size

    def text(self, start: int, end: int) -> str:
        """A text, cut at its limit."""
        return bytes(self.source.read(start, min(end - start, _TEXT))).decode("utf-8", "replace")

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        data = bytes(self.source.read(position, min(10, end - position)))
        value = 0
        for index, byte in enumerate(data):
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, position + index + 1
        raise FormatError(f"a protobuf number at byte {position:,} does not end")


def matches(head: bytes) -> bool:
    """Whether a file may be an ONNX model: all writers begin it with the version of the format."""
    return len(head) > 2 and head[0] == 8 and 1 <= head[1] <= 32


def look(walker: Walker, source: Source, place: str) -> bool:
    """Report what an ONNX model needs from elsewhere. False if the file is not one."""
    fields = _Fields(_Buffered(source))
    try:
        top = list(fields.of(0, source.size))
    except FormatError:
        return False
    except LimitError as error:
        walker.findings.report(error.rule, str(error), place)
        return True
    numbers = {number for number, written, *_ in top if written == _BYTES}
    if not {_GRAPH, _OPSETS} <= numbers:
        return False
    operators, files = dict[str, None](), dict[str, None]()
    try:
        for number, written, start, end in top:
            if number == _GRAPH and written == _BYTES:
                _graph(fields, start, end, operators, files, 0)
            elif number == _FUNCTIONS and written == _BYTES:
                for inner, how, first, last in fields.of(start, end):
                    if inner == 7 and how == _BYTES:
                        _node(fields, first, last, operators, files, 0)
    except (FormatError, LimitError) as error:
        walker.findings.report(error.rule, str(error), place)
    for found, what in ((operators, "operators that are not part of ONNX"), (files, "weights in other files")):
        if found:
            listed = ", ".join(f"`{one:.80}`" for one in list(found)[:_MOST]) + (", …" if len(found) > _MOST else "")
            walker.findings.report("program", f"an ONNX model with {what}: {listed}", place)
    return True


def _graph(
    fields: _Fields, start: int, end: int, operators: dict[str, None], files: dict[str, None], depth: int
) -> None:
    if depth > _DEPTH:
        raise LimitError(f"an ONNX model with more than {_DEPTH} graphs inside one another")
    for number, written, first, last in fields.of(start, end):
        if number == _NODES and written == _BYTES:
            _node(fields, first, last, operators, files, depth)
        elif number == _INITIALIZERS and written == _BYTES:
            _tensor(fields, first, last, files)


def _node(
    fields: _Fields, start: int, end: int, operators: dict[str, None], files: dict[str, None], depth: int
) -> None:
    operator = domain = ""
    for number, written, first, last in fields.of(start, end):
        if written != _BYTES:
            continue
        if number == _OPERATOR:
            operator = fields.text(first, last)
        elif number == _DOMAIN:
            domain = fields.text(first, last)
        elif number == _ATTRIBUTES:
            for inner, how, a, b in fields.of(first, last):
                if how == _BYTES and inner in (_TENSOR, _TENSORS):
                    _tensor(fields, a, b, files)
                elif how == _BYTES and inner in (_SUBGRAPH, _SUBGRAPHS):
                    _graph(fields, a, b, operators, files, depth + 1)
    if domain not in _STANDARD:
        operators[f"{domain}.{operator}"] = None


def _tensor(fields: _Fields, start: int, end: int, files: dict[str, None]) -> None:
    for number, written, first, last in fields.of(start, end):
        if number == _EXTERNAL and written == _BYTES:
            pair = {n: (a, b) for n, how, a, b in fields.of(first, last) if how == _BYTES}
            if _KEY in pair and _VALUE in pair and fields.text(*pair[_KEY]).encode() == _LOCATION:
                files[fields.text(*pair[_VALUE])] = None


class _Buffered(Window):
    """A source that keeps the piece it read last, because fields are read a few bytes at a time."""

    def __init__(self, base: Source) -> None:
        super().__init__(base, 0, base.size)
        self._piece, self._from = memoryview(b""), 0

    def read(self, offset: int, size: int) -> memoryview:
        """Exactly `size` bytes from `offset`."""
        at = offset - self._from
        if at < 0 or at + size > len(self._piece):
            self._from = offset
            self._piece = self.base.read(offset, max(size, min(4096, self.size - offset)))
            at = 0
        return self._piece[at : at + size]
