"""The commands: parse, call, render, exit. They decide nothing."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, ParamSpec

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_command_from_info
from typer.models import CommandInfo

from converter.cli.streams import without_commands_on_streams
from converter.dtypes import spelled
from converter.errors import ConverterError, CutOffError
from converter.text import os_reason, safe_text
from converter.words import ENGINES, FAIL_ON, FORMS, LEVELS, SORTS

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

_P = ParamSpec("_P")
MISTAKE: Final = "a mistake of this program, please report it"


class Exit(IntEnum):
    """0: done, or equal. 1: the check failed. 2: it could not be done."""

    DONE = 0
    FAILED = 1
    ERROR = 2


def _one_of(words: Iterable[str], spelled: Callable[[str], str] = str) -> dict[str, Any]:
    """What makes an option take one of some words, which stand where the idea is at home; `spelled` normalises a word."""
    known = list(words)

    def parser(text: str) -> str:
        word = spelled(text)
        if word not in known:
            raise typer.BadParameter(f"{text!r} is not one of {', '.join(map(repr, known))}.")
        return word

    return {"parser": parser, "metavar": f"<{'|'.join(known)}>"}


def _targets() -> list[str]:
    from converter.formats import WRITABLE

    return [format.name for format in WRITABLE]


def _endings() -> list[str]:
    from converter.formats import WRITABLE

    return [format.ending for format in WRITABLE if format.ending]


def _dtypes() -> list[str]:
    from converter.formats import WRITABLE

    return list(dict.fromkeys(word for format in WRITABLE for word in format.dtypes))


_COMMANDS: Final[dict[str, CommandInfo]] = {}  # by name; complete once this module is imported


class _Commands(TyperGroup):
    """The commands, each built when it is asked for: that takes a millisecond."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, in the order of this module."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        # For a name that is none all are built: typer then suggests those that are like it.
        for name in [cmd_name] if cmd_name in _COMMANDS else _COMMANDS:
            if name not in self.commands:
                self.commands[name] = get_command_from_info(
                    _COMMANDS[name], pretty_exceptions_short=False, rich_markup_mode=None
                )
        return self.commands.get(cmd_name)


class _App(typer.Typer):
    """typer's own, which leaves `sys.excepthook` as it is."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that `args`, or the command line, names."""
        return get_command(self)(*args, **kwargs)


app = _App(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The way out of pickle: see what is in a PyTorch checkpoint without running it, take it apart, convert it, and "
    "prove that the copy computes the same.",
)

Source = Annotated[str, typer.Argument(metavar="SOURCE", help="A file, a folder, owner/name, hf://… or https://…")]
Root = Annotated[str | None, typer.Option("--root", metavar="KEY", help="The key that tensor names start below.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is there.")]
IgnoreGlobals = Annotated[
    bool, typer.Option("--ignore-globals", help="Carry over the tensors of a pickle that asks for more; drop the rest.")
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Read and write with N threads instead of one a processor."),
]
NoCrc = Annotated[
    bool, typer.Option("--no-crc", help="Read a file that was saved without CRCs, or damaged; check none.")
]


def _command(name: str | None = None) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """Make a function a command whose errors are one sentence on stderr and exit code 2."""

    def decorate(function: Callable[_P, None]) -> Callable[_P, None]:
        @functools.wraps(function)
        def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
            try:
                with _terminated():
                    function(*args, **kwargs)
            except ConverterError as error:
                raise _refused(f"{error}{error.advice}", error.exit_code) from None
            except BrokenPipeError:  # whoever read our output has seen enough
                raise typer.Exit(Exit.DONE) from None
            except OSError as error:
                what = f"`{error.filename}`: " if error.filename is not None else ""
                raise _refused(f"{what}{os_reason(error)}") from None
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except Exception as error:  # whatever bytes it was made for: no traceback, and nothing half done
                if sys.flags.dev_mode:
                    raise
                raise _refused(f"{MISTAKE}: {type(error).__name__}: {error}") from None

        known = name or function.__name__
        _COMMANDS[known] = CommandInfo(known, callback=run)
        return run

    return decorate


def _refused(said: str, code: int = Exit.ERROR) -> typer.Exit:
    typer.echo(f"error: {safe_text(said, 2000)}", err=True)
    return typer.Exit(code)


