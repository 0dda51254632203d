"""`extract`: a checkpoint as plain files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from converter.cli.commands import answer, command, opened, showing
from converter.cli.options import (
    CarryValues,
    Ema,
    Exclude,
    Force,
    IgnoreGlobals,
    Include,
    Json,
    Log,
    NoCrc,
    Quiet,
    Rename,
    Root,
    Source,
    Strip,
    Threads,
    Verbose,
    Weights,
    one_of,
    part,
)
from converter.words import FORMS


@command
def extract(
    source: Source,
    folder: Annotated[
        Path | None, typer.Argument(help="The folder to write to; by default `parameters/<model>`.")
    ] = None,
    form: Annotated[
        str, typer.Option("--form", help="Raw storages by key, or one file per parameter by name.", **one_of(FORMS))
    ] = FORMS[0],
    properties: Annotated[
        Path | None, typer.Option("--properties", metavar="PATH", help="Where model.properties goes instead.")
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    strip: Strip = None,
    rename: Rename = None,
    sha256: Annotated[bool, typer.Option("--sha256", help="Put the SHA-256 of every file into the manifest.")] = False,
    threads: Threads = None,
    no_crc: NoCrc = False,
    force: Force = False,
    ignore_globals: IgnoreGlobals = False,
    carry_values: CarryValues = False,
    root: Root = None,
    ema: Ema = False,
    weights: Weights = None,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Take a checkpoint apart into plain files, with a manifest that reads back and the Java client's properties."""
    from converter.cli import next_steps
    from converter.cli.render.conversion import show_extraction
    from converter.conversion import extract as extraction
    from converter.conversion.surgery import rules

    surgery = rules(include=include or (), exclude=exclude or (), strip=strip or (), rename=rename or ())
    with showing("extracting", quiet=quiet, bar=not json, verbose=verbose, log=log) as progress:
        catalogue = opened(source, part(root, ema), weights)
        target = folder or extraction.default_folder(catalogue)
        report = extraction.extract(
            catalogue,
            target,
            form=form,
            properties=properties,
            sha256=sha256,
            check_crc=not no_crc,
            force=force,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            threads=threads,
            surgery=surgery,
            progress=progress,
            starting=progress.start,
        )
    if json:
        answer(report)
    elif not quiet:
        show_extraction(report)
        chosen = {"--include": include, "--exclude": exclude, "--strip": strip, "--rename": rename}
        parts = {"--root": root, "--ema": ema, "--weights": weights}
        next_steps.show([next_steps.verifying(source, report.folder, {**chosen, **parts})])
