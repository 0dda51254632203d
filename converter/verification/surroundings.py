"""What goes along with weights: config.json, the tokenizer, model.properties. Read here anew, and held against the source's.

Each check gives (name, what, sentence) for every thing that is wrong.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.dtypes import BY_NAME
from converter.errors import ManifestError, ModelError
from converter.formats.gguf.reader import Array
from converter.io.local import LocalFile
from converter.io.strict_json import load_json
from converter.limits import limits
from converter.models import recognition as models

if TYPE_CHECKING:
    from converter.tensors.catalogue import Catalogue
    from converter.tensors.tensor import Tensor

Finding = tuple[str, str, str]

CONFIG: Final = "config.json"
PROPERTIES: Final = "model.properties"
TOKENIZER: Final = (
    *("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "tokenizer.model"),
)
_DTYPES: Final = ("torch_dtype", "dtype")  # keys of config.json that follow from what was converted to
_SPECIAL: Final = ("bos_token_id", "eos_token_id")
# What config.json means where it says nothing (transformers' GPT2Config).
_DEFAULTS: Final = {
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
}
_GGUF_ACTIVATION: Final = "cerebras_tool.activation_function"
_UNUSED: Final = 5  # llama_token_type


def folder_of(catalogue: Catalogue) -> Path | None:
    """Give the folder that a checkpoint lies in, or is; of one on the Hub, where its small files are in the cache."""
    if "://" in catalogue.location:
        from converter.hub import repository as hub

        return hub.companions(catalogue.location)
    location = Path(catalogue.location)
    return location if location.is_dir() else location.parent if location.exists() else None


# ---- config.json --------------------------------------------------------------------------------------------------


def settings(catalogue: Catalogue, config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Give what a GPT-2's config.json means: sizes and what else the forward pass depends on; None where nothing says it.

    `catalogue` has the names of Hugging Face.
    """
    if config is None:
        return None
    known: dict[str, Any] = {}
    try:
        known |= models.architecture("gpt2").sizes(config)
    except ModelError:
        known |= {key: config[key] for key in ("n_layer", "n_head", "n_embd") if key in config}
    known |= {key: config.get(key, default) for key, default in _DEFAULTS.items()}
    if catalogue.format == "gguf" and _GGUF_ACTIVATION not in catalogue.metadata:
        del known["activation_function"]
    return known | {key: config[key] for key in _SPECIAL if type(config.get(key)) is int}


