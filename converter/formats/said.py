"""What a file says about itself beside its tensors, and what is found about it, in the same words for every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple


class Finding(NamedTuple):
    """Something about a file beside the weights. Unless it `counts`, it is no difference, and is only mentioned."""

    name: str
    what: str
    detail: str
    counts: bool = True


class Hyperparameters(NamedTuple):
    """What a file `said` about how its model is computed, by key, and what a program takes for some keys that are absent.

    `architecture` is the key that names the architecture, and the name.
    """

    architecture: tuple[str, str]
    said: Mapping[str, Any]
    defaults: Mapping[str, Any]


class Alias(NamedTuple):
    """A key of a file and its value, and the names under which a config.json has it, of which models use one."""

    key: str
    names: tuple[str, ...]
    value: Any


class Key(NamedTuple):
    """Something that a file says about itself. For an array, `value` has the first elements, and `length` counts all.

    `elements` are all of an array, read each time they are asked for, and `digest` reads its bytes and returns their SHA-256.
    """

    name: str
    type: str
    value: Any
    length: int | None
    elements: Iterable[Any] = ()
    digest: Callable[[], bytes] | None = None


class Words(NamedTuple):
    """The tokenizer inside a file: counts, ids of special tokens by what they are for, and whether it has a chat template."""

    kind: str
    pre: str
    tokens: int
    merges: int
    special: Mapping[str, int]
    template: bool


class Cache(NamedTuple):
    """What a program keeps for a context of this many tokens, in bytes; if it is not `exact`, it may be less."""

    context: int
    nbytes: int
    exact: bool


class Portion(NamedTuple):
    """Which of a model's files this one is, by what the file itself says: `number`, from 1, of `parts`.

    `tensors` is how many there are in all files together; None if it does not say that.
    """

    number: int
    parts: int
    tensors: int | None

    def said(self, name: str) -> str:
        """The sentence about a file that is read without the others."""
        return f"`{name}` is part {self.number} of {self.parts} of a model, and the others are not read: name the first part"
