"""Malformed pickles that some unpickler still accepts, and how unpicklers read what Python 2 wrote."""

from __future__ import annotations

from functools import cache

from converter.limits import limits
from converter.pickles.values import Dict, Opaque


def sets_nothing(state: object) -> bool:
    """Whether BUILD with this state sets nothing, so that unpicklers accept it on a value of any kind."""
    return _is_empty(state) or (type(state) is tuple and len(state) == 2 and all(map(_is_empty, state)))


def _is_empty(state: object) -> bool:
    # What a call returns may be empty as well.
    return (
        state is None
        or type(state) is Opaque
        or (type(state) in (Dict, list, tuple, str, bytes, int, float, bool) and not state)
    )


def in_python_3(module: str, name: str) -> tuple[str, str]:
    """Return the Python 3 module and name of a global that a pickle of protocol 0 to 2 may name as Python 2 did."""
    names, modules = _renamed()
    return names.get((module, name)) or (modules.get(module, module), name)


@cache
def _renamed() -> tuple[dict[tuple[str, str], tuple[str, str]], dict[str, str]]:
    # Imported only here, because the globals of ordinary checkpoints are found without it.
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    return NAME_MAPPING, IMPORT_MAPPING


def writable(text: str) -> str:
    """Return a name without lone surrogates, which no output can hold, cut to the length of a line."""
    return text[: limits().line].encode("utf-8", "backslashreplace").decode()


def python2_string(data: bytes, *, lenient: bool) -> str | bytes:
    """Return a STRING of Python 2, which was text or bytes: as text if it is UTF-8, as torch.load reads it.

    A lenient run reads all others as text, too, because numpy.load and pickle.load can read them as Latin-1.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1") if lenient else data
