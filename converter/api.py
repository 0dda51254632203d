"""The functions that `import converter` offers: the commands, which take a path, a URL or a catalogue.

Words are checked before anything is read or written. For a wrong one they raise WordError, a ValueError that lists the
right words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from converter.errors import WordError
from converter.tensors.catalogue import Catalogue
from converter.words import WEIGHTS, Part, Root, check_count
from converter.words import check as check_word

if TYPE_CHECKING:
    from converter.hub.download import Downloaded
    from converter.limits import Limits
    from converter.models.declared import Model
    from converter.reports.checking import CheckReport
    from converter.reports.conversion import ConversionReport, ExtractReport
    from converter.reports.inspection import Inspection
    from converter.reports.scan import ScanReport
    from converter.reports.verification import Verification
    from converter.words import DtypeWord, Engine, Form, Level, Sort, Target, Weights

    Location = str | PathLike[str] | Catalogue
    Progress = Callable[[int], None]
    Rules = Sequence[str] | Mapping[str, str]


def open(
    location: Location,
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
    part = _part(root, ema)
    if weights is not None:
        check_word("weights", weights, WEIGHTS)
    if isinstance(location, Catalogue):
        _check_open(part, weights)
        return location
    from converter.opening import open_checkpoint

    return open_checkpoint(_place(location), root=part, weights=weights, limits=limits)


def inspect(
    source: Location,
    *,
    filter: str | Sequence[str] | None = None,
    sort: Sort | None = None,
    stats: bool = False,
    sha256: bool = False,
    context: int | None = None,
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress | None = None,
) -> Inspection:
    """Report what a checkpoint is and what it holds. `filter` has globs on names; `stats` reads every tensor.

    `sha256` hashes each tensor's bytes as well. `context` is the number of tokens for which the memory of llama.cpp is
    reported.
    """
    from converter.inspection import report

    report.check_words(sort)
    check_count("context", context)
    with _opened(source, root, ema, weights) as catalogue:
        return report.inspect(
            catalogue, filter=filter, sort=sort, stats=stats, sha256=sha256, context=context, progress=progress
        )


def check(
    *locations: str | PathLike[str],
    root: str | None = None,
    ema: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> CheckReport:
    """Check that checkpoints are whole, undamaged and sound. All of them is read; the report's `counts` say how it went.

    Raises a ConverterError only for what can't be checked, such as a path that does not exist.
    """
    from converter.checking.check import check as checked

    if not locations:
        raise TypeError("check() needs a location")
    check_count("threads", threads)
    places = [_place(location) for location in locations]
    return checked(places, root=_part(root, ema), threads=threads, progress=progress)


def convert(
    source: Location,
    output: str | PathLike[str],
    *,
    to: Target | None = None,
    dtype: DtypeWord | str = "keep",
    max_shard_size: int | None = None,
    keep_buffers: bool = False,
    tokenizer: str | PathLike[str] | None = None,
    no_tokenizer: bool = False,
    check_crc: bool = True,
    dry_run: bool = False,
    force: bool = False,
    resume: bool = False,
    ignore_globals: bool = False,
    carry_values: bool = False,
    with_code: bool = False,
    merge: Sequence[Location] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip: Sequence[str] = (),
    rename: Rules = (),
    tensor_type: Rules = (),
    threads: int | None = None,
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress | None = None,
) -> ConversionReport:
    """Convert to safetensors, GGUF, npz or a parameters folder. `max_shard_size` counts bytes.

    An output with the ending of a format is one file; any other is a folder. `merge` are checkpoints whose tensors are
    written, too. `include` and `exclude` are globs on names. `rename` is a dict of globs and new names, in order, and
    `tensor_type` is a dict of globs and dtypes; the last glob that matches counts. `tokenizer` is the folder of another
    tokenizer than the one beside the source; `no_tokenizer` allows a GGUF file that has none.
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
            tokenizer=Path(tokenizer) if tokenizer is not None else None,
            no_tokenizer=no_tokenizer,
            check_crc=check_crc,
            dry_run=dry_run,
            force=force,
            resume=resume,
            ignore_globals=ignore_globals,
            carry_values=carry_values,
            with_code=with_code,
            threads=threads,
            surgery=surgery,
            progress=progress,
        )


