"""A storage of six floats, and what torch writes to make tensors of it: the functions and a call of one."""

from __future__ import annotations

from tests.build.checkpoints import Call, Global, Persistent, floats

SIX = {"0": floats(0, 1, 2, 3, 4, 5)}
FLOATS = Persistent(("storage", Global("torch", "FloatStorage"), "0", "cpu", 6))
BYTES = Persistent(("storage", Global("torch.storage", "UntypedStorage"), "0", "cpu", 24))
HOOKS = Call(Global("collections", "OrderedDict"))
V2 = Global("torch._utils", "_rebuild_tensor_v2")
V3 = Global("torch._utils", "_rebuild_tensor_v3")
PARAMETER = Global("torch._utils", "_rebuild_parameter")
WITH_STATE = Global("torch._utils", "_rebuild_parameter_with_state")
FROM_TYPE = Global("torch._tensor", "_rebuild_from_type_v2")
KIND = Global("torch.nn.parameter", "Parameter")
TENSOR_ARGUMENTS = (FLOATS, 1, (2, 2), (2, 1), False, HOOKS)
TENSOR = Call(V2, TENSOR_ARGUMENTS)
