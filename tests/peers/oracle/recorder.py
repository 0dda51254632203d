"""Unpicklers that import nothing: each name that a pickle asks for is written down, and an empty class takes its place."""

from __future__ import annotations

import _compat_pickle
import pickle
from typing import Any

from converter.pickles.closed_table import TABLE
from converter.scanning.joblib_walk import WRAPPERS

Pair = tuple[str, str]


class OutsideError(BaseException):
    """A pickle asked for a global outside the table. No loader's `except Exception` can go on after it."""


class _Class(type):
    """The class of the classes that take the place of globals: changes to such a class are written down, too."""

    def __setattr__(cls, name: str, value: object) -> None:
        ASKED.append(("attribute of a class", f"{cls.__name__}.{name}"))
        raise OutsideError


class Inert(metaclass=_Class):
    """Takes the place of a global of the table: it can be called, filled and given a state, and does nothing."""

    dtype: Any = None  # torch asks a storage class

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None: ...

    def extend(self, values: object) -> None: ...

    def add(self, value: object) -> None: ...

    def update(self, *values: object) -> None: ...


ASKED: list[Pair] = []  # what the loader that runs has asked for outside the table
_CLASSES: dict[Pair, Any] = {}
_ATTRIBUTES: dict[Pair, dict[str, Any]] = {}  # attributes of such a class, if a loader asks for some


def stand_in(pair: Pair, made: Any = None, **attributes: Any) -> None:
    """Let `made`, or an inert class with these attributes, take the place of a global. Only if the table holds the global."""
    if made is not None:
        _CLASSES[pair] = made
    else:
        _ATTRIBUTES[pair] = attributes


def in_table(module: str, name: str) -> bool:
    """Whether the table holds a global, under its own name or the one that Python 3 gives to a name of Python 2."""
    # joblib's wrapper only keeps what it is given; scan knows it if an array follows.
    return any(pair in TABLE or pair in WRAPPERS for pair in ((module, name), today(module, name)))


def today(module: str, name: str) -> Pair:
    """The name in Python 3 of a global that a pickle of protocol 0, 1 or 2 names."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def find_class(unpickler: object, module: str, name: str) -> Any:
    """Return the class that takes the place of a global of the table; write any other global down and stop."""
    if not in_table(module, name):
        ASKED.append((module, name))
        raise OutsideError
    pair = (module, name)
    if (found := _CLASSES.get(pair)) is None:
        found = _CLASSES[pair] = _Class("Inert", (Inert,), dict(_ATTRIBUTES.get(pair, {})))
    return found


class CUnpickler(pickle.Unpickler):
    """CPython's unpickler in C. torch.load derives its own from it, and adds a `persistent_load`."""

    find_class = find_class  # type: ignore[assignment]


class PythonUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """CPython's unpickler in Python."""

    find_class = find_class


class PatientC(CUnpickler):
    """An unpickler that knows an object for every persistent id, as classes that programs derive may do."""

    def persistent_load(self, pid: object) -> object:
        return Inert()


class PatientPython(PythonUnpickler):
    """The same in Python."""

    def persistent_load(self, pid: object) -> object:
        return Inert()


def load(file: Any, **options: Any) -> Any:
    """`pickle.load`, except for the names."""
    return CUnpickler(file, **options).load()
