"""The mixtures of llama-quantize: which type each matrix gets, by its place in the model. Source: src/llama-quant.cpp."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from converter.errors import UnsupportedError
from converter.formats.gguf.encodings import ALONE, BY_NAME, Encoding
from converter.words import option

# Kinds of matrices, by a part of their names; the first that fits. Fused queries, keys and values count as values.
_OUTPUT: Final = "output"
_TOKENS: Final = "tokens"
_VALUES: Final = "values"
_KEYS: Final = "keys"
_AFTER: Final = "after attention"
_DOWN: Final = "down"
_WHOLE_NAMES: Final = {
    "output.weight": _OUTPUT,
    "token_embd.weight": _TOKENS,
    "per_layer_token_embd.weight": _TOKENS,
}
_PARTS: Final = {
    "attn_qkv.weight": _VALUES,
    "attn_kv_b.weight": _VALUES,
    "attn_v.weight": _VALUES,
    "attn_k.weight": _KEYS,
    "attn_output.weight": _AFTER,
    "ffn_down": _DOWN,
}
_LAYER: Final = re.compile(r"blk\.(\d+)\.")
_GROUPED: Final = 4  # queries that share a key and a value: from here on they are worth more bits
_EXPERTS: Final = 8
_LARGEST: Final = 80  # layers of the llama that has 70 billion parameters


@dataclass(frozen=True, slots=True)
class Model:
    """What a mixture depends on. `queries` is how many of them share a key. `weighed`: there is an importance matrix."""

    architecture: str = ""
    layers: int = 0
    experts: int = 0
    queries: int = 1
    weighed: bool = False

    @property
    def falcon(self) -> bool:
        """Whether it is a Falcon, which has rows of its own."""
        return self.architecture == "falcon"


def described(keys: Mapping[str, Any], *, weighed: bool) -> Model:
    """The model that keys of GGUF describe."""
    architecture = keys.get("general.architecture", "")

    def number(name: str, default: int = 0) -> int:
        value = keys.get(f"{architecture}.{name}", default)
        if not isinstance(value, int):  # a number for each layer: that of the first counts
            value = next(iter(value), default) if isinstance(value, Iterable) else default
        return value if isinstance(value, int) else default

    heads = number("attention.head_count")
    shared = number("attention.head_count_kv", heads)
    queries = heads // shared if shared > 0 else 1
    return Model(architecture, number("block_count"), number("expert_count"), queries, weighed)


@dataclass(frozen=True, slots=True)
class _Place:
    """A matrix among those of its kind: its number from 0, and how many there are."""

    index: int
    count: int
    model: Model


def _more(place: _Place) -> bool:
    """The first eighth, the last eighth, and every third between them."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


