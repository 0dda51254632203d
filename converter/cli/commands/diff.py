"""`diff`: what changed between two checkpoints, or in two that were made from a third."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from converter.cli.commands import Exit, answer, command, opened, showing
from converter.cli.options import Filter, Html, Json, Log, Quiet, Verbose, Weights, check_html
from converter.text import safe_text

if TYPE_CHECKING:
    from converter.reports.difference import DiffReport
    from converter.reports.three_way import ThreeWayReport
    from converter.steps import Follower
    from converter.tensors.catalogue import Catalogue


@command
def diff(
    before: Annotated[
        str, typer.Argument(metavar="BEFORE", help="A checkpoint: a file, a folder, owner/name, hf://… or https://…")
    ],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="Another one, in any form.")],
    other: Annotated[
        str | None,
        typer.Argument(
            metavar="[OTHER]",
            help="A third one. Then BEFORE is the base of AFTER and OTHER, and you see what each of them changed.",
        ),
    ] = None,
    rank: Annotated[
        bool, typer.Option("--rank", help="Also find how many directions the change of each matrix has.")
    ] = False,
    all: Annotated[bool, typer.Option("--all", help="Every change, not only the largest.")] = False,
    filter: Filter = None,
    html: Html = None,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Show what changed between two checkpoints, and by how much. Exits with 1 if they differ."""
    from converter.cli.files import begun

    with begun(
        "diff", [place for place in (before, after, other) if place is not None], html=html, json=json, others=[log]
    ) as files:
        check_html(html)
        with showing("comparing", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
            sources = [opened(place, None, weights) for place in (before, after, other) if place is not None]
            for note in dict.fromkeys(note for source in sources for note in source.origin.notes):
                typer.echo(safe_text(note), err=True)
            found = (_of_two if other is None else _of_three)(sources, rank, filter or (), progress)
        with contextlib.suppress(BrokenPipeError):  # if the reader has gone away, the exit code is still the answer
            if json:
                answer(found.report)
            elif not (quiet or files.on_stdout):
                found.show(unfold=all)
        files.write(html=found.page)
    if not found.report.same:
        raise typer.Exit(Exit.FAILED)


class _Found(NamedTuple):
    """A report, and what prints it and makes a page of it."""

    report: DiffReport | ThreeWayReport
    show: Callable[..., None]
    page: Callable[[], bytes]


def _of_two(sources: Sequence[Catalogue], rank: bool, filter: Sequence[str], progress: Follower) -> _Found:
    from converter.cli.render.difference import show
    from converter.difference.diff import diff as compared

    report = compared(*sources, rank=rank, filter=filter, progress=progress, starting=progress.start)

    def page() -> bytes:
        from converter.pages.difference import difference

        return difference(report)

    return _Found(report, partial(show, report), page)


def _of_three(sources: Sequence[Catalogue], rank: bool, filter: Sequence[str], progress: Follower) -> _Found:
    from converter.cli.render.three_way import show
    from converter.difference.three_way import three_way

    report = three_way(*sources, rank=rank, filter=filter, progress=progress, starting=progress.start)

    def page() -> bytes:
        from converter.pages.three_way import three_way as as_page

        return as_page(report)

    return _Found(report, partial(show, report), page)
