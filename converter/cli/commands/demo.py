"""`demo`: every step on a tiny checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import command


@command
def demo(
    folder: Annotated[Path | None, typer.Argument(help="The folder to use; by default a temporary one.")] = None,
) -> None:
    """Run every step on a tiny checkpoint, in seconds."""
    from converter.cli import demo as demonstration

    demonstration.run(folder)
