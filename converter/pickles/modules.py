"""A whole module, as `torch.save(model)` writes it: what its `state_dict()` would hold, without making the module.

The pickle of a module has its class, which is only named here, and its attributes. torch takes `state_dict()` from four
of the attributes (torch/nn/modules/module.py, `_save_to_state_dict`): `_parameters`, `_buffers` without the names in
`_non_persistent_buffers_set`, and `_modules`, whose state dicts follow under their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from converter.pickles.closed_table import Special
from converter.pickles.values import Dict, Made, Opaque
from converter.text import listed

_PARAMETERS: Final = "_parameters"
_BUFFERS: Final = "_buffers"
_MODULES: Final = "_modules"
_NOT_SAVED: Final = "_non_persistent_buffers_set"
_KEPT_IN: Final = frozenset((_PARAMETERS, _BUFFERS, _MODULES))
_HOOKS: Final = ("_state_dict_hooks", "_state_dict_pre_hooks")  # dicts of functions that state_dict() calls
# Hooks of torch that add the version of a layer to the metadata, and nothing else.
_HARMLESS: Final = frozenset((("torch.nn.utils.spectral_norm", "SpectralNormStateDictHook"),))
# The most that is searched for each object, because a pickle can share one tuple or dict between many objects.
_PLACES: Final = 8  # items of a tuple of states or arguments
_SLOTS: Final = 2  # parts of the state of an object with slots: its attributes, or None, and its slots
_FIRST: Final = 64  # attributes: a module sets those of torch.nn.Module before most of its own
INNER: Final = frozenset(  # attributes that torch.nn.Module itself has, so they say nothing about the model
    (
        *_KEPT_IN, _NOT_SAVED, "training", "call_super_init", "dump_patches", "_backward_pre_hooks", "_backward_hooks",
        "_is_full_backward_hook", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
        "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_version", "_compiled_call_impl", "_backend",
    )
)  # fmt: skip
_READ: Final = frozenset((*_KEPT_IN, _NOT_SAVED, *_HOOKS))
_NEW: Final = "NEWOBJ"  # the opcode that calls a class's `__new__`, so what it makes is an object of that class
# C++ objects among a module's attributes. In torch only those of quantised layers hold weights.
_SCRIPT_OBJECT: Final = ("torch", "ScriptObject")
_QUANTISED: Final = "__torch__.torch.classes.quantized"
# Modules that are pickled as a call of their class with the inner module first, and their name for the inner module.
_WRAPPERS: Final = {("torch._dynamo.eval_frame", "OptimizedModule"): "_orig_mod"}


class Level(NamedTuple):
    """One level of a module's `state_dict()`: parameters, buffers and inner modules, by name and in that order.

    Inner modules are as the pickle holds them. `buffers` are the names of the buffers. `rest` is what the module has besides:
    buffers that are not saved, and attributes such as `in_features`, without those that every torch.nn.Module has. `hooked`
    says that the module has a function that may change what its `state_dict()` gives.
    """

    names: Dict
    buffers: frozenset[str]
    rest: Dict
    hooked: bool = False


def state_dict(value: object) -> Level | None:
    """One level of a module's `state_dict()`. None if the value is not a module."""
    held = _module(value)
    if held is None:
        return None
    parts = {key: inner for key, inner in held.pairs() if type(key) is str and key in _READ}
    if any(type(parts[key]) is not Dict for key in _KEPT_IN):
        return None
    skipped = _names(parts.get(_NOT_SAVED))
    made = Dict()
    for name, parameter in parts[_PARAMETERS].pairs():
        made += [name, parameter] if parameter is not None else []
    rest, buffers = Dict(), set[str]()
    for name, buffer in parts[_BUFFERS].pairs():
        (rest if name in skipped else made).extend([name, buffer] if buffer is not None else [])
        buffers |= {name} if type(name) is str and buffer is not None and name not in skipped else set()
    for name, module in parts[_MODULES].pairs():
        made += [name, module] if module is not None else []
    for key, inner in held.pairs():
        if type(key) is str and (packed := packed_weights(inner)) is not None:
            made += [key, packed]
        elif type(key) is str and key not in INNER:
            rest += [key, inner]
    return Level(made, frozenset(buffers), rest, any(_has_hook(parts.get(key)) for key in _HOOKS))


def hooks_said(modules: Sequence[str]) -> str:
    """The sentence about modules with a hook, which are named by their paths, or by the class of the outermost one."""
    have = "has a hook" if len(modules) == 1 else "have hooks"
    return (
        f"{listed(modules)} {have} that may rename, add or leave out what state_dict() gives, and hooks are never called: "
        "compare the names with those that torch gives"
    )


def packed_weights(value: object) -> Special | None:
    """The weights of a quantised layer, which one engine of torch has packed; None if the value is anything else."""
    if type(value) is not Opaque or value.args is None:
        return None
    if (value.module, value.name) != _SCRIPT_OBJECT and value.module != _QUANTISED:
        return None
    return Special("quantised", f"{value.module}.{value.name}", (value.args, value.state))


def attributes(value: object) -> Dict | None:
    """The attributes that BUILD sets on an object made by its class; None if they are not known."""
    if type(value) is not Opaque or value.args is None or not value.state:
        return None
    state = value.state[-1]
    return state if type(state) is Dict else None


def contents(value: object) -> Dict | None:
    """All that an object of any class holds: what was put into it, its attributes and slots, and what its `__new__` was given.

    What was put in is named by its key or position, an attribute by its name; one that has the name of a key is called
    `__dict__.NAME`. None if it holds nothing, or if a function made it: only that function knows what it does with its arguments.
    """
    if not isinstance(value, Made) or value.args is None or not (value.args or value.items or value.state):
        return None  # first of all, because empty sets are cheap to make: one takes one byte of a pickle
    made = Dict()
    if type(value) is Opaque and value.how == _NEW and type(value.args) is tuple:
        made += [part for pair in enumerate(value.args) for part in pair]
    if type(value.items) is Dict:
        made += value.items
    elif value.items:
        made += [part for pair in enumerate(value.items) for part in pair]
    state = value.state[-1] if value.state else None
    parts = [
        part for part in (state if type(state) is tuple and len(state) == _SLOTS else (state,)) if part is not None
    ]
    found = [pair for part in parts if type(part) is Dict for pair in part.pairs()]
    if any(type(part) is not Dict for part in parts):
        return Dict([*made, "__setstate__", state])  # the state from which a method of the class makes attributes
    held = {key: id(inner) for key, inner in made.pairs() if type(key) is str}
    for key, inner in found:
        if type(key) is not str or key not in held:
            made += [key, inner]
        elif held[key] != id(inner):
            made += [f"__dict__.{key}", inner]
    return made or None


def items(value: object) -> Dict | None:
    """The items of an object whose class is a subclass of dict; None if no keys and values were put into the value."""
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


def _has_hook(value: object) -> bool:
    """Whether a module's dict of hooks holds one that may change its state dict."""
    return type(value) is Dict and any(
        type(hook) is not Opaque or (hook.module, hook.name) not in _HARMLESS for _, hook in value.pairs()
    )


def _names(value: object) -> frozenset[str]:
    """The texts in a set, which a pickle writes as set([…]) or as an empty set that it fills."""
    if not isinstance(value, Made):
        return frozenset()
    lists = (value.args, *(value.args if type(value.args) is tuple else ()), value.items)
    return frozenset(name for part in lists if type(part) is list for name in part if type(name) is str)
