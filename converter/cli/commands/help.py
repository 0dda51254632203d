"""`help`: how a command is used."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def help(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="One of the commands.")] = None,
    man: Annotated[bool, typer.Option("--man", help="Print the manual page of the whole program.")] = False,
) -> None:
    """Show how a command is used, or which commands there are."""
    group = context.find_root()
    commands: Any = group.command
    if man:
        from importlib.metadata import version

        from converter.cli.examples import EXAMPLES
        from converter.cli.manual import page

        typer.echo(page(commands, group, EXAMPLES, version("cerebras-tool")), nl=False)
    elif command is None:
        typer.echo(group.get_help())
    else:
        name, found, _ = commands.resolve_command(group, [command])
        typer.echo(found.get_help(typer.Context(found, info_name=name, parent=group)))
