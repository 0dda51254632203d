"""Decides which part of a checkpoint holds the model's weights; docs/weights.md explains the rule.

Trainers put the state dict below a key and their own state beside it. The keys are rows here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from converter.dtypes import U8
from converter.errors import FormatError, LayoutError
from converter.limits import limits
from converter.pickles.values import Dict, Opaque
from converter.pickles.walk import key_text
from converter.tensors.tensor import Tensor
from converter.words import OPTIMIZER, Part, option

# Keys under which trainers put the model, and the libraries that use them.
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
    "module_state_dict": "Opacus",
}
# Looked for where no key of MODEL holds tensors. An optimizer's tensors lie below it, too, but beside `param_groups`.
_MODEL_OR_OPTIMIZER: Final = {"state": "Composer, Demucs"}
# Keys of averaged weights, which lie beside the model's own.
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
# Words in the keys of training state: the optimizer, schedules, random numbers. They belong to no model.
_STATE: Final = frozenset(
    ("opt", "amp", "rng", "callback", "callbacks", "loops", "grad", "scaler", "criterion", "loss")
)
_STATE_STARTS: Final = ("optim", "sched", "random")
_RANDOM: Final = ("rng", "random")
_FIRST: Final = 64  # attributes of an object that are searched for these two
_WORD: Final = re.compile(r"[A-Za-z][a-z]*")


@dataclass(slots=True)
class Chosen:
    """The part that holds the weights: the keys that lead to it, the part, and by name what does not belong to it.

    `averaged` are the names of the parts beside it that are averaged weights. `made` are dicts in the part that are copies
    without the training state in them.
    """

    keys: list[str]
    value: Any
    beside: list[tuple[str, Any]] = field(default_factory=list)
    averaged: list[str] = field(default_factory=list)
    made: list[Dict] = field(default_factory=list)

    def enter(self, key: str, value: Any, among: Dict) -> None:
        """Go into one part, and note the parts beside it."""
        self.leave((name, inner) for name, inner in among.pairs() if name != key)
        self.keys.append(key)
        self.value = value

    def leave(self, parts: Iterable[tuple[Any, Any]]) -> None:
        """Note parts that do not belong to the weights."""
        self.beside += [(".".join((*self.keys, key_text(name))), inner) for name, inner in parts]


def choose(
    value: object,
    holds: Callable[[object], bool],
    held: Callable[[object], Dict | None],
    part: Part | None = None,
    *,
    objects: bool = False,
) -> Chosen:
    """Find the weights in a checkpoint; `holds` tells whether a value leads to a tensor, and `held` what it holds by names.

    `objects` says that the tensors lie in the attributes of objects, so training state is told apart there, too.

    From the top down, go into the only part of a list that holds weights, and follow the one key of MODEL that holds
    tensors, or else the one of EMA, or the one part that is such a checkpoint itself. If there is none, everything but training
    state is weights. With `part`, the averaged
    weights are taken instead of the model's.

    Raises FormatError if averaged weights are asked for, but there are none or several, and LayoutError for a container that
    leads to itself.
    """
    chosen = Chosen([], value)
    taken = False
    above = set[int]()
    while True:
        if id(chosen.value) in above or len(above) > limits().depth:
            raise LayoutError(
                f"the weights are looked for below `{'.'.join(chosen.keys)[:80]}`, which is nested deeper than "
                f"{limits().depth} containers or contains itself"
            )
        above.add(id(chosen.value))
        if not objects and type(chosen.value) in (list, tuple) and _enter_the_only(chosen, holds):
            continue
        if (among := held(chosen.value)) is None:
            break
        model, averaged = (_named(among, table, holds) for table in (MODEL, EMA))
        if not model and "param_groups" not in (key for key in among[::2] if type(key) is str):
            model = _named(among, _MODEL_OR_OPTIMIZER, holds)
        fits = model or averaged
        if part is Part.EMA and averaged and not taken:
            if len(averaged) > 1:
                raise FormatError(
                    f"it holds averaged weights {len(averaged):,} times, below {_listed(averaged)}: {_by_name()}"
                )
            fits, taken = averaged, True
        if not fits and not objects:
            fits = _wrapped(among, holds)
        if len(fits) != 1:
            if among is chosen.value or objects:
                _leave_training_state(chosen, among, holds)
            if not objects:
                chosen.value = _without_training_state(chosen.value, [], chosen, holds, {})
            break
        chosen.averaged += [".".join((*chosen.keys, key)) for key, _ in averaged if key != fits[0][0]]
        chosen.enter(*fits[0], among)
    if part is Part.EMA and not taken:
        raise FormatError(
            f"it holds no averaged weights below any of their usual keys ({', '.join(EMA)}): leave {option('ema')} out, "
            f"or {_by_name()}"
        )
    return chosen


def _enter_the_only(chosen: Chosen, holds: Callable[[object], bool]) -> bool:
    """Go into the one part of a list that holds weights, and return True. If several do, only leave out the optimizers."""
    if not any(map(holds, chosen.value)):
        return False
    tensors = [(str(number), inner) for number, inner in enumerate(chosen.value) if holds(inner)]
    weights = [(key, inner) for key, inner in tensors if not _is_optimizer(inner)]
    if len(weights) == 1 and _is_part(weights[0][1], holds):
        chosen.enter(*weights[0], numbered(chosen.value))
        return True
    if weights and len(weights) < len(tensors):
        among = numbered(chosen.value)
        optimizers = {key for key, inner in tensors if _is_optimizer(inner)}
        chosen.leave((key, inner) for key, inner in among.pairs() if key in optimizers)
        chosen.value = Dict(part for key, inner in among.pairs() if key not in optimizers for part in (key, inner))
    return False


def numbered(parts: Sequence[object]) -> Dict:
    """The parts of a list by their numbers."""
    return Dict(part for number, inner in enumerate(parts) for part in (str(number), inner))


def _named(among: Dict, table: Mapping[str, str], holds: Callable[[object], bool]) -> list[tuple[str, Any]]:
    """The parts that hold tensors and lie below a key of a table."""
    return [
        (key, inner) for key, inner in among.pairs() if type(key) is str and key in table and _is_part(inner, holds)
    ]


def _is_part(value: Any, holds: Callable[[object], bool]) -> bool:
    """Whether a value has names that lead to tensors, or is a list of such values. A list of tensors alone has none."""
    if type(value) in (list, tuple):
        return any(type(inner) in (Dict, Opaque) and holds(inner) for inner in value)
    return type(value) in (Dict, Opaque) and holds(value)


def _wrapped(among: Dict, holds: Callable[[object], bool]) -> list[tuple[str, Any]]:
    """The only part with weights, if it is a checkpoint itself: `{"trainer": {"net": …, "optimizer": …}}`.

    Training state or values must lie beside its weights, or these must have the names of a state dict. A model that is
    saved as nested dicts keeps all of its keys as names.
    """
    fits = ((key, inner) for key, inner in among.pairs() if holds(inner) and not is_training_state(key, inner))
    parts = [*islice(fits, 2)]
    if len(parts) != 1 or type(parts[0][0]) is not str or type(inside := parts[0][1]) is not Dict:
        return []
    found = _named(inside, MODEL, holds) or _named(inside, EMA, holds)
    if len(found) != 1:
        return []
    weights = found[0][1]
    beside = [(key, inner) for key, inner in inside.pairs() if inner is not weights]
    if type(weights) is Opaque or any(not holds(inner) or is_training_state(key, inner) for key, inner in beside):
        return parts
    inner = (_named(weights, MODEL, holds) or [("", weights)])[0][1]
    return parts if type(inner) is Dict and _has_dots(inner, holds) else []


def _has_dots(value: Dict, holds: Callable[[object], bool]) -> bool:
    """Whether a name has a dot, as the names of a state dict have."""
    return any(type(key) is str and "." in key and holds(inner) for key, inner in value.pairs())


def _without_training_state(
    value: Any, keys: list[str], chosen: Chosen, holds: Callable[[object], bool], done: dict[int, Any]
) -> Any:
    """A part of the weights without the training state in dicts and lists below it, up to where a state dict begins.

    What is left out is noted in `chosen`. A part that lies in several places is looked into once, and noted below the first.
    """
    if type(value) not in (Dict, list, tuple) or len(keys) > limits().depth:
        return value
    if id(value) in done:
        return done[id(value)]
    done[id(value)] = value
    among = value if type(value) is Dict else numbered(value)
    if _has_dots(among, holds):
        return value
    kept, changed = Dict(), False
    for key, inner in among.pairs():
        name = [*keys, key_text(key)]
        left = keys and holds(inner) and (_is_state(key, inner) if value is among else _is_optimizer(inner))
        if left:
            chosen.leave([(".".join(name), inner)])
            changed = True
            continue
        found = _without_training_state(inner, name, chosen, holds, done) if holds(inner) else inner
        changed |= found is not inner
        kept += [key, found]
    if changed:
        chosen.made.append(kept)
        done[id(value)] = kept
    return done[id(value)]


def _is_state(key: object, value: object) -> bool:
    return _is_random_state(key, value) if isinstance(value, Tensor) else is_training_state(key, value)


def _by_name() -> str:
    return f"{option('root', 'NAME')} takes the part below a name"


def _listed(parts: list[tuple[str, Any]]) -> str:
    return ", ".join(f"`{key}`" for key, _ in parts)


def _leave_training_state(chosen: Chosen, among: Dict, holds: Callable[[object], bool]) -> None:
    """Set training state apart, unless the part that was chosen has the names of a state dict. `among` is what it holds."""
    pairs = list(among.pairs())
    if _is_optimizer(chosen.value):
        chosen.leave(pairs)
        chosen.value = Dict()
        return
    containers = [(key, inner) for key, inner in pairs if type(inner) in (Dict, list, tuple, Opaque)]
    left = {id(inner) for key, inner in containers if is_training_state(key, inner)}
    if any(type(key) is str and "." in key and holds(inner) for key, inner in pairs if id(inner) not in left):
        return
    # If there are parts, a tensor beside them is a part, too. If there are only tensors, only the states of random generators
    # are told apart by their keys.
    parts = bool(left) or any(type(inner) is Dict and holds(inner) for _, inner in containers)
    state = is_training_state if parts else _is_random_state
    if not parts and all(isinstance(inner, Tensor) for _, inner in pairs):
        return  # names and tensors, and nothing else
    left |= {id(inner) for key, inner in pairs if holds(inner) and state(key, inner)}
    if not left:
        return
    chosen.leave((key, inner) for key, inner in pairs if id(inner) in left)
    chosen.value = Dict(part for key, inner in pairs if id(inner) not in left for part in (key, inner))


def is_training_state(key: object, value: object) -> bool:
    """Whether a part is training state, by its key or because it has the form of an optimizer state."""
    return _is_optimizer(value) or any(word in _STATE or word.startswith(_STATE_STARTS) for word in _words(key))


def _is_random_state(key: object, value: object) -> bool:
    """Whether a tensor is the state of a generator of random numbers: bytes, below a key that says so."""
    return type(value) is Tensor and value.dtype is U8 and any(word.startswith(_RANDOM) for word in _words(key))


def _words(key: object) -> list[str]:
    return [word.lower() for word in _WORD.findall(key[:200])] if type(key) is str else []


def _is_optimizer(value: object) -> bool:
    if type(value) is Opaque and value.state and type(attributes := value.state[-1]) is Dict:  # torch.save(optimizer)
        return {key for key in attributes[: 2 * _FIRST : 2] if type(key) is str} >= OPTIMIZER
    return type(value) is Dict and {key for key in value[: 2 * len(OPTIMIZER) : 2] if type(key) is str} == OPTIMIZER