@contextlib.contextmanager
def _terminated() -> Iterator[None]:
    """Make SIGTERM an exception while a command runs, so that what it began is removed, as by Control-C."""
    before = signal.getsignal(signal.SIGTERM)
    # Only the main thread may set a handler, and one that was not set from Python could not be put back.
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main() -> None:
    """Be the program: run what the command line says, and end the process."""
    with without_commands_on_streams():
        try:
            app(prog_name="cerebras-tool")
        finally:
            try:
                sys.stderr.flush()
                sys.stdout.flush()
            except BrokenPipeError:
                # Whoever read our output is gone, and the interpreter would complain of it once more when it ends.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.callback(invoke_without_command=False)
def _main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version.")
    ] = False,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody for anything; what is in the local cache is read.")
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=VALUE", help="Set a limit on what inputs may ask for; docs/security.md."),
    ] = None,
) -> None:
    if offline:
        from converter.hub.offline import staying_offline

        context.with_resource(staying_offline())  # until this invocation ends
    if limit:
        from converter import limits

        try:
            context.with_resource(limits.using(limits.parse(limit)))  # until this invocation ends
        except ConverterError as error:
            raise typer.BadParameter(safe_text(str(error), 2000)) from None


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"cerebras-tool {version('cerebras-tool')}")
        raise typer.Exit


