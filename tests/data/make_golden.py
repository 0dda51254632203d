"""Write golden_logits.json: what transformers computes for the small model of tests/build/small_gpt2.py.

PYTHONPATH=. python tests/data/make_golden.py     # torch 2.13.0, transformers 5.23.0
"""

import json
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tests.build.small_gpt2 import CONFIG, TOKENS, weights

VARIANTS: dict[str, dict[str, object]] = {
    "gelu": {},
    "gelu_new": {"activation_function": "gelu_new"},
    "untied": {"tie_word_embeddings": False},
    "unscaled": {"scale_attn_weights": False},
    "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
    "upcast": {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True},
    "large epsilon": {"layer_norm_epsilon": 0.1},
}


def model(changes: dict[str, object]) -> GPT2LMHeadModel:
    config = CONFIG | changes
    ends = {"bos_token_id": None, "eos_token_id": None}
    built = GPT2LMHeadModel(GPT2Config(**config, **ends, attn_implementation="eager")).eval()
    state = weights(head=not config["tie_word_embeddings"])
    named = {
        name if name == "lm_head.weight" else f"transformer.{name}": torch.from_numpy(a) for name, a in state.items()
    }
    missing, unexpected = built.load_state_dict(named, strict=False)
    assert not unexpected
    assert missing in ([], ["lm_head.weight"])
    return built


def logits(changes: dict[str, object]) -> list[list[float]]:
    with torch.no_grad():
        found: list[list[float]] = model(changes)(torch.tensor([TOKENS])).logits[0].tolist()
    return found


def greedy(changes: dict[str, object], count: int) -> list[int]:
    given = torch.tensor([[13, 9]])
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0}
    tokens = model(changes).generate(given, attention_mask=torch.ones_like(given), **options)
    found: list[int] = tokens[0, 2:].tolist()
    return found


golden = {name: [[float(f"{x:.8g}") for x in row] for row in logits(changes)] for name, changes in VARIANTS.items()}
text = json.dumps({"changes": VARIANTS, "logits": golden, "greedy": greedy(VARIANTS["untied"], 10)})
Path(__file__).with_name("golden_logits.json").write_text(text.replace("], ", "],\n") + "\n")
