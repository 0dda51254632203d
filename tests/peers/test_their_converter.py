"""Our GGUF beside that of llama.cpp's convert_hf_to_gguf.py: tensors, keys, values and tokenizers are equal, but for what a page says.

CEREBRAS_TOOL_LLAMA_CPP names the folder of llama.cpp's source; `make test-vocabularies` gets it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

from converter.conversion.convert import convert  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402
from converter.resources import schemas  # noqa: E402
from tests.peers.small_models import sentence_pieces  # noqa: E402
from tests.peers.test_decoders import FAMILIES, VARIANTS, made, model_of, save  # noqa: E402
from tests.peers.test_real_tokenizers import model as of_vocabulary  # noqa: E402
from tests.peers.their_converter import UNLISTED  # noqa: E402

SOURCE = Path(os.environ.get("CEREBRAS_TOOL_LLAMA_CPP", Path(sys.prefix) / "llama.cpp"))
PAGE = schemas().parent / "docs" / "convert.md"
REFUSED = ("gptj", "codegen", "opt", "galactica", "gpt_neo", "xglm")
PIECES = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
# Vocabularies of real models, whose cut into words it knows. Of SentencePiece it reads tokenizer.model only.
REAL = (("gpt2", "gpt-2"), ("llama", "llama-bpe"), ("qwen2", "qwen2"))
# The keys that may differ, and in which models, as `convert.md` has them; all else must be equal.
KEYS = {
    "cerebras_tool.*": "*",
    "general.name": "*",
    "general.basename": "*",
    "general.version": "*",
    "general.size_label": "*, one file",  # theirs counts a tied head that it writes twice
    "general.file_type": "gpt_neox*",
    "gpt2.vocab_size": "gpt2*",
    "llama.attention.key_length": "llama with *",
    "llama.attention.value_length": "llama with *",
    "tokenizer.ggml.add_bos_token": "*",
    "tokenizer.ggml.add_eos_token": "*",
    "tokenizer.ggml.add_sep_token": "* with *",
    "tokenizer.ggml.add_space_prefix": "tokenizer.model",
    "tokenizer.ggml.unknown_token_id": "tokenizer.model",
}

pytestmark = pytest.mark.skipif(
    not (SOURCE / "convert_hf_to_gguf.py").is_file(), reason="needs llama.cpp's source: CEREBRAS_TOOL_LLAMA_CPP"
)


class Case(NamedTuple):
    source: Path
    theirs: Path
    error: str | None


class Held(NamedTuple):
    """All of a GGUF file, as gguf-py reads it."""

    keys: dict[str, tuple[list[str], Any]]
    tensors: dict[str, tuple[str, np.ndarray[Any, Any]]]


def held(path: Path) -> Held:
    reader = gguf.GGUFReader(path)
    keys = {
        name: ([kind.name for kind in field.types], field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }
    return Held(keys, {one.name: (one.tensor_type.name, np.array(one.data)) for one in reader.tensors})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Case]:
    """All models, converted by theirs in one process, because importing it takes longer than converting."""
    root, sources = tmp_path_factory.mktemp("theirs"), {}
    for family in FAMILIES:
        for name in ("one file", "shards")[: 1 if family in REFUSED else 2]:
            sources[f"{family}, {name}"] = root / f"{family}-{name}".replace(" ", "-")
            model = made(sources[f"{family}, {name}"], family, VARIANTS[name])
            if family == "gpt_neox":
                as_before_transformers_5(sources[f"{family}, {name}"], model.config.rope_parameters)
    path = sources["tokenizer.model"] = root / "pieces"
    path.mkdir()
    size = sentence_pieces(path, "tokenizer.model", PIECES, model_type="bpe", byte_fallback=True)
    save(model_of("llama", 5, 0, size), path, 1)
    said = json.loads((path / "config.json").read_bytes())
    (path / "config.json").write_text(json.dumps(said | {"bos_token_id": 1, "eos_token_id": 2}))
    document(path)
    for kind, name in REAL:
        vocabulary = SOURCE / "models" / f"ggml-vocab-{name}.gguf"
        sources[f"{kind} with {name}"] = of_vocabulary(root / f"{kind}-with-{name}", kind, vocabulary)
    done = subprocess.run(
        [sys.executable, "-m", "tests.peers.their_converter", str(SOURCE)],
        input=json.dumps([(str(source), f"{source}.theirs.gguf") for source in sources.values()]),
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    errors = json.loads(done.stdout)
    return {
        name: Case(source, Path(f"{source}.theirs.gguf"), error)
        for (name, source), error in zip(sources.items(), errors, strict=True)
    }


def as_before_transformers_5(folder: Path, rotary: Mapping[str, Any]) -> None:
    """The keys of config.json that GPT-NeoX's published files have for its positions."""
    said = json.loads((folder / "config.json").read_bytes())
    said |= {"rotary_pct": rotary["partial_rotary_factor"], "rotary_emb_base": int(rotary["rope_theta"])}
    del said["rope_parameters"]
    (folder / "config.json").write_text(json.dumps(said))


