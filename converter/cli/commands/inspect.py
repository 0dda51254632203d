"""`inspect`: what a checkpoint is and holds."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.cli.commands import STANDARD_INPUT, answer, command, opened, showing, standard_input
from converter.cli.options import (
    Ema,
    Filter,
    Html,
    Json,
    Log,
    Quiet,
    Root,
    Verbose,
    Weights,
    check_html,
    one_of,
    part,
)
from converter.words import SORTS

if TYPE_CHECKING:
    from converter.cli.files import Files
    from converter.reports.inspection import Inspection
    from converter.steps import Follower
    from converter.words import Root as AnyRoot


@command
def inspect(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...", help="A file, a folder, owner/name, hf://…, https://…, or - for standard input."
        ),
    ],
    all: Annotated[bool, typer.Option("--all", help="Every tensor on a line of its own.")] = False,
    filter: Filter = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Order of the tensors; by default that of the file.", **one_of(SORTS))
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read every tensor: range, mean, deviation, quantiles, histogram, NaN.")
    ] = False,
    sha256: Annotated[bool, typer.Option("--sha256", help="With --stats: the SHA-256 of every tensor, too.")] = False,
    context: Annotated[
        int | None,
        typer.Option("--context", metavar="N", min=1, help="The memory that llama.cpp needs for N tokens (GGUF)."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    html: Html = None,
    root: Root = None,
    ema: Ema = False,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Show what a checkpoint is and holds. Nothing in it is executed; without --stats no tensor is read."""
    if json and markdown:
        raise typer.BadParameter("--json and --markdown exclude each other")
    if sha256 and not stats:
        raise typer.BadParameter("--sha256 is for --stats, which reads the tensors: give both")
    if sources.count(STANDARD_INPUT) > 1:
        raise typer.BadParameter("standard input can be read only once: give one -")
    if html is not None and len(sources) > 1:
        raise typer.BadParameter("--html makes the page of one SOURCE: run inspect for each")
    heat = html is not None and stats
    with _page_begun(html, sources[0], json=json or markdown) as files:
        check_html(html)
        with showing("reading", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
            found = [
                _report(source, part(root, ema), weights, filter, sort, stats, sha256, heat, context, progress)
                for source in sources
            ]
        if json:
            answer(*found)
        elif markdown:
            from converter.cli.render.markdown import inspection as as_markdown

            typer.echo("\n".join(as_markdown(report, unfold=all) for report in found), nl=False)
        elif not (quiet or (files is not None and files.on_stdout)):
            from converter.cli.render.inspection import show

            for index, report in enumerate(found):
                if index:
                    typer.echo()
                show(report, unfold=all)
        if files is not None:
            from converter.pages.inspection import inspection as as_page

            files.write(html=lambda: as_page(found[0]))


def _page_begun(html: Path | None, source: str, *, json: bool) -> AbstractContextManager[Files | None]:
    """Begin the page. Nothing is imported if none is asked for."""
    if html is None:
        return nullcontext()
    from converter.cli.files import begun

    return begun("inspect", [source], html=html, json=json)


def _report(
    source: str,
    root: AnyRoot,
    weights: str | None,
    filter: list[str] | None,
    sort: str | None,
    stats: bool,
    sha256: bool,
    heat: bool,
    context: int | None,
    progress: Follower,
) -> Inspection:
    from converter.inspection import report as inspection

    if source == STANDARD_INPUT:
        if weights is not None:
            raise typer.BadParameter("--weights chooses among the files of a folder")
        from converter.formats import open_source

        catalogue = open_source(standard_input(), root=root)
    else:
        catalogue = opened(source, root, weights)
    if not stats:
        return inspection.inspect(catalogue, filter=filter, sort=sort, context=context)
    progress.start(sum(tensor.nbytes for tensor in catalogue.values()))
    return inspection.inspect(
        catalogue,
        filter=filter,
        sort=sort,
        stats=True,
        sha256=sha256,
        heat=heat,
        context=context,
        progress=progress,
    )
