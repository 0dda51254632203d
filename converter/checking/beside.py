"""Whether config.json and the tokenizer fit the tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.errors import FormatError, LimitError, ManifestError, SourceError, UnsupportedError
from converter.formats.companions import CONFIG
from converter.io.strict_json import config_beside
from converter.models.misfit import misfits as contradicted
from converter.models.tokenizers import folder as beside
from converter.models.tokenizers.tokenizer import NORMAL
from converter.opening import folder_beside
from converter.statistics.faults import Fault
from converter.text import plural

if TYPE_CHECKING:
    from converter.models.recognition import Recognition
    from converter.tensors.catalogue import Catalogue

# What the embedding of tokens is called, without a prefix.
_EMBEDDINGS: Final = (
    *("wte.weight", "embed_tokens.weight", "word_embeddings.weight", "embed_in.weight", "tok_embeddings.weight"),
    *("token_embd.weight", "shared.weight"),
)
# The keys of special tokens, and the rule for one that has no row. Many models never look up the row of padding.
_ROLES: Final = {
    **dict.fromkeys(("bos_token_id", "eos_token_id", "decoder_start_token_id"), "token-id"),
    "pad_token_id": "padding",
}
_NONE: Final = -1  # what older files say for "no such token"


def misfits(catalogue: Catalogue, recognition: Recognition | None) -> Iterator[Fault]:
    """Yield what does not fit. `catalogue` has the names of its format."""
    folder = None if "://" in catalogue.location else folder_beside(catalogue)
    if folder is not None and (folder / CONFIG).exists() and (read := config_beside(folder))[0] is None:
        yield Fault("config", CONFIG, read[1] or "it can't be read")
    if recognition is not None:
        for said in recognition.contradictions:
            yield Fault("config", CONFIG, said)
    known = formats.canonical(catalogue)
    if recognition is None:
        whole = not catalogue.missing and formats.alone(catalogue) is None
        for said in contradicted(known, known.config or {}, whole=whole):
            yield Fault("config", CONFIG, said)
    rows = embedding_rows(catalogue)
    if rows is None:
        return
    yield from _special(known.config or {}, rows)
    if recognition is None:
        yield from _sizes(known.config or {}, rows)
    try:
        normal, added = _tokens(catalogue)
    except (ManifestError, FormatError) as error:
        yield Fault("tokenizer", "", str(error))
        return
    for rule, numbers in (("vocabulary", normal), ("added-tokens", added)):
        if beyond := [number for number in numbers if number >= rows]:
            said = f"the tokenizer has tokens up to {max(beyond):,}, and the embedding has {plural(rows, 'row')}"
            yield Fault(rule, "", said)


def embedding_rows(catalogue: Catalogue) -> int | None:
    """The rows of the one embedding of tokens; None if there is none, or if there are several."""
    found = {
        tensor.shape[0]
        for name, tensor in catalogue.items()
        if name.endswith(_EMBEDDINGS) and len(tensor.shape) == 2 and ".".join(name.split(".")[-2:]) in _EMBEDDINGS
    }
    return found.pop() if len(found) == 1 else None


def _special(config: Mapping[str, Any], rows: int) -> Iterator[Fault]:
    for key, rule in _ROLES.items():
        value = config.get(key)
        for number in value if type(value) is list else (value,):
            if type(number) is not int or 0 <= number < rows or number == _NONE:
                continue
            yield Fault(rule, CONFIG, f"`{key}` is {number:,}, and the embedding has {plural(rows, 'row')}")


def _sizes(config: Mapping[str, Any], rows: int) -> Iterator[Fault]:
    """A vocabulary that is larger than the embedding. A smaller one may be padded."""
    size = config.get("vocab_size")
    if type(size) is int and size > rows:
        yield Fault("config", CONFIG, f"`vocab_size` is {size:,}, and the embedding has {plural(rows, 'row')}")


def _tokens(catalogue: Catalogue) -> tuple[list[int], list[int]]:
    """The ids of normal tokens and of added ones, inside the file or beside it; none if the tokenizer is not read here."""
    inside = formats.of(catalogue).tokenizer(catalogue)
    if inside is not None:
        return list(inside.tokens), []
    folder = None if "://" in catalogue.location else folder_beside(catalogue)
    if folder is None or not beside.is_beside(folder):
        return [], []
    try:
        tokens = beside.read(folder).tokens
    except (UnsupportedError, SourceError, LimitError):
        return [], []
    normal = [number for number, token in tokens.items() if token.type == NORMAL]
    return normal, [number for number, token in tokens.items() if token.type != NORMAL]