def document(folder: Path) -> None:
    """What lies beside published weights and is read into a GGUF, too."""
    front = ["license: apache-2.0", "language:", "- en", "- de", "tags:", "- chat", "base_model:", "- crane/small-7b"]
    (folder / "README.md").write_text("\n".join(["---", *front, "---", "# A model", ""]))
    said = {"temperature": 0.6, "top_k": 40, "top_p": 0.9, "do_sample": True, "repetition_penalty": 1.1}
    (folder / "generation_config.json").write_text(json.dumps(said))
    settings = json.loads((folder / "tokenizer_config.json").read_bytes())
    settings["chat_template"] = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


CASES = [f"{family}, {name}" for family in FAMILIES if family not in REFUSED for name in ("one file", "shards")]
CASES += ["tokenizer.model", *(f"{kind} with {name}" for kind, name in REAL)]


@pytest.mark.parametrize("name", CASES)
def test_both_files_are_equal(name: str, cases: Mapping[str, Case], tmp_path: Path) -> None:
    case = cases[name]
    assert case.error is None
    convert(open_checkpoint(case.source), tmp_path / "ours.gguf", dtype="f32")

    ours, theirs = held(tmp_path / "ours.gguf"), held(case.theirs)

    left_out = theirs.tensors.keys() - ours.tensors.keys()
    if left_out and name in ("bloom, one file", "gpt2, one file"):
        # A tied head is the embedding; llama.cpp takes that where there is no head.
        assert left_out == {"output.weight"}
        np.testing.assert_array_equal(theirs.tensors["output.weight"][1], ours.tensors["token_embd.weight"][1])
    else:
        assert not left_out
    assert ours.tensors.keys() <= theirs.tensors.keys()
    for tensor, (kind, values) in ours.tensors.items():
        their_kind, their_values = theirs.tensors[tensor]
        assert (kind, values.shape) == (their_kind, their_values.shape), tensor
        if tensor == "rope_freqs.weight":  # theirs computes it in F32
            np.testing.assert_allclose(values, their_values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(values.view(np.uint8), their_values.view(np.uint8), tensor)
    keys = {
        key
        for key in ours.keys.keys() | theirs.keys.keys()
        if ours.keys.get(key) != theirs.keys.get(key)
        and not any(fnmatchcase(key, known) and fnmatchcase(name, where) for known, where in KEYS.items())
    }
    if theirs.keys["tokenizer.ggml.pre"][1] == UNLISTED:
        keys.discard("tokenizer.ggml.pre")
    assert {key: (theirs.keys.get(key), ours.keys.get(key)) for key in sorted(keys)} == {}


@pytest.mark.parametrize("family", REFUSED)
def test_these_it_does_not_convert(family: str, cases: Mapping[str, Case]) -> None:
    assert cases[f"{family}, one file"].error == "SystemExit(1)"


@pytest.mark.parametrize("key", KEYS)
def test_the_page_names_what_may_differ(key: str) -> None:
    assert f"`{key.removesuffix('*')}`" in PAGE.read_text()
