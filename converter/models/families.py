"""The families that are recognised, one for each file in schemas/architectures, and what this package can do with each."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final, Literal, NoReturn

from converter.errors import ConverterError, ModelError, UnsupportedError
from converter.models.architecture import Architecture, Forward, whole
from converter.models.rows import Metadatum, evaluated, unmet
from converter.resources import load_json, schemas

# Where the output head is: not stored, the same view as the embedding, or a tensor of its own.
TiedHead = Literal["absent", "tied", "untied"]

# Most checkpoints that are read here are of this family, so its table is read first, and usually alone.
_FIRST: Final = "gpt2"
_U32: Final = 1 << 32
_NUMBERS: Final = ("u32", "f32", "f64")
_TYPES: Final = {"u32": (int,), "f32": (int, float), "f64": (int, float), "bool": (bool,), "string": (str,)}
_EXPECTED: Final = {**dict.fromkeys(_NUMBERS, "a positive number"), "bool": "true or false", "string": "a text"}
_KINDS: Final = {"erf": "GELU", "tanh": "GELU", "silu": "SiLU", "relu": "ReLU", "relu2": "the square of ReLU"}


class Family(Architecture):
    """An architecture that is recognised. Everything that needs only names and shapes works for every family.

    `sizes` come from a recognition, and `settings` are its config.json or the declared model's.
    """

    __slots__ = ()

    def gguf_notes(self, sizes: Mapping[str, int], settings: Mapping[str, Any]) -> list[str]:
        """Sentences about what llama.cpp computes differently. Raises UnsupportedError if its results would be wrong."""
        if self.gguf is None:
            self._refuse(UnsupportedError, "GGUF of it is not written here: choose safetensors")
        if self.gguf.refused is not None:
            raise UnsupportedError(
                f"{self.title} can't be written as GGUF, because {self.gguf.refused}: choose safetensors"
            )
        for name, meant in self.gguf.fixed.items():
            if not _same(said := self.setting(name, settings), meant):
                raise UnsupportedError(
                    f"`config.json` says `{self.config_key(name)}` is {said!r:.80}: llama.cpp's {self.title} has {meant}"
                )
        if (reason := unmet(self.gguf.needs, self.known(sizes, settings))) is not None:
            raise UnsupportedError(f"{reason}: choose safetensors")
        notes = list(self.left_out_by_llama_cpp(sizes, settings))
        if self.activation is None:
            return notes
        activation = self.activation_of(settings)
        if activation is None:
            said = self.setting(self.activation.setting, settings)
            kinds = " or ".join(sorted({_KINDS.get(form, form) for form in self.activation.names}))
            raise UnsupportedError(
                f"`config.json` has the activation {said!r:.80}: llama.cpp's {self.title} has only {kinds}"
            )
        if activation != "erf":
            return notes
        exact = "the model was trained with the exact GELU"
        return [*notes, f"{exact}; llama.cpp computes the tanh form, so logits differ by about 0.001"]

    def left_out_by_llama_cpp(self, sizes: Mapping[str, int], settings: Mapping[str, Any]) -> Iterator[str]:
        """Yield a sentence for each setting of a model that llama.cpp leaves out."""
        known = self.known(sizes, settings)
        for row in self.gguf.ignored if self.gguf is not None else ():
            said, below = self.setting(row.setting, settings), row.below and known(row.below)
            if row.value is not None and said != row.value:
                continue
            if said and not (whole(said) and whole(below) and said >= below):
                yield row.said.format_map({**sizes, row.setting: said})

    def gguf_metadata(self, sizes: Mapping[str, int], settings: Mapping[str, Any]) -> Iterator[tuple[Metadatum, Any]]:
        """Yield the GGUF keys of the architecture with their values. Raises ModelError for a value that can't be one."""
        known = self.known(sizes, settings)
        for datum in self.metadata:
            value, unless = (self._evaluated(text, known) for text in (datum.value, datum.unless))
            if (value is None and datum.optional) or (unless is not None and value == unless):
                continue
            if not all(_same(self.setting(name, settings), meant) for name, meant in datum.when.items()):
                continue
            if datum.type == "u32" and type(value) is float:
                value = int(value)
            if type(value) not in _TYPES[datum.type]:
                raise ModelError(
                    f"`{datum.value}` is {value!r:.80}: {_EXPECTED[datum.type]} was expected for `{datum.key}`"
                )
            if datum.type in _NUMBERS and not 0 < value < _U32:
                raise ModelError(f"`{datum.value}` is {value!r:.80}: a positive number was expected for `{datum.key}`")
            yield datum, value

    def client_properties(
        self, sizes: Mapping[str, int], settings: Mapping[str, Any], head: TiedHead
    ) -> list[tuple[str, object]]:
        """The lines of model.properties that tell the Java client what to compute. ModelError if the client can't."""
        if not self.client:
            self._refuse(ModelError, "the Java client does not know it")
        from converter.models.client_lines import client_lines

        return client_lines(self, sizes, settings, head)

    def computed(self) -> Forward:
        """What the engine computes. Raises ModelError if it does not compute this family."""
        if self.forward is None:
            self._refuse(ModelError, "what it computes can't be compared here: compare only its tensors")
        return self.forward

    @staticmethod
    def _evaluated(text: str | None, known: Callable[[str], Any]) -> Any:
        try:
            return None if text is None else evaluated(text, known)
        except ValueError:
            return None

    def _refuse(self, error: type[ConverterError], what: str) -> NoReturn:
        raise error(f"{self.title} is recognised, but {what}")