_ALWAYS: Final = "always"
_WHEN: Final[Mapping[str, Callable[[_Place], bool]]] = {
    _ALWAYS: lambda place: True,
    "more": _more,
    "first two": lambda place: place.index < 2,
    "first four": lambda place: place.index < 4,
    "first eighth": lambda place: place.index < place.count // 8,
    "first sixteenth": lambda place: place.index < place.count // 16,
    "unweighed first eighth": lambda place: not place.model.weighed and place.index < place.count // 8,
    "weighed first eighth": lambda place: place.model.weighed and place.index < place.count // 8,
    "grouped": lambda place: place.model.queries >= _GROUPED,
    "eight experts": lambda place: place.model.experts == _EXPERTS,
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """A mixture: the type of most matrices, and rows (kind, when, type), of which the first that fits counts.

    `file_type` is its number in general.file_type (llama_ftype). `falcon` are the rows for down and for after attention of that
    architecture.
    """

    word: str
    file_type: int
    base: str
    rows: tuple[tuple[str, str, str], ...] = ()
    falcon: tuple[tuple[str, str, str], ...] = ()


_EIGHT: Final = (_AFTER, "eight experts", "Q5_K")
_IQ4_DOWN: Final = (_DOWN, "unweighed first eighth", "Q5_K")
RECIPES: Final = (
    Recipe("q4_0", 2, "Q4_0", ((_DOWN, "weighed first eighth", "Q4_1"),), ((_DOWN, "weighed first eighth", "Q4_1"),)),
    Recipe("q4_1", 3, "Q4_1"),
    Recipe("q8_0", 7, "Q8_0"),
    Recipe("q5_0", 8, "Q5_0", ((_DOWN, "weighed first eighth", "Q5_1"),), ((_DOWN, "weighed first eighth", "Q5_1"),)),
    Recipe("q5_1", 9, "Q5_1"),
    Recipe(
        "q2_k",
        10,
        "Q2_K",
        (
            (_VALUES, "grouped", "Q4_K"),
            (_VALUES, _ALWAYS, "Q3_K"),
            (_DOWN, _ALWAYS, "Q3_K"),
            _EIGHT,
            (_AFTER, _ALWAYS, "Q3_K"),
        ),
        ((_DOWN, _ALWAYS, "Q3_K"),),
    ),
    Recipe("q3_k_s", 11, "Q3_K", (_EIGHT,)),
    Recipe(
        "q3_k_m",
        12,
        "Q3_K",
        (
            *((_VALUES, "first two", "Q5_K"), (_VALUES, _ALWAYS, "Q4_K"), (_DOWN, "first sixteenth", "Q5_K")),
            *((_DOWN, _ALWAYS, "Q4_K"), _EIGHT, (_AFTER, _ALWAYS, "Q4_K")),
        ),
        ((_DOWN, "first sixteenth", "Q5_K"), (_DOWN, "more", "Q4_K")),
    ),
    Recipe(
        "q3_k_l",
        13,
        "Q3_K",
        (
            (_VALUES, _ALWAYS, "Q5_K"),
            (_DOWN, _ALWAYS, "Q5_K"),
            (_AFTER, "eight experts", "Q3_K"),
            (_AFTER, _ALWAYS, "Q5_K"),
        ),
        ((_DOWN, _ALWAYS, "Q4_K"), (_AFTER, _ALWAYS, "Q4_K")),
    ),
    Recipe("q4_k_s", 14, "Q4_K", ((_VALUES, "first four", "Q5_K"), (_DOWN, "first eighth", "Q5_K"), _EIGHT)),
    Recipe(
        "q4_k_m",
        15,
        "Q4_K",
        ((_VALUES, "more", "Q6_K"), (_DOWN, "more", "Q6_K"), _EIGHT),
        ((_DOWN, "first sixteenth", "Q6_K"), (_DOWN, "more", "Q5_K")),
    ),
    Recipe("q5_k_s", 16, "Q5_K"),
    Recipe("q5_k_m", 17, "Q5_K", ((_VALUES, "more", "Q6_K"), (_DOWN, "more", "Q6_K")), ((_DOWN, "more", "Q6_K"),)),
    Recipe("q6_k", 18, "Q6_K"),
    Recipe("iq4_nl", 25, "IQ4_NL", ((_VALUES, "grouped", "Q5_K"), _IQ4_DOWN, _EIGHT), (_IQ4_DOWN,)),
    Recipe("iq4_xs", 30, "IQ4_XS", ((_VALUES, "grouped", "Q5_K"), _IQ4_DOWN, _EIGHT), (_IQ4_DOWN,)),
)
_BY_WORD: Final = {recipe.word: recipe for recipe in RECIPES}
# What llama-quantize calls by the name of a type alone.
_MEDIUM: Final = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
_TYPES: Final = frozenset(recipe.base.lower() for recipe in RECIPES)


def recipe_of(word: str, pure: bool | None) -> Recipe | None:
    """The mixture that a word of --dtype asks for; None if all matrices are to get one type.

    A type's own name means that type alone, unless `pure` is False; a mixture's name means the mixture, unless it is True.
    Raises UnsupportedError if the mixture of a type is wanted and not known.
    """
    mixed = word not in _TYPES if pure is None else not pure
    if pure is False and word.upper() in ALONE and word not in _BY_WORD:
        raise UnsupportedError(
            f"llama-quantize's mixture of {word.upper()} is not made here: give {option('pure', True)}, which makes every matrix "
            f"{word.upper()}"
        )
    return _BY_WORD.get(_MEDIUM.get(word, word)) if mixed else None


def base_of(word: str) -> str:
    """The word of the type that most matrices of a mixture have; any other word as it is."""
    return _BY_WORD[word].base.lower() if word in _BY_WORD else word


def mixture(recipe: Recipe, columns: Mapping[str, int], names: Iterable[str], model: Model) -> dict[str, Encoding]:
    """The type of each matrix in `columns`, which gives the lengths of rows. `names` are those of all tensors of the model.

    Rows that are not whole blocks of the type get another one later, as with any type.
    """
    names = list(names)
    tied = "output.weight" not in names
    values = sum(_kind(name) == _VALUES for name in names)
    seen: dict[str, int] = {}
    chosen = {}
    for name in sorted(columns, key=_order):
        kind, layer = _kind(name), _LAYER.match(name)
        index = seen.get(kind, 0)
        seen[kind] = index + 1
        if kind == _DOWN and model.experts > 1 and layer is not None:
            index = int(layer[1])  # experts are several matrices of a layer
        place = _Place(index, values if kind == _VALUES else model.layers, model)
        if kind == _OUTPUT or (kind == _TOKENS and tied):
            encoding = _of_output(recipe, columns[name], model)
        else:
            encoding = BY_NAME[_of_layer(recipe, kind, place)]
        chosen[name] = encoding
    return chosen


def _of_output(recipe: Recipe, columns: int, model: Model) -> Encoding:
    """The type of the head, or of the embedding that is the head, too."""
    if model.falcon or columns % BY_NAME[recipe.base].block or recipe.base == "Q8_0":
        return BY_NAME["Q8_0"]
    return BY_NAME["Q6_K"]


def _of_layer(recipe: Recipe, kind: str, place: _Place) -> str:
    model = place.model
    own = model.falcon and kind in (_DOWN, _AFTER)
    rows = recipe.falcon if own else recipe.rows
    name = next((type for of, when, type in rows if of == kind and _WHEN[when](place)), recipe.base)
    if kind == _VALUES and model.architecture == "llama" and model.layers == _LARGEST and model.queries > 1:
        name = {"Q3_K": "Q5_K", "Q4_K": "Q5_K"}.get(name, name)
    return "Q8_0" if kind in (_VALUES, _KEYS) and model.experts == _EXPERTS else name


def _kind(name: str) -> str:
    return _WHOLE_NAMES.get(name) or next((kind for part, kind in _PARTS.items() if part in name), "")


def _order(name: str) -> tuple[int, str]:
    """llama.cpp's order: what has no layer first, then the layers by number, and by name in each."""
    layer = _LAYER.match(name)
    return int(layer[1]) if layer else -1, name
