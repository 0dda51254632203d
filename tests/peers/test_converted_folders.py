"""A folder converted to safetensors is the same model to transformers: it splits every text alike, and computes every bit alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from tests.peers.small_models import FAMILIES, inputs
from tests.peers.texts import texts

MODELS = ("bert", "albert", "albert with spiece.model", "roberta", "t5", "t5 with spiece.model", "whisper")
ODD = (
    *("", " ", "   ", "\n", "\t\t", "\0", "\x1b[31mred\x1b[0m", "\u200b", "\ufeffx", "a" * 3000, "ab " * 1500, "é" * 500),
    *("🙂👩‍👩‍👧🇨🇭", "▁▁ ▁", "[MASK] [CLS] [SEP] [UNK]", "<pad></s><s><mask><unk>", "<|endoftext|>", "<extra_id_0> x <extra_id_9>"),
    *("##ing ##ed", "İstanbul ŒUVRE ﬁ ½", "\r\n mixed \n\n lines \r", "x" + "\u0301" * 40, "\ud7ff\ue000", "0" * 400),
)  # fmt: skip
TEXTS = [*ODD, *texts(200 - len(ODD), 9, ("[MASK]", "</s>", "<|endoftext|>", "<|en|>"))]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", MODELS)
def test_the_copy_splits_and_computes_alike(family: str, seed: int, tmp_path: Path) -> None:
    if "spiece" in family:
        pytest.importorskip("google.protobuf", reason="transformers reads spiece.model with it")
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.mkdir()
    torch.manual_seed(seed)
    model = FAMILIES[family](source, seed).eval()
    model.save_pretrained(source)
    (source / "model.safetensors").unlink()
    torch.save(model.state_dict(), source / "pytorch_model.bin")

    convert(open_checkpoint(source), copy, to="safetensors")

    assert {path.name for path in copy.iterdir()} == {
        "model.safetensors" if path.suffix == ".bin" else path.name for path in source.iterdir()
    }
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(folder) for folder in (copy, source))
    assert len(TEXTS) == 200
    assert len({tuple(theirs(text).input_ids) for text in TEXTS}) > 150  # it does split them
    for text in TEXTS:
        found, wanted = ours(text), theirs(text)
        assert dict(found) == dict(wanted), text
        assert ours.decode(found.input_ids) == theirs.decode(wanted.input_ids), text
    if family == "whisper":
        made, given = (transformers.AutoProcessor.from_pretrained(folder) for folder in (copy, source))
        sound = np.random.default_rng(2).standard_normal(16000).astype("f4")
        features = [one(sound, sampling_rate=16000, return_tensors="pt").input_features for one in (made, given)]
        assert torch.equal(*features)
        assert made.tokenizer.normalize("colour") == given.tokenizer.normalize("colour")
    loaded, notes = type(model).from_pretrained(copy, output_loading_info=True)
    assert not any(notes.values()), notes
    for made in inputs(model, copy):
        with torch.no_grad():
            assert torch.equal(model(**made)[0], loaded.eval()(**made)[0])
