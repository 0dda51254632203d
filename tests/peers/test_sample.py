"""Samples, compared with what torch and transformers read and would have written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

from converter.dtypes import F32
from converter.formats.torch.writer import Entry, Layout, Record
from converter.sample import write_sample


def block(h: int, positions: int, *, sharded: bool) -> dict[str, torch.Tensor]:
    """A layer as the published files have it: matrices [in, out], in the single files views of [out, in]."""

    def matrix(n_in: int, n_out: int) -> torch.Tensor:
        return torch.empty(n_in, n_out) if sharded else torch.empty(n_out, n_in).t()

    causal = torch.tril(torch.ones(positions, positions)).to(torch.bool if sharded else torch.uint8)
    masks = {"attn.bias": causal.view(1, 1, positions, positions), "attn.masked_bias": torch.tensor(-1e4)}
    norm_1 = {"ln_1.weight": torch.empty(h), "ln_1.bias": torch.empty(h)}
    c_attn = {"attn.c_attn.weight": matrix(h, 3 * h), "attn.c_attn.bias": torch.empty(3 * h)}
    c_proj = {"attn.c_proj.weight": matrix(h, h), "attn.c_proj.bias": torch.empty(h)}
    rest = {
        "ln_2.weight": torch.empty(h),
        "ln_2.bias": torch.empty(h),
        "mlp.c_fc.weight": matrix(h, 4 * h),
        "mlp.c_fc.bias": torch.empty(4 * h),
        "mlp.c_proj.weight": matrix(4 * h, h),
        "mlp.c_proj.bias": torch.empty(h),
    }
    return norm_1 | masks | c_attn | c_proj | rest if sharded else c_attn | masks | c_proj | norm_1 | rest


def state_dict(h: int, layers: int, vocabulary: int, positions: int, *, sharded: bool) -> dict[str, torch.Tensor]:
    prefix = "" if sharded else "transformer."
    state = {"wte.weight": torch.empty(vocabulary, h), "wpe.weight": torch.empty(positions, h)}
    for layer in range(layers):
        state |= {f"h.{layer}.{name}": tensor for name, tensor in block(h, positions, sharded=sharded).items()}
    state |= {"ln_f.weight": torch.empty(h), "ln_f.bias": torch.empty(h)}
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize("mmap", [False, True], ids=["read", "mapped"])
@pytest.mark.parametrize(
    ("model", "sizes"), [("tiny", (64, 4, 257, 64)), ("tiny-13B", (64, 4, 257, 64)), ("111M", (768, 10, 50257, 2048))]
)
def test_torch_reads_the_state_dict_of_the_published_form(
    model: str, sizes: tuple[int, int, int, int], mmap: bool, tmp_path: Path
) -> None:
    write_sample(tmp_path, model)

    expected = state_dict(*sizes, sharded=model == "tiny-13B")
    shards = [torch.load(path, weights_only=True, mmap=mmap) for path in sorted(tmp_path.glob("*.bin"))]
    found = {name: tensor for shard in shards for name, tensor in shard.items()}
    assert [len(shard) for shard in shards] == {"tiny": [60], "tiny-13B": [42, 18], "111M": [144]}[model]
    assert _described(found) == _described(expected)
    for name, tensor in found.items():
        if name.endswith((".attn.bias", ".masked_bias")):
            assert torch.equal(tensor, expected[name])
        else:
            assert tensor.std() == pytest.approx(0.02 if model == "111M" else 0.2, rel=0.3)


def test_zip64_fields_are_those_that_torch_writes(tmp_path: Path) -> None:
    path = tmp_path / "large.pt"
    sizes = [3, (1 << 30) - 1, 1 << 30, 7, (1 << 30) + 5]
    with torch.serialization.skip_data():
        torch.save([torch.empty(size) for size in sizes], path)

    records, checksums, offset = [], [], 0
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        for info in archive.infolist():
            stored = "/data/" in info.filename
            content = Entry("", F32, (info.file_size // 4,), (1,)) if stored else archive.read(info)
            record = Record(info.filename, content, offset)
            header, descriptor = record.member.header(), record.member.descriptor(info.CRC)
            assert info.header_offset == offset
            file.seek(offset)
            assert file.read(len(header)) == header
            file.seek(record.member.end - len(descriptor))
            assert file.read(len(descriptor)) == descriptor
            records.append(record)
            checksums.append(info.CRC)
            offset = record.member.end
        file.seek(offset)
        assert file.read() == Layout(tuple(records)).directory(checksums)


def test_transformers_loads_tiny_and_its_tokenizer(tmp_path: Path) -> None:
    write_sample(tmp_path)

    model = GPT2LMHeadModel(GPT2Config.from_pretrained(tmp_path))
    weights = torch.load(tmp_path / "pytorch_model.bin", weights_only=True)
    parameters = {name: tensor for name, tensor in weights.items() if not name.endswith((".attn.bias", "masked_bias"))}
    missing, unexpected = model.load_state_dict(parameters, strict=False)
    assert (missing, unexpected) == (["lm_head.weight"], [])
    tokenizer = GPT2Tokenizer.from_pretrained(tmp_path)
    assert tokenizer("Hi é<|endoftext|>")["input_ids"] == [39, 72, 220, 127, 102, 256]
    assert tokenizer.decode([39, 72, 220, 127, 102]) == "Hi é"


def _described(state: dict[str, torch.Tensor]) -> list[tuple[object, ...]]:
    return [
        (name, tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        for name, tensor in state.items()
    ]
