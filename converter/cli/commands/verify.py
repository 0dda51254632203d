"""`verify`: compares copies with their source."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.cli.commands import Exit, command, opened
from converter.cli.options import (
    Ema,
    Exclude,
    Include,
    Json,
    Merge,
    Quiet,
    Rename,
    Root,
    Strip,
    Weights,
    one_of,
    part,
)
from converter.text import safe_text
from converter.words import ENGINES, LEVELS

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue


@command
def verify(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint, or a manifest written by --write-manifest.")
    ],
    outputs: Annotated[list[str], typer.Argument(metavar="OUTPUT...", help="Files or folders to compare with it.")],
    level: Annotated[
        str,
        typer.Option(
            "--level", help="Compare the bits of every tensor, or also what the model computes.", **one_of(LEVELS)
        ),
    ] = LEVELS[0],
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", metavar="FILE", help="Token ids to compute with; by default a fixed sequence."),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="A text to compute with, encoded by the source's tokenizer."),
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="What computes the outputs.", **one_of(ENGINES))] = ENGINES[0],
    manifest: Annotated[
        Path | None,
        typer.Option(
            "--write-manifest", metavar="PATH", help="Write digests, to verify copies later without the source."
        ),
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="Write a JUnit report, too.")] = None,
    merge: Merge = None,
    include: Include = None,
    exclude: Exclude = None,
    strip: Strip = None,
    rename: Rename = None,
    root: Root = None,
    ema: Ema = False,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove that copies are equal to their source. Exits with 1 if one is not, and says what is wrong with it."""
    from converter import reports
    from converter.cli.progress import showing
    from converter.cli.render.verification import show
    from converter.conversion.merging import merged
    from converter.conversion.surgery import cut, rules
    from converter.opening import check_exists
    from converter.verification import golden
    from converter.verification.expected import NO_MANIFEST, expect
    from converter.verification.verify import Options, examine, write_golden, write_reports

    if (tokens or prompt is not None) and level == LEVELS[0]:
        raise typer.BadParameter("--tokens and --prompt are for --level inference")
    if tokens and prompt is not None:
        raise typer.BadParameter("give --tokens or --prompt, not both")
    surgery = rules(include=include or (), exclude=exclude or (), strip=strip or (), rename=rename or ())
    for output in outputs:
        check_exists(output)
    options = Options(level, tokens, prompt, engine)
    with showing("verifying", 0, quiet=quiet or json) as progress:
        origin: Catalogue | golden.Golden
        if golden.is_golden(Path(source)):
            origin = golden.load(Path(source))
            if surgery or merge:
                expect(origin).whole("nothing can be left out, renamed or merged")
        else:
            done = cut(
                merged(opened(source, part(root, ema), weights), [opened(other, None) for other in merge or ()]),
                surgery,
            )
            origin = done.catalogue
            for note in (*origin.origin.notes, *done.notes):
                typer.echo(safe_text(note), err=True)
        expected = expect(origin, progress)
        if manifest is not None:
            expected.whole(NO_MANIFEST)
        found = examine(expected, outputs, options, starting=progress.start)
        report = found.report
        made = found.golden() if manifest is not None and report.ok else None
    with contextlib.suppress(
        BrokenPipeError
    ):  # a reader that has seen enough changes neither reports nor the exit code
        if json:
            typer.echo(reports.to_json(report))
        elif not quiet:
            show(report)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    write_reports(report, junit=junit, summary=Path(summary) if summary else None)
    if manifest is not None and made is not None:
        write_golden(made, manifest, inputs=[source, *outputs])
    elif manifest is not None:
        typer.echo(f"`{safe_text(str(manifest))}` was not written: an output differs", err=True)
    if not report.ok:
        raise typer.Exit(Exit.FAILED)
