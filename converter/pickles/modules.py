"""A whole module, as `torch.save(model)` writes it: what its `state_dict()` would hold, without making the module.

The pickle of a module has its class, which is only named here, and its attributes. torch takes `state_dict()` from four
of the attributes (torch/nn/modules/module.py, `_save_to_state_dict`): `_parameters`, `_buffers` without the names in
`_non_persistent_buffers_set`, and `_modules`, whose state dicts follow under their names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from converter.pickles.values import Dict, Opaque

_PARAMETERS: Final = "_parameters"
_BUFFERS: Final = "_buffers"
_MODULES: Final = "_modules"
_NOT_SAVED: Final = "_non_persistent_buffers_set"
_KEPT_IN: Final = frozenset((_PARAMETERS, _BUFFERS, _MODULES))
_INNER: Final = frozenset(  # attributes that torch.nn.Module itself has, so they say nothing about the model
    (
        *_KEPT_IN, _NOT_SAVED, "training", "call_super_init", "dump_patches", "_backward_pre_hooks", "_backward_hooks",
        "_is_full_backward_hook", "_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
        "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks",
        "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks", "_version", "_compiled_call_impl", "_backend",
    )
)  # fmt: skip


def state_dict(value: object) -> Dict | None:
    """One level of a module's `state_dict()`: parameters, buffers and inner modules, by name and in that order.

    Inner modules are returned as the pickle holds them. None if the value is not a module.
    """
    attributes = _attributes(value)
    if attributes is None:
        return None
    parts = {key: inner for key, inner in attributes if type(key) is str and (key in _KEPT_IN or key == _NOT_SAVED)}
    if not parts.keys() >= _KEPT_IN or any(type(parts[key]) is not Dict for key in _KEPT_IN):
        return None
    skipped = _names(parts.get(_NOT_SAVED))
    made = Dict()
    for name, parameter in parts[_PARAMETERS].pairs():
        made += [name, parameter] if parameter is not None else []
    for name, buffer in parts[_BUFFERS].pairs():
        made += [name, buffer] if buffer is not None and name not in skipped else []
    for name, module in parts[_MODULES].pairs():
        made += [name, module] if module is not None else []
    return made


def settings(value: object) -> Iterator[tuple[str, Any]]:
    """A module's own attributes, such as `in_features`, without those that every torch.nn.Module has."""
    for key, inner in _attributes(value) or ():
        if type(key) is str and key not in _INNER:
            yield key, inner


def _attributes(value: object) -> Iterator[tuple[Any, Any]] | None:
    """The attributes that BUILD sets on an object made by its class; None if they are not known."""
    if type(value) is not Opaque or value.args is None or not value.state:
        return None
    state = value.state[-1]
    return state.pairs() if type(state) is Dict else None


def _names(value: object) -> frozenset[str]:
    """The texts in a set, which a pickle writes as set([…]) or as an empty set that it fills."""
    if not isinstance(value, Opaque):
        return frozenset()
    lists = (value.args, *(value.args if type(value.args) is tuple else ()), value.items)
    return frozenset(name for part in lists if type(part) is list for name in part if type(name) is str)
