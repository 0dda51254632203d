"""Splits a text as the package `tokenizers` does."""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from converter.errors import ManifestError

INSTALL: Final = "install it with `pip install 'cerebras-tool[text]'`"
_LONGEST: Final = 60  # seconds; a vocabulary of 262,144 tokens takes 2


def is_installed() -> bool:
    """Whether the package is there."""
    return find_spec("tokenizers") is not None


def split(document: str, text: str, where: str) -> list[int]:
    """The ids of a text, with those that the tokenizer puts around it. `document` is a tokenizer.json.

    The package has to be installed. Raises ManifestError for a document that it can't use; messages call it `where`.
    """
    import subprocess  # most conversions don't need it

    # -P: the folder of split.py is not a place to import from.
    command = [sys.executable, "-P", str(Path(__file__).with_name("split.py"))]
    request = json.dumps([document, text]).encode()
    try:
        done = subprocess.run(command, input=request, capture_output=True, timeout=_LONGEST, check=False)
    except subprocess.TimeoutExpired as error:
        raise ManifestError(f"`{where}` took more than {_LONGEST} seconds to split a text with `tokenizers`") from error
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ManifestError(f"`tokenizers` can't split a text with `{where}`: {reason[:200] or 'it ended its process'}")
    ids: list[int] = json.loads(done.stdout)
    return ids
