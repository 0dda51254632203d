"""A browser of checkpoints for the terminal. It needs the package textual, which only this room imports."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Final

from converter.errors import UnsupportedError

INSTALL: Final = "install it with `pip install 'cerebras-tool[browse]'`"


def check_installed() -> None:
    """Raise UnsupportedError if textual is not there."""
    if find_spec("textual") is None:
        raise UnsupportedError(f"the browser needs the package `textual`: {INSTALL}; `inspect` works without it")
