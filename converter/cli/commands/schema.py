"""`schema`: the JSON Schemas of what is printed and written."""

from __future__ import annotations

from typing import Annotated

import typer

from converter.cli.commands import answer, command
from converter.cli.options import Json


@command
def schema(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="`inspection`, or the `schema` of a document.")
    ] = None,
    json: Json = False,
) -> None:
    """Print the JSON Schema of a document that this program prints or writes, or list them."""
    from converter import resources

    if name is not None:
        typer.echo(resources.schema_text(name), nl=False)
        return
    from converter.reports.schemas import SchemasReport

    rows = resources.schema_rows()
    if json:
        answer(SchemasReport(tuple({"name": row.name, "title": row.title} for row in rows)))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        typer.echo(f"{row.name:<{width}}  {row.title}")
