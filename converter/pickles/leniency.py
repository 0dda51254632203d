"""What unpicklers let pass, though it is no well-formed pickle, and how they read what Python 2 wrote."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from converter.errors import ConverterError
from converter.limits import limits
from converter.pickles.values import Dict, Opaque

# Is told the byte, what a strict run would have raised, and whether every unpickler stops there.
Note = Callable[[int, ConverterError, bool], None]

DEAD_ENDS: Final = 64  # errors behind which no unpickler goes on, until a lenient run stops, too


class Lost:
    """Stands on the stack for what an opcode did not yield, because it can't be run."""

    def __repr__(self) -> str:
        return "…"


def sets_nothing(state: object) -> bool:
    """Whether BUILD sets nothing by a state, so that unpicklers take it for a value of any kind."""
    return _is_empty(state) or (type(state) is tuple and len(state) == 2 and all(map(_is_empty, state)))


def _is_empty(state: object) -> bool:
    # What a call makes may be empty, too.
    return (
        state is None
        or type(state) is Opaque
        or (type(state) in (Dict, list, tuple, str, bytes, int, float, bool) and not state)
    )


def in_python_3(module: str, name: str) -> tuple[str, str]:
    """Return the names by which unpicklers import a global that a pickle of protocol 0 to 2 names as Python 2 did."""
    # Not imported with the module: the globals of checkpoints are known without it.
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    return NAME_MAPPING.get((module, name)) or (IMPORT_MAPPING.get(module, module), name)


def writable(text: str) -> str:
    """Return a name without lone surrogates, which no output can hold, and no longer than a line."""
    return text[: limits().line].encode("utf-8", "backslashreplace").decode()


def python2_string(data: bytes, *, lenient: bool) -> str | bytes:
    """Return a string of Python 2, which was text or bytes: text where it is UTF-8, as torch.load reads it.

    To a lenient run the others are text, too, since numpy.load and pickle.load can read them as Latin-1.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1") if lenient else data
