"""The program: its commands, each imported only when it is used, and the options that come before a command."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_command_from_info
from typer.models import CommandInfo

from converter.cli.streams import without_commands_on_streams
from converter.errors import ConverterError
from converter.text import safe_text
from converter.words import typed

# In the order of `--help`. A command's function has the name of its module.
_MODULES: Final = (
    "converter.cli.commands.inspect",
    "converter.cli.commands.check",
    "converter.cli.commands.extract",
    "converter.cli.commands.convert",
    "converter.cli.commands.scan",
    "converter.cli.commands.verify",
    "converter.cli.commands.diff",
    "converter.cli.commands.batch",
    "converter.cli.commands.browse",
    "converter.cli.commands.models",
    "converter.cli.commands.download",
    "converter.cli.commands.schema",
    "converter.cli.commands.sample",
    "converter.cli.commands.demo",
    "converter.cli.commands.help",
)
_COMMANDS: Final = {module.rpartition(".")[2]: module for module in _MODULES}
_COMPLETE: Final = "_CEREBRAS_TOOL_COMPLETE"  # a shell sets it to ask; converter/cli/shells.py answers
_ENGINES: Final = {"numpy": "numpy", "transformers": "transformers", "llama.cpp": "xllamacpp"}  # the package of each
# What an extra's condition in the package's metadata looks like, and the name of a package that is asked for.
_EXTRA: Final = re.compile(r"extra == ['\"]([\w-]+)['\"]")
_PACKAGE: Final = re.compile(r"[\w.-]+")
_FOR_THE_PROJECT: Final = ("dev", "fuzz", "peers", "bench")  # extras that no command needs
_AS_JSON: Final = "converter.cli.app.as_json"
_SETTINGS: Final = {"help_option_names": ["-h", "--help"]}
# What is wrong with a command line as it was typed. typer does not export this class.
_UsageError: Final[Any] = typer.BadParameter.__bases__[0]


class _Command(TyperCommand):
    """A command. Its help shows how an argument is written instead of its type, and ends with examples."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The options and arguments as the usage line shows them."""
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [
            "[OPTIONS]",
            *(word if param.required else f"[{word}]" for param in arguments for word in [_word(param)]),
        ]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the words of the command line. If they are wrong, the reports that they ask for say so."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            from converter.cli.unread import write_reports

            write_reports(str(self.name), self.get_params(ctx), words, error)
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and options."""
        params: list[Any] = self.get_params(ctx)
        arguments = [(_word(param), param.help) for param in params if param.param_type_name == "argument"]
        options = [param.get_help_record(ctx) for param in params if param.param_type_name == "option"]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples."""
        from converter.cli.examples import EXAMPLES

        with formatter.section("Examples"):
            for said, line in EXAMPLES[str(self.name)]:
                formatter.write_text(said)
                formatter.write(f"    cerebras-tool {line}\n")


def _word(argument: Any) -> str:
    word: str = argument.metavar or argument.name
    return word.strip("[].").upper() + ("..." if argument.nargs < 0 else "")


class _Commands(TyperGroup):
    """The commands. Each is imported and built only when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands."""
        return list(_COMMANDS)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, each with the first sentence of its help, whole."""
        rows = [(name, _built(name).help.partition(". ")[0].rstrip(".") + ".") for name in _COMMANDS]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name, or None."""
        if cmd_name in _COMMANDS:
            self.commands[cmd_name] = _built(cmd_name)
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that the first argument names. If there is none, the error says what was perhaps meant."""
        if args and args[0] not in _COMMANDS:
            from converter.cli.advice import no_command

            raise _UsageError(no_command(args, list(_COMMANDS)), ctx)
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note what was typed, and read the options before the command."""
        ctx.meta[_AS_JSON] = "--json" in args
        ctx.with_resource(typed(args))  # until this invocation ends
        return super().parse_args(ctx, args)

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Read the options before the command. Typer would end without a word at Control-C."""
        with _interruptible():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Find the command and run it. A command itself says what Control-C leaves; here it was not begun."""
        with _interruptible():
            return super().invoke(ctx)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command line and end the process. An error in the command line is one sentence, as all errors are."""
        try:
            if asked := os.environ.get(_COMPLETE):
                from converter.cli.shells import answer

                for line in answer(self, asked):
                    typer.echo(line)
                sys.exit(0)
            code = super().main(args, prog_name, complete_var, False, windows_expand_args, **extra)
        except _UsageError as error:
            if not standalone_mode:
                raise
            from converter.cli.advice import usage
            from converter.cli.commands import USAGE, Ended, tell_json

            said = usage(error)
            if "--json" in (sys.argv[1:] if args is None else args):
                tell_json(Ended(said, USAGE))
            typer.echo(f"error: {safe_text(said, 2000)}", err=True)
            code = error.exit_code
        if not standalone_mode:
            return code
        sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        typer.echo("interrupted; nothing was left half done", err=True)
        raise typer.Exit(130) from None


@cache
def _built(name: str) -> Any:
    """A command. Every invocation in a process makes a new group, but building a command takes 20 milliseconds."""
    function = vars(import_module(_COMMANDS[name]))[name]
    return get_command_from_info(
        CommandInfo(name, cls=_Command, callback=function, context_settings=_SETTINGS),
        pretty_exceptions_short=False,
        rich_markup_mode=None,
    )


class _App(typer.Typer):
    """typer's own class, but it leaves `sys.excepthook` alone."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the command that `args`, or the command line, names."""
        return get_command(self)(*args, **kwargs)


