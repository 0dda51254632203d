"""From a catalogue to safetensors, GGUF or a parameters folder: plan everything, then stream it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BY_NAME, Dtype
from converter.errors import ModelError, OutputError, UnsupportedError
from converter.io.local import LocalFile
from converter.io.publish import Piece, Plan, PlannedFile, check_target, literal, publish
from converter.models import recognition as models
from converter.reports import conversion as reports
from converter.tensors.casting import Loss
from converter.tensors.guards import check_portable
from converter.tensors.parts import storage_parts
from converter.tensors.tensor import Storage
from converter.tensors.verified import checked

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue

FORMATS: Final = ("safetensors", "gguf", "parameters")
DTYPES: Final = ("keep", "f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")
SHARD: Final = 50_000_000_000  # bytes; what transformers cuts at
_CONFIG: Final = "config.json"
_TOKENIZER: Final = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model"),
)
_OTHERS: Final = ("generation_config.json", "LICENSE", "LICENSE.txt", "LICENSE.md")
_TORCH_NAMES: Final = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def target_format(output: Path, to: str | None) -> str:
    """Give the format that an output's ending asks for, or `to`. Raises OutputError where neither says."""
    ending = {".safetensors": "safetensors", ".gguf": "gguf"}.get(output.suffix)
    if to is None and ending is None:
        raise OutputError(f"`{output}` ends in neither .safetensors nor .gguf: say --to {', '.join(FORMATS)}")
    if to is not None and ending is not None and to != ending:
        raise OutputError(f"`{output}` ends in {output.suffix}, which is not {to}: choose one of them")
    return to or ending or ""


def convert(
    catalogue: Catalogue,
    output: Path,
    *,
    to: str | None = None,
    dtype: str = "keep",
    max_shard_size: int | None = None,
    keep_buffers: bool = False,
    tokenizer: Path | None = None,
    check_crc: bool = True,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    ignore_globals: bool = False,
    threads: int | None = None,
    progress: Callable[[int], None] | None = None,
    starting: Callable[[int], None] | None = None,
) -> reports.ConversionReport:
    """Write `output`, or with `dry_run` only say what would be written.

    An output that ends in .safetensors or .gguf is one file; any other is a folder, with config.json and the tokenizer's
    files beside the weights. `starting` is told the bytes to come before the first is written. As many `threads` work as
    there are processors, unless a number is given; what is remote is read by one.
    """
    format = target_format(output, to)
    check_portable(catalogue, ignore_globals=ignore_globals, no_crc=not check_crc)
    inputs = catalogue.identities()
    folder = output.suffix not in (".safetensors", ".gguf")
    if not dry_run and not resume:
        check_target(output, folder=folder, force=force, inputs=inputs)
    original = catalogue
    if catalogue.format == "gguf" and catalogue.metadata.get("general.architecture") == "gpt2":
        from converter.formats.gguf.reader import as_hugging_face

        catalogue = as_hugging_face(catalogue)
    recognition = models.recognise(catalogue, catalogue.config)
    if recognition is not None and recognition.contradictions:
        raise ModelError(recognition.contradictions[0])
    finish: Callable[[], None] = original.check_unchanged
    if check_crc:
        catalogue, check = checked(catalogue)

        def finish() -> None:
            check()
            original.check_unchanged()

    beside = _beside(original) if format == "gguf" or (folder and format != "parameters") else None
    planned = _Planned()
    if format == "parameters":
        _plan_parameters(planned, catalogue, recognition, dtype)
    elif format == "safetensors":
        size = max_shard_size or (SHARD if folder else None)
        _plan_safetensors(planned, catalogue, recognition, dtype, size, keep_buffers, single=not folder)
    else:
        _plan_gguf(
            planned, catalogue, recognition, dtype, max_shard_size, _tokenizer(tokenizer, beside), output, folder
        )
    if folder and format != "parameters":
        planned.files += _companions(catalogue, beside, tokenizer, dtype)
    identity = repr((original.fingerprint(), format, dtype, keep_buffers))
    plan = Plan(tuple(planned.files), folder=folder, identity=identity, finish=planned.finish)
    if not dry_run:
        if starting is not None:
            starting(plan.nbytes)
        if plan.passing:
            original.pass_by()
        _publish(
            plan,
            output,
            force=force,
            resume=resume,
            progress=progress,
            inputs=inputs,
            check=finish,
            threads=threads if original.concurrent else 1,
        )
    return _report(original, output, format, dtype, plan, planned, recognition, dry_run)


def _publish(plan: Plan, output: Path, **options: Any) -> None:
    """Write a plan; GGUF in several parts beside each other is as many plans as there are files."""
    if plan.folder or len(plan.files) == 1:
        publish(plan, output, **options)
        return
    parts = [(output.with_name(Path(file.path).name), PlannedFile("", file.pieces)) for file in plan.files]
    for path, _ in parts:
        check_target(path, folder=False, force=options["force"], inputs=options["inputs"])
    for path, part in parts:
        publish(Plan((part,), folder=False, identity=plan.identity), path, **options)


class _Planned:
    """What the formats' planners give, in one form."""

    def __init__(self) -> None:
        self.files: list[PlannedFile] = []
        self.dropped: tuple[str, ...] = ()
        self.tied: Mapping[str, str] = {}
        self.notes: list[str] = []
        self.losses: Callable[[], Loss] = Loss
        self.finish: Callable[[], Any] | None = None
        self.tensors = 0


