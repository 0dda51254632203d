"""The words that options take, where an idea has no table of its own: for commands, functions and reports alike.

The first word is what an option means where it is left out, but for `FAIL_ON`, where it is the last.
"""

from typing import Final, Literal

Sort = Literal["name", "size"]
Form = Literal["storages", "named"]
Level = Literal["tensors", "inference"]
Engine = Literal["numpy", "transformers", "llama.cpp"]
FailOn = Literal["dangerous", "unknown"]

SORTS: Final[tuple[Sort, ...]] = ("name", "size")
FORMS: Final[tuple[Form, ...]] = ("storages", "named")  # of a parameters folder: raw storages, or a file a parameter
LEVELS: Final[tuple[Level, ...]] = ("tensors", "inference")
ENGINES: Final[tuple[Engine, ...]] = ("numpy", "transformers", "llama.cpp")
FAIL_ON: Final[tuple[FailOn, ...]] = ("dangerous", "unknown")  # the mildest verdict that fails; malformed always does