def extract(
    source: Location,
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
    progress: Progress | None = None,
) -> ExtractReport:
    """Take a checkpoint apart into plain files. Without `folder` it goes to `parameters/<model>`.

    `include`, `exclude`, `strip` and `rename` are those of `convert`.
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


def verify(
    source: Location,
    *outputs: str | PathLike[str],
    level: Level = "tensors",
    tokens: str | PathLike[str] | None = None,
    prompt: str | None = None,
    engine: Engine = "numpy",
    merge: Sequence[Location] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    strip: Sequence[str] = (),
    rename: Rules = (),
    root: str | None = None,
    ema: bool = False,
    weights: Weights | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Compare copies with their source. The report's `ok` says whether all are equal.

    `source` may also be a manifest of `verify --write-manifest`. `merge` to `rename` change the source as `convert` did, when
    it made a copy; without them, what a copy lacks is named. Raises a ConverterError only if the source can't be read or an
    engine can't run. What is wrong with an output is in the report.
    """
    from converter.conversion.surgery import cut, rules
    from converter.verification import golden
    from converter.verification.expected import expect
    from converter.verification.verify import Options
    from converter.verification.verify import verify as held

    if not outputs:
        raise TypeError("verify() needs an output to compare with the source")
    options = Options(level, Path(tokens) if tokens is not None else None, prompt, engine)
    places = [_place(output) for output in outputs]
    surgery = rules(include=include, exclude=exclude, strip=strip, rename=rename)
    if not isinstance(source, Catalogue) and golden.is_golden(Path(source)):
        digests = golden.load(Path(source))
        if surgery or merge:
            expect(digests).whole("nothing can be left out, renamed or merged")
        return held(digests, places, options, progress=progress)
    with _merged(source, root, ema, weights, merge) as catalogue:
        return held(cut(catalogue, surgery).catalogue, places, options, progress=progress)


def scan(
    *locations: str | PathLike[str],
    explain: bool = False,
    fickling: bool = True,
    policy: str | PathLike[str] | None = None,
) -> ScanReport:
    """Say what loading files would run, without loading them; the report's `verdict` is the worst of them.

    Locations are files, or folders and repositories with all that is in them. `policy` is a TOML file of unknown globals
    that you accept: they are counted, and change no verdict.
    """
    from converter.scanning.scan import scan as scanned

    if not locations:
        raise TypeError("scan() needs a location")
    return scanned(
        [_place(location) for location in locations],
        explain=explain,
        fickling=fickling,
        policy=Path(policy) if policy is not None else None,
    )


def download(
    name: str,
    folder: str | PathLike[str] | None = None,
    *,
    with_code: bool = False,
    progress: Progress | None = None,
) -> list[Downloaded]:
    """Download weights and the files that belong to them from the Hub. Each SHA-256 is checked if it is known."""
    from converter.hub.download import download as downloaded

    return downloaded(name, Path(folder) if folder is not None else None, with_code=with_code, progress=progress)


def declared_models() -> Mapping[str, Model]:
    """The declared models by name: sizes, links, files, hashes."""
    from converter.models.declared import declared

    return {model.name: model for model in declared()}


@contextmanager
def _opened(source: Location, root: str | None, ema: bool, weights: Weights | None) -> Iterator[Catalogue]:
    """The catalogue itself, or a new one that is open until the block ends."""
    if isinstance(source, Catalogue):
        yield open(source, root=root, ema=ema, weights=weights)
        return
    with open(source, root=root, ema=ema, weights=weights) as catalogue:
        yield catalogue


@contextmanager
def _merged(
    source: Location, root: str | None, ema: bool, weights: Weights | None, others: Sequence[Location]
) -> Iterator[Catalogue]:
    """The source with the tensors of other checkpoints. What is opened here stays open until the block ends."""
    from converter.conversion.merging import merged

    with ExitStack() as stack:
        first = stack.enter_context(_opened(source, root, ema, weights))
        yield merged(first, [stack.enter_context(_opened(other, None, False, None)) for other in others])


def _part(root: str | None, ema: bool) -> Root:
    """The part of the checkpoint that is asked for. Raises WordError if both arguments ask for one."""
    if ema and root is not None:
        raise WordError("root", root, ("None, because `ema` already chooses a part",))
    return Part.EMA if ema else root


def _check_open(root: Root, weights: Weights | None) -> None:
    """Raise WordError if something is asked for that is chosen when a catalogue is opened."""
    for option, word in (("ema" if isinstance(root, Part) else "root", root), ("weights", weights)):
        if word is not None:
            raise WordError(option, word, (f"None, because the catalogue is open already: give {option} to `open`",))


def _place(location: Location) -> str | Path:
    """The location as it is opened: a text may be a URL or a repository, anything else is a path."""
    if isinstance(location, Catalogue):
        return location.location
    return location if isinstance(location, str) else Path(location)
