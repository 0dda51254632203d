"""What `inspect` reports about only some files. It is a module of its own, because making a dataclass takes a millisecond."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class HistogramReport:
    """How many elements lie in equally wide bars from `low` to `high`, and how many `below` and `above` them."""

    low: float
    high: float
    counts: tuple[int, ...]
    below: int
    above: int


@dataclass(frozen=True, slots=True)
class HeatReport:
    """A matrix as a picture: how large its elements are in each of `rows` times `columns` cells.

    `cells` has them row by row: the root of the mean square of the finite elements, in 255ths of the `largest` one.
    """

    rows: int
    columns: int
    largest: float
    cells: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StatisticsReport:
    """Statistics of one tensor's elements. None if it has no finite element, or if its dtype has no order.

    All but `nan` and `inf` describe the finite elements. `l2` is the square root of the sum of their squares. `quantiles`
    are by their shares, "0.5" for the median. `error` is how far quantiles and the bars of the histogram can be from the
    elements' values, as a share of them: 0 if they are exact, else 2^-8. `sha256` is the hash of the canonical bytes, if it was
    asked for. `heat` is a matrix as a picture, where pictures were asked for.
    """

    min: float | None
    max: float | None
    mean: float | None
    std: float | None
    zeros: int
    nan: int
    inf: int
    sha256: str | None = field(default=None, metadata={"absent": "where it is None"})
    l2: float | None = None
    quantiles: Mapping[str, float] = field(default_factory=dict)
    histogram: HistogramReport | None = field(default=None, metadata={"absent": "where it is None"})
    error: float = 0.0
    heat: HeatReport | None = field(default=None, metadata={"absent": "where it is None"})


@dataclass(frozen=True, slots=True)
class KeyReport:
    """Something that the file says about itself: a key of GGUF, or of safetensors' `__metadata__`.

    `value` is a number, a truth value or a text. For an array, `value` has the first elements, and `length` counts all.
    """

    key: str
    type: str
    value: Any
    length: int | None = field(default=None, metadata={"absent": "where it is None"})


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """The tokenizer inside the file. `special` are ids by what they are for; `template`: it has a chat template."""

    kind: str
    pre: str
    tokens: int
    merges: int
    special: Mapping[str, int]
    template: bool


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """The bytes that llama.cpp needs for a context of this many tokens: `weights`, and a `cache` of keys and values.

    If the cache is not `exact`, it may be smaller, as with a sliding window.
    """

    context: int
    weights: int
    cache: int
    exact: bool
