"""`verify`: compares copies with their source."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from converter.cli.commands import Exit, answer, command, opened, showing
from converter.cli.options import (
    Ema,
    Exclude,
    Html,
    Include,
    Json,
    Junit,
    Log,
    Merge,
    Quiet,
    Rename,
    Root,
    Sarif,
    Strip,
    Verbose,
    Weights,
    check_html,
    one_of,
    part,
)
from converter.text import safe_text
from converter.words import ENGINES, LEVELS

if TYPE_CHECKING:
    from converter.reports.verification import Verification
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
    imatrix: Annotated[
        Path | None,
        typer.Option("--imatrix", metavar="FILE", help="The importance matrix that a GGUF was quantised with."),
    ] = None,
    attest: Annotated[
        Path | None,
        typer.Option(
            "--attest", metavar="PATH", help="Write an in-toto statement about what was found, for sigstore to sign."
        ),
    ] = None,
    attestation: Annotated[
        Path | None,
        typer.Option("--attestation", metavar="PATH", help="Check that such a statement is about these files."),
    ] = None,
    junit: Junit = None,
    sarif: Sarif = None,
    html: Html = None,
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
    verbose: Verbose = False,
    log: Log = None,
) -> None:
    """Prove that copies are equal to their source. Exits with 1 if one is not, and says what is wrong with it."""
    from converter.cli.files import begun
    from converter.cli.render.verification import show
    from converter.conversion.merging import merged
    from converter.conversion.surgery import cut, rules
    from converter.opening import check_exists
    from converter.verification import golden
    from converter.verification.attestation import held, load, statement
    from converter.verification.expected import NO_MANIFEST, expect
    from converter.verification.junit import suites
    from converter.verification.markdown import markdown
    from converter.verification.output import NOT_COMPARED
    from converter.verification.rules import RULES
    from converter.verification.sarif import to_sarif
    from converter.verification.verify import Options, check_place, examine, write_golden

    unit = "bytes" if level == LEVELS[0] else "share"
    inputs = [source, *outputs, *(str(path) for path in (attestation, tokens, imatrix) if path is not None)]
    with begun(
        "verify",
        inputs,
        lambda: RULES,
        junit=junit,
        sarif=sarif,
        html=html,
        attest=attest,
        json=json,
        others=[manifest, log],
    ) as files:
        if (tokens or prompt is not None or engine != ENGINES[0]) and level == LEVELS[0]:
            raise typer.BadParameter("--tokens, --prompt and --engine are for --level inference")
        if tokens and prompt is not None:
            raise typer.BadParameter("give --tokens or --prompt, not both")
        check_html(html)
        if manifest is not None:
            check_place(manifest, inputs=inputs)
        said = load(attestation) if attestation is not None else None
        surgery = rules(include=include or (), exclude=exclude or (), strip=strip or (), rename=rename or ())
        places = [other if "://" in other else Path(other).name for other in merge or ()]
        chosen = {"root": root[0] if root else None, "ema": ema, "weights": weights, "merge": places}
        chosen |= {"include": include, "exclude": exclude, "strip": strip, "rename": rename}
        options = Options(level, tokens, prompt, engine, imatrix=imatrix, chosen=chosen)
        with showing("verifying", quiet=quiet, bar=not json, verbose=verbose, log=log, unit=unit) as progress:
            for output in outputs:
                check_exists(output)
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
            expected = expect(origin, progress, options.importance())
            if manifest is not None:
                expected.whole(NO_MANIFEST)
            if attest is not None or said is not None:
                expected.whole("no attestation can be made or checked")
            found = examine(expected, outputs, options, starting=progress.start)
            report = found.report
            if said is not None:
                report = held(report, said, expected.whole("no attestation can be checked"))
            stated = None
            if attest is not None and report.ok:
                stated = statement(expected.whole("no attestation can be made"), report)
            made = found.golden() if manifest is not None and report.ok else None
        if manifest is not None and made is not None:
            write_golden(made, manifest, inputs=inputs)
        elif manifest is not None:
            typer.echo(f"`{safe_text(str(manifest))}` was not written: an output differs", err=True)
        if attest is not None and stated is None:
            typer.echo(f"`{safe_text(str(attest))}` was not written: an output differs", err=True)
        # A reader that has seen enough changes neither the reports nor the exit code.
        with contextlib.suppress(BrokenPipeError):
            if json:
                answer(report)
            elif not (quiet or files.on_stdout):
                show(report)
        files.write(
            attest=(lambda: stated) if stated is not None else None,
            html=lambda: as_page(report),
            junit=lambda: suites(report),
            sarif=lambda: to_sarif(report),
            summary=lambda: markdown(report),
        )
    if quiet and not report.ok and not report.differs:
        for unanswered in (one for output in report.outputs for one in output.notes if one.what == NOT_COMPARED):
            typer.echo(f"error: `{safe_text(unanswered.name)}` was not compared: {unanswered.detail}", err=True)
    if not report.ok:
        raise typer.Exit(Exit.FAILED if report.differs else Exit.ERROR)


def as_page(report: Verification) -> bytes:
    """The report as a page. The module that makes it is imported only for that."""
    from converter.pages.verification import verification

    return verification(report)
