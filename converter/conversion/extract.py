"""From a catalogue to a parameters folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import ModelError
from converter.formats.parameters import folder as parameters
from converter.io.publish import Plan, PlannedFile, check_target, literal, publish
from converter.models import recognition as models
from converter.reports.conversion import ExtractReport
from converter.tensors.guards import check_portable
from converter.tensors.verified import checked

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue


def default_folder(catalogue: Catalogue) -> Path:
    """Give `parameters/<model>`, or the file's own name where the model is not known."""
    recognition = models.recognise(catalogue, catalogue.config)
    if recognition is not None and recognition.model is not None:
        return Path("parameters") / recognition.model.name
    return Path("parameters") / (Path(catalogue.location).resolve().stem or "checkpoint")


def extract(
    catalogue: Catalogue,
    folder: Path,
    *,
    form: str = "storages",
    properties: Path | None = None,
    sha256: bool = False,
    check_crc: bool = True,
    force: bool = False,
    ignore_globals: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> ExtractReport:
    """Write the parameters folder, atomically. Every CRC is checked on the way unless `check_crc` is false.

    With `properties`, model.properties goes there, and a checkpoint that it can't express is refused with ModelError
    before anything is written; without, the report says why it was left out. As many `threads` work as there are
    processors, unless a number is given; what is remote is read by one.
    """
    check_portable(catalogue, ignore_globals=ignore_globals, no_crc=not check_crc)
    recognition = models.recognise(catalogue, catalogue.config)
    inputs = catalogue.identities()
    check_target(folder, folder=True, force=force, inputs=inputs)
    if properties is not None:
        check_target(properties, folder=False, force=force, inputs=inputs)
    finish = catalogue.check_unchanged
    if check_crc:
        catalogue, check = checked(catalogue)

        def finish() -> None:
            check()
            catalogue.check_unchanged()

    extraction = parameters.extraction(
        catalogue, recognition, form=form, sha256=sha256, properties_inside=properties is None
    )
    if properties is not None and extraction.properties is None:
        raise ModelError(f"no model.properties can be written: {extraction.refused}")
    if extraction.plan.passing:
        catalogue.pass_by()
    publish(
        extraction.plan,
        folder,
        force=force,
        progress=progress,
        inputs=inputs,
        check=finish,
        threads=threads if catalogue.concurrent else 1,
    )
    if properties is not None and extraction.properties is not None:
        text = PlannedFile("", (literal("model.properties", extraction.properties.encode()),))
        publish(Plan((text,), folder=False), properties, force=force, inputs=inputs)
    where = None if extraction.properties is None else str(properties or folder / parameters.PROPERTIES)
    refused = f"no model.properties: {extraction.refused}"
    return ExtractReport(
        source=catalogue.location,
        folder=str(folder),
        form=form,
        model=recognition.model.name if recognition and recognition.model else None,
        files=len(extraction.files),
        nbytes=extraction.plan.nbytes,
        tensors=extraction.tensors,
        properties=where,
        notes=(refused,) if extraction.properties is None else (),
    )
