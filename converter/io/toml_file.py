"""Reading a TOML file that a user wrote: a policy, or a job."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Final

from converter.errors import ConverterError
from converter.text import os_reason

MOST: Final = 1 << 20  # bytes


def load(path: Path, kind: str, error: type[ConverterError], hint: str = "") -> tuple[str, dict[str, Any]]:
    """The text and what it says. Raises `error`, with a sentence that calls the file `kind`, if it can't be read.

    `hint` says what to do if the file can't be opened.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MOST + 1)
    except OSError as reason:
        raise error(f"the {kind} `{path}` can't be read: {os_reason(reason)}{hint}") from reason
    if len(data) > MOST:
        raise error(f"the {kind} `{path}` has more than {MOST:,} bytes")
    try:
        text = data.decode()
        return text, tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as reason:
        raise error(f"the {kind} `{path}` is not valid TOML: {reason!s:.200}") from reason