app = _App(
    cls=_Commands,
    add_completion=False,
    invoke_without_command=True,
    context_settings=_SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="The way out of pickle: see what is in a PyTorch checkpoint without running it, take it apart, convert it, and "
    "prove that the copy computes the same.",
)


def main() -> None:
    """Run the command line and end the process."""
    with without_commands_on_streams():
        try:
            app(prog_name="cerebras-tool")
        finally:
            try:
                sys.stderr.flush()
                sys.stdout.flush()
            except BrokenPipeError:
                # The reader of our output has gone away. The interpreter would complain about that once more when it exits.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@app.callback()
def _main(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            "-V",
            is_eager=True,
            callback=_version,
            help="Print the version; with --json also which engines and extras are there.",
        ),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="With --version: one JSON document.")] = False,
    completion: Annotated[
        str | None,
        typer.Option(
            "--show-completion",
            metavar="bash|zsh|fish",
            is_eager=True,
            callback=_completion,
            help="Print a script that completes commands, options and names in this shell.",
        ),
    ] = None,
    offline: Annotated[
        bool,
        typer.Option(
            "--offline", envvar="CEREBRAS_TOOL_OFFLINE", help="Use no network; read only what is in the local cache."
        ),
    ] = False,
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit", metavar="NAME=VALUE", help="Set a limit on what inputs may ask for; a wrong NAME lists all."
        ),
    ] = None,
) -> None:
    if json:
        raise typer.BadParameter("--json comes after a command, or with --version")
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        return
    if offline:
        from converter.hub.offline import staying_offline

        context.with_resource(staying_offline())  # until this invocation ends
    if limit:
        from converter import limits

        try:
            context.with_resource(limits.using(limits.parse(limit)))  # until this invocation ends
        except ConverterError as error:
            raise typer.BadParameter(safe_text(str(error), 2000)) from None


def _version(context: typer.Context, wanted: bool) -> None:
    # It answers before the other options are read, because reading them takes longer than the answer.
    if not wanted:
        return
    from importlib.metadata import version

    number = version("cerebras-tool")
    if not context.meta[_AS_JSON]:
        typer.echo(f"cerebras-tool {number}")
        raise typer.Exit
    import platform
    from importlib.util import find_spec

    from converter.reports import to_json
    from converter.reports.version import VersionReport

    engines = {name: find_spec(module) is not None for name, module in _ENGINES.items()}
    extras = {extra: all(map(_is_installed, packages)) for extra, packages in _extras().items()}
    typer.echo(to_json(VersionReport(number, platform.python_version(), engines, extras)))
    raise typer.Exit


def _extras() -> dict[str, list[str]]:
    """The packages that each extra installs, without those for work on the project itself."""
    from importlib.metadata import requires

    found: dict[str, list[str]] = {}
    for line in requires("cerebras-tool") or ():
        package, _, condition = line.partition(";")
        if (extra := _EXTRA.search(condition)) and extra[1] not in _FOR_THE_PROJECT:
            found.setdefault(extra[1], []).extend(_PACKAGE.findall(package)[:1])
    return found


def _is_installed(package: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _completion(shell: str | None) -> None:
    if shell is not None:
        from converter.cli.shells import script

        typer.echo(script(shell))
        raise typer.Exit