@_command()
def inspect(
    source: Source,
    all: Annotated[bool, typer.Option("--all", help="Every tensor on a line of its own.")] = False,
    filter: Annotated[
        str | None, typer.Option("--filter", metavar="GLOB", help="Only tensors whose name fits.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Order of the tensors; else that of the file.", **_one_of(SORTS))
    ] = None,
    stats: Annotated[
        bool, typer.Option("--stats", help="Read every tensor: range, mean, deviation, NaN, SHA-256.")
    ] = False,
    root: Root = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show what a checkpoint is and holds. Nothing in it is executed; without --stats no tensor is read."""
    from converter import reports
    from converter.inspection import report as inspection

    catalogue = _open(source, root)
    if stats:
        from converter.cli import render

        total = sum(tensor.nbytes for tensor in catalogue.values())
        with render.progress("reading", total, quiet=quiet or json) as progress:
            report = inspection.inspect(catalogue, filter=filter, sort=sort, stats=True, progress=progress)
    else:
        report = inspection.inspect(catalogue, filter=filter, sort=sort)
    if json:
        typer.echo(reports.to_json(report))
        return
    from converter.cli import render

    render.inspection(report, unfold=all)


@_command()
def extract(
    source: Source,
    folder: Annotated[Path | None, typer.Argument(help="Where to; `parameters/<model>` if not given.")] = None,
    form: Annotated[
        str, typer.Option("--form", help="Raw storages by key, or one file a parameter by name.", **_one_of(FORMS))
    ] = FORMS[0],
    properties: Annotated[
        Path | None, typer.Option("--properties", metavar="PATH", help="Where model.properties goes instead.")
    ] = None,
    sha256: Annotated[bool, typer.Option("--sha256", help="Put the SHA-256 of every file into the manifest.")] = False,
    threads: Threads = None,
    no_crc: NoCrc = False,
    force: Force = False,
    ignore_globals: IgnoreGlobals = False,
    root: Root = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take a checkpoint apart into plain files, with a manifest that reads back and the Java client's properties."""
    from converter import reports
    from converter.cli import render
    from converter.conversion import extract as extraction

    catalogue = _open(source, root)
    target = folder or extraction.default_folder(catalogue)
    total = sum(storage.nbytes for storage in catalogue.storages) or sum(t.nbytes for t in catalogue.values())
    with render.progress("extracting", total, quiet=quiet or json) as progress:
        report = extraction.extract(
            catalogue,
            target,
            form=form,
            properties=properties,
            sha256=sha256,
            check_crc=not no_crc,
            force=force,
            ignore_globals=ignore_globals,
            threads=threads,
            progress=progress,
        )
    if json:
        typer.echo(reports.to_json(report))
    else:
        render.extraction(report)


@_command()
def convert(
    source: Source,
    output: Annotated[Path, typer.Argument(help=f"A file ({', '.join(_endings())}), or a folder.")],
    to: Annotated[
        str | None,
        typer.Option("--to", help="The format, where OUTPUT's ending does not say.", **_one_of(_targets())),
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="What floating-point tensors become.", **_one_of(_dtypes(), spelled))
    ] = "keep",
    max_shard_size: Annotated[
        str | None, typer.Option("--max-shard-size", metavar="SIZE", help="Cut into files of at most this size: 5GB.")
    ] = None,
    keep_buffers: Annotated[bool, typer.Option("--keep-buffers", help="Carry the masks over, too.")] = False,
    tokenizer: Annotated[
        Path | None, typer.Option("--tokenizer", metavar="DIR", help="The folder with vocab.json and merges.txt.")
    ] = None,
    no_crc: NoCrc = False,
    threads: Threads = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be written.")] = False,
    force: Force = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run ended.")] = False,
    ignore_globals: IgnoreGlobals = False,
    root: Root = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Convert to safetensors, GGUF, npz or a parameters folder, streaming: memory does not grow with the model."""
    from converter import reports
    from converter.cli import render
    from converter.conversion.convert import convert as converted

    size = _nbytes(max_shard_size)
    catalogue = _open(source, root)
    with render.progress("converting", 0, quiet=quiet or json) as progress:
        report = converted(
            catalogue,
            output,
            to=to,
            dtype=dtype,
            max_shard_size=size,
            keep_buffers=keep_buffers,
            tokenizer=tokenizer,
            check_crc=not no_crc,
            dry_run=dry_run,
            force=force,
            resume=resume,
            ignore_globals=ignore_globals,
            threads=threads,
            progress=progress,
            starting=progress.start,
        )
    if json:
        typer.echo(reports.to_json(report))
    else:
        render.conversion(report)


@_command()
def scan(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE…", help="Files of any kind, folders or repositories with all that is in them."),
    ],
    explain: Annotated[bool, typer.Option("--explain", help="Show what loading would call, as expressions.")] = False,
    fail_on: Annotated[
        str,
        typer.Option(
            "--fail-on",
            help="Exit with 1 for unknown globals, too, or only for dangerous ones.",
            **_one_of(FAIL_ON),
        ),
    ] = FAIL_ON[-1],
    no_fickling: Annotated[bool, typer.Option("--no-fickling", help="Ask for no second opinion.")] = False,
    json: Json = False,
    sarif: Annotated[
        Path | None, typer.Option("--sarif", metavar="PATH", help="Write the findings as SARIF 2.1.0, too.")
    ] = None,
) -> None:
    """Say what the pickles in files ask for, and whether that is known to be abused. Nothing in them is executed."""
    from converter import reports
    from converter.scanning import scan as scanning

    for source in sources:
        _announce(source)
    report = scanning.scan(sources, explain=explain, fickling=not no_fickling)
    if sarif is not None:
        from converter.scanning.sarif import write_sarif

        write_sarif(report, sarif)
    if json:
        typer.echo(reports.to_json(report))
    else:
        from converter.cli import lines

        lines.scan(report)
    if scanning.fails(report, unknown=fail_on == FAIL_ON[-1]):
        raise typer.Exit(Exit.FAILED)


@_command()
def verify(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A checkpoint, or a manifest of --write-manifest.")],
    outputs: Annotated[list[str], typer.Argument(metavar="OUTPUT...", help="Files or folders to hold against it.")],
    level: Annotated[
        str,
        typer.Option("--level", help="The bits of every tensor, or also what the model computes.", **_one_of(LEVELS)),
    ] = LEVELS[0],
    tokens: Annotated[
        Path | None, typer.Option("--tokens", metavar="FILE", help="Token ids to compute with, else a fixed sequence.")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option("--prompt", metavar="TEXT", help="A text to compute with, by the source's tokenizer.")
    ] = None,
    engine: Annotated[str, typer.Option("--engine", help="What computes the outputs.", **_one_of(ENGINES))] = ENGINES[
        0
    ],
    manifest: Annotated[
        Path | None,
        typer.Option("--write-manifest", metavar="PATH", help="Write digests to verify by later, without the source."),
    ] = None,
    junit: Annotated[Path | None, typer.Option("--junit", metavar="PATH", help="Write a JUnit report, too.")] = None,
    root: Root = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prove that copies are equal to their source. Ends with 1 where one is not, and says what is wrong with it."""
    from converter import reports
    from converter.cli import render
    from converter.verification import golden
    from converter.verification.expected import NO_MANIFEST, expect
    from converter.verification.verify import Options, examine, write_golden, write_reports

    if (tokens or prompt is not None) and level == LEVELS[0]:
        raise typer.BadParameter("--tokens and --prompt are for --level inference")
    if tokens and prompt is not None:
        raise typer.BadParameter("--tokens and --prompt exclude each other")
    options = Options(level, tokens, prompt, engine)
    with render.progress("verifying", 0, quiet=quiet or json) as progress:
        opened = golden.load(Path(source)) if golden.is_golden(Path(source)) else _open(source, root)
        expected = expect(opened, progress)
        if manifest is not None:
            expected.whole(NO_MANIFEST)
        found = examine(expected, outputs, options, starting=progress.start)
        report = found.report
        made = found.golden() if manifest is not None and report.ok else None
    if json:
        typer.echo(reports.to_json(report))
    else:
        render.verification(report)
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    write_reports(report, junit=junit, summary=Path(summary) if summary else None)
    if manifest is not None and made is not None:
        write_golden(made, manifest, inputs=[source, *outputs])
    elif manifest is not None:
        typer.echo(f"`{safe_text(str(manifest))}` was not written: an output differs", err=True)
    if not report.ok:
        raise typer.Exit(Exit.FAILED)


@_command()
def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="`Cerebras-GPT-111M`, or `111M`.")] = None,
    json: Json = False,
) -> None:
    """List the declared models: sizes, links, files, hashes."""
    from converter.models import declared

    chosen = [declared.find(name)] if name is not None else list(declared.declared())
    if json:
        from converter.reports import to_json
        from converter.reports.models import ModelsReport

        typer.echo(to_json(ModelsReport(tuple(chosen))))
        return
    from converter.cli import render
    from converter.hub.cache import in_cache

    cached = {model.name: in_cache(model.repository, [file.name for file in model.files]) for model in chosen}
    if name is not None:
        render.model_page(chosen[0], cached[chosen[0].name])
    else:
        render.model_table(chosen, cached)


