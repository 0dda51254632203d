"""`models`: the declared models."""

from __future__ import annotations

from typing import Annotated

import typer

from converter.cli.commands import answer, command
from converter.cli.options import Json, offer_models


@command
def models(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            autocompletion=offer_models,
            help="`Cerebras-GPT-111M`, or `111M`.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the declared models: sizes, links, files, hashes."""
    from converter.models import declared

    chosen = [declared.find(name)] if name is not None else list(declared.declared())
    if json:
        from converter.reports.models import ModelsReport

        answer(ModelsReport(tuple(chosen)))
        return
    from converter.cli.render.models import page, table
    from converter.hub.cache import in_cache

    cached = {model.name: in_cache(model.repository, [file.name for file in model.files]) for model in chosen}
    if name is not None:
        page(chosen[0], cached[chosen[0].name])
    else:
        table(chosen, cached)
