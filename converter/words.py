"""The words that options of commands and functions take, for those that have no table of their own.

The first word is the option's default; for `FAIL_ON` it is the last.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from enum import Enum
from functools import wraps
from typing import Final, Literal, ParamSpec, TypeVar

from converter.errors import WordError

Sort = Literal["name", "size"]
Form = Literal["storages", "named"]
Level = Literal["tensors", "inference"]
Engine = Literal["numpy", "transformers", "llama.cpp"]
Weights = Literal["safetensors", "bin", "gguf", "npz"]
FailOn = Literal["dangerous", "unknown"]
Fleet = Literal["local", "ray"]
FaultLevel = Literal["error", "warning"]
# For type checkers, these two repeat what `converter.formats` has; a test compares them.
Target = Literal["safetensors", "gguf", "parameters", "npz"]
DtypeWord = Literal[
    "keep",
    "f32",
    "f16",
    "bf16",
    "q8_0",
    "q5_1",
    "q5_0",
    "q4_1",
    "q4_0",
    "q6_k",
    "q5_k",
    "q4_k",
    "q3_k",
    "q2_k",
    "iq4_nl",
    "iq4_xs",
    "iq3_s",
    "iq3_xxs",
    "iq2_s",
    "iq2_xs",
    "iq2_xxs",
    "iq1_m",
    "iq1_s",
    "q5_k_m",
    "q5_k_s",
    "q4_k_m",
    "q4_k_s",
    "q3_k_l",
    "q3_k_m",
    "q3_k_s",
]


# What a sentence calls the activations of `converter.models.architecture`.
ACTIVATIONS: Final = {
    "erf": "erf GELU",
    "tanh": "tanh GELU",
    "silu": "SiLU",
    "relu": "ReLU",
    "relu2": "squared ReLU",
}

# The verdicts of `scan`.
PLAIN: Final = "plain"
UNKNOWN: Final = "unknown-globals"
PROGRAM: Final = "program"
DANGEROUS: Final = "dangerous"
MALFORMED: Final = "malformed"


class Part(Enum):
    """A part of a checkpoint that is asked for by what it is, and not by its key."""

    EMA = "the averaged weights"


# The part of a checkpoint that is read as the model: a key (several joined with dots), a kind of part, or None for the part that
# `converter.pickles.weights` chooses.
Root = str | Part | None

SORTS: Final[tuple[Sort, ...]] = ("name", "size")
FORMS: Final[tuple[Form, ...]] = ("storages", "named")  # the forms of a parameters folder
LEVELS: Final[tuple[Level, ...]] = ("tensors", "inference")
ENGINES: Final[tuple[Engine, ...]] = ("numpy", "transformers", "llama.cpp")
WEIGHTS: Final[tuple[Weights, ...]] = ("safetensors", "bin", "gguf", "npz")  # kinds of weights in a folder
FAIL_ON: Final[tuple[FailOn, ...]] = ("dangerous", "unknown")  # the mildest verdict that fails; malformed always fails
FLEETS: Final[tuple[Fleet, ...]] = ("local", "ray")  # what runs the tasks of `batch`
OPTIMIZER: Final = frozenset(("state", "param_groups"))  # the keys that every state dict of torch.optim has
FAULTS: Final[tuple[FaultLevel, ...]] = ("error", "warning")  # the mildest fault that fails


# Options that are no argument of the same name in Python, and what does the same there.
_ELSEWHERE: Final = {
    "no-crc": "check_crc=False",
    "offline": "HF_HUB_OFFLINE=1",
    "write-manifest": "cerebras-tool verify --write-manifest",
}
_P = ParamSpec("_P")
_R = TypeVar("_R")
_TYPED: Final = ContextVar[tuple[str, ...]]("converter.typed", default=())
_IN_PYTHON: Final = ContextVar("converter.in_python", default=False)
_IN_JOB: Final = ContextVar("converter.in_job", default=False)
_JOB_KEYS: Final = frozenset(
    ("to", "dtype", "force", "max-shard-size", "policy", "fail-on")
)  # options that a job file has


@contextmanager
def in_job() -> Iterator[None]:
    """Within the body of a `with`, messages name options as keys of a job file, where it has them."""
    before = _IN_JOB.set(True)
    try:
        yield
    finally:
        _IN_JOB.reset(before)


@contextmanager
def in_python() -> Iterator[None]:
    """Within the body of a `with`, messages name options as arguments of functions."""
    before = _IN_PYTHON.set(True)
    try:
        yield
    finally:
        _IN_PYTHON.reset(before)


def from_python(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let messages name options as Python does while the function works."""

    @wraps(function)
    def called(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with in_python():
            return function(*args, **kwargs)

    return called


def option(name: str, *values: str | bool, between: str = ", ") -> str:
    """An option as the reader of a message writes it.

    On the command line `--weights`, `--weights bin`, and with True as its value `--force`; in Python `weights`,
    `weights='bin'` and `force=True`. Several values mean any of them. In a job file, `force = true`.
    """
    if _IN_JOB.get() and name in _JOB_KEYS:
        told = ("true" if value is True else f'"{value}"' for value in values)
        return name.replace("-", "_") + (" = " if values else "") + between.join(told)
    if not _IN_PYTHON.get():
        words = between.join(value for value in values if isinstance(value, str))
        return f"--{name} {words}".rstrip()
    if name in _ELSEWHERE:
        return _ELSEWHERE[name]
    return name.replace("-", "_") + ("=" if values else "") + between.join(map(repr, values))


def rule(name: str, old: str, new: str) -> str:
    """A rule as the reader of a message writes it: `--rename OLD=NEW`, in Python `rename={'OLD': 'NEW'}`."""
    return f"{option(name)}={{{old!r}: {new!r}}}" if _IN_PYTHON.get() else option(name, f"{old}={new}")


def raising(limit: str) -> str:
    """How the reader of a message raises a limit."""
    if _IN_JOB.get():
        return f"set {limit} in [limits]"
    if _IN_PYTHON.get():
        return f"work within using(Limits({limit}=…)) of converter.limits"
    return f"give --limit {limit}=…"


@contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Within the body of a `with`, these are the words of the command line behind `cerebras-tool`."""
    before = _TYPED.set(tuple(words))
    try:
        yield
    finally:
        _TYPED.reset(before)


def reading(place: str, other: str) -> str:
    """What the reader of a message, who named `place`, types to read `other`: the same command. In Python, just `other`."""
    if _IN_PYTHON.get():
        return other
    import shlex  # few messages need it

    words = list(_TYPED.get())
    at = next((at for at, word in enumerate(words) if word.rstrip("/") == place.rstrip("/")), None)
    command = ["inspect", other] if at is None else [*words[:at], other, *words[at + 1 :]]
    return shlex.join(["cerebras-tool", *command])


def check_count(option: str, count: object) -> None:
    """Raise WordError unless `count` is None or a whole number from 1."""
    if count is not None and (type(count) is not int or count < 1):
        raise WordError(option, count, ("a whole number from 1",))


def check_root(root: object) -> None:
    """Raise WordError unless `root` is a Root."""
    if not (root is None or isinstance(root, str | Part)):
        raise WordError("root", root, ("a key as text, such as 'model'",))


def part_of(root: str | None, ema: bool) -> Root:
    """The part of the checkpoint that is asked for. Raises WordError if both arguments ask for one."""
    check_root(root)
    if not isinstance(ema, bool):
        raise WordError("ema", ema, ("True", "False, and give the key of averaged weights as root"))
    if ema and root is not None:
        raise WordError("root", root, ("None, because `ema` already chooses a part",))
    return Part.EMA if ema else root


def check(option: str, word: object, words: Sequence[str]) -> None:
    """Raise WordError unless `word` is one of `words`."""
    if word not in words:
        raise WordError(option, word, words)
