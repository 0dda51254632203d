"""The rows of a family's table: its tensors, how they become those of a GGUF file, and the small expressions in them.

An expression is about sizes and settings: `3*n_embd`, `rotary_pct*n_embd/n_head`. It has names, numbers, + - * / and
parentheses, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from converter.errors import ModelError

if TYPE_CHECKING:
    from converter.tensors.rearranged import Move
    from converter.tensors.tensor import Tensor

_TOKEN: Final = re.compile(r"\s*(?:([A-Za-z_]\w*)|([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]+)?)|([-+*/()]))")

_Tree = tuple[Any, ...]


class MoveRow(NamedTuple):
    """A step of an order as it is in the JSON: a Move, with expressions over sizes."""

    groups: str = "1"
    only: str | None = None
    first: str | None = None
    one: str = "1"
    other: str = "1"
    order: tuple[int, ...] = ()

    def filled(self, look_up: Callable[[str], Any]) -> Move:
        """The move for the sizes of a model. Raises ModelError if a number in it is not known, or not whole."""
        from converter.tensors.rearranged import Move  # most families keep their rows in order

        def whole(text: str) -> int:
            try:
                found = evaluated(text, look_up)
            except ValueError:
                found = None
            if type(found) is not int:
                raise ModelError(f"`{text}` is {found!r:.80}: a whole number was expected")
            return found

        only, first = (None if text is None else whole(text) for text in (self.only, self.first))
        return Move(whole(self.groups), only, first, whole(self.one), whole(self.other), self.order)


class Scale(NamedTuple):
    """A product as it is in the JSON: the factor for the first `rows` of a tensor, or for all rows."""

    by: str
    rows: str | None = None

    def filled(self, look_up: Callable[[str], Any]) -> tuple[float, int | None]:
        """The factor and the number of rows. Raises ModelError if either is not known."""
        by, rows = (text and _number(text, look_up) for text in (self.by, self.rows))
        return float(by or 0), None if rows is None else int(rows)


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it is in the JSON: sizes are names, and {layer} and {decoder} (which counts from 1) are not filled in.

    `gguf_transposed` matrices are [in, out] here and [out, in] there; `gguf_f32` ones must be F32 there. `parts` names
    what equal parts of the last dimension hold, in order: q, k and v. `gguf_moves` put the rows into the order that they
    have there. `gguf_zeros`: an absent one is zeros there. GGUF lacks the first `gguf_rows_from` rows, and has the others
    times `gguf_scale`. With `gguf_untied` it has a tensor of its own for one that is tied here. `also` are other names for
    the same. `present_if` is the setting that says whether there is one, or several with spaces, all of which must say so.
    `value` is what a buffer must hold: "causal" (ones on and below the diagonal), "rotary" (frequencies), or a number.
    """

    name: str
    shape: tuple[str | int, ...]
    kind: Literal["parameter", "buffer"] = "parameter"
    parts: tuple[str, ...] = ()
    gguf: str | None = None
    gguf_transposed: bool = False
    gguf_f32: bool = False
    gguf_moves: tuple[MoveRow, ...] = ()
    gguf_zeros: bool = False
    gguf_rows_from: str | None = None
    gguf_scale: Scale | None = None
    gguf_untied: bool = False
    client: str | None = None
    client_parts: tuple[str, ...] = ()
    tied_to: str | None = None
    optional: bool = False
    prefixed: bool = True
    also: tuple[str, ...] = ()
    present_if: str | None = None
    value: str | float | None = None

    @property
    def conditions(self) -> tuple[str, ...]:
        """The settings of `present_if`."""
        return tuple((self.present_if or "").split())

    @property
    def layered(self) -> bool:
        """Whether every layer has one."""
        return "{layer}" in self.name

    @property
    def required(self) -> bool:
        """Whether a checkpoint without it is incomplete."""
        return self.kind == "parameter" and not self.optional

    def named(self, prefix: str) -> str:
        """The name in a checkpoint with this prefix. A head on top of the model (`lm_head.weight`) never has a prefix."""
        return prefix + self.name if self.prefixed else self.name

    def spellings(self, prefix: str) -> tuple[str, ...]:
        """All names that it may have in a checkpoint with this prefix."""
        return (self.named(prefix), *(prefix + other if self.prefixed else other for other in self.also))

    def filled(self, known: Callable[[str], Any], layer: int | None, *, shaped: bool = True) -> Parameter:
        """The row of a layer, with the sizes that `known` gives; without a shape if it is not to be `shaped`."""
        return Parameter(
            name=at(layer, self.name),
            shape=tuple(known(size) if isinstance(size, str) else size for size in self.shape) if shaped else (),
            kind=self.kind,
            parts=self.parts,
            gguf=self.gguf and at(layer, self.gguf),
            gguf_transposed=self.gguf_transposed,
            gguf_f32=self.gguf_f32,
            gguf_moves=self.gguf_moves,
            gguf_zeros=self.gguf_zeros,
            gguf_rows_from=self.gguf_rows_from,
            gguf_scale=self.gguf_scale,
            gguf_untied=self.gguf_untied,
            client=self.client and at(layer, self.client),
            client_parts=tuple(at(layer, part) for part in self.client_parts),
            tied_to=self.tied_to,
            optional=self.optional,
            prefixed=self.prefixed,
            also=self.also,
            present_if=self.present_if,
            value=self.value,
            layer=layer,
            moves=tuple(move.filled(known) for move in self.gguf_moves),
            rows_from=int(_number(self.gguf_rows_from, known)) if self.gguf_rows_from else 0,
            scale=self.gguf_scale and self.gguf_scale.filled(known),
        )


