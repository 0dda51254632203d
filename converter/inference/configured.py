"""A model that is whole and whose config.json says all that computing it takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.errors import ModelError, UnsupportedError
from converter.models.recognition import Recognition, headless, recognise
from converter.models.rows import evaluated, unmet
from converter.text import safe_name
from converter.words import option

if TYPE_CHECKING:
    from converter.models.architecture import Activation, Forward
    from converter.models.families import Family
    from converter.models.rows import Parameter
    from converter.tensors.catalogue import Catalogue


# What GGUF would call the matrices between narrower embeddings and the model's width, if llama.cpp had such a family.
INWARD: Final = "token_embd_out"
OUTWARD: Final = "output_in"


@dataclass(frozen=True, slots=True)
class Configured:
    """The sizes and settings of a model. `rows` has the names in the catalogue and the rows, by the names in GGUF.

    `multiplied` is what embeddings are multiplied by. `untied`: the output head is a tensor of its own.
    """

    recognition: Recognition
    config: Mapping[str, Any] = field(hash=False)
    forward: Forward
    activation: Activation
    rows: Mapping[str, tuple[str, Parameter]] = field(hash=False)
    untied: bool
    epsilon: np.float32
    location: str

    @property
    def family(self) -> Family:
        """Its family."""
        return self.recognition.family

    @property
    def n_layer(self) -> int:
        """Layers."""
        return self.recognition.sizes["n_layer"]

    @property
    def n_embd(self) -> int:
        """The width of the residual stream."""
        return self.recognition.sizes["n_embd"]

    @property
    def n_head(self) -> int:
        """Heads of queries."""
        return self.recognition.sizes["n_head"]

    @property
    def n_kv(self) -> int:
        """Heads of keys and values."""
        return self.recognition.sizes.get("n_kv", self.n_head)

    @property
    def head_size(self) -> int:
        """Elements of a head."""
        return self.recognition.sizes.get("head_size", self.n_embd // self.n_head)

    @property
    def n_positions(self) -> int:
        """The most tokens of a text."""
        return self.recognition.sizes["n_positions"]

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding."""
        return self.recognition.sizes["vocab_size"]

    @property
    def parallel(self) -> bool:
        """Whether attention and MLP read the same x."""
        return bool(self.value(self.forward.parallel))

    @property
    def before(self) -> bool:
        """Whether norms come before attention and MLP."""
        return bool(self.value(self.forward.before))

    @property
    def narrow(self) -> bool:
        """Whether matrices lead from the embeddings' width to the model's, and back."""
        return self.forward.narrow is not None and self.look_up(self.forward.narrow) != self.n_embd

    @property
    def multiplied(self) -> np.float32 | None:
        """What embeddings are multiplied by."""
        return None if self.forward.squared is None else np.float32(math.sqrt(self.number(self.forward.squared)))

    def attention_scale(self, layer: int) -> np.float32:
        """What the products of a layer's queries and keys are multiplied by."""
        scale = 1.0
        if self.forward.scale is not None:
            scale = self.number(self.forward.scale)
        elif self.value(self.forward.scaled):
            scale /= math.sqrt(self.head_size)
        if self.value(self.forward.by_layer):
            scale /= layer + 1
        return np.float32(scale)

    def window(self, layer: int) -> int | None:
        """How many tokens a layer's token sees; None for all before it."""
        if self.forward.window is None:
            return None
        if self.forward.local is not None and _kinds(self.look_up(self.forward.local), self.n_layer)[layer] != "local":
            return None
        found = self.look_up(self.forward.window)
        if found is not None and (type(found) is not int or found < 1):
            raise ModelError(
                f"the config.json of `{self.location}` says `{self.family.config_key(self.forward.window)}` is {found!r:.80}: "
                "expected a whole number from 1"
            )
        return found

    def look_up(self, name: str) -> Any:
        """The value of a size or a setting."""
        return self.family.known(self.recognition.sizes, self.config)(name)

    def value(self, expression: str) -> Any:
        """The value of an expression over sizes and settings."""
        try:
            return evaluated(expression, self.look_up)
        except ValueError:
            return None

    def number(self, expression: str) -> float:
        """The value of an expression. Raises ModelError if it is not a positive number."""
        found = self.value(expression)
        if type(found) not in (int, float) or not 0 < found < math.inf:
            raise ModelError(
                f"the config.json of `{self.location}` says `{self.family.config_key(expression)}` is {found!r:.80}: expected a "
                "positive number"
            )
        return float(found)

    def length(self, expression: str) -> int:
        """The value of an expression. Raises ModelError unless it is an even size, of a head at most."""
        found = self.value(expression)
        found = int(found) if type(found) is float else found
        if type(found) is not int or found < 2 or found % 2 or found > self.head_size:
            raise ModelError(
                f"`{self.location}` turns {found!r:.80} elements of a head by position: "
                f"an even number up to {self.head_size} was expected"
            )
        return found

    def name(self, row: Parameter) -> str:
        """The catalogue's name for a row."""
        return self.recognition.name(row)


