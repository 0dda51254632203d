"""Extracts a catalogue into a parameters folder: a conversion with a report of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from converter.conversion.job import NOTHING, prepare
from converter.errors import ModelError
from converter.formats.parameters.properties import PROPERTIES
from converter.formats.planned import Options
from converter.formats.records import PARAMETERS
from converter.hub.outputs import Target, check_target, publish, target_of
from converter.io.publish import Plan, PlannedFile, literal
from converter.models.called import called, proven_model
from converter.models.recognition import recognise
from converter.reports.conversion import ExtractReport
from converter.steps import step
from converter.words import FORMS, check, check_count

if TYPE_CHECKING:
    from converter.conversion.surgery import Surgery
    from converter.tensors.catalogue import Catalogue


def default_folder(catalogue: Catalogue) -> Path:
    """`parameters/<model>`, where hashes prove a declared model, else `parameters/` and what the file or its folder is called."""
    model = proven_model(catalogue, recognise(catalogue, catalogue.config))
    return Path("parameters") / (model.name if model is not None else called(catalogue.place))


def check_words(form: str) -> None:
    """Raise WordError for an unknown form."""
    check("form", form, FORMS)


def extract(
    catalogue: Catalogue,
    folder: Target,
    *,
    form: str = "storages",
    properties: Path | None = None,
    sha256: bool = False,
    check_crc: bool = True,
    force: bool = False,
    ignore_globals: bool = False,
    carry_values: bool = False,
    threads: int | None = None,
    surgery: Surgery = NOTHING,
    progress: Callable[[int], None] | None = None,
    starting: Callable[[int], None] | None = None,
) -> ExtractReport:
    """Write the parameters folder, atomically. Every CRC is checked on the way unless `check_crc` is false.

    With `properties`, model.properties is written to that path, and a checkpoint that it can't express is refused with
    ModelError before anything is written. Without, the report says why it was left out. As many threads work as there
    are processors, or as `threads` says; one thread reads a remote source. `starting` is called with the bytes before
    the first is written, `progress` with those written since its last call.
    """
    check_words(form)
    check_count("threads", threads)
    folder = target_of(folder)

    def check_output() -> None:
        check_target(folder, folder=True, force=force, source=catalogue)
        if properties is not None:
            check_target(properties, folder=False, force=force, source=catalogue)

    options = Options(form=form, sha256=sha256, properties_inside=properties is None)
    with step("plan", str(folder)):
        job = prepare(
            catalogue,
            folder,
            PARAMETERS,
            options,
            check_crc=check_crc,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            check_output=check_output,
            surgery=surgery,
        )
    text = job.planned.properties
    if properties is not None and text is None:
        raise ModelError(f"no {PROPERTIES} can be written: {job.planned.refused}")
    if starting is not None:
        starting(job.plan.nbytes)
    job.write(force=force, progress=progress, threads=threads)
    if properties is not None and text is not None:
        file = PlannedFile("", (literal(PROPERTIES, text.encode()),))
        publish(Plan((file,), folder=False), properties, catalogue, force=force)
    return ExtractReport(
        source=catalogue.location,
        folder=str(folder),
        form=form,
        model=job.model,
        files=len(job.planned.files),
        nbytes=job.plan.nbytes,
        tensors=job.planned.tensors,
        properties=None if text is None else str(properties or folder / PROPERTIES),
        dropped=job.dropped,
        carried=tuple(job.options.values),
        notes=job.notes,
        excluded=job.cut.excluded,
        renamed=job.cut.renamed,
    )
