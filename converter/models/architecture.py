"""The facts about a family of models: its tensors, sizes and settings, and their names in other formats.

All of it is in schemas/architectures/*.json; this module fills in {layer}, {decoder} and sizes.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, Self

from converter.errors import ModelError
from converter.models.rows import (
    Gguf,
    Made,
    Metadatum,
    MoveRow,
    Need,
    Parameter,
    Row,
    Scale,
    at,
    evaluated,
    gguf,
    needs,
)

_HIDING: Final = "rope_scaling"
_HIDDEN: Final = "rope_parameters."
# Two forms of GELU, the exact one with the error function and the approximation with tanh; and others.
Activation = Literal["erf", "tanh", "silu", "relu", "relu2"]


class Size(NamedTuple):
    """A size and where it comes from: the first of the config.json keys that exists, else the expression `value`."""

    name: str
    title: str | None = None
    config: tuple[str, ...] = ()
    value: str | None = None
    divides: str | None = None


class Setting(NamedTuple):
    """What the forward pass depends on: the first key of config.json that exists, and transformers' default for it.

    Without `config`, the key is its name. `written` is the key that is written, and that messages name; the first of `config`
    without it. Two copies of a model need not agree on a setting that is not `compared`: the
    tensors decide it, or it changes nothing in float32. `defaults` has other defaults by what config.json calls the family.
    If there are `kinds`, only what is called so has the setting.
    """

    name: str
    default: Any
    compared: bool = True
    config: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = MappingProxyType({})
    written: str | None = None
    kinds: tuple[str, ...] = ()


class ActivationNames(NamedTuple):
    """The setting that names the activation, and the names of each form (transformers/activations.py, ACT2FN)."""

    setting: str
    names: dict[Activation, tuple[str, ...]]


class Rotary(NamedTuple):
    """Positions that turn pairs of elements. `size` elements of a head are turned, by frequencies from the `base` down.

    Pairs are `halves` (the first with the first of the second half) or `neighbours`, in GGUF's order of the rows.
    `scaling` is the setting that says how longer texts are reached.
    """

    size: str
    base: str
    pairs: Literal["halves", "neighbours"]
    scaling: str | None = None


class Forward(NamedTuple):
    """What the engine computes. Tensors are found by their names in GGUF; what is absent is not computed.

    `epsilon`, `parallel`, `before`, `squared`, `scale`, `scaled` and `by_layer` are expressions over sizes and settings.
    `parallel`: attention and MLP read the same x. Norms come `before` attention and MLP, and one at the end, or after what
    they add, and none at the end. `narrow` is the width of embeddings and head, if matrices lead from it to the model's and
    back. `squared`: embeddings are multiplied by the square root of this. `scale`: what
    products of queries and keys are multiplied by, if not 1 / √head_size; nothing if `scaled` is false; and they are divided
    by the layer's number from 1 if `by_layer` is true. `first_position` is the row of the first position. `local` is the
    setting that says for each layer whether it looks back only as far as the setting `window` says; without it, all do.
    `fixed` are the only values of settings that are computed, and `needs` what else must hold.
    """

    norm: Literal["layer", "rms"]
    epsilon: str
    positions: Literal["learned", "rotary", "alibi", "sinusoidal"]
    rotary: Rotary | None = None
    parallel: str = "0"
    before: str = "1"
    narrow: str | None = None
    squared: str | None = None
    scale: str | None = None
    scaled: str = "1"
    by_layer: str = "0"
    first_position: int = 0
    local: str | None = None
    window: str | None = None
    fixed: Mapping[str, Any] = MappingProxyType({})
    needs: tuple[Need, ...] = ()


class TokenizerKind(NamedTuple):
    """The tokenizer of such models: its name in GGUF, and the token that ends a text."""

    kind: Literal["byte-pair"]
    gguf_model: str
    gguf_pre: str
    end_of_text: str


class ClientProperty(NamedTuple):
    """A line of the Java client's model.properties: a fixed `text`, or the size, setting or special token `value`."""

    key: str
    value: str | None = None
    text: str | None = None


