"""A config.json that asks for what its family does not compute is not computed, nor written as GGUF."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from converter.conversion.convert import convert
from converter.errors import ConverterError
from converter.inference.engine import compute
from converter.models import families
from converter.models.families import objections
from converter.opening import open_checkpoint
from converter.resources import load_json
from converter.sample import write_sample
from converter.verification.verify import Options, verify

SAMPLES = [family.name for family in families.families()]
GRANITE = {"embedding_multiplier": 12.0, "logits_scaling": 6.0, "residual_multiplier": 0.2, "attention_multiplier": 0.1}
# Keys with the values that they have in published models, and those with which they say nothing.
FOREIGN: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{key: ({key: value}, {key: None if key == "attention_multiplier" else 1.0}) for key, value in GRANITE.items()},
    "Gemma's scores": ({"attn_logit_softcapping": 50.0}, {"attn_logit_softcapping": None}),
    "Gemma's logits": ({"final_logit_softcapping": 30.0}, {"final_logit_softcapping": None}),
    "Gemma's scale": ({"query_pre_attn_scalar": 256}, {"query_pre_attn_scalar": None}),
    "Cohere's logits": ({"logit_scale": 0.0625}, {"logit_scale": 1}),
    "muP's embeddings": ({"mup_embeddings_scale": 14.6}, {"mup_embeddings_scale": 1.0}),
    "muP's logits": ({"mup_output_alpha": 2.22, "mup_width_scale": 0.1}, {"mup_output_alpha": 1.0, "mup_width_scale": 1.0}),
    "muP's scores": ({"mup_scale_qk_dot_by_d": True}, {"mup_scale_qk_dot_by_d": False}),
    "BTLM's positions": ({"position_embedding_type": "alibi"}, {"position_embedding_type": "learned"}),
    "OLMo's clipping": ({"clip_qkv": 8.0}, {"clip_qkv": None}),
    "StableLM's norms": ({"use_qk_norm": True}, {"use_qk_norm": False}),
    "windows of some layers": ({"layer_types": ["full_attention", "sliding_attention"]}, {"layer_types": ["full_attention"] * 2}),
    "layers without positions": ({"no_rope_layers": [1, 1, 0]}, {"no_rope_layers": [1, 1, 1]}),
    "a truth value for a number": ({"embedding_multiplier": True}, {"embedding_multiplier": 1}),
    "a number for a truth value": ({"use_qk_norm": 0}, {"use_qk_norm": None}),
    "Granite's class": ({"architectures": ["GraniteForCausalLM"]}, {"architectures": []}),
    "Cohere's class": ({"architectures": ["CohereModel"]}, {"architectures": ["MyOwnForCausalLM"]}),
    "a class of encoders": ({"architectures": ["RobertaForMaskedLM"]}, {"architectures": None}),
}  # fmt: skip


def said(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, Any]]:
    folder = tmp_path_factory.mktemp("samples")

    def config(name: str) -> dict[str, Any]:
        if not (folder / name).exists():
            write_sample(folder / name, name, sparse=True)
        return dict(open_checkpoint(folder / name).config or {})

    return config


@pytest.mark.parametrize("case", FOREIGN)
@pytest.mark.parametrize("family", SAMPLES)
def test_each_family_objects_to_what_it_does_not_compute(
    family: str, case: str, sample: Callable[[str], dict[str, Any]]
) -> None:
    known, config = families.family(family), sample(family)
    foreign, nothing = FOREIGN[case]

    assert list(objections(known, config)) == []
    assert list(objections(known, config | nothing)) == []
    found = list(objections(known, config | foreign))
    assert len(found) == (2 if case == "muP's logits" else 1)
    assert known.title in found[0] or "two families" in found[0]


@pytest.mark.parametrize("case", ["embedding_multiplier", "Granite's class", "windows of some layers"])
def test_such_a_model_is_refused_by_gguf_and_by_the_engine_and_copied_with_a_warning(case: str, tmp_path: Path) -> None:
    source = tmp_path / "m"
    write_sample(source, "llama")
    said(source, **FOREIGN[case][0])

    with pytest.raises(ConverterError, match=r"LLaMA does not compute that|two families"):
        convert(open_checkpoint(source), tmp_path / "o.gguf")
    with pytest.raises(ConverterError, match=r"LLaMA does not compute that|two families"):
        compute(open_checkpoint(source))
    report = convert(open_checkpoint(source), tmp_path / "out", to="safetensors")
    assert any("LLaMA does not compute that" in note or "two families" in note for note in report.notes)
    again = verify(open_checkpoint(source), [tmp_path / "out"])
    assert [output.verdict for output in again.outputs] == ["identical"]


def test_a_key_that_a_family_reads_is_its_own() -> None:
    assert list(objections(families.family("phi"), {"qk_layernorm": True, "partial_rotary_factor": 0.4})) == []
    assert list(objections(families.family("gpt_neox"), {"partial_rotary_factor": 0.25, "rotary_pct": 0.25})) == []
    # transformers does not read it there
    assert list(objections(families.family("llama"), {"rope_parameters": {"partial_rotary_factor": 0.5}})) == []
    assert list(objections(families.family("phi_msft"), {"architectures": ["PhiForCausalLM"]})) == []
    assert list(objections(families.family("llama"), {"architectures": ["MistralForCausalLM", 3]})) == []


def test_every_declared_model_has_only_keys_of_its_family() -> None:
    from converter.models.declared import declared

    for model in declared():
        assert list(objections(families.family(model.architecture), model.config)) == []


@pytest.mark.parametrize("key", [row["key"] for row in load_json("other-arithmetic.json")["rows"]])
def test_every_key_is_of_some_model_and_no_sample_has_it(key: str, sample: Callable[[str], dict[str, Any]]) -> None:
    row = next(row for row in load_json("other-arithmetic.json")["rows"] if row["key"] == key)
    families_of_gpt = families.family("gpt2")
    own = {setting.name for setting in families_of_gpt.settings}

    assert row["of"]
    found = list(objections(families_of_gpt, sample("gpt2") | {key: 0.37}))
    assert bool(found) == (key not in own)


def test_a_window_is_told_as_long_as_it_matters(tmp_path: Path) -> None:
    source = tmp_path / "m"
    write_sample(source, "llama")
    said(source, model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=16)

    short = convert(open_checkpoint(source), tmp_path / "o.gguf")
    report = verify(open_checkpoint(source), [tmp_path / "o.gguf"], Options(level="inference"))
    said(source, sliding_window=128)
    long = convert(open_checkpoint(source), tmp_path / "p.gguf")
    second = verify(open_checkpoint(source), [tmp_path / "p.gguf"])

    sentence = (
        "llama.cpp looks back at all tokens, and the model only at the last 16, its sliding window: longer texts differ"
    )
    assert sentence in short.notes
    assert [(note.name, note.detail) for note in report.outputs[0].notes] == [("the model", sentence)]
    assert report.ok
    assert not any("sliding window" in note for note in long.notes)
    assert second.outputs[0].notes == ()
