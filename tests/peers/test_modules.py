"""Whole modules, saved by torch: their names, order, dtypes and bytes are those of `state_dict()`, and nothing is executed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from converter.api import convert  # noqa: E402
from converter.opening import open_checkpoint  # noqa: E402


def _twice() -> Any:
    layer = nn.Linear(2, 2)
    return nn.ModuleDict({"first": layer, "second": nn.Sequential(layer)})


def _with_buffers() -> Any:
    module = nn.Linear(2, 2)
    module.register_buffer("kept", torch.arange(3))
    module.register_buffer("left", torch.arange(4), persistent=False)
    module.register_buffer("none", None)
    module.register_parameter("absent", None)
    module.plain = torch.ones(5)
    return module


LAYERS: dict[str, Callable[[], Any]] = {
    "Linear": lambda: nn.Linear(3, 2),
    "Linear without bias": lambda: nn.Linear(3, 2, bias=False),
    "Bilinear": lambda: nn.Bilinear(2, 3, 4),
    "Conv1d": lambda: nn.Conv1d(2, 3, 3),
    "Conv2d in groups": lambda: nn.Conv2d(4, 4, 3, groups=2),
    "Conv3d": lambda: nn.Conv3d(1, 2, 2),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(2, 2, 2),
    "Embedding": lambda: nn.Embedding(5, 3, padding_idx=0),
    "EmbeddingBag": lambda: nn.EmbeddingBag(5, 3),
    "BatchNorm1d": lambda: nn.BatchNorm1d(4),
    "BatchNorm2d without statistics": lambda: nn.BatchNorm2d(4, track_running_stats=False),
    "BatchNorm3d without parameters": lambda: nn.BatchNorm3d(4, affine=False),
    "SyncBatchNorm": lambda: nn.SyncBatchNorm(4),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
    "LayerNorm": lambda: nn.LayerNorm((2, 3)),
    "GroupNorm": lambda: nn.GroupNorm(2, 4),
    "RMSNorm": lambda: nn.RMSNorm(4),
    "RNN": lambda: nn.RNN(2, 3, bidirectional=True),
    "LSTM of two layers": lambda: nn.LSTM(2, 3, 2, proj_size=2),
    "GRU": lambda: nn.GRU(2, 3),
    "GRUCell": lambda: nn.GRUCell(2, 3),
    "PReLU": lambda: nn.PReLU(3),
    "MultiheadAttention": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=3, add_bias_kv=True),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(4, 2, 8),
    "Transformer": lambda: nn.Transformer(4, 2, 1, 2, 8),
    "Sequential": lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)),
    "ModuleDict": lambda: nn.ModuleDict({"b": nn.Linear(2, 3), "a": nn.Linear(3, 1)}),
    "ParameterList": lambda: nn.ParameterList([nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(1))]),
    "ParameterDict": lambda: nn.ParameterDict({"z": nn.Parameter(torch.ones(2)), "y": nn.Parameter(torch.zeros(1))}),
    "AdaptiveLogSoftmaxWithLoss": lambda: nn.AdaptiveLogSoftmaxWithLoss(8, 10, [4, 7]),
    "weight_norm of old": lambda: nn.utils.weight_norm(nn.Linear(2, 3)),
    "spectral_norm of old": lambda: nn.utils.spectral_norm(nn.Linear(3, 3)),
    "DataParallel": lambda: nn.DataParallel(nn.Linear(2, 3)),
    "a loss with weights": lambda: nn.CrossEntropyLoss(weight=torch.ones(3)),
    "AveragedModel": lambda: torch.optim.swa_utils.AveragedModel(nn.Linear(2, 3)),
    "one layer under two names": _twice,
    "buffers that are not saved": _with_buffers,
}


def assert_same(path: Path, expected: dict[str, Any]) -> None:
    with open_checkpoint(path) as catalogue:
        assert list(catalogue) == list(expected)
        for name, tensor in expected.items():
            assert catalogue[name].shape == tuple(tensor.shape), name
            assert catalogue[name].dtype.torch == str(tensor.dtype).removeprefix("torch."), name
            raw = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
            assert catalogue[name].bits().tobytes() == raw.tobytes(), name


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_saved_module_has_the_names_of_its_state_dict(name: str, legacy: bool, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = LAYERS[name]()
        torch.save(module, tmp_path / "whole.pt", _use_new_zipfile_serialization=not legacy)
        torch.save({"epoch": 3, "model": module.half()}, tmp_path / "below.pt")
    assert_same(tmp_path / "below.pt", module.state_dict())
    assert_same(tmp_path / "whole.pt", _reloaded(tmp_path))


def _reloaded(folder: Path) -> dict[str, Any]:
    # We wrote this file ourselves, one line above.
    loaded: dict[str, Any] = torch.load(folder / "whole.pt", weights_only=False).state_dict()
    return loaded


def test_a_module_is_converted_without_a_flag(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    torch.save({"model": module, "epoch": 3}, tmp_path / "m.pt")
    report = convert(tmp_path / "m.pt", tmp_path / "m.safetensors")
    written = load_file(tmp_path / "m.safetensors")
    assert written.keys() == module.state_dict().keys()
    for name, tensor in module.state_dict().items():
        assert np.array_equal(written[name], tensor.numpy())
    assert any("torch.nn.modules.container.Sequential" in note for note in report.notes)
