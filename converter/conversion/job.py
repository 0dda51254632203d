"""A conversion: everything is planned, then streamed. `convert` and `extract` differ only in their options and reports."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.conversion.about import about
from converter.conversion.dropped import dropped, sidecar, values
from converter.conversion.surgery import Cut, Surgery, cut
from converter.conversion.tying import could_be_tied, tied
from converter.errors import FormatError, ManifestError, ModelError, SourceError, UnsupportedError
from converter.formats.companions import (
    CHAT_TEMPLATES,
    CODE,
    CONFIG,
    SIDECAR,
    TOKENIZER,
    Companions,
    code_left,
    companions,
    remote_companions,
    remote_left,
)
from converter.formats.marks import GENERATION
from converter.hub.outputs import Target, check_target, publish
from converter.hub.stores import StorePath
from converter.io.local import LocalFile
from converter.io.publish import Piece, Plan, PlannedFile, literal
from converter.io.strict_json import any_json_beside
from converter.models.called import proven_model
from converter.models.recognition import Recognition, recognise, tied_back
from converter.models.tokenizers.folder import is_beside
from converter.opening import folder_beside
from converter.reports.conversion import DroppedReport
from converter.scanning.danger import verdict
from converter.tensors.crc_checked import checked
from converter.tensors.guards import check_portable
from converter.tensors.parts import storage_parts
from converter.tensors.tensor import Storage
from converter.text import listed
from converter.words import DANGEROUS, option

if TYPE_CHECKING:
    from converter.formats.format import Format
    from converter.formats.planned import Options, Planned
    from converter.tensors.catalogue import Catalogue

NOTHING: Final = Surgery()
_TORCH_NAMES: Final = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}  # what config.json calls a dtype
_ALONE: Final = "only an output folder has room for companions"
_TENSORS: Final = "a parameters folder has no room for companions, but a folder of safetensors has"
_NO_PLACE: Final = "a {} file has no place for all that it says"
# A file that holds everything itself has keys for these.
_IN_KEYS: Final = frozenset((CONFIG, *TOKENIZER, *CHAT_TEMPLATES))
_NO_CONFIG: Final = (
    "there is no config.json, and the tensors keep their {} names: this program does not know what transformers calls "
    "them in this architecture"
)


@dataclass(frozen=True, slots=True)
class Job:
    """A planned conversion: what will be written, and what is checked before it takes the output's place."""

    source: Catalogue
    output: Target
    format: Format
    options: Options
    recognition: Recognition | None
    planned: Planned
    plan: Plan
    check: Callable[[], None]
    cut: Cut
    left: Mapping[str, str]  # files beside the weights that stay behind, and why

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about the output: what the format's plan says, and what was taken from the source."""
        module, unknown = self.source.facts.get("module"), self.source.unknown_globals()
        program = self.source.facts.get("program")
        taken = [f"the state dict of a whole module, {module}; nothing was called"] if module else []
        if program:
            taken = [f"the weights of {program}, of {module}; its code is left out, and nothing was called"]
        elif unknown:
            taken.append(f"its pickle names {listed(unknown)}" + ("" if module else "; nothing was called"))
        if hooked := self.source.facts.get("hooked"):
            from converter.pickles.modules import hooks_said  # few files have hooks

            taken.append(hooks_said(hooked))
        prefix = self.source.facts.get("prefix")
        if prefix:
            taken.append(f"`{prefix}` was left out of every name")
        if self.source.facts.get("averaged"):
            taken.append(f"averaged weights lie beside them, below {listed(self.source.facts['averaged'])}")
        if merged := self.source.facts.get("merged"):
            taken.append(f"merged with {merged}")
        return (*self.source.origin.notes, *taken, *self.cut.notes, *self.planned.notes)

    @property
    def dropped(self) -> tuple[DroppedReport, ...]:
        """What the source has and the output does not."""
        files = (DroppedReport(name, "file", reason, 0, 0) for name, reason in self.left.items())
        return (*dropped(self.source, self.format, self.planned, self.options.values, self.cut.excluded), *files)

    @property
    def model(self) -> str | None:
        """The name of the declared model whose files these are, as their hashes prove; None if they don't."""
        model = proven_model(self.source, self.recognition)
        return model.name if model is not None else None

    def write(
        self,
        *,
        force: bool = False,
        resume: bool = False,
        threads: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Write the output, atomically. Raises OutputError if that fails, and the errors of reading the source."""
        if self.plan.passing:
            self.source.pass_by()
        for path, plan in self._outputs():
            check_target(path, folder=plan.folder, force=force, source=self.source)
        for path, plan in self._outputs():
            publish(
                plan,
                path,
                self.source,
                force=force,
                resume=resume,
                progress=progress,
                check=self.check,
                threads=threads if self.source.concurrent else 1,
            )

    def _outputs(self) -> Iterator[tuple[Target, Plan]]:
        """The paths of the outputs: an output in several files beside each other has several."""
        if self.plan.folder or len(self.plan.files) == 1:
            yield self.output, self.plan
            return
        for file in self.plan.files:
            yield self.output.with_name(Path(file.path).name), replace(self.plan, files=(replace(file, path=""),))


def prepare(
    catalogue: Catalogue,
    output: Target,
    format: Format,
    options: Options,
    *,
    check_crc: bool = True,
    ignore_globals: bool = False,
    carry_values: bool = False,
    check_output: Callable[[], None] = lambda: None,
    with_code: bool = False,
    tie: bool | None = None,
    surgery: Surgery = NOTHING,
) -> Job:
    """Plan a conversion; nothing is written. `check_output` is called before anything of the source is read.

    With `tie`, a head that equals the embedding is written once; if it is False, a note says that it could be.

    Raises UnsupportedError, UnsafeError, ManifestError or ModelError for what can't be carried over whole, and RuleError for
    rules that leave nothing.
    """
    if options.dtype not in format.mixtures:
        check_dtype(format, options.dtype)
    for name, value in (("pure", options.pure), ("imatrix", options.imatrix)):
        if value is not None and not format.mixtures:
            raise UnsupportedError(
                f"{option(name)} is for the blocks of GGUF, and {format.title} has none: leave it out"
            )
    if (alone := formats.alone(catalogue)) is not None:
        raise ManifestError(alone)
    done = cut(catalogue, surgery)
    catalogue = tied_back(done.catalogue, recognise(done.catalogue, done.catalogue.config))
    options = replace(options, types=done.types)
    for word in dict.fromkeys(options.types.values()):
        check_dtype(format, word)
    alike = formats.of(catalogue) is format
    left = ignore_globals or not catalogue.unknown_globals() or _apart(catalogue)
    check_portable(catalogue, ignore_globals=left, no_crc=not check_crc, alike=alike)
    check_output()
    folder = options.name is None
    tensors = catalogue
    recognition = recognise(tensors, tensors.config)
    if format.self_contained and done.contradiction is not None:  # the file would repeat what config.json says
        raise ModelError(done.contradiction)
    doubts: tuple[str, ...] = ()
    if format.companions and recognition is not None and recognition.contradictions:
        if format.self_contained:  # the file would repeat what config.json says
            raise ModelError(recognition.contradictions[0])
        doubts = recognition.contradictions[:1]
        recognition = None  # so that nothing is left out on the strength of a doubtful family
    ties: tuple[str, ...] = ()
    if tie:
        catalogue, ties = tied(catalogue, recognition)
        tensors, recognition = catalogue, recognise(catalogue, catalogue.config) if recognition is not None else None
    elif tie is not None and format.ties:
        ties = could_be_tied(catalogue, recognition)
    check = catalogue.check_unchanged
    if check_crc:
        tensors, finish = checked(tensors)

        def check() -> None:
            finish()
            catalogue.check_unchanged()

    if options.tokenizer is not None and not options.tokenizer.is_dir():
        raise SourceError(
            f"`{options.tokenizer}` is not a folder: {option('tokenizer')} names one with a tokenizer's files"
        )
    beside = (
        folder_beside(catalogue, with_code=with_code)
        if format.self_contained or (folder and format.companions)
        else None
    )
    given = options.tokenizer
    wanted = given is None and not options.no_tokenizer and format.self_contained
    if wanted and beside is not None and is_beside(beside) and formats.of(catalogue).tokenizer(catalogue) is None:
        options = replace(options, tokenizer=beside)
    if format.plan is None:
        raise UnsupportedError(f"{format.title} can be read but not written: choose {_listed(formats.WRITABLE)}")
    if format.self_contained:
        told = beside is not None and not formats.of(catalogue).self_contained
        generation = any_json_beside(beside / GENERATION) if beside is not None and told else None
        options = replace(
            options,
            about=about(beside, catalogue.place, catalogue.config),
            generation=generation if type(generation) is dict else None,
        )
    if carry_values:
        options = replace(options, values=values(catalogue, format))
    planned = format.plan(tensors, recognition, options)
    if options.values and not format.values:
        planned = _with_sidecar(planned, options)
    made, refused = ((), ()) if format.self_contained else _tokenizer(catalogue)
    planned = replace(planned, notes=(*doubts, *ties, *planned.notes, *refused))
    copied, left_behind = list[PlannedFile](), dict[str, str]()
    if folder and format.companions:
        found = _found(catalogue, beside, with_code=with_code)
        left_behind = found.left
        if done.contradiction is not None:
            found.files.pop(CONFIG, None)
        for file in planned.files:
            found.files.pop(file.path, None)
        copied = _companions(tensors, beside, found.files, given, options.dtype, made)
        if formats.of(catalogue).self_contained and all(file.path != CONFIG for file in copied):
            planned = replace(planned, notes=(*planned.notes, _NO_CONFIG.format(formats.of(catalogue).title)))
    elif not format.self_contained:
        left_behind = _without_a_folder(catalogue, output, made, with_code=with_code)
        if not format.companions:  # its manifest has the configuration
            left_behind = {
                name: _TENSORS if reason == _ALONE else reason for name, reason in left_behind.items() if name != CONFIG
            }
    elif format.self_contained and not formats.of(catalogue).self_contained:
        found_beside = _without_a_folder(catalogue, output, (), with_code=with_code)
        left_behind = {
            name: _NO_PLACE.format(format.title) if reason == _ALONE else reason
            for name, reason in found_beside.items()
            if name not in _IN_KEYS
        }
        for name in planned.inside.keys() & left_behind.keys():
            reason = planned.inside[name]
            if reason is None:
                del left_behind[name]
            else:
                left_behind[name] = reason
    identity = repr(
        (catalogue.fingerprint(), format.name, options.dtype, options.keep_buffers, surgery, tie, *options.values)
    ) + repr((options.pure, _weights(options)))
    plan = Plan((*planned.files, *copied), folder=folder, identity=identity, finish=planned.finish)
    return Job(catalogue, output, format, options, recognition, planned, plan, check, done, left_behind)


def _with_sidecar(planned: Planned, options: Options) -> Planned:
    """The plan with a document of values beside the weights."""
    lone = options.name
    name = SIDECAR if lone is None else f"{Path(lone).stem}.{SIDECAR}"
    files = planned.files if lone is None else tuple(replace(file, path=file.path or lone) for file in planned.files)
    return replace(planned, files=(*files, PlannedFile(name, (literal(name, sidecar(options.values)),))))


def _apart(catalogue: Catalogue) -> bool:
    """Whether the unknown globals lie apart from the weights, so that they can be left out by name.

    They do if they are classes of a whole module, of other objects on the way to the tensors, or of values beside the weights.
    A value among the weights could be a tensor of an unknown kind. False if a global is dangerous, or if no value shows
    where the globals are used.
    """
    if catalogue.facts.get("objects") != () or verdict(catalogue.globals)[0] == DANGEROUS:
        return False
    from converter.pickles.walk import holds_object

    seen = set[int]()
    entered = catalogue.facts.get("module") or catalogue.facts.get("entered")
    return bool(entered) or any(holds_object(other.value, seen) for other in catalogue.others)


def _weights(options: Options) -> tuple[str, int] | None:
    """What identifies the importance matrix, if there is one: version and size."""
    if options.imatrix is None:
        return None
    with LocalFile(options.imatrix) as file:
        return file.version or "", file.size


def check_dtype(format: Format, dtype: str) -> None:
    """Raise UnsupportedError if a format has no such dtype."""
    if dtype in format.dtypes:
        return
    others = [other for other in formats.WRITABLE if dtype in (*other.dtypes, *other.mixtures)]
    choices = [word for word in format.dtypes if word != "keep"] or ["keep"]
    raise UnsupportedError(
        f"{format.title} has no dtype {dtype.upper()}: choose {_words(choices)}"
        + (f", or write {_listed(others)}" if others else "")
    )


def _listed(chosen: tuple[Format, ...] | list[Format]) -> str:
    return _words([format.title for format in chosen])


def _words(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _tokenizer(catalogue: Catalogue) -> tuple[tuple[PlannedFile, ...], tuple[str, ...]]:
    """The files of the tokenizer inside a source, or a sentence that says why there are none."""
    try:
        made = formats.of(catalogue).tokenizer_files(catalogue)
    except (UnsupportedError, FormatError) as error:
        return (), (f"the tokenizer is left behind: {error}",)
    return tuple(PlannedFile(name, (literal(name, data),)) for name, data in made.items()), ()


def _found(catalogue: Catalogue, beside: Path | None, *, with_code: bool) -> Companions:
    """The files beside the weights. If one file was named, only known names count, because anything may lie beside it."""
    left = _left_there(catalogue, with_code=with_code)
    if beside is None or not beside.is_dir():
        return Companions({}, left)
    weights = [catalogue.origin.path_of(file.name) for file in catalogue.origin.files]
    found = companions(beside, weights, everything=catalogue.origin.folder, with_code=with_code)
    return replace(found, left=left | found.left)


def _left_there(catalogue: Catalogue, *, with_code: bool) -> dict[str, str]:
    """The files of a folder on a server that stay behind; they are not fetched."""
    if not catalogue.origin.folder:
        return {}
    weights = {PurePosixPath(file.name).name for file in catalogue.origin.files}
    return remote_left(catalogue.facts.get("files beside", ()), weights, with_code=with_code)


def _without_a_folder(
    catalogue: Catalogue, output: Target, made: Sequence[PlannedFile], *, with_code: bool
) -> dict[str, str]:
    """What would lie beside the weights if the output were a folder. Nothing is fetched to find that out."""
    inside = [file.path for file in made] + list(formats.of(catalogue).generation_files(catalogue))
    if catalogue.config is not None and formats.of(catalogue).self_contained:
        inside.append(CONFIG)
    if catalogue.origin.folder:  # a repository on the Hub
        inside += remote_companions(catalogue.facts.get("files beside", ()), (), with_code=with_code)
    # A lone file that says everything itself may lie beside unrelated files.
    belongs = catalogue.origin.folder or not formats.of(catalogue).self_contained
    beside = folder_beside(catalogue) if belongs and "://" not in catalogue.location else None
    if beside is not None and _is_in(output, beside):
        return dict.fromkeys(sorted(set(inside)), _ALONE)
    found, code = _found(catalogue, beside, with_code=with_code), code_left()
    left = {name: CODE if reason == code else reason for name, reason in found.left.items()}
    return dict.fromkeys(sorted({*inside, *found.files}), _ALONE) | left


def _is_in(output: Target, folder: Path) -> bool:
    """Whether an output will lie in this folder, and so beside its files."""
    return not isinstance(output, StorePath) and output.absolute().parent.resolve() == folder.resolve()


def _companions(
    catalogue: Catalogue,
    beside: Path | None,
    found: Mapping[str, Path],
    tokenizer: Path | None,
    dtype: str,
    made: Sequence[PlannedFile],
) -> list[PlannedFile]:
    """The files that lie beside the weights in the output: configuration, tokenizer, licence and the others."""
    files = {file.path: file for file in made}
    for name, data in formats.of(catalogue).generation_files(catalogue).items():
        files[name] = PlannedFile(name, (literal(name, data),))
    for name, path in found.items():
        if not (made and name in TOKENIZER):
            files[name] = PlannedFile(name, (_copy(path),))
    if tokenizer is not None:
        for name in TOKENIZER:
            if (tokenizer / name).is_file():
                files[name] = PlannedFile(name, (_copy(tokenizer / name),))
    if catalogue.config is not None:
        files[CONFIG] = _config(catalogue.config, beside, dtype)
    return [files[name] for name in sorted(files)]


def _config(config: Mapping[str, Any], beside: Path | None, dtype: str) -> PlannedFile:
    """The config.json with the new dtype. If nothing changes, it is byte for byte the source's."""
    named = _TORCH_NAMES.get(dtype)
    keys = [key for key in ("torch_dtype", "dtype") if key in config]
    changed = dict(config) | (dict.fromkeys(keys, named) if named else {})
    if changed == config and beside is not None and (beside / CONFIG).is_file():
        return PlannedFile(CONFIG, (_copy(beside / CONFIG),))
    return PlannedFile(CONFIG, (literal(CONFIG, (json.dumps(changed, indent=2) + "\n").encode()),))


def _copy(path: Path) -> Piece:
    source = LocalFile(path)
    return Piece(f"{path.name} {source.mtime_ns}", storage_parts(Storage(source, 0, source.size, path.name)))
