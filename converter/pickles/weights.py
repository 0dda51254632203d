"""Which part of a checkpoint are the model's weights: the rule that docs/weights.md explains.

Trainers put the state dict below a key and their own state beside it. The keys are rows here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from converter.pickles.values import Dict, Opaque
from converter.pickles.walk import key_text

# Keys that trainers put the model below, and what they are known from.
MODEL: Final = {
    "state_dict": "Lightning, timm, MMEngine",
    "model_state_dict": "PyTorch's tutorials",
    "model": "fairseq, detectron2, nanoGPT, YOLO",
    "module": "DeepSpeed",
    "net": "many",
    "network": "many",
    "params": "BasicSR, ESRGAN",
    "weights": "many",
    "model_weights": "many",
    "model_state": "many",
    "network_state_dict": "many",
    "net_state_dict": "many",
}
# Keys of the averaged weights that stand beside the model's.
EMA: Final = {
    "ema": "YOLO",
    "ema_state_dict": "many",
    "state_dict_ema": "timm",
    "model_ema": "timm, DINO",
    "ema_model": "lucidrains",
    "params_ema": "BasicSR, ESRGAN",
    "ema_params": "many",
    "model_ema_state_dict": "many",
    "shadow_params": "torch_ema",
}
# Words in keys of what a trainer needs to go on, and no model: its optimizer, its schedules, its random numbers.
_STATE: Final = frozenset(
    ("opt", "amp", "rng", "callback", "callbacks", "loops", "grad", "scaler", "criterion", "loss")
)
_STATE_STARTS: Final = ("optim", "sched", "random")
_OPTIMIZER: Final = frozenset(("state", "param_groups"))  # the keys that every torch.optim state dict has
_WORD: Final = re.compile(r"[A-Za-z][a-z]*")
# What wrappers put before every name: torch.nn.DataParallel and DistributedDataParallel, torch.compile.
PREFIXES: Final = ("module.", "_orig_mod.")


@dataclass(slots=True)
class Chosen:
    """The part that holds the weights: the keys that lead to it, the part itself, and by name what is no part of it."""

    keys: list[str]
    value: Any
    beside: list[tuple[str, Any]] = field(default_factory=list)

    def enter(self, key: str, value: Any, among: Dict) -> None:
        """Go on into one part; the others stand beside it."""
        self.leave((name, inner) for name, inner in among.pairs() if inner is not value)
        self.keys.append(key)
        self.value = value

    def leave(self, parts: Iterable[tuple[Any, Any]]) -> None:
        """Name parts that are none of the weights."""
        self.beside += [(".".join((*self.keys, key_text(name))), inner) for name, inner in parts]


def choose(value: object, holds: Callable[[object], bool], held: Callable[[object], Dict | None]) -> Chosen:
    """Find the weights in a checkpoint; `holds` tells whether a value leads to a tensor, and `held` what it holds by names.

    From the top down, the one key of MODEL that holds tensors is followed, or else the one of EMA. Where there is none, all
    is weights but what a trainer needs to go on.
    """
    chosen = Chosen([], value)
    while (among := held(chosen.value)) is not None:
        parts = [(key, inner) for key, inner in among.pairs() if holds(inner)]
        named = [(key, inner) for key, inner in parts if type(key) is str and type(inner) in (Dict, Opaque)]
        fits = next((fits for table in (MODEL, EMA) if (fits := [part for part in named if part[0] in table])), [])
        if len(fits) != 1:
            if among is chosen.value:
                _leave_training_state(chosen, holds)
            break
        chosen.enter(*fits[0], among)
    return chosen


def _leave_training_state(chosen: Chosen, holds: Callable[[object], bool]) -> None:
    """Set apart what a trainer needs to go on, unless the dict has the names of a state dict."""
    pairs = list(chosen.value.pairs())
    if _is_optimizer(chosen.value):
        chosen.leave(pairs)
        chosen.value = Dict()
        return
    containers = [(key, inner) for key, inner in pairs if type(inner) in (Dict, list, tuple, Opaque)]
    left = {id(inner) for key, inner in containers if is_training_state(key, inner)}
    if not left or any(
        type(key) is str and "." in key and holds(inner) for key, inner in pairs if id(inner) not in left
    ):
        return
    left |= {id(inner) for key, inner in pairs if holds(inner) and is_training_state(key, inner)}
    chosen.leave((key, inner) for key, inner in pairs if id(inner) in left)
    chosen.value = Dict(part for key, inner in pairs if id(inner) not in left for part in (key, inner))


def is_training_state(key: object, value: object) -> bool:
    """Whether a part is what a trainer needs to go on, by its key or by the form that every optimizer's state has."""
    if _is_optimizer(value):
        return True
    if type(key) is not str:
        return False
    words = [word.lower() for word in _WORD.findall(key[:200])]
    return any(word in _STATE or word.startswith(_STATE_STARTS) for word in words)


def _is_optimizer(value: object) -> bool:
    return type(value) is Dict and {key for key in value[: 2 * len(_OPTIMIZER) : 2] if type(key) is str} == _OPTIMIZER
