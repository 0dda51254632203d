"""`browse`: a checkpoint in a browser for the terminal, or two side by side."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from converter.cli.commands import command, opened
from converter.cli.options import Ema, Root, Source, Weights, part


@command
def browse(
    source: Source,
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]", help="A second checkpoint: then you see both, and what changed from SOURCE to OTHER."
        ),
    ] = None,
    root: Root = None,
    ema: Ema = False,
    weights: Weights = None,
) -> None:
    """Look around in a checkpoint: modules, tensors, statistics and histograms. Tensors are read only when they are chosen."""
    from converter.browsing import check_installed

    check_installed()
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        instead = "inspect" if other is None else "diff"
        raise typer.BadParameter(f"browse needs a terminal: use {instead} for a report")
    from converter.browsing.app import Browser, run

    with opened(source, part(root, ema), weights) as catalogue:
        if other is None:
            run(Browser(catalogue))
            return
        from converter.browsing.beside import SideBySide

        with opened(other, part(root, ema), weights) as after:
            run(SideBySide(catalogue, after))
