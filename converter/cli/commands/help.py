"""`help`: how a command is used."""

from __future__ import annotations

from typing import Annotated, Any

import typer


def help(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="One of the commands.")] = None,
) -> None:
    """Show how a command is used, or which commands there are."""
    group = context.find_root()
    if command is None:
        typer.echo(group.get_help())
        return
    commands: Any = group.command
    name, found, _ = commands.resolve_command(group, [command])
    typer.echo(found.get_help(typer.Context(found, info_name=name, parent=group)))
