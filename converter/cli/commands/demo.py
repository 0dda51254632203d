"""`demo`: every step on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import answer, command
from converter.cli.options import Json, Quiet


@command
def demo(
    folder: Annotated[Path | None, typer.Argument(help="The folder to use; by default a temporary one.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run every step on a tiny checkpoint, in seconds."""
    from converter.cli import demo as demonstration

    report = demonstration.run(folder, quiet=json or quiet)
    if json:
        answer(report)