@_command()
def download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="`Cerebras-GPT-111M`, `111M`, or owner/name[@revision].")],
    folder: Annotated[Path | None, typer.Argument(help="Where to; the local cache of the Hub if not given.")] = None,
    quiet: Quiet = False,
) -> None:
    """Download weights and what belongs to them from the Hub; SHA-256 checked where it is known."""
    from converter.cli import render
    from converter.hub import download as hub

    with render.progress("downloading", 0, quiet=quiet) as progress:
        done = hub.download(name, folder, starting=progress.start, progress=progress)
    for file in done:
        checked = f", SHA-256 is {file.checked}" if file.checked is not None else ""
        typer.echo(f"{safe_text(str(file.path))}: {file.nbytes:,} bytes{checked}")


@_command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")],
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="A declared model, `tiny` or `tiny-13B`.")
    ] = "tiny",
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 1234,
    sparse: Annotated[bool, typer.Option("--sparse", help="Zeros that take no disk.")] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a checkpoint of the published form without torch, to try things on."""
    from converter import sample as samples
    from converter.cli import render

    with render.progress("writing", samples.sample_nbytes(model), quiet=quiet) as progress:
        report = samples.write_sample(folder, model, seed=seed, sparse=sparse, force=force, progress=progress)
    for path, nbytes in report.files:
        typer.echo(f"{safe_text(str(path))}: {nbytes:,} bytes")


@_command()
def demo(
    folder: Annotated[Path | None, typer.Argument(help="Where to; a temporary folder if not given.")] = None,
) -> None:
    """Show the whole way on a tiny checkpoint, in seconds."""
    from converter.cli import demo as demonstration

    demonstration.run(folder)


def _nbytes(text: str | None) -> int | None:
    """Read a size as people write it: 5GB, 500MB, 1000000, decimal units; 5GiB, binary ones."""
    if text is None:
        return None
    units = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)\s*([KMGT]I?|)B?", text.strip().upper())
    size = int(float(match[1]) * units[match[2]]) if match else 0
    if size < 1:
        raise typer.BadParameter(f"`{safe_text(text)}` is no size such as 5GB")
    return size


def _open(source: str, root: str | None) -> Catalogue:
    from converter.opening import open_checkpoint

    _announce(source)
    try:
        return open_checkpoint(source, root=root)
    except CutOffError:
        from converter.inspection import report as inspection

        said = inspection.cut_off(source) if Path(source).is_file() else None
        if said is not None:
            raise CutOffError(said) from None
        raise


def _announce(source: str) -> None:
    """Say so when something that could be a path is asked of the Hub."""
    if "/" in source and "://" not in source and not os.path.lexists(source):
        from converter.hub.locations import is_remote

        if is_remote(source):
            typer.echo(f"`{safe_text(source)}`: no such path; asking the Hub", err=True)
