"""TorchScript archives, scripted and traced by torch: names, order, dtypes and bytes are those of `state_dict()`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from converter.api import convert, scan  # noqa: E402
from tests.peers.test_modules import assert_same  # noqa: E402


class Mixed(nn.Module):  # type: ignore[misc, name-defined]
    """Everything that may lie in a module besides parameters: buffers, plain tensors, constants, modules in lists and dicts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 2)
        self.register_buffer("kept", torch.arange(2.0))
        self.register_buffer("left", torch.ones(2), persistent=False)
        self.register_buffer("none", None)
        self.plain = torch.ones(2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2, bias=False)])
        self.named = nn.ModuleDict({"b": nn.Linear(2, 2), "a": nn.Identity()})
        self.again = self.layers[0]
        self.own = nn.Parameter(torch.zeros(2))
        self.count = 3

    def forward(self, x):
        x = self.first(x) + self.kept + self.left + self.plain + self.own + self.count
        for layer in self.layers:
            x = layer(x)
        return self.again(self.named["a"](self.named["b"](x))) + torch.tensor([1.0, 2.0])


NETS: dict[str, tuple[Callable[[], Any], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(3, 2), (1, 3)),
    "Conv1d": (lambda: nn.Conv1d(2, 3, 3), (1, 2, 8)),
    "Conv2d": (lambda: nn.Conv2d(2, 3, 3), (1, 2, 8, 8)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(2, 3, 3), (1, 2, 8, 8)),
    "BatchNorm2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), (1, 2, 8, 8)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (1, 4, 2)),
    "LayerNorm": (lambda: nn.LayerNorm(4), (1, 4)),
    "LSTM": (lambda: nn.LSTM(2, 3, 2), (1, 1, 2)),
    "GRU": (lambda: nn.GRU(2, 3), (1, 1, 2)),
    "PReLU": (lambda: nn.PReLU(2), (1, 2)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), (1, 2)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), (3, 1, 4)),
    "everything besides": (Mixed, (1, 2)),
}


@pytest.mark.parametrize("half", [False, True], ids=["float", "half"])
@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
@pytest.mark.parametrize("name", NETS)
def test_an_archive_has_the_names_of_its_state_dict(name: str, traced: bool, half: bool, tmp_path: Path) -> None:
    make, shape = NETS[name]
    net = make().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(net, torch.zeros(shape)) if traced else torch.jit.script(net)
        (script.half() if half else script).save(tmp_path / "net.pt")
        expected = torch.jit.load(tmp_path / "net.pt").state_dict()
    assert_same(tmp_path / "net.pt", expected)


def test_scan_calls_it_a_program_and_convert_carries_its_weights(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(net).save(tmp_path / "net.pt")
    assert scan(tmp_path / "net.pt", fickling=False).verdict == "program"
    report = convert(tmp_path / "net.pt", tmp_path / "net.safetensors")
    assert any("its code is left out" in note for note in report.notes)
    net.load_state_dict(load_file(tmp_path / "net.safetensors"), strict=True)


def test_a_frozen_one_has_no_weights_and_says_so(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.script(nn.Linear(2, 3).eval())).save(tmp_path / "net.pt")
    with pytest.raises(Exception, match="constants of its code"):
        convert(tmp_path / "net.pt", tmp_path / "net.safetensors")