@dataclass(frozen=True, slots=True)
class Parameter(Row):
    """A row with its layer and sizes filled in. `name` has no prefix. `moves` are `gguf_moves`, filled in.

    `scale` is a factor, and how many rows it is for. `rows_from` is the number of rows that GGUF lacks.
    """

    shape: tuple[int, ...]
    layer: int | None = None
    moves: tuple[Move, ...] = ()
    rows_from: int = 0
    scale: tuple[float, int | None] | None = None

    def laid_out(self, tensor: Tensor) -> Tensor:
        """The tensor as it lies in GGUF."""
        found = tensor.t() if self.gguf_transposed else tensor
        found = _moved(found, self.moves, back=False) if self.moves else found
        found = found.rows(self.rows_from, found.shape[0]) if self.rows_from else found
        return found if self.scale is None else _scaled(found, *self.scale)

    def first_rows(self, tensor: Tensor) -> list[float]:
        """The elements of the rows that GGUF lacks, in its order."""
        from converter.tensors.scaled import elements

        return elements(replace(self, rows_from=0, scale=None).laid_out(tensor).rows(0, self.rows_from))

    def brought_back(self, tensor: Tensor, first: list[float]) -> Tensor:
        """The inverse of `laid_out`. `first` are the elements of the rows that GGUF lacks."""
        found = tensor if self.scale is None else _scaled(tensor, 1 / self.scale[0], self.scale[1])
        found = _below(first, found) if self.rows_from else found
        found = _moved(found, self.moves, back=True) if self.moves else found
        return found.t() if self.gguf_transposed else found


def at(layer: int | None, text: str) -> str:
    """A row's text with its layer filled in."""
    return text if layer is None else text.replace("{layer}", str(layer)).replace("{decoder}", str(layer + 1))


class Made(NamedTuple):
    """A tensor that GGUF has and the checkpoint lacks: "zeros", or "rope factors" that follow from config.json."""

    gguf: str
    shape: tuple[str | int, ...]
    value: Literal["zeros", "rope factors"]


def _number(text: str, look_up: Callable[[str], Any]) -> float:
    try:
        found = evaluated(text, look_up)
    except ValueError:
        found = None
    if type(found) not in (int, float):
        raise ModelError(f"`{text}` is {found!r:.80}: a number was expected")
    return float(found)


def _scaled(tensor: Tensor, factor: float, rows: int | None) -> Tensor:
    from converter.tensors.scaled import scaled  # the first families don't need it

    return scaled(tensor, factor, rows)


def _below(first: list[float], tensor: Tensor) -> Tensor:
    from converter.tensors.scaled import below

    return below(first, tensor)


def _moved(tensor: Tensor, moves: tuple[Move, ...], *, back: bool) -> Tensor:
    from converter.tensors.rearranged import rearranged

    return rearranged(tensor, moves, back=back)


# ---- expressions


def evaluated(text: str, look_up: Callable[[str], Any]) -> Any:
    """The value of an expression; None if a name in it has none. A lone name may have any value, all else is a number.

    Raises ValueError for a text that is no expression, and for a division by zero.
    """
    return _value(_parsed(text), look_up)


