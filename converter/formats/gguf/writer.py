"""Writes GGUF version 3 in two passes: everything about the file is planned from shapes, then the tensors stream.

Sources: ggml/docs/gguf.md; src/llama-model.cpp for what llama.cpp needs of every architecture.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from converter.dtypes import F32
from converter.errors import ModelError, SourceError, UnsupportedError
from converter.formats.format import VALUES
from converter.formats.gguf.encodings import BY_NAME, Encoding, fitting
from converter.formats.gguf.files import Written, check_makeable, first, planned_files, weighed
from converter.formats.gguf.generation import ended, packed
from converter.formats.gguf.generation import left as left_of_generation
from converter.formats.gguf.imatrix import about
from converter.formats.gguf.imatrix import read as read_importance
from converter.formats.gguf.keys import Packed, json_value, scalar, string, strings
from converter.formats.gguf.made import first_rows, made, noted, zeros
from converter.formats.gguf.metadata import ALIGNMENT, ARCHITECTURE, SPLIT, Keys
from converter.formats.gguf.names import ACTIVATION, EMBEDDING, TOKENIZER, is_wordless, token_ids, token_keys
from converter.formats.gguf.opaque import carried
from converter.formats.gguf.recipes import Recipe, base_of, described, mixture, recipe_of
from converter.formats.gguf.tokenizer import NONE, completed, inherited
from converter.formats.gguf.tokenizer import keys as tokenizer_keys
from converter.formats.marks import GENERATION
from converter.formats.planned import About, Options, Planned
from converter.models.families import writable
from converter.models.masks import droppable
from converter.models.recognition import Recognition, headless, recognise
from converter.models.tokenizers.folder import FILES, read
from converter.tensors.casting import can_convert
from converter.tensors.guards import check_expansion
from converter.tensors.losses import Losses
from converter.tensors.tensor import Storage
from converter.text import more, plural
from converter.words import option, rule

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.models.tokenizers.tokenizer import Tokenizer
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

_QUANTISATION: Final = 2  # GGML_QNT_VERSION
_FILE_TYPE: Final = "general.file_type"
_KEPT: Final = ("F16", "BF16")  # encodings that stay, besides F32; in a copy of a GGUF file, blocks stay, too
_TOKENS: Final = TOKENIZER + "tokens"
_TOKENIZERS: Final = ("tokenizer.",)  # the prefix of all keys of a tokenizer
# Parts of the names of matrices that stay as they are, because llama.cpp can compute only with them as they are.
# Source: src/llama-quant.cpp, where llama-quantize decides what to leave.
_FIXED: Final = (
    *("_norm.weight", "ffn_gate_inp.weight", "altup", "laurel", "per_layer_model_proj", "position_embd.weight"),
    *("token_types.weight", "ssm_conv1d", "shortconv.conv.weight", "attn_rel_b.weight", "time_mix_first.weight"),
    *("time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight", "time_mix_v0.weight", "time_mix_v1.weight"),
    *("time_mix_v2.weight", "time_mix_a0.weight", "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight"),
    *("time_mix_g2.weight", "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight"),
)


def plan(catalogue: Catalogue, recognition: Recognition | None, options: Options) -> Planned:
    """Plan a model as GGUF. Only the tokenizer is read, and masks, which are left out.

    `dtype` is for matrices; vectors, norms and positions are always F32, because llama.cpp needs that. With
    `max_shard_size` the files are `<stem>-00001-of-00003.gguf`. `tokenizer` is a folder; with `no_tokenizer` the model
    takes token ids only. `losses` counts what F16 and BF16 lose; the losses of blocks are not
    counted.

    Raises UnsupportedError for a family that is not written as GGUF and for a tensor that GGUF has no place for,
    ModelError for a model that is incomplete or contradicts its config.json, and SourceError without a tokenizer.
    """
    kept = catalogue.metadata if isinstance(catalogue.metadata, Keys) else None
    notes: list[str] = []
    way_out = {other.name: other.way_out for other in catalogue.unsupported}
    catalogue, opaque = carried(catalogue)
    if opaque:
        recognition = recognise(catalogue, catalogue.config)
        notes.append(f"copied as they are, in types that this program does not decode: {first(list(opaque))}")
    dropped: tuple[str, ...] = ()
    if kept is not None and recognition is None:
        candidates = list(_as_they_are(catalogue))
    else:
        recognition = _recognised(catalogue, recognition)
        notes += recognition.family.gguf_notes(recognition.sizes, _settings(catalogue, recognition))
        _check_whole(catalogue, recognition)
        dropped, candidates = _droppable(catalogue, recognition), list(_of_family(catalogue, recognition))
    if kept is not None:
        places = {name: place for place, name in enumerate(catalogue)}
        candidates.sort(key=lambda candidate: places.get(candidate.source, len(places)))
    has_tokenizer = kept is not None and _TOKENS in kept
    left = has_tokenizer and options.no_tokenizer
    has_tokenizer = has_tokenizer and not left
    wordless = kept is not None and is_wordless(kept)
    tokenizer = _found(catalogue, options, needed=not (has_tokenizer or wordless))
    if tokenizer is not None and kept is not None:
        tokenizer = inherited(tokenizer, kept, notes)
    if tokenizer is None and not (has_tokenizer or wordless):
        notes.append("without a tokenizer: the model takes and gives token ids, and most of llama.cpp's programs abort")
    # A GGUF without this key says nothing about its model, so the family's keys are written, as for any other source.
    is_described = kept is not None and ARCHITECTURE in kept
    importance = read_importance(options.imatrix) if options.imatrix is not None else None
    recipe = recipe_of(options.dtype, options.pure)
    mixed: Mapping[str, Encoding] = {}
    if recipe is not None:
        facts: Mapping[str, Any] = kept if kept is not None and is_described else {}
        if recognition is not None and not is_described:
            facts = _facts(recognition, _settings(catalogue, recognition))
        columns = {one.name: one.tensor.shape[-1] for one in candidates if one.free and one.source not in options.types}
        names = [one.name for one in candidates]
        mixed = mixture(recipe, columns, names, described(facts, weighed=importance is not None))
    tensors = _tensors(candidates, options, notes, opaque, mixed, copied=kept is not None)
    if importance is not None:
        tensors = weighed(tensors, importance, notes)
    check_makeable(tensors)
    for written in tensors:
        if written.source in opaque and written.blocks is None:
            raise UnsupportedError(
                f"`{written.source}` can't become {written.encoding.name}: {way_out[written.source]}, or keep it as it is with "
                f"{rule('tensor-type', written.source, 'keep')}"
            )
    check_expansion({written.source: written.tensor for written in tensors if written.source not in opaque})
    keys: dict[str, bytes] = {}
    if recognition is not None and not is_described:
        keys |= _general(recognition, tensors, options.about)
        keys |= _mostly(tensors, options, recipe)
        keys |= _architecture(recognition, _settings(catalogue, recognition))
        absent = [candidate.name for candidate in candidates if candidate.source not in catalogue]
        keys |= noted(recognition.family, _settings(catalogue, recognition), absent)
        keys |= first_rows(catalogue, recognition, _settings(catalogue, recognition))
        keys |= packed(options.generation or {})
    if kept is not None:
        keys |= _kept(kept, without=_TOKENIZERS if tokenizer is not None or left else ())
    if (is_described or recognition is None) and any(
        written.source not in opaque and written.encoding != _in_file(written.tensor) for written in tensors
    ):
        keys |= _mostly(tensors, options, recipe)
    inside: dict[str, str | None] = {}
    if tokenizer is not None or left or not (is_described or has_tokenizer or wordless):
        rows = next((written.tensor.shape[0] for written in tensors if written.name == EMBEDDING), 0)
        settings = _settings(catalogue, recognition) if recognition is not None else {}
        if tokenizer is not None:
            tokenizer = ended(_completed(recognition, settings, tokenizer, rows), options.generation or {}, rows)
        family = recognition.family if recognition is not None else None
        ids = tokenizer.special if tokenizer is not None else token_ids(family, settings, rows)
        keys |= tokenizer_keys(tokenizer, rows, notes) if tokenizer is not None else _no_tokenizer(family, ids)
        if options.generation is not None and recognition is not None:
            facts = _facts(recognition, settings)
            start = facts.get(f"{facts[ARCHITECTURE]}.decoder_start_token_id")
            inside[GENERATION] = left_of_generation(options.generation, ids, start)
    if importance is not None:
        keys |= about(importance)
    keys |= (json_value(VALUES + name, value) for name, value in options.values.items())
    losses = Losses()
    catalogue.expect(written.tensor for written in tensors)
    files = planned_files(
        tensors,
        keys,
        options.name or f"model-{_title(tensors, options, recipe)}.gguf",
        alignment=ALIGNMENT if kept is None else kept.get("general.alignment", ALIGNMENT),
        most=options.max_shard_size,
        losses=losses,
    )
    made = dict.fromkeys(one.encoding.name for one in tensors if one.encoding.block > 1 and one.blocks is None)
    return Planned(
        tuple(files),
        len(tensors),
        dropped=dropped,
        notes=tuple(notes),
        losses=losses,
        quantised=tuple(made),
        inside=inside,
    )


# ---- what is written ------------------------------------------------------------------------------------------------


def _settings(catalogue: Catalogue, recognition: Recognition) -> Mapping[str, Any]:
    return catalogue.config or (recognition.model.config if recognition.model else {})


def _recognised(catalogue: Catalogue, recognition: Recognition | None) -> Recognition:
    """Raise UnsupportedError if the family is not known."""
    if recognition is None:
        known = ", ".join(writable())
        raise UnsupportedError(
            f"`{catalogue.location}` has no architecture that can be written as GGUF ({known}): choose safetensors"
        )
    return recognition


def _check_whole(catalogue: Catalogue, recognition: Recognition) -> None:
    """Raise UnsupportedError or ModelError unless it is a complete model without anything else."""
    if recognition.contradictions:
        raise ModelError(recognition.contradictions[0])
    if recognition.missing:
        others = more(len(recognition.missing), before=", nor ")
        raise ModelError(
            f"`{catalogue.location}` has no `{recognition.missing[0]}`{others}: GGUF needs every parameter"
        )
    for wrong in recognition.mismatched:
        raise ModelError(f"`{wrong.name}` has the shape {wrong.found}: {wrong.expected} was expected")
    if recognition.unexpected:
        found = f"`{recognition.unexpected[0]}`{more(len(recognition.unexpected))}"
        raise UnsupportedError(
            f"{found}: not part of {recognition.family.title}, and llama.cpp accepts no other tensors: "
            f"{option('exclude', 'GLOB')} leaves out those that change nothing"
        )
    if (lacks := headless(recognition, _settings(catalogue, recognition))) is not None:
        raise ModelError(f"`{catalogue.location}` {lacks}")
    if (unknown := recognition.family.unknown(recognition.sizes)) is not None:
        raise ModelError(f"the {unknown} can't be told from the tensors: put the model's `config.json` beside them")


def _droppable(catalogue: Catalogue, recognition: Recognition) -> tuple[str, ...]:
    masks = droppable(catalogue, recognition)
    strange = sorted(set(recognition.buffers) - set(masks))
    if strange:
        raise UnsupportedError(
            f"`{strange[0]}` is not the causal mask that {recognition.family.title} has there, and GGUF has no place "
            "for another"
        )
    return tuple(masks)


def _is_matrix(shape: Sequence[int]) -> bool:
    """Whether ggml sees more than a vector: to it, a matrix of one row is one, and llama-quantize leaves it as it is."""
    return any(size != 1 for size in shape[:-1])


class _Candidate(NamedTuple):
    """A tensor of the output, before its encoding is chosen. `free`: llama.cpp computes with any encoding of it."""

    name: str
    source: str
    tensor: Tensor
    free: bool


def _of_family(catalogue: Catalogue, recognition: Recognition) -> Iterator[_Candidate]:
    """The tensors of a family, in the order of the layers, and those that are made for GGUF."""
    family, settings = recognition.family, _settings(catalogue, recognition)
    for row in family.rows(recognition.sizes, config=settings):
        tied = row.tied_to is not None and recognition.tied_head != "untied"
        if row.gguf is None or (tied and not row.gguf_untied):
            continue
        source = recognition.followed(row) if tied else recognition.name(row)
        if row.optional and source not in catalogue:
            if row.gguf_zeros:
                yield _Candidate(row.gguf, row.gguf, zeros(row.shape), _is_matrix(row.shape) and not row.gguf_f32)
            continue
        if not can_convert(catalogue[source].dtype, F32):
            raise UnsupportedError(
                f"`{source}` is {catalogue[source].dtype.name}: GGUF holds floating-point parameters"
            )
        tensor = row.laid_out(catalogue[source])
        yield _Candidate(row.gguf, source, tensor, _is_matrix(tensor.shape) and not row.gguf_f32)
    for name, tensor in made(family, recognition.sizes, settings):
        yield _Candidate(name, name, tensor, free=False)


def _as_they_are(catalogue: Catalogue) -> Iterator[_Candidate]:
    """The tensors of a GGUF file, whatever its architecture."""
    for name, tensor in catalogue.items():
        matrix = _is_matrix(tensor.shape) and name.endswith("weight") and can_convert(tensor.dtype, F32)
        if tensor.dtype.name not in BY_NAME and not can_convert(tensor.dtype, F32):
            raise UnsupportedError(
                f"`{name}` is {tensor.dtype.name}, a dtype that GGUF does not have: leave it out with {option('exclude')}"
            )
        yield _Candidate(name, name, tensor, matrix and not any(part in name for part in _FIXED))


def _tensors(
    candidates: Iterable[_Candidate],
    options: Options,
    notes: list[str],
    opaque: Mapping[str, Encoding],
    mixed: Mapping[str, Encoding],
    *,
    copied: bool,
) -> list[Written]:
    """Choose an encoding for each. `copied`: a tensor that nothing asks to change is copied from a GGUF file.

    `opaque` are the types of tensors that can only be copied, `mixed` those that a mixture gives.
    """
    written: list[Written] = []
    fallen: dict[tuple[str, str], list[str]] = {}  # tensors by the encoding that was asked for and the one taken
    fixed: list[str] = []
    for name, source, tensor, free in candidates:
        own = opaque.get(source) or _in_file(tensor)
        choice = base_of(options.dtype_of(source))
        encoding = mixed.get(name) or (
            BY_NAME[choice.upper()] if choice != "keep" else own if copied or own.name in _KEPT else BY_NAME["F32"]
        )
        if not free:
            still = own if copied else BY_NAME["F32"]
            if source in options.types and encoding != still:
                fixed.append(name)
            encoding = still
        if copied and encoding == own:
            written.append(Written(name, source, tensor, encoding, free, _blocks(tensor)))
            continue
        taken = fitting(encoding, tensor.shape[-1]) if tensor.shape else encoding
        if taken != encoding:
            fallen.setdefault((encoding.name, taken.name), []).append(name)
            encoding = taken
        written.append(Written(name, source, tensor, encoding, free))
    for (asked, became), names in fallen.items():
        become = "becomes" if len(names) == 1 else "become"
        notes.append(
            f"{plural(len(names), 'matrix has', 'matrices have')} rows that can't be divided into blocks of {asked} "
            f"and {become} {became}: {first(names)}"
        )
    if fixed:
        stay = "as they are" if copied else "F32"
        notes.append(
            f"{len(fixed):,} of the tensors that {option('tensor-type')} names stay {stay}, as llama.cpp needs: {first(fixed)}"
        )
    return written


def _in_file(tensor: Tensor) -> Encoding:
    """The encoding that a tensor has in its file; F32 for a dtype that GGUF lacks."""
    return BY_NAME.get(tensor.storage.encoding or tensor.dtype.name, BY_NAME["F32"])


def _blocks(tensor: Tensor) -> Storage | None:
    """The blocks of a tensor, as they are in its file; None if it is not quantised."""
    storage = tensor.storage
    if storage.encoding is None:
        return None
    [(source, start, end)] = storage.spans()
    return Storage(source, start, end - start, storage.key, storage.shard)


# ---- metadata -------------------------------------------------------------------------------------------------------


def _kept(kept: Keys, without: tuple[str, ...]) -> dict[str, bytes]:
    """The keys of the source, except those that say which part of a model it is, and those that begin as `without` says."""
    return {key: kept.packed(key) for key in kept if key not in SPLIT and not key.startswith(without)}


def _found(catalogue: Catalogue, options: Options, *, needed: bool) -> Tokenizer | None:
    """The tokenizer in the folder of the options. Raises SourceError if one is needed and nobody asked to do without."""
    if options.tokenizer is not None:
        return read(options.tokenizer)
    if needed and not options.no_tokenizer:
        raise SourceError(
            f"`{catalogue.location}` has no tokenizer beside it, and most of llama.cpp's programs abort on a GGUF file without "
            f"one: give {option('tokenizer', 'DIR')}, a folder with {FILES}; or give {option('no-tokenizer', True)} to write a "
            "file that takes token ids only"
        )
    return None


def _general(recognition: Recognition, tensors: Sequence[Written], about: Mapping[str, About]) -> Iterator[Packed]:
    yield string(ARCHITECTURE, recognition.family.gguf_name or recognition.family.name)
    yield string("general.type", "model")
    for key, value in about.items():
        if isinstance(value, int):
            yield scalar(key, "u32", value)
        else:
            yield string(key, value) if isinstance(value, str) else strings(key, value)
    yield string("general.size_label", _size_label(sum(written.tensor.size for written in tensors)))


def _most(tensors: Sequence[Written], options: Options) -> Encoding:
    """The encoding of most of the matrices' bytes, or the chosen one."""
    choice = base_of(options.dtype)
    sizes: dict[Encoding, int] = {}
    for written in tensors:
        if written.free:
            sizes[written.encoding] = sizes.get(written.encoding, 0) + written.nbytes
    chosen = BY_NAME.get(choice.upper())
    return chosen if chosen in sizes else max(sizes, key=lambda encoding: sizes[encoding], default=BY_NAME["F32"])