def configured(catalogue: Catalogue, config: Mapping[str, Any] | None) -> Configured:
    """The model in a catalogue; `config` replaces the catalogue's own.

    Raises ModelError for a catalogue that is not a complete model or contradicts its config.json, and UnsupportedError for
    a configuration that is not computed.
    """
    config = catalogue.config if config is None else config
    found = _recognised(catalogue, config)
    if config is None:
        config = found.model.config if found.model else {}
    family, forward = found.family, found.family.computed()
    settings = {known.name: family.setting(known.name, config) for known in family.settings}
    for known in family.settings:
        if type(known.default) is bool and type(settings[known.name]) is not bool:
            raise ModelError(
                f"the config.json of `{catalogue.location}` says `{family.config_key(known.name)}` is "
                f"{settings[known.name]!r}: expected true or false"
            )
    for name, meant in forward.fixed.items():
        if settings[name] != meant:
            raise UnsupportedError(
                f"the config.json of `{catalogue.location}` says `{family.config_key(name)}` is {settings[name]!r:.80}: only "
                f"{meant!r} is computed here"
            )
    if (reason := unmet(forward.needs, family.known(found.sizes, config))) is not None:
        raise UnsupportedError(f"`{catalogue.location}` is not computed here: {reason}")
    epsilon = settings[forward.epsilon]
    if type(epsilon) not in {int, float} or not 0 <= epsilon < 1:
        raise ModelError(
            f"the config.json of `{catalogue.location}` says `{family.config_key(forward.epsilon)}` is {epsilon!r}: expected "
            "about 1e-05"
        )
    if "n_head" not in found.sizes:
        raise ModelError(f"`{catalogue.location}` does not tell how many heads it has: put its config.json beside it")
    if (unknown := family.unknown(found.sizes)) is not None:
        raise ModelError(f"`{catalogue.location}` does not tell the {unknown}: put its config.json beside it")
    rows = {
        row.gguf: (found.name(row), row)
        for row in family.rows(found.sizes, config=config)
        if row.gguf is not None and found.name(row) in catalogue
    }
    tied = found.tied_head != "untied"
    followers = [row for row in family.rows(found.sizes, config=config) if row.gguf_untied and tied]
    rows |= {row.gguf: (found.followed(row), row) for row in followers if row.gguf is not None}
    untied = found.tied_head == "untied" or bool(followers) or ("output.weight" in rows and not family.followers)
    if (wrong := headless(found, config)) is not None:
        raise ModelError(f"`{catalogue.location}` {wrong}")
    model = Configured(
        recognition=found,
        config=config,
        forward=forward,
        activation=_activation(family, config, catalogue.location),
        rows=rows,
        untied=untied,
        epsilon=np.float32(epsilon),
        location=str(catalogue.location),
    )
    for name in (INWARD, OUTWARD):
        if model.narrow is not (f"{name}.weight" in rows):
            raise ModelError(
                f"`{catalogue.location}` has embeddings of {model.look_up(forward.narrow or 'n_embd'):,} and is {model.n_embd:,} "
                f"wide, and a matrix between the two {'is absent' if model.narrow else 'is there, too'}"
            )
    return model


def _recognised(catalogue: Catalogue, config: Mapping[str, Any] | None) -> Recognition:
    found = recognise(catalogue, config)
    if found is None:
        raise ModelError(
            f"`{catalogue.location}` has no architecture that can be computed here: compare only its tensors"
        )
    found.family.computed()
    if found.missing:
        raise ModelError(f"`{catalogue.location}` lacks `{found.missing[0]}`: inference needs every parameter")
    for wrong in found.mismatched:
        raise ModelError(f"`{wrong.name}`: expected the shape {wrong.expected}, found {wrong.found}")
    for contradiction in found.contradictions:
        raise ModelError(f"`{catalogue.location}` can't be computed: {contradiction}")
    if (strange := next(filter(found.in_layer, found.unexpected), None)) is not None:
        raise UnsupportedError(
            f"`{safe_name(strange)}` of `{catalogue.location}` is not computed here, because a layer of {found.family.title} has "
            f"no such tensor: if it changes nothing, give convert and verify {option('exclude', safe_name(strange))}"
        )
    return found


def _activation(family: Family, config: Mapping[str, Any], location: str) -> Activation:
    found = family.activation_of(config)
    if found is None:
        setting = family.activation.setting if family.activation else ""
        names = [name for names in (family.activation.names.values() if family.activation else ()) for name in names]
        raise UnsupportedError(
            f"the config.json of `{location}` says `{family.config_key(setting)}` is {family.setting(setting, config)!r}: "
            f"expected one of {', '.join(names)}"
        )
    return found


def _kinds(said: Any, layers: int) -> list[str]:
    """The kind of each layer's attention: a list of them, or pairs of a list and how often it is repeated."""
    found: list[str] = []
    for entry in said if isinstance(said, list) else []:
        match entry:
            case str(kind):
                found.append(kind)
            case [[*kinds], int(times)] if times * len(kinds) <= layers:
                found += kinds * times
    if len(found) < layers:
        raise ModelError(f"`config.json` does not say the kind of attention of each of the {layers} layers")
    return found
