"""The functions that `import converter` offers: the commands, which take a path, a URL or a catalogue.

Words are checked before anything is read or written: a wrong one raises WordError, a ValueError that lists the right ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from converter.errors import WordError
from converter.tensors.catalogue import Catalogue
from converter.tensors.notebook import draw_with
from converter.words import ENGINES, WEIGHTS, Part, Root, check_count, from_python, part_of
from converter.words import check as check_word

if TYPE_CHECKING:
    from converter.hub.download import Downloaded
    from converter.limits import Limits
    from converter.models.declared import Model
    from converter.reports.checking import CheckReport
    from converter.reports.conversion import ConversionReport, ExtractReport
    from converter.reports.difference import DiffReport
    from converter.reports.inspection import Inspection
    from converter.reports.scan import ScanReport
    from converter.reports.three_way import ThreeWayReport
    from converter.reports.verification import Verification
    from converter.words import DtypeWord, Engine, Form, Level, Sort, Target, Weights

    Place = str | PathLike[str] | Catalogue
    Progress = Callable[[int], None] | None
    Names = str | Sequence[str]
    Rules = Sequence[str] | Mapping[str, str]


def _html(what: str, thing: Any) -> str | None:
    from converter.pages.notebook import drawn

    return drawn(what, thing)


draw_with(_html)


@from_python
def open(
    location: Place,
    *,
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    limits: Limits | None = None,
) -> Catalogue:
    """Open a checkpoint. Names and layouts are read now, tensors when they are asked for. A `with` block closes the files.

    `location` is a file, an index of shards, a folder, `hf://owner/name[@revision][/path]`, `owner/name` or a URL. `root` is
    the key below which names start, `ema` takes the averaged weights, and `weights` is the kind of weights that is taken
    from a folder with several. Raises a ConverterError that says in a sentence what is wrong.
    """
    part = part_of(root, ema)
    if weights is not None:
        check_word("weights", weights, WEIGHTS)
    if isinstance(location, Catalogue):
        return _as_opened(location, part, weights, limits)
    from converter.opening import open_checkpoint

    return open_checkpoint(_place(location), root=part, weights=weights, limits=limits)


@from_python
def inspect(
    source: Place,
    *,
    filter: str | Sequence[str] | None = None,
    sort: Sort | None = None,
    stats: bool = False,
    sha256: bool = False,
    context: int | None = None,
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress = None,
) -> Inspection:
    """Report what a checkpoint is and what it holds. `filter` has globs on names; `stats` reads every tensor.

    `sha256` hashes each tensor's bytes as well. `context` is the number of tokens for which the memory of llama.cpp is
    reported.
    """
    from converter.inspection import report

    report.check_words(sort, stats=stats, sha256=sha256)
    check_count("context", context)
    with _opened(source, root, ema, weights) as catalogue:
        return report.inspect(
            catalogue, filter=filter, sort=sort, stats=stats, sha256=sha256, context=context, progress=progress
        )


@from_python
def check(
    *locations: Place,
    root: str | None = None,
    ema: bool = False,
    threads: int | None = None,
    progress: Progress = None,
) -> CheckReport:
    """Check that checkpoints are whole, undamaged and sound. Every byte is read; the report's `counts` say how it went.

    An open catalogue is checked as it was opened, and stays open. Raises a ConverterError only for what can't be checked,
    such as a path that does not exist.
    """
    from converter.checking.check import check as checked

    if not locations:
        raise TypeError("check() needs a location")
    check_count("threads", threads)
    part = part_of(root, ema)
    places = [_given(location, part) for location in locations]
    return checked(places, root=part, threads=threads, progress=progress)


@from_python
def convert(
    source: Place,
    output: str | PathLike[str],
    *,
    to: Target | None = None,
    dtype: DtypeWord = "keep",
    max_shard_size: int | None = None,
    keep_buffers: bool = False,
    tokenizer: str | PathLike[str] | None = None,
    no_tokenizer: bool = False,
    pure: bool | None = None,
    imatrix: str | PathLike[str] | None = None,
    check_crc: bool = True,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    ignore_globals: bool = False,
    carry_values: bool = False,
    with_code: bool = False,
    tie: bool = False,
    merge: Sequence[Place] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip: Sequence[str] = (),
    rename: Rules = (),
    tensor_type: Rules = (),
    threads: int | None = None,
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress = None,
) -> ConversionReport:
    """Convert to safetensors, GGUF, npz or a parameters folder. `max_shard_size` counts bytes.

    An output with the ending of a format is one file; any other is a folder. `merge` are checkpoints whose tensors are
    written, too. `include` and `exclude` are globs on names. `rename` is a dict of globs and new names, in order, and
    `tensor_type` is a dict of globs and dtypes; the last glob that matches counts. `dtype` may also be spelled as people
    do: `bfloat16`, `F16`. A mixture such as `q4_k_m` gives some matrices of a GGUF file a finer type; with `pure=True` none gets
    one, and with `pure=False` some do, whatever the type. `imatrix` is what llama-imatrix wrote. `tokenizer` is the folder of
    another tokenizer than the one beside the source; `no_tokenizer` allows a GGUF file that has none. With `tie`, a head that
    equals the embedding is written once, if the model ties them.
    """
    from converter.conversion import convert as conversion
    from converter.conversion.surgery import rules

    surgery = rules(include=include, exclude=exclude, strip=strip, rename=rename, tensor_type=tensor_type)
    conversion.check_words(Path(output), to, dtype)
    check_count("max_shard_size", max_shard_size)
    check_count("threads", threads)
    with _merged(source, root, ema, weights, merge) as catalogue:
        return conversion.convert(
            catalogue,
            Path(output),
            to=to,
            dtype=dtype,
            max_shard_size=max_shard_size,
            keep_buffers=keep_buffers,
            tokenizer=_path(tokenizer),
            no_tokenizer=no_tokenizer,
            pure=pure,
            imatrix=_path(imatrix),
            check_crc=check_crc,
            dry_run=dry_run,
            force=force,
            resume=resume,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            with_code=with_code,
            tie=tie,
            threads=threads,
            surgery=surgery,
            progress=progress,
        )


@from_python
def extract(
    source: Place,
    folder: str | PathLike[str] | None = None,
    *,
    form: Form = "storages",
    properties: str | PathLike[str] | None = None,
    sha256: bool = False,
    check_crc: bool = True,
    force: bool = False,
    ignore_globals: bool = False,
    carry_values: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip: Sequence[str] = (),
    rename: Rules = (),
    threads: int | None = None,
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress = None,
) -> ExtractReport:
    """Take a checkpoint apart into plain files. Without `folder` it goes to `parameters/<model>`.

    `include`, `exclude`, `strip` and `rename` are as in `convert`.
    """
    from converter.conversion import extract as extraction
    from converter.conversion.surgery import rules

    surgery = rules(include=include, exclude=exclude, strip=strip, rename=rename)
    extraction.check_words(form)
    with _opened(source, root, ema, weights) as catalogue:
        return extraction.extract(
            catalogue,
            Path(folder) if folder is not None else extraction.default_folder(catalogue),
            form=form,
            properties=Path(properties) if properties is not None else None,
            sha256=sha256,
            check_crc=check_crc,
            force=force,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            threads=threads,
            surgery=surgery,
            progress=progress,
        )


@from_python
def verify(
    source: Place,
    *outputs: Place,
    level: Level = "tensors",
    tokens: str | PathLike[str] | None = None,
    prompt: str | None = None,
    engine: Engine = "numpy",
    imatrix: str | PathLike[str] | None = None,
    merge: Sequence[Place] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip: Sequence[str] = (),
    rename: Rules = (),
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress = None,
) -> Verification:
    """Compare copies with their source. The report's `ok` says whether all are equal.

    `source` may also be a manifest of `verify --write-manifest`. `merge` to `rename` change the source as `convert` did, when
    it made a copy; without them, what a copy lacks is named. An output that is an open catalogue is compared as it was
    opened; the engines transformers and llama.cpp read files, so they take none. Raises a ConverterError only if the source
    can't be read or an engine can't run. What is wrong with an output is in the report.
    """
    from converter.conversion.surgery import cut, rules
    from converter.verification import golden
    from converter.verification.expected import expect
    from converter.verification.verify import Options
    from converter.verification.verify import verify as held

    if not outputs:
        raise TypeError("verify() needs an output to compare with the source")
    options = Options(level, _path(tokens), prompt, engine, imatrix=_path(imatrix))
    places = [_given(output, None) for output in outputs]
    if engine != ENGINES[0] and any(isinstance(place, Catalogue) for place in places):
        raise WordError("engine", engine, (f"{ENGINES[0]}, or give the path of the output instead of a catalogue",))
    surgery = rules(include=include, exclude=exclude, strip=strip, rename=rename)
    if not isinstance(source, Catalogue) and golden.is_golden(Path(source)):
        digests = golden.load(Path(source))
        if surgery or merge:
            expect(digests).whole("nothing can be left out, renamed or merged")
        return held(digests, places, options, progress=progress)
    with _merged(source, root, ema, weights, merge) as catalogue:
        return held(cut(catalogue, surgery).catalogue, places, options, progress=progress)


@from_python
def diff(
    before: Place, after: Place, *, rank: bool = False, filter: Names = (), progress: Progress = None
) -> DiffReport:
    """Compare two checkpoints, or only their tensors that fit `filter`. `rank` finds how many directions each change has."""
    from converter.difference.diff import diff as compared

    with _opened(before, None, False, None) as ours, _opened(after, None, False, None) as theirs:
        return compared(ours, theirs, rank=rank, filter=filter, progress=progress)


@from_python
def diff_three_way(
    before: Place, after: Place, other: Place, *, rank: bool = False, filter: Names = (), progress: Progress = None
) -> ThreeWayReport:
    """Compare two checkpoints with `before`, which both were made from: what each changed, and where the changes conflict."""
    from converter.difference.three_way import three_way

    with ExitStack() as stack:
        opened = [stack.enter_context(_opened(place, None, False, None)) for place in (before, after, other)]
        return three_way(*opened, rank=rank, filter=filter, progress=progress)


@from_python
def scan(
    *locations: Place,
    explain: bool = False,
    fickling: bool = True,
    policy: str | PathLike[str] | None = None,
) -> ScanReport:
    """Say what loading files would run, without loading them; the report's `verdict` is the worst of them.

    Locations are files, or folders and repositories with all that is in them. For an open catalogue, the files at its
    location are scanned: whichever part was chosen, loading runs the same code. `policy` is a TOML file of unknown
    globals that you accept: they are counted, and change no verdict.
    """
    from converter.scanning.scan import scan as scanned

    if not locations:
        raise TypeError("scan() needs a location")
    for location in locations:
        if isinstance(location, Catalogue):
            location.check_open()
    return scanned(
        [_place(location) for location in locations],
        explain=explain,
        fickling=fickling,
        policy=Path(policy) if policy is not None else None,
    )


@from_python
def download(
    source: Place,
    folder: str | PathLike[str] | None = None,
    *,
    with_code: bool = False,
    progress: Progress = None,
) -> list[Downloaded]:
    """Download weights and the files that belong to them from the Hub. Each SHA-256 is checked if it is known.

    `source` is a declared model, `owner/name[@revision]`, a folder of a repository, or a catalogue that was opened from the
    Hub: then the repository or folder that it lies in is downloaded, at its revision.
    """
    from converter.hub.download import download as downloaded
    from converter.hub.locations import model_of

    name = model_of(source.location) if isinstance(source, Catalogue) else str(source)
    return downloaded(name, Path(folder) if folder is not None else None, with_code=with_code, progress=progress)


def declared_models() -> Mapping[str, Model]:
    """The declared models by name: sizes, links, files, hashes."""
    from converter.models.declared import declared

    return {model.name: model for model in declared()}


@contextmanager
def _opened(source: Place, root: str | None, ema: bool, weights: Weights | None) -> Iterator[Catalogue]:
    """The catalogue itself, or a new one that is open until the block ends."""
    if isinstance(source, Catalogue):
        yield open(source, root=root, ema=ema, weights=weights)
        return
    with open(source, root=root, ema=ema, weights=weights) as catalogue:
        yield catalogue


@contextmanager
def _merged(
    source: Place, root: str | None, ema: bool, weights: Weights | None, others: Sequence[Place]
) -> Iterator[Catalogue]:
    """The source with the tensors of other checkpoints. What is opened here stays open until the block ends."""
    from converter.conversion.merging import merged

    with ExitStack() as stack:
        first = stack.enter_context(_opened(source, root, ema, weights))
        yield merged(first, [stack.enter_context(_opened(other, None, False, None)) for other in others])


def _path(given: str | PathLike[str] | None) -> Path | None:
    return Path(given) if given is not None else None


def _as_opened(catalogue: Catalogue, root: Root, weights: Weights | None, limits: Limits | None = None) -> Catalogue:
    """The catalogue itself. Raises WordError for what is chosen when it is opened, SourceError if it was closed."""
    asked = (("ema" if isinstance(root, Part) else "root", root), ("weights", weights), ("limits", limits))
    for option, word in asked:
        if word is not None:
            raise WordError(option, word, (f"None, because the catalogue is open already: give {option} to `open`",))
    catalogue.check_open()
    return catalogue


def _given(location: Place, root: Root) -> str | Path | Catalogue:
    """What is read: the catalogue that is given, or a place."""
    return _as_opened(location, root, None) if isinstance(location, Catalogue) else _place(location)


def _place(location: object) -> str | Path:
    """The location as it is opened: a text may be a URL or a repository, anything else is a path."""
    match location:
        case Catalogue():
            return location.place
        case str():
            return location
        case PathLike():
            return Path(location)
    kind = type(location).__name__
    raise TypeError(f"a place is a str, a path or a catalogue, not {kind}; give several as separate arguments")