def _plan_safetensors(
    planned: _Planned,
    catalogue: Catalogue,
    recognition: models.Recognition | None,
    dtype: str,
    size: int | None,
    keep_buffers: bool,
    *,
    single: bool,
) -> None:
    from converter.formats.safetensors import writer as safetensors

    if dtype.startswith("q"):
        raise UnsupportedError(f"safetensors has no dtype {dtype.upper()}: choose f32, f16 or bf16, or write GGUF")
    target: Dtype | None = None if dtype == "keep" else BY_NAME[dtype.upper()]
    conversion = safetensors.plan(
        catalogue, recognition, dtype=target, max_shard_size=size, keep_buffers=keep_buffers, single_file=single
    )
    planned.files += conversion.files
    planned.dropped, planned.tied = conversion.dropped, conversion.tied
    planned.tensors = len(catalogue) - len(conversion.dropped) - len(conversion.tied)
    planned.losses = lambda: _sum(conversion.losses)


def _sum(losses: Mapping[str, Loss]) -> Loss:
    total = Loss()
    for loss in losses.values():
        total.nan += loss.nan
        total.overflowed += loss.overflowed
        total.underflowed += loss.underflowed
        total.rounded += loss.rounded
    return total


def _plan_gguf(
    planned: _Planned,
    catalogue: Catalogue,
    recognition: models.Recognition | None,
    dtype: str,
    size: int | None,
    tokenizer: Path | None,
    output: Path,
    folder: bool,
) -> None:
    from converter.formats.gguf import writer as gguf_writer

    model = recognition.model.name if recognition is not None and recognition.model is not None else None
    # A split file needs a name to count from; published beside each other where no folder was asked for.
    path = f"{model or 'model'}-{'F32' if dtype == 'keep' else dtype.upper()}.gguf" if folder else output.name
    made = gguf_writer.plan(
        catalogue, config=catalogue.config, encoding=dtype, path=path, tokenizer=tokenizer, max_shard_size=size
    )
    planned.files += made.files
    planned.dropped, planned.notes = made.dropped, list(made.notes)
    planned.tensors = len(made.entries)
    planned.losses = lambda: _sum(made.losses)


def _plan_parameters(
    planned: _Planned, catalogue: Catalogue, recognition: models.Recognition | None, dtype: str
) -> None:
    from converter.formats.parameters import folder as parameters

    if dtype != "keep":
        raise UnsupportedError("a parameters folder keeps the dtypes of its source: convert to safetensors first")
    extraction = parameters.extraction(catalogue, recognition)
    planned.files += extraction.plan.files
    planned.finish = extraction.plan.finish
    planned.tensors = extraction.tensors
    if extraction.refused is not None:
        planned.notes.append(f"no model.properties: {extraction.refused}")


def _beside(catalogue: Catalogue) -> Path | None:
    """Give the folder that a local checkpoint lies in, or one with the small files of a remote one."""
    if "://" in catalogue.location:
        from converter.hub import repository as hub

        return hub.companions(catalogue.location)
    location = Path(catalogue.location)
    return location if location.is_dir() else location.parent if location.exists() else None


def _tokenizer(given: Path | None, beside: Path | None) -> Path | None:
    from converter.models.vocabulary import is_beside

    return given or (beside if beside is not None and is_beside(beside) else None)


def _companions(catalogue: Catalogue, beside: Path | None, tokenizer: Path | None, dtype: str) -> list[PlannedFile]:
    """Give the files that go along with weights: configuration, tokenizer, licence."""
    files: dict[str, PlannedFile] = {}
    for folder, names in ((beside, _TOKENIZER + _OTHERS), (tokenizer, _TOKENIZER)):
        for name in names if folder is not None else ():
            path = Path(folder or "") / name
            if path.is_file():
                files[name] = PlannedFile(name, (_copy(path),))
    config = catalogue.config
    if config is not None:
        named = _TORCH_NAMES.get(dtype.upper())
        keys = [key for key in ("torch_dtype", "dtype") if key in config]
        changed = dict(config) | (dict.fromkeys(keys, named) if named else {})
        if changed == config and beside is not None and (beside / _CONFIG).is_file():
            files[_CONFIG] = PlannedFile(_CONFIG, (_copy(beside / _CONFIG),))
        else:
            text = json.dumps(changed, indent=2) + "\n"
            files[_CONFIG] = PlannedFile(_CONFIG, (literal(_CONFIG, text.encode()),))
    return [files[name] for name in sorted(files)]


def _copy(path: Path) -> Piece:
    source = LocalFile(path)

    return Piece(f"{path.name} {source.mtime_ns}", storage_parts(Storage(source, 0, source.size, path.name)))


def _report(
    catalogue: Catalogue,
    output: Path,
    format: str,
    dtype: str,
    plan: Plan,
    planned: _Planned,
    recognition: models.Recognition | None,
    dry_run: bool,
) -> reports.ConversionReport:
    loss = planned.losses()
    return reports.ConversionReport(
        source=catalogue.location,
        output=str(output),
        format=format,
        dtype=dtype,
        model=recognition.model.name if recognition is not None and recognition.model is not None else None,
        written=not dry_run,
        nbytes=plan.nbytes,
        tensors=planned.tensors,
        files=tuple(_planned_file(file, output) for file in plan.files),
        dropped=planned.dropped,
        tied=tuple((name, kept) for name, kept in planned.tied.items()),
        loss=reports.LossReport(loss.nan, loss.overflowed, loss.underflowed, loss.rounded),
        notes=tuple(planned.notes),
    )


def _planned_file(file: PlannedFile, output: Path) -> reports.PlannedFileReport:
    pieces, offset = [], 0
    for piece in file.pieces:
        if piece.dtype is not None:
            pieces.append(reports.PlannedTensorReport(piece.name, piece.dtype, offset, piece.nbytes))
        offset += piece.nbytes
    return reports.PlannedFileReport(file.path or output.name, offset, tuple(pieces))