@cache
def _parsed(text: str) -> _Tree:
    tokens = [*_tokens(text), ("", "", "")]
    place = 0

    def taken() -> str:
        nonlocal place
        place += 1
        return "".join(tokens[place - 1])

    def factor() -> _Tree:
        name, number, sign = tokens[place]
        if sign == "(":
            taken()
            inner = total()
            if taken() != ")":
                raise ValueError(f"`{text}` lacks a closing parenthesis")
            return inner
        if not name and not number:
            raise ValueError(f"`{text}` is not an expression")
        taken()
        return ("name", name) if name else ("number", float(number) if set(number) & set(".e") else int(number))

    def product() -> _Tree:
        tree = factor()
        while tokens[place][2] and tokens[place][2] in "*/":
            tree = (taken(), tree, factor())
        return tree

    def total() -> _Tree:
        tree = product()
        while tokens[place][2] and tokens[place][2] in "+-":
            tree = (taken(), tree, product())
        return tree

    tree = total()
    if place != len(tokens) - 1:
        raise ValueError(f"`{text}` is not an expression")
    return tree


def _tokens(text: str) -> list[tuple[str, str, str]]:
    found, position = [], 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"`{text}` is not an expression")
        found.append((match[1] or "", match[2] or "", match[3] or ""))
        position = match.end()
    return found


def _value(tree: _Tree, look_up: Callable[[str], Any]) -> Any:
    match tree:
        case ("name", name):
            return look_up(name)
        case ("number", number):
            return number
        case (sign, left, right):
            one, other = _value(left, look_up), _value(right, look_up)
            if type(one) not in (int, float) or type(other) not in (int, float):
                return None
            if sign == "/":
                if not other:
                    raise ValueError("a division by zero")
                # Lengths are whole: 64 / 2 is a length, and 0.25 * 64 is one, too.
                found = one / other
            else:
                found = one + other if sign == "+" else one - other if sign == "-" else one * other
            return int(found) if type(found) is float and found.is_integer() and abs(found) < 1 << 53 else found
    raise AssertionError(tree)


# ---- what must hold, and what a table says about GGUF ------------------------------------------------------------------


class Need(NamedTuple):
    """Two expressions over sizes and settings that must be equal, if the settings in `when` have these values.

    `because` says why, and may have names of sizes and settings in braces.
    """

    value: str
    equals: str
    because: str
    when: Mapping[str, Any] = MappingProxyType({})


def needs(document: Mapping[str, Any]) -> tuple[Need, ...]:
    """The needs that a part of a family's table has."""
    return tuple(Need(**need) for need in document.get("needs", ()))


def unmet(rows: Iterable[Need], look_up: Callable[[str], Any]) -> str | None:
    """Why the first need does not hold; None if all do. `look_up` gives the value of a size or a setting."""
    for need in rows:
        if any(look_up(name) != meant for name, meant in need.when.items()):
            continue
        if _amount(need.value, look_up) != _amount(need.equals, look_up):
            return need.because.format_map(_Named(look_up))
    return None


class _Named(dict[str, str]):
    """What stands for each name in braces."""

    def __init__(self, look_up: Callable[[str], Any]) -> None:
        super().__init__()
        self._look_up = look_up

    def __missing__(self, name: str) -> str:
        return f"{self._look_up(name)!r:.80}"


def _amount(expression: str, look_up: Callable[[str], Any]) -> Any:
    try:
        return evaluated(expression, look_up)
    except ValueError:
        return None


class Ignored(NamedTuple):
    """A setting that llama.cpp leaves out, and the sentence that says so.

    From the size `below` on it changes nothing; with a `value`, only that one changes something.
    """

    setting: str
    said: str
    below: str | None = None
    value: Any = None


class Gguf(NamedTuple):
    """How llama.cpp computes it: what it takes for granted, by setting and as `needs`, and a reason if it can't.

    `default`: such a file is of this family unless it says otherwise. `ignored` are settings that llama.cpp
    leaves out.
    """

    fixed: Mapping[str, Any] = MappingProxyType({})
    refused: str | None = None
    default: bool = True
    ignored: tuple[Ignored, ...] = ()
    needs: tuple[Need, ...] = ()


class Metadatum(NamedTuple):
    """A GGUF key; `value` is an expression over sizes and settings, and an `optional` key is left out if it has no value.

    It is left out, too, if its value is that of the expression `unless`, or if a setting in `when` has another value.
    On the way back, `gives` is the setting or size that the expression `back` of `value` gives; a lone name gives itself.
    """

    key: str
    type: Literal["u32", "f32", "f64", "bool", "string"]
    value: str
    optional: bool = False
    gives: str | None = None
    back: str = "value"
    unless: str | None = None
    when: Mapping[str, Any] = MappingProxyType({})


def gguf(document: Mapping[str, Any]) -> Gguf:
    """What a family's table says about llama.cpp."""
    ignored = tuple(Ignored(**row) for row in document.get("ignored", ()))
    return Gguf(**{**document, "ignored": ignored, "needs": needs(document)})
