"""A whole module, as `torch.save(model)` writes it: what its `state_dict()` would hold, without making the module.

The pickle of a module has its class, which is only named here, and its attributes. torch takes `state_dict()` from four
of the attributes (torch/nn/modules/module.py, `_save_to_state_dict`): `_parameters`, `_buffers` without the names in
`_non_persistent_buffers_set`, and `_modules`, whose state dicts follow under their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any, Final, NamedTuple

from converter.pickles.closed_table import Special
from converter.pickles.values import Dict, Made, Opaque

_PARAMETERS: Final = "_parameters"
_BUFFERS: Final = "_buffers"
_MODULES: Final = "_modules"
_NOT_SAVED: Final = "_non_persistent_buffers_set"
_KEPT_IN: Final = frozenset((_PARAMETERS, _BUFFERS, _MODULES))
# The most that is searched for each object, because a pickle can share one tuple or dict between many objects.
_PLACES: Final = 8  # items of a tuple of states or arguments
_FIRST: Final = 64  # attributes: a module sets those of torch.nn.Module before most of its own
_INNER: Final = frozenset(  # attributes that torch.nn.Module itself has, so they say nothing about the model
    (
        *_KEPT_IN, _NOT_SAVED, "training", "call_super_init", "dump_patches", "_backward_pre_hooks", "_backward_hooks",
        "_is_full_backward_hook", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
        "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_version", "_compiled_call_impl", "_backend",
    )
)  # fmt: skip
# Objects of C++ among a module's attributes. In torch, those of quantised layers alone have weights.
_SCRIPT_OBJECT: Final = ("torch", "ScriptObject")
_QUANTISED: Final = "__torch__.torch.classes.quantized"
# Modules whose pickle calls the class with the inner module first, and the name that they have for it.
_WRAPPERS: Final = {("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod"}


class Level(NamedTuple):
    """One level of a module's `state_dict()`: parameters, buffers and inner modules, by name and in that order.

    Inner modules are as the pickle holds them. `buffers` are the names of the buffers.
    """

    names: Dict
    buffers: frozenset[str]


def state_dict(value: object) -> Level | None:
    """One level of a module's `state_dict()`. None if the value is not a module."""
    held = _module(value)
    if held is None:
        return None
    parts = {key: inner for key, inner in held.pairs() if type(key) is str and (key in _KEPT_IN or key == _NOT_SAVED)}
    if any(type(parts[key]) is not Dict for key in _KEPT_IN):
        return None
    skipped = _names(parts.get(_NOT_SAVED))
    made = Dict()
    for name, parameter in parts[_PARAMETERS].pairs():
        made += [name, parameter] if parameter is not None else []
    buffers = [(name, buffer) for name, buffer in parts[_BUFFERS].pairs() if buffer is not None and name not in skipped]
    for name, buffer in buffers:
        made += [name, buffer]
    for name, module in parts[_MODULES].pairs():
        made += [name, module] if module is not None else []
    for key, inner in held.pairs():
        made += [key, packed] if type(key) is str and (packed := packed_weights(inner)) is not None else []
    return Level(made, frozenset(name for name, _ in buffers if type(name) is str))


def packed_weights(value: object) -> Special | None:
    """The weights of a quantised layer, which one engine of torch has packed; None if the value is anything else."""
    if type(value) is not Opaque or value.args is None:
        return None
    if (value.module, value.name) != _SCRIPT_OBJECT and value.module != _QUANTISED:
        return None
    return Special("quantised", f"{value.module}.{value.name}", (value.args, value.state))


def settings(value: object) -> Iterator[tuple[str, Any]]:
    """A module's own attributes, such as `in_features`, without those that every torch.nn.Module has."""
    for key, inner in (_module(value) or Dict()).pairs():
        if type(key) is str and key not in _INNER:
            yield key, inner


def attributes(value: object) -> Dict | None:
    """The attributes that BUILD sets on an object made by its class; None if they are not known."""
    if type(value) is not Opaque or value.args is None or not value.state:
        return None
    state = value.state[-1]
    return state if type(state) is Dict else None


def items(value: object) -> Dict | None:
    """What a dict of a class of its own holds; None for a value into which no keys and values were put."""
    return value.items if type(value) is Opaque and type(value.items) is Dict else None


def _module(value: object) -> Dict | None:
    """A module's attributes: what BUILD sets, or a part of that, or an argument of the function that makes the module."""
    if type(value) is not Opaque or value.args is None:
        return None
    state = value.state[-1] if value.state else None
    parts = [state]
    for given in (state, value.args):
        parts += given[:_PLACES] if type(given) is tuple else ()
    for part in parts:
        if type(part) is Dict and _has_parts(part):
            return part
    at = _WRAPPERS.get((value.module, value.name))
    if at is not None and type(value.args) is tuple and value.args and _module(value.args[0]) is not None:
        return Dict([_PARAMETERS, Dict(), _BUFFERS, Dict(), _MODULES, Dict([at, value.args[0]])])
    return None


def _has_parts(attributes: Dict) -> bool:
    """Whether they have the three dicts that every torch.nn.Module keeps its state dict in."""
    first = islice(attributes.pairs(), _FIRST)
    kept = {key for key, inner in first if type(key) is str and key in _KEPT_IN and type(inner) is Dict}
    return len(kept) == len(_KEPT_IN)


def _names(value: object) -> frozenset[str]:
    """The texts in a set, which a pickle writes as set([…]) or as an empty set that it fills."""
    if not isinstance(value, Made):
        return frozenset()
    lists = (value.args, *(value.args if type(value.args) is tuple else ()), value.items)
    return frozenset(name for part in lists if type(part) is list for name in part if type(name) is str)
