"""Parameters are trained; buffers, which lie among them in a state dict, are counted and named separately."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from converter.conversion.surgery import cut, rules
from converter.inspection.report import inspect
from converter.opening import open_checkpoint
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint

W, B, MEAN, SEEN = view("0", (4, 3)), view("1", (4,)), view("2", (4,)), view("3", (), dtype="I64")
STORAGES = {"0": floats(*range(12)), "1": floats(*range(4)), "2": floats(*range(4)), "3": bytes(8)}


def module(parameters: dict[str, Any], buffers: dict[str, Any], skipped: tuple[str, ...] = (), **inner: Any) -> Call:
    left = Call(Global("builtins", "set"), ([*skipped],))
    state = {"_parameters": parameters, "_buffers": buffers, "_non_persistent_buffers_set": left, "_modules": inner}
    return Call(Global("nets", "Net"), (), state)


LINEAR = module({"weight": W, "bias": B}, {})
NET = module({}, {"scale": MEAN, "none": None, "cache": B}, ("cache",), l=LINEAR)
CASES: dict[str, tuple[Any, tuple[int, int], tuple[str, ...]]] = {
    "a module": (NET, (16, 4), ("scale",)),
    "below a key": ({"model": NET, "epoch": 3}, (16, 4), ("scale",)),
    "two side by side": ({"g": NET, "d": LINEAR}, (16, 4), ("g.scale",)),
    "behind a prefix": ({"module.a": module({"w": W}, {"b": MEAN}), "module.c": LINEAR}, (16, 4), ("a.b",)),
    "a state dict with statistics": (
        {"l.weight": W, "bn.weight": B, "bn.running_mean": MEAN, "bn.num_batches_tracked": SEEN},
        (16, 5),
        ("bn.running_mean", "bn.num_batches_tracked"),
    ),
    "a state dict without": ({"l.weight": W, "scale": MEAN}, (16, 0), ()),
    "an optimizer beside": ({"model": {"w": W}, "optimizer": {"state": {0: {"exp_avg": B}}, "param_groups": []}}, (12, 0), ()),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_parameters_and_buffers_are_counted_apart(name: str, tmp_path: Path) -> None:
    value, counts, names = CASES[name]
    report = inspect(open_checkpoint(write_checkpoint(tmp_path / "x.pt", value, STORAGES)))

    assert (report.totals.parameters, report.totals.buffers) == counts
    assert report.weights.buffers == names


def test_the_masks_of_a_family_are_buffers(tiny: Path) -> None:
    report = inspect(open_checkpoint(tiny))

    assert report.totals.parameters == 220_608
    assert {name.split(".", 3)[-1] for name in report.weights.buffers} == {"attn.bias", "attn.masked_bias"}


def test_a_renamed_buffer_stays_one(tmp_path: Path) -> None:
    catalogue = open_checkpoint(write_checkpoint(tmp_path / "x.pt", NET, STORAGES))
    renamed = cut(catalogue, rules(rename=["*=net.*"])).catalogue

    assert inspect(renamed).weights.buffers == ("net.scale",)
