"""The words that options take, where an idea has no table of its own: for commands, functions and reports alike.

The first word is what an option means where it is left out, but for `FAIL_ON`, where it is the last.
"""

from collections.abc import Sequence
from typing import Final, Literal

from converter.errors import WordError

Sort = Literal["name", "size"]
Form = Literal["storages", "named"]
Level = Literal["tensors", "inference"]
Engine = Literal["numpy", "transformers", "llama.cpp"]
FailOn = Literal["dangerous", "unknown"]
# These two say what `converter.formats` has, for type checkers; a test holds them against it.
Target = Literal["safetensors", "gguf", "parameters", "npz"]
DtypeWord = Literal["keep", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]

SORTS: Final[tuple[Sort, ...]] = ("name", "size")
FORMS: Final[tuple[Form, ...]] = ("storages", "named")  # of a parameters folder: raw storages, or a file a parameter
LEVELS: Final[tuple[Level, ...]] = ("tensors", "inference")
ENGINES: Final[tuple[Engine, ...]] = ("numpy", "transformers", "llama.cpp")
FAIL_ON: Final[tuple[FailOn, ...]] = ("dangerous", "unknown")  # the mildest verdict that fails; malformed always does


def check_count(option: str, count: object) -> None:
    """Raise WordError unless `count` is a whole number from 1, or None."""
    if count is not None and (type(count) is not int or count < 1):
        raise WordError(option, count, ("a whole number from 1",))


def check(option: str, word: object, words: Sequence[str]) -> None:
    """Raise WordError unless `word` is one of `words`."""
    if word not in words:
        raise WordError(option, word, words)
