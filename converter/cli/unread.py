"""What a command line that can't be understood asks for all the same: its reports. Imported only for such a line."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import typer

from converter.cli.advice import usage
from converter.cli.files import KINDS, begun


def write_reports(command: str, params: Sequence[Any], words: Sequence[str], error: Any) -> None:
    """Write the error into the reports that the words ask for, so that no report of earlier work is left."""
    options = {f"--{kind}" for kind in KINDS} & {name for param in params for name in param.opts}
    paths: dict[str, Any] = {name.removeprefix("--"): Path(path) for name, path in _values(options, words)}
    rules = tuple if "--junit" in options else None
    with contextlib.suppress(Exception), begun(command, [command], rules, json="--json" in words, **paths):
        raise typer.BadParameter(usage(error))


def _values(options: Collection[str], words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield these options with their values: `--junit PATH` or `--junit=PATH`."""
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        name, given, value = word.partition("=")
        if name in options and (value if given else following):
            yield name, value if given else following