def check_settings(expected: Mapping[str, Any] | None, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Hold what two config.json mean against each other, where both say something."""
    for key in expected or {}:
        if found is not None and key in found and (expected or {})[key] != found[key]:
            yield _config(key, found[key], (expected or {})[key])


def check_config(source: Catalogue, output: Catalogue, *, lone: bool, converted: bool) -> Iterator[Finding]:
    """Hold the output's configuration against the source's. A `lone` file promises none beside it."""
    expected, found = source.config, output.config
    if expected is None or (lone and output.format != "gguf"):
        return
    if found is None:
        yield CONFIG, "no config.json", f"`{output.location}` has no config.json: the source has one"
    elif output.format == "gguf" or source.format == "gguf":
        # Of a special token that the embedding has no row for, GGUF says nothing.
        yield from check_settings(settings(source, expected), settings(output, found))
    else:
        for key in (*expected, *(key for key in found if key not in expected)):
            if not (converted and key in _DTYPES) and expected.get(key) != found.get(key):
                yield _config(key, found.get(key), expected.get(key))


def _config(key: str, found: Any, expected: Any) -> Finding:
    return CONFIG, f"{key} is wrong", f"`{key}` is {found!r:.80}: expected {expected!r:.80}"


# ---- tokenizer ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """Tokens by id, and merges in order (two tokens and a space between)."""

    tokens: Mapping[int, str]
    merges: tuple[str, ...]

    def digests(self) -> dict[str, str]:
        """Give SHA-256 of the tokens and of the merges, as JSON."""
        parts = {"tokens": sorted(self.tokens.items()), "merges": list(self.merges)}
        return {name: hashlib.sha256(json.dumps(part).encode()).hexdigest() for name, part in parts.items()}


def tokenizer(catalogue: Catalogue, *, beside: bool = True) -> Tokenizer | None:
    """Read the tokenizer inside a GGUF file, else the vocab.json and merges.txt `beside` the weights."""
    if catalogue.format == "gguf" and "tokenizer.ggml.tokens" in catalogue.metadata:
        metadata = {
            key: value
            for key, value in catalogue.metadata.items()
            if type(value) is Array and key.startswith("tokenizer")
        }
        tokens = dict(enumerate(metadata.get("tokenizer.ggml.tokens", ())))
        kinds = list(metadata.get("tokenizer.ggml.token_type", ()))
        padding = {number for number, kind in enumerate(kinds) if kind == _UNUSED}
        kept = {n: token for n, token in tokens.items() if n not in padding or token != f"[PAD{n}]"}
        return Tokenizer(kept, tuple(metadata.get("tokenizer.ggml.merges", ())))
    folder = folder_of(catalogue)
    if not beside or folder is None or not all((folder / name).is_file() for name in TOKENIZER[:2]):
        return None
    ids = load_json(folder / TOKENIZER[0])
    if any(type(number) is not int or not 0 <= number < 1 << 31 for number in ids.values()):
        raise ManifestError(f"`{folder / TOKENIZER[0]}` gives a token an id that is no number from 0 to 2^31")
    lines = _read(folder / TOKENIZER[1]).decode("utf-8", "replace").split("\n")
    merges = [line.removesuffix("\r") for line in lines if line.strip("\r")]
    if merges and merges[0].startswith("#version"):
        del merges[0]
    return Tokenizer({number: token for token, number in ids.items()}, tuple(merges))


def check_tokenizer(
    expected: Tokenizer | None, folder: Path | None, output: Catalogue, *, lone: bool
) -> Iterator[Finding]:
    """Hold the tokenizer against the source's, which lies in `folder`: inside GGUF token by token, beside others in bytes."""
    if output.format == "gguf" and expected is not None:
        yield from compare_tokenizers(expected, tokenizer(output, beside=False))
    there = folder_of(output)
    if lone or folder is None or there is None or folder.resolve() == there.resolve():
        return
    for name in TOKENIZER:
        if not (folder / name).is_file():
            continue
        if not (there / name).is_file():
            if output.format != "parameters":
                yield name, "no tokenizer", f"`{there}` has no `{name}`: the source has one"
        elif _read(folder / name) != _read(there / name):
            yield name, "another tokenizer", f"`{there / name}` is not the source's"


def check_digests(expected: Mapping[str, Any] | None, output: Catalogue) -> Iterator[Finding]:
    """Hold the tokenizer against digests."""
    found = tokenizer(output)
    if expected is None or (found is None and output.format == "parameters"):
        return
    if found is None:
        yield "tokenizer", "no tokenizer", f"`{output.location}` has no tokenizer: the manifest has one"
        return
    for part, digest in found.digests().items():
        if expected.get(part) != digest:
            yield f"tokenizer.{part}", "another tokenizer", f"the tokenizer's {part} are not those of the manifest"


def compare_tokenizers(expected: Tokenizer, found: Tokenizer | None) -> Iterator[Finding]:
    """Say where tokens or merges differ."""
    if found is None:
        yield "tokenizer", "no tokenizer", "the file has no tokenizer: the source has one"
        return
    numbers = sorted(
        n for n in expected.tokens.keys() | found.tokens.keys() if expected.tokens.get(n) != found.tokens.get(n)
    )
    if numbers:
        first = numbers[0]
        yield (
            "tokenizer.tokens",
            "another tokenizer",
            f"{len(numbers):,} tokens differ, the first with the id {first}: {found.tokens.get(first)!r:.80}, expected "
            f"{expected.tokens.get(first)!r:.80}",
        )
    if expected.merges != found.merges:
        pairs = zip(expected.merges, found.merges, strict=False)
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(expected.merges), len(found.merges)))
        yield (
            "tokenizer.merges",
            "another tokenizer",
            f"the merges differ from the {first + 1:,}th on: {len(found.merges):,}, expected {len(expected.merges):,}",
        )


