"""safetensors of checkpoints that torch wrote: `safe_open` gives torch's tensors, transformers gives torch's logits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from transformers import GPT2Config, GPT2LMHeadModel

from converter.dtypes import BY_NAME, DTYPES
from converter.errors import UnsupportedError
from converter.formats.planned import Planned
from converter.io.publish import Plan, publish
from converter.models import recognition as models
from converter.opening import open_checkpoint
from converter.sample import write_sample
from tests.build import plans

CONFIG = {
    "model_type": "gpt2", "activation_function": "gelu", "n_embd": 48, "n_head": 4, "n_layer": 3, "n_inner": 192,
    "n_positions": 32, "vocab_size": 101, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0,
    "layer_norm_epsilon": 1e-05, "scale_attn_weights": True, "tie_word_embeddings": True,
}  # fmt: skip
MATRICES = ("c_attn.weight", "c_proj.weight", "c_fc.weight")


def state_dict(*, prefix: str, head: bool) -> dict[str, torch.Tensor]:
    """GPT-2 as it was published: matrices are transposed views, each layer has its masks."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**CONFIG))
    found: dict[str, torch.Tensor] = {}
    for name, value in model.transformer.state_dict().items():
        value = torch.randn_like(value) * 0.1
        found[prefix + name] = value.t().contiguous().t() if name.endswith(MATRICES) else value
    positions = CONFIG["n_positions"]
    for layer in range(CONFIG["n_layer"]):
        causal = torch.tril(torch.ones(positions, positions, dtype=torch.uint8))
        found[f"{prefix}h.{layer}.attn.bias"] = causal.view(1, 1, positions, positions)
        found[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    if head:
        found["lm_head.weight"] = found[f"{prefix}wte.weight"]
    return found


def save(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def convert(source: Path, target: Path, **options: Any) -> Planned:
    catalogue = open_checkpoint(source)
    conversion = plans.safetensors(catalogue, models.recognise(catalogue, catalogue.config), **options)
    publish(Plan(conversion.files, folder=True), target)
    if (source / "config.json").exists():
        (target / "config.json").write_bytes((source / "config.json").read_bytes())
    return conversion


def opened(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            assert file.metadata()["format"] == "pt"
            found |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return found


def same(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(
            left.contiguous().reshape(-1).view(torch.uint8), right.contiguous().reshape(-1).view(torch.uint8)
        )
    )


def check_equal(folder: Path, torchs: dict[str, torch.Tensor], conversion: Planned) -> None:
    found = opened(folder)
    assert set(found) == set(torchs) - set(conversion.dropped) - set(conversion.tied)
    assert [name for name in found if not same(found[name], torchs[name])] == []


CASES = [("transformer.", True), ("transformer.", False), ("", False), ("", True)]


@pytest.mark.parametrize("most", [None, 100_000])
@pytest.mark.parametrize("keep", [False, True], ids=["without masks", "with masks"])
@pytest.mark.parametrize(("prefix", "head"), CASES)
def test_safe_open_gives_torchs_tensors(tmp_path: Path, prefix: str, head: bool, keep: bool, most: int | None) -> None:
    source = save(tmp_path / "source", state_dict(prefix=prefix, head=head))

    conversion = convert(source, tmp_path / "out", keep_buffers=keep, max_shard_size=most)

    torchs = torch.load(source / "pytorch_model.bin", weights_only=True)
    check_equal(tmp_path / "out", torchs, conversion)
    assert len(conversion.dropped) == (0 if keep else 6)
    assert conversion.tied == ({"lm_head.weight": f"{prefix}wte.weight"} if head else {})


@pytest.mark.parametrize("most", [None, 100_000])
@pytest.mark.parametrize(("prefix", "head"), CASES)
def test_transformers_gives_torchs_logits(tmp_path: Path, prefix: str, head: bool, most: int | None) -> None:
    tensors = state_dict(prefix=prefix, head=head)
    convert(save(tmp_path / "source", tensors), tmp_path / "out", max_shard_size=most)
    reference = GPT2LMHeadModel(GPT2Config(**CONFIG)).eval()
    named = {f"transformer.{name.removeprefix('transformer.')}": value for name, value in tensors.items()}
    named = {name.replace("transformer.lm_head", "lm_head"): value for name, value in named.items()}
    missing = reference.load_state_dict(named, strict=False).missing_keys
    assert set(missing) <= {"lm_head.weight"}
    reference.tie_weights()

    model, report = GPT2LMHeadModel.from_pretrained(tmp_path / "out", output_loading_info=True, dtype=torch.float32)

    assert {key: list(value) for key, value in report.items() if value} == {}
    tokens = torch.arange(64).reshape(2, 32) % CONFIG["vocab_size"]
    with torch.no_grad():
        assert torch.equal(model.eval()(tokens).logits, reference(tokens).logits)


@pytest.mark.parametrize("name", ["F16", "BF16", "F64"])
def test_a_changed_dtype_is_torchs(tmp_path: Path, name: str) -> None:
    tensors = state_dict(prefix="transformer.", head=True)

    conversion = convert(save(tmp_path / "source", tensors), tmp_path / "out", dtype=BY_NAME[name])

    changed = {key: value.to(getattr(torch, BY_NAME[name].torch)) for key, value in tensors.items()}
    check_equal(tmp_path / "out", changed, conversion)
    if name != "F64":
        lost = sum((changed[key].float() != tensors[key]).sum().item() for key in conversion.losses)
        assert sum(loss.rounded + loss.underflowed for loss in conversion.losses.values()) == lost


def test_any_view_of_any_dtype(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tensors = {}
    for dtype in DTYPES:
        if dtype.safetensors is not None and dtype.packed == 1:
            data = torch.randint(0, 2 if dtype.name == "BOOL" else 255, (600 * dtype.itemsize,), dtype=torch.uint8)
            flat = data.view(getattr(torch, dtype.torch))
            tensors[f"{dtype.name}.views.transposed"] = flat[:60].view(5, 12).t()
            tensors[f"{dtype.name}.views.sliced"] = flat.view(20, 30)[3:17:2, 4:9]
            tensors[f"{dtype.name}.views.expanded"] = flat[:7].expand(3, 7)
            tensors[f"{dtype.name}.views.permuted"] = flat.view(4, 5, 30).permute(2, 0, 1)
            tensors[f"{dtype.name}.scalar"] = flat[17]
            tensors[f"{dtype.name}.empty"] = flat[:0].view(0, 3)
    torch.save(tensors, tmp_path / "a.bin")
    catalogue = open_checkpoint(tmp_path / "a.bin")

    publish(Plan(plans.safetensors(catalogue, None).files, folder=True), tmp_path / "out")

    found = opened(tmp_path / "out")
    assert set(found) == set(tensors)
    assert [name for name in found if not same(found[name], tensors[name])] == []


def test_f4_is_read_as_torch_has_it(tmp_path: Path) -> None:
    packed = torch.arange(12, dtype=torch.uint8).view(3, 4).view(torch.float4_e2m1fn_x2)
    safetensors.torch.save_file({"a": packed}, tmp_path / "a.safetensors")

    catalogue = open_checkpoint(tmp_path / "a.safetensors")

    assert (catalogue["a"].dtype.name, catalogue["a"].shape) == ("F4", (3, 4))
    assert catalogue["a"].bits().tolist() == packed.view(torch.uint8).tolist()
    again = plans.safetensors(catalogue, None, single_file=True)
    publish(Plan(again.files, folder=False), tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("a").view(torch.uint8), packed.view(torch.uint8))


def test_of_names_that_no_architecture_ties_the_first_stays(tmp_path: Path) -> None:
    shared = torch.randn(3, 2)
    save(tmp_path / "source", {"z": shared, "a": shared, "other": torch.randn(2)})

    conversion = convert(tmp_path / "source", tmp_path / "out")

    assert conversion.tied == {"a": "z"}
    read = open_checkpoint(tmp_path / "out" / "model.safetensors")
    assert read["a"] == read["z"]


def test_complex128_is_refused_by_name(tmp_path: Path) -> None:
    save(tmp_path / "source", {"fine": torch.ones(2), "c": torch.ones(2, dtype=torch.complex128)})

    with pytest.raises(UnsupportedError, match="`c` is C128"):
        convert(tmp_path / "source", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.large
@pytest.mark.parametrize("model", ["111M", "590M", "1.3B"])
def test_published_sizes(tmp_path: Path, model: str) -> None:
    write_sample(tmp_path / "source", model)

    conversion = convert(tmp_path / "source", tmp_path / "out")

    torchs = torch.load(tmp_path / "source" / "pytorch_model.bin", weights_only=True, mmap=True)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        names = set(file.keys())
        assert names == set(torchs) - set(conversion.dropped)
        assert [name for name in sorted(names) if not same(file.get_tensor(name), torchs[name])] == []
    shutil.rmtree(tmp_path)