def _same(said: Any, meant: Any) -> bool:
    """Whether a setting has the value that llama.cpp takes for granted, or one of several. 1 is not true."""
    if isinstance(meant, list):
        return said in meant
    return said == meant and isinstance(said, bool) == isinstance(meant, bool)


# ---- all families


def read(document: Mapping[str, Any]) -> Family:
    """The family that a document of schemas/architectures.schema.json describes."""
    return Family.read(document)


@cache
def family(name: str) -> Family:
    """The family of schemas/architectures with this name."""
    return read(load_json("architectures", f"{name}.json"))


@cache
def names() -> tuple[str, ...]:
    """The names of the families, in the order in which they are tried. A checkpoint fits only one of them."""
    found = sorted(path.stem for path in (schemas() / "architectures").glob("*.json"))
    return (_FIRST, *(name for name in found if name != _FIRST))


def families() -> Iterator[Family]:
    """The families of schemas/architectures. A table is read when it is asked for."""
    return map(family, names())


def runnable() -> list[str]:
    """The titles of the families that this package computes."""
    return [family.title for family in families() if family.forward is not None]


def writable() -> list[str]:
    """The titles of the families that this package writes as GGUF."""
    return [family.title for family in families() if family.gguf is not None and family.gguf.refused is None]


# ---- what a config.json says that no model of its family computes, so it belongs to another --------------------------

# How the names of classes end in transformers, after the family's name.
_ENDING: Final = re.compile(r"(For[A-Z]\w*|(?:LMHead|DoubleHeads|LM|PreTrained|Text)?Model)$")
_NO_LETTER: Final = re.compile(r"[^a-z0-9]")


def objections(family: Architecture, config: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each key that changes what is computed and that the family does not have, and for foreign classes."""
    own = {setting.name for setting in family.settings}
    read = [key for size in family.size_table for key in size.config]
    read += [key for setting in family.settings for key in setting.config]
    own |= {key.rpartition(".")[2] for key in read}
    for row in load_json("other-arithmetic.json")["rows"]:
        key, said = row["key"], config.get(row["key"])
        if key in own or _without_effect(said, row["without_effect"]):
            continue
        yield (
            f"`config.json` says `{key}` is {reprlib.repr(said)}, as models of {row['of']} have it, and {family.title} "
            "does not compute that: if the key is a mistake, remove it"
        )
    for name in _classes(config):
        other = _family_of(name)
        if other is not None and not _is_own(family, other):
            yield (
                f"`config.json` says the model's class is {name!r:.80} and its `model_type` is "
                f"{reprlib.repr(config.get('model_type', family.model_type))}: these are two families, so correct the wrong one"
            )


def _without_effect(said: Any, values: list[Any]) -> bool:
    """Whether a value is one of these, or a list of nothing else. 1 is not true."""
    if said is None or (isinstance(said, list) and all(_without_effect(one, values) for one in said)):
        return True
    return any(said == value and isinstance(said, bool) == isinstance(value, bool) for value in values)


def _classes(config: Mapping[str, Any]) -> list[str]:
    said = config.get("architectures")
    return [name for name in said if isinstance(name, str)] if isinstance(said, list) else []


def _family_of(name: str) -> str | None:
    """What transformers calls the family of one of its classes, without signs; None if it has no such family."""
    stem = _NO_LETTER.sub("", _ENDING.sub("", name).lower())
    return (
        stem if stem in {_NO_LETTER.sub("", kind) for kind in load_json("config-defaults.json")["families"]} else None
    )


def _is_own(family: Architecture, other: str) -> bool:
    called = {family.name, family.model_type, *family.also}
    classes = {family.transformers, *family.also.values()} - {None}
    called |= {_ENDING.sub("", name or "").lower() for name in (*classes, *_classes(family.sample))}
    return other in {_NO_LETTER.sub("", name) for name in called}
