"""Tokenizers of real models through the whole way: beside a checkpoint of their family, into GGUF, and back into files.

They are llama.cpp's test vocabularies, with texts and the ids that these have to become. CEREBRAS_TOOL_VOCABULARIES names
their folder, as for `test_vocabularies.py`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("xllamacpp")
tokenizers = pytest.importorskip("tokenizers")

from converter.conversion.convert import convert  # noqa: E402
from converter.formats.gguf.tokenizer import as_files, inside  # noqa: E402
from converter.models.families import families  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402
from converter.verification.verify import verify  # noqa: E402
from tests.models.test_whole_families import write  # noqa: E402
from tests.peers import llama  # noqa: E402

FOLDER = os.environ.get("CEREBRAS_TOOL_VOCABULARIES")
BETWEEN = "\n__ggml_vocab_test__\n"
# A family, and the vocabulary of a model of it (for LLaMA of the first models and of the third; Phi and CodeGen have GPT-2's).
REAL = (
    ("gpt2", "gpt-2"), ("gptj", "gpt-2"), ("codegen", "gpt-2"), ("phi", "gpt-2"), ("gpt_neox", "gpt-neox"),
    ("llama", "llama-spm"), ("llama", "llama-bpe"), ("mistral", "llama-spm"), ("qwen2", "qwen2"),
)  # fmt: skip

pytestmark = pytest.mark.skipif(not FOLDER, reason="CEREBRAS_TOOL_VOCABULARIES names no folder of vocabularies")


def model(folder: Path, kind: str, vocabulary: Path) -> Path:
    """A model of one layer with the vocabulary's tokenizer beside it."""
    source = open_checkpoint(vocabulary)
    found = inside(source)
    assert found is not None
    known = next(known for known in families() if known.is_called(kind) and known.transformers)
    ids = {f"{role}_token_id": found.special[role] for role in ("bos", "eos") if role in found.special}
    config = {
        **known.sample,
        "model_type": kind,
        "vocab_size": found.size,
        "bos_token_id": None,
        "eos_token_id": None,
        **ids,
    }
    config |= {known.config_key(known.layers): 1, "tie_word_embeddings": bool(known.followers)}
    chance = np.random.default_rng(1)
    rows = known.rows(known.sizes(config), config=config)
    tensors = {
        row.named(known.prefixes[-1]): chance.standard_normal(row.shape, np.float32)
        for row in rows
        if row.kind == "parameter" and not row.tied_to and all(known.setting(key, config) for key in row.conditions)
    }
    write(folder, tensors, **config)
    document = json.loads((folder / "config.json").read_bytes())
    (folder / "config.json").write_text(json.dumps({key: document[key] for key in config}))
    for name, data in as_files(source).items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize(("kind", "vocabulary"), REAL)
def test_texts_become_the_ids_of_the_model_everywhere(kind: str, vocabulary: str, tmp_path: Path) -> None:
    path = Path(FOLDER or "") / f"ggml-vocab-{vocabulary}.gguf"
    answers = Path(f"{path}.out")
    texts = (Path(f"{path}.inp") if answers.is_file() else path.with_name("ggml-vocab-gpt-2.gguf.inp")).read_text()
    source = model(tmp_path / "source", kind, path)
    library = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    expected = [library.encode(text, add_special_tokens=False).ids for text in texts.split(BETWEEN)]
    if answers.is_file():
        ids = [[int(number) for number in line.split()] for line in answers.read_text().split("\n")]
        assert expected == ids[: len(expected)]

    convert(open_checkpoint(source), tmp_path / "o.gguf")
    convert(open_checkpoint(tmp_path / "o.gguf"), tmp_path / "back", to="safetensors")

    written = llama.Model(tmp_path / "o.gguf")
    assert [written.tokens(text, special=True) for text in texts.split(BETWEEN)] == expected
    written.close()
    back = tokenizers.Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert [back.encode(text, add_special_tokens=False).ids for text in texts.split(BETWEEN)] == expected
    report = verify(open_checkpoint(source), [tmp_path / "o.gguf", tmp_path / "back"])
    assert [output.verdict for output in report.outputs] == ["identical", "identical"]