# ---- model.properties ---------------------------------------------------------------------------------------------


def check_properties(source: Mapping[str, Any] | None, output: Catalogue) -> Iterator[Finding]:
    """Hold the model.properties of a parameters folder against the source's settings and the files it names."""
    folder = Path(output.location)
    path = folder / PROPERTIES
    recognition = models.recognise(output, output.config)
    if not path.is_file() or recognition is None:
        return
    found: dict[str, str] = {}
    for line in _read(path).decode("ascii", "replace").replace("\r", "\n").split("\n"):
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found[key.strip()] = value.strip()
    known = dict(source or {})
    for key, setting in (
        ("hidden.size", "n_embd"), ("feedforward.size", "n_inner"), ("decoder.count", "n_layer"),
        ("attention.head.count", "n_head"), ("max.length", "n_positions"), ("token.count", "vocab_size"),
        ("epsilon", "layer_norm_epsilon"), ("end.of.text.token", "eos_token_id"),
    ):  # fmt: skip
        if setting in known and not _same_number(found.get(key), known[setting]):
            yield _property(key, found.get(key), known[setting])
    if all(type(known.get(size)) is int and 0 < known[size] < 1 << 63 for size in ("n_embd", "n_head")):
        dividend = math.sqrt(known["n_embd"] // known["n_head"])
        if not _same_number(found.get("attention.dividend"), dividend):
            yield _property("attention.dividend", found.get("attention.dividend"), f"{dividend:.12g}")
    merged = found.get("merged.qkv") == "true"
    for row in recognition.architecture.rows(recognition.sizes):
        tensor = output.get(row.named(recognition.prefix))
        if tensor is None or row.client is None or row.kind == "buffer":
            continue
        if merged:
            files = [found.get(f"file.{row.client}", "")]
        else:
            files = [f"{part}.dat" for part in row.client_parts or (row.client,)]
        if tensor.storage.source.name != " + ".join(str(folder / file) for file in files):
            yield (
                PROPERTIES,
                f"file.{row.client} is wrong",
                f"`{row.client}` is read from `{files[0]}`, which does not hold `{row.named(recognition.prefix)}`",
            )
        if row.gguf_transposed and found.get("weights.transposed") != ("true" if tensor.contiguous else "false"):
            yield _property("weights.transposed", found.get("weights.transposed"), str(tensor.contiguous).lower())
            break
    for key, value in (("data.type", "FLOAT32"), ("position.embedding", "LEARNED"), ("pre.normalization", "true"),
                       ("byte.order", _order(output))):  # fmt: skip
        if found.get(key) != value:
            yield _property(key, found.get(key), value)


def _read(path: Path) -> bytes:
    source = LocalFile(path)
    if source.size > limits().json_bytes:
        raise ManifestError(f"`{path}` has {source.size:,} bytes: at most {limits().json_bytes:,} are read")
    return bytes(source.read(0, source.size))


def _order(output: Catalogue) -> str:
    tensors: list[Tensor] = list(output.values())
    return "BIG_ENDIAN" if tensors and tensors[0].storage.byteorder == "big" else "LITTLE_ENDIAN"


def _property(key: str, found: Any, expected: Any) -> Finding:
    return PROPERTIES, f"{key} is wrong", f"`{key}` is {found!r:.80}: expected {expected!r:.80}"


def _same_number(text: str | None, value: Any) -> bool:
    try:
        return text is not None and math.isclose(float(text), float(value), rel_tol=1e-9)
    except (ValueError, TypeError, OverflowError):
        return False


def check_index(output: Catalogue) -> Iterator[Finding]:
    """Hold the total of an index against the tensors of its shards."""
    for path in sorted(Path(output.location).glob("*.safetensors.index.json")):
        metadata = load_json(path).get("metadata")
        said = metadata.get("total_size") if type(metadata) is dict else None
        total = sum(storage.nbytes for storage in output.storages)
        if said is not None and said != total:
            yield path.name, "total_size is wrong", f"`total_size` is {said!r:.80}: expected {total}"


def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Give the bytes of a tensor."""
    return math.prod(shape) * BY_NAME[dtype].itemsize