class Dimensions(NamedTuple):
    """How large a model is, whatever its family calls these sizes; None for an unknown one."""

    layers: int | None
    width: int | None
    heads: int | None


@dataclass(frozen=True, slots=True)
class Architecture:
    """The rows of a family of models.

    `title` is its name for people, `model_type` its name in config.json, and `also` what else may
    stand there, with its own class of transformers;
    `transformers` its class there, and `gguf_name` its general.architecture. `prefixes` are those that names may have; the
    last one is that of transformers. `layers` is the size that counts the layers. `told`: other families have the same
    names and shapes, so config.json must name this one. `sample` is the config.json of a tiny model, and `published` how
    its files lie; `variants` are further ones, by name, each with what is different there.
    """

    name: str
    title: str
    model_type: str
    also: Mapping[str, str | None] = field(hash=False)
    told: bool
    transformers: str | None
    gguf_name: str | None
    prefixes: tuple[str, ...]
    layers: str
    size_table: tuple[Size, ...]
    settings: tuple[Setting, ...]
    activation: ActivationNames | None = field(hash=False)
    tokenizer: TokenizerKind | None
    special_tokens: tuple[str, ...]
    client: tuple[ClientProperty, ...]
    metadata: tuple[Metadatum, ...]
    gguf: Gguf | None = field(hash=False)
    made: tuple[Made, ...]
    forward: Forward | None
    sample: Mapping[str, Any] = field(hash=False)
    published: Mapping[str, Any] = field(hash=False)
    variants: Mapping[str, Any] = field(hash=False)
    row_table: tuple[Row, ...]
    orders: Mapping[str, tuple[str, ...]] = field(hash=False)
    aliases: Mapping[str, str] = field(hash=False)

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """The architecture that a document of schemas/architectures.schema.json describes."""
        activation, tokenizer = document.get("activation"), document.get("tokenizer")
        forward, said = document.get("forward"), document.get("gguf")
        return cls(
            name=document["name"],
            title=document["title"],
            model_type=document["model_type"],
            also=MappingProxyType(document.get("also", {})),
            told=document.get("told", False),
            transformers=document.get("transformers"),
            gguf_name=document.get("gguf_name"),
            prefixes=tuple(document["prefixes"]),
            layers=document["layers"],
            size_table=tuple(Size(**_tuples(size)) for size in document["sizes"]),
            settings=tuple(Setting(**_tuples(setting)) for setting in document.get("settings", ())),
            activation=activation and ActivationNames(activation["setting"], _activations(activation["names"])),
            tokenizer=tokenizer and TokenizerKind(**tokenizer),
            special_tokens=tuple(document.get("special_tokens", ())),
            client=tuple(ClientProperty(**line) for line in document.get("client", ())),
            metadata=tuple(Metadatum(**metadatum) for metadatum in document.get("metadata", ())),
            gguf=None if said is None else gguf(said),
            made=tuple(Made(**_tuples(made)) for made in document.get("gguf_made", ())),
            forward=forward and _forward(forward),
            sample=MappingProxyType(document.get("sample", {})),
            published=MappingProxyType(document.get("published", {})),
            variants=MappingProxyType(document.get("variants", {})),
            row_table=tuple(Row(**_row(row)) for row in document["rows"]),
            orders=MappingProxyType(_tuples(document.get("orders", {}))),
            aliases={other: row["name"] for row in document["rows"] for other in row.get("also", ())},
        )

    def is_called(self, kind: object) -> bool:
        """Whether config.json may call the family by this name."""
        return kind == self.model_type or (isinstance(kind, str) and kind in self.also)

    def transformers_class(self, config: Mapping[str, Any]) -> str | None:
        """The class of transformers that computes a model with this config.json."""
        kind = config.get("model_type")
        return self.also.get(kind) if isinstance(kind, str) and kind in self.also else self.transformers

    # ---- sizes

    def sizes(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Read the sizes from a config.json. Raises ModelError if one is absent, impossible, or not a whole number from 1."""
        sizes: dict[str, int] = {}
        for size in sorted(self.size_table, key=lambda size: size.value is not None):
            claims = self.claims(size, config, sizes)
            if not claims:
                absent = size.config[0] if size.config else size.name
                raise ModelError(f"`config.json` has no `{absent}`, without which no tensor's shape is known")
            key, value = claims[0]
            if not whole(value):
                raise ModelError(f"`config.json` says `{key}` is {reprlib.repr(value)}: expected a whole number from 1")
            sizes[size.name] = value
        for size in self.size_table:
            if size.divides and sizes[size.divides] % sizes[size.name]:
                raise ModelError(
                    f"`config.json` says `{self.config_key(size.name)}` is {sizes[size.name]}, which does not divide the "
                    f"{sizes[size.divides]} of `{self.config_key(size.divides)}`"
                )
        return sizes

    def claims(self, size: Size, config: Mapping[str, Any], sizes: Mapping[str, int]) -> list[tuple[str, Any]]:
        """What config.json says about a size, by key; its default if config.json says nothing; or nothing."""
        said = [(key, value) for key in size.config if (value := said_in(config, key)) is not None]
        if not said and (value := self.derived(size, config, sizes)) is not None:
            return [(size.config[0] if size.config else size.name, value)]
        return said

    def derived(self, size: Size, config: Mapping[str, Any], sizes: Mapping[str, int]) -> Any:
        """The value of a size that follows from others and from settings; None if it does not."""
        if size.value is None:
            return None
        try:
            value = evaluated(size.value, self.known(sizes, config))
        except ValueError:
            return None
        return int(value) if type(value) is float else value

    def known(self, sizes: Mapping[str, int], config: Mapping[str, Any]) -> Callable[[str], Any]:
        """A function that gives the value of a size or a setting, for expressions."""
        named = {size.name for size in self.size_table}
        return lambda name: sizes.get(name) if name in named else self.setting(name, config)

    @property
    def shaping(self) -> frozenset[str]:
        """The sizes that a tensor's shape shows; the others are counted or told by config.json."""
        shown = {size for row in self.row_table for size in row.shape}
        return frozenset(size.name for size in self.size_table if size.name in shown)

    def unknown(self, sizes: Mapping[str, int]) -> str | None:
        """The name for people of the first unknown size; None if all are known."""
        return next((size.title or f"`{size.name}`" for size in self.size_table if size.name not in sizes), None)

    def dimensions(self, sizes: Mapping[str, Any]) -> Dimensions:
        """The sizes that tell models of the family apart. The number of heads is the size that divides the width."""
        heads = next((size for size in self.size_table if size.divides), None)
        width = sizes.get(heads.divides or "") if heads else None
        return Dimensions(sizes.get(self.layers), width, sizes.get(heads.name) if heads else None)

    def head_size(self, sizes: Mapping[str, Any]) -> int | None:
        """The elements of one attention head; None if the sizes do not say it."""
        _, width, heads = self.dimensions(sizes)
        return width // heads if width is not None and whole(width) and heads is not None and whole(heads) else None

    def described(self, sizes: Mapping[str, int]) -> str:
        """The family and how large a model of it is, for a page."""
        layers, width, _ = ("?" if size is None else size for size in self.dimensions(sizes))
        return f"{self.title} with {layers} layers of {width}"

    # ---- settings

    def setting(self, name: str, config: Mapping[str, Any]) -> Any:
        """The value of a setting in a config.json, or its default if the key is left out."""
        setting = next((setting for setting in self.settings if setting.name == name), None)
        if setting is None:
            return config.get(name)
        default = setting.default
        if setting.defaults:
            default = setting.defaults.get(str(config.get("model_type")), default)
        if setting.kinds and config.get("model_type") not in setting.kinds:
            return default
        if not setting.config:
            return config.get(name, default)
        said = (value for key in setting.config if (value := said_in(config, key)) is not None)
        return next(said, default)

    def config_key(self, name: str) -> str:
        """The key of config.json for a size or a setting."""
        keys = {row.name: row.config for row in self.size_table}
        keys |= {row.name: (row.written,) if row.written else row.config for row in self.settings}
        return next(iter(keys.get(name, ())), name)

    def activation_of(self, config: Mapping[str, Any]) -> Activation | None:
        """Which GELU a config.json asks for; None if it is not a known one."""
        name = self.activation and self.setting(self.activation.setting, config)
        named = self.activation.names.items() if self.activation else ()
        return next((activation for activation, names in named if name in names), None)

    def activation_setting(self, activation: Activation) -> dict[str, str]:
        """The setting of config.json that selects an activation; nothing if the family has only one."""
        if self.activation is None or activation not in self.activation.names:
            return {}
        return {self.config_key(self.activation.setting): self.activation.names[activation][0]}

    # ---- tensors

    def rows(
        self, sizes: Mapping[str, int], order: str = "module", config: Mapping[str, Any] = MappingProxyType({})
    ) -> list[Parameter]:
        """Every parameter and buffer, including optional ones, in an order from the JSON (`module` is the order of the rows)."""
        known = self.known(sizes, config)
        return [row.filled(known, layer) for row, layer in self.each(sizes[self.layers], order)]

    def each(self, count: int, order: str = "module") -> Iterator[tuple[Row, int | None]]:
        """Yield every row with each of `count` layers that it is for, in an order that `rows` takes."""
        named = {row.name: row for row in self.row_table}
        ordered = self.row_table if order == "module" else [named[name] for name in self.orders[order]]
        for layered, group in groupby(ordered, key=lambda row: row.layered):
            members = list(group)
            yield from ((row, layer) for layer in (range(count) if layered else (None,)) for row in members)

    @property
    def tail(self) -> list[Row]:
        """The required rows that follow the layers."""
        last = max((index for index, row in enumerate(self.row_table) if row.layered), default=-1)
        return [row for row in self.row_table[last + 1 :] if row.required or row.present_if]

    def says_present(self, row: Row, config: Mapping[str, Any]) -> bool | None:
        """Whether a config.json says that a row is there; None if nothing says so."""
        said = [self.setting(name, config) for name in row.conditions]
        return all(said) if said and all(type(value) is bool for value in said) else None

    @property
    def followers(self) -> dict[str, str]:
        """The bare names that follow from others if they are tied: the output head from the embedding."""
        return {row.name: row.tied_to for row in self.row_table if row.tied_to}

    def parts(self, count: int) -> dict[str, tuple[str, ...]]:
        """What equal parts of a tensor's last dimension hold, by the tensor's bare name, for `count` layers."""
        return {at(layer, row.name): row.parts for row, layer in self.each(count) if row.parts}

    def gguf_names(self, count: int) -> dict[str, str]:
        """The names in GGUF by the bare names, for `count` layers."""
        return {at(layer, row.name): at(layer, row.gguf) for row, layer in self.each(count) if row.gguf}

    def bare(self, name: str) -> str:
        """A name without the family's prefix, whichever prefix it has. What has several names gets the first."""
        prefix = max((prefix for prefix in self.prefixes if name.startswith(prefix)), key=len, default="")
        bare = name.removeprefix(prefix)
        return self.aliases.get(bare, bare)


def whole(value: object) -> bool:
    """Whether a value is a size: a whole number from 1."""
    return type(value) is int and value > 0


def said_in(config: Mapping[str, Any], key: str) -> Any:
    """What a config.json says under a key; a dot goes into an object. None if it says nothing.

    Where there is rope_scaling, transformers takes nothing of rope_parameters.
    """
    if key.startswith(_HIDDEN) and isinstance(config.get(_HIDING), Mapping) and config[_HIDING]:
        return None
    found: Any = config
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _row(document: Mapping[str, Any]) -> dict[str, Any]:
    moves = tuple(MoveRow(**_tuples(move)) for move in document.get("gguf_moves", ()))
    scale = document.get("gguf_scale")
    return {**_tuples(document), "gguf_moves": moves, "gguf_scale": scale and Scale(**scale)}


def _forward(document: Mapping[str, Any]) -> Forward:
    rotary = document.get("rotary")
    return Forward(**{**document, "rotary": rotary and Rotary(**rotary), "needs": needs(document)})


def _activations(document: Mapping[Activation, list[str]]) -> dict[Activation, tuple[str, ...]]:
    return {activation: tuple(names) for activation, names in document.items()}


def _tuples(document: Mapping[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in document.items()}
