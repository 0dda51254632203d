"""The words that options of commands and functions take, for those that have no table of their own.

The first word is the option's default; of `FAIL_ON` it is the last.
"""

from collections.abc import Sequence
from enum import Enum
from typing import Final, Literal

from converter.errors import WordError

Sort = Literal["name", "size"]
Form = Literal["storages", "named"]
Level = Literal["tensors", "inference"]
Engine = Literal["numpy", "transformers", "llama.cpp"]
Weights = Literal["safetensors", "bin", "gguf", "npz"]
FailOn = Literal["dangerous", "unknown"]
FaultLevel = Literal["error", "warning"]
# For type checkers, these two repeat what `converter.formats` has; a test compares them.
Target = Literal["safetensors", "gguf", "parameters", "npz"]
DtypeWord = Literal["keep", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]


# The verdicts of `scan`.
PLAIN: Final = "plain"
UNKNOWN: Final = "unknown-globals"
PROGRAM: Final = "program"
DANGEROUS: Final = "dangerous"
MALFORMED: Final = "malformed"


class Part(Enum):
    """A part of a checkpoint that is asked for by what it is, and not by its key."""

    EMA = "the averaged weights"


# Which part of a checkpoint the names start below: a key (several joined with dots), a kind of part, or None for the rule of
# `converter.pickles.weights`.
Root = str | Part | None

SORTS: Final[tuple[Sort, ...]] = ("name", "size")
FORMS: Final[tuple[Form, ...]] = ("storages", "named")  # the forms of a parameters folder
LEVELS: Final[tuple[Level, ...]] = ("tensors", "inference")
ENGINES: Final[tuple[Engine, ...]] = ("numpy", "transformers", "llama.cpp")
WEIGHTS: Final[tuple[Weights, ...]] = ("safetensors", "bin", "gguf", "npz")  # kinds of weights in a folder
FAIL_ON: Final[tuple[FailOn, ...]] = ("dangerous", "unknown")  # the mildest verdict that fails; malformed always fails
FAULTS: Final[tuple[FaultLevel, ...]] = ("error", "warning")  # the mildest fault that fails


def check_count(option: str, count: object) -> None:
    """Raise WordError unless `count` is None or a whole number from 1."""
    if count is not None and (type(count) is not int or count < 1):
        raise WordError(option, count, ("a whole number from 1",))


def check(option: str, word: object, words: Sequence[str]) -> None:
    """Raise WordError unless `word` is one of `words`."""
    if word not in words:
        raise WordError(option, word, words)