def _title(tensors: Sequence[Written], options: Options, recipe: Recipe | None) -> str:
    """What the name of a file in a folder says about its encodings."""
    return recipe.word.upper() if recipe is not None else _most(tensors, options).name


def _mostly(tensors: Sequence[Written], options: Options, recipe: Recipe | None) -> Iterator[Packed]:
    """The keys about the encodings."""
    file_type = recipe.file_type if recipe is not None else _most(tensors, options).file_type
    yield scalar(_FILE_TYPE, "u32", file_type or 0)
    yield scalar("general.quantization_version", "u32", _QUANTISATION)


def _facts(recognition: Recognition, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keys that describe the architecture, and their values."""
    family = recognition.family
    values = {datum.key: value for datum, value in family.gguf_metadata(recognition.sizes, settings)}
    return {ARCHITECTURE: family.gguf_name or family.name, **values}


def _architecture(recognition: Recognition, settings: Mapping[str, Any]) -> Iterator[Packed]:
    family = recognition.family
    for datum, value in family.gguf_metadata(recognition.sizes, settings):
        yield string(datum.key, value) if datum.type == "string" else scalar(datum.key, datum.type, value)
    if family.activation is not None:
        yield string(ACTIVATION, family.setting(family.activation.setting, settings))


def _completed(recognition: Recognition | None, settings: Mapping[str, Any], found: Tokenizer, rows: int) -> Tokenizer:
    family = recognition.family if recognition is not None else None
    special = family.special_tokens if family is not None else ()
    return completed(found, settings, special, family.tokenizer if family is not None else None, rows)


def _no_tokenizer(family: Family | None, ids: Mapping[str, int]) -> Iterator[Packed]:
    yield string(TOKENIZER + "model", NONE)
    for key, name in (token_keys(family) if family is not None else {}).items():
        if (role := key.removesuffix("_token_id")) in ids:
            yield scalar(TOKENIZER + name, "u32", ids[role])


def _size_label(parameters: int) -> str:
    """A count with two digits or more, as gguf-py writes it: 1.3B, 111M."""
    scale, suffix = next(
        ((s, letter) for s, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")) if parameters > s), (1e3, "K")
    )
    return f"{parameters / scale:.{1 if round(parameters / scale) < 10 else 0}f}{suffix}"
