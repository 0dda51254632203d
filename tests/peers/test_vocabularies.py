"""llama.cpp's own test vocabularies: ggml-vocab-NAME.gguf with texts (.inp) and the ids that they have to become (.out).

CEREBRAS_TOOL_VOCABULARIES names their folder; `make test-vocabularies` gets them from the source of llama.cpp's binding.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from converter.formats.gguf.tokenizer import as_files, inside
from converter.models.tokenizers import hashes
from converter.models.tokenizers.folder import read
from converter.opening import open_checkpoint
from converter.verification.tokenizers import differences
from tests.peers.test_tokenizers import converted

FOLDER = os.environ.get("CEREBRAS_TOOL_VOCABULARIES")
PATHS = sorted(Path(FOLDER).glob("ggml-vocab-*.gguf")) if FOLDER else []
BETWEEN = "\n__ggml_vocab_test__\n"
# llama.cpp has names in its table of hashes for these: the vocabularies are of the models that it was made from.
KNOWN = ("command-r", "deepseek-coder", "deepseek-llm", "falcon", "gpt-2", "llama-bpe", "qwen2", "refact", "starcoder")

pytestmark = pytest.mark.skipif(not PATHS, reason="CEREBRAS_TOOL_VOCABULARIES names no folder of them")


def test_all_are_there() -> None:
    assert len(PATHS) == 19
    assert sum(Path(f"{path}.out").is_file() for path in PATHS) == 15


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem.removeprefix("ggml-vocab-"))
def test_texts_become_the_ids(path: Path, tmp_path: Path) -> None:
    """The files that we write for transformers split so, and so does the GGUF that we make of these files."""
    source = open_checkpoint(path)
    for name, data in as_files(source).items():
        (tmp_path / name).write_bytes(data)
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    expected = inside(source)
    assert expected is not None
    copy = converted(tmp_path, expected.size)
    answers = Path(f"{path}.out")
    # Four vocabularies have no texts of their own. The two programs are compared on those of another one.
    texts = (Path(f"{path}.inp") if answers.is_file() else path.with_name("ggml-vocab-gpt-2.gguf.inp")).read_bytes()

    found = [library.encode(text, add_special_tokens=False).ids for text in texts.decode().split(BETWEEN)]

    assert len(found) > 40
    assert [copy.tokens(text, special=True) for text in texts.decode().split(BETWEEN)] == found
    copy.close()
    if answers.is_file():
        ids = [[int(number) for number in line.split()] for line in answers.read_text().split("\n")]
        assert found == ids[: len(found)]
    assert list(differences(expected, read(tmp_path))) == []


@pytest.mark.parametrize("name", KNOWN)
def test_the_name_is_found_by_what_the_tokenizer_makes(name: str) -> None:
    source = open_checkpoint(next(path for path in PATHS if path.stem == f"ggml-vocab-{name}"))
    library = Tokenizer.from_str(as_files(source)["tokenizer.json"].decode())

    assert hashes.name(library.encode(hashes.TEXT).ids) == name
