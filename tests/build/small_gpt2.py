"""A GPT-2 small enough to write down, with weights that are the same float32 numbers on every machine."""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.dtypes import BY_NAME, F32, Dtype
from converter.io.source import Memory
from converter.tensors.catalogue import Catalogue, File, Origin
from converter.tensors.tensor import Storage, Tensor

CONFIG: Final[dict[str, Any]] = {
    "model_type": "gpt2",
    "n_embd": 8,
    "n_layer": 2,
    "n_head": 2,
    "n_inner": 20,
    "n_positions": 12,
    "vocab_size": 17,
    "activation_function": "gelu",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}
TOKENS: Final = (3, 14, 15, 9, 2, 6, 5, 16, 0, 3)


def weights(config: Mapping[str, Any] = CONFIG, *, head: bool = False) -> dict[str, NDArray[np.float32]]:
    """The state dict with bare names; `head` adds one that is not tied."""
    width, inner, vocabulary = config["n_embd"], config["n_inner"], config["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (vocabulary, width),
        "wpe.weight": (config["n_positions"], width),
    }
    for layer in range(config["n_layer"]):
        for name, shape in {
            "ln_1.weight": (width,),
            "ln_1.bias": (width,),
            "attn.c_attn.weight": (width, 3 * width),
            "attn.c_attn.bias": (3 * width,),
            "attn.c_proj.weight": (width, width),
            "attn.c_proj.bias": (width,),
            "ln_2.weight": (width,),
            "ln_2.bias": (width,),
            "mlp.c_fc.weight": (width, inner),
            "mlp.c_fc.bias": (inner,),
            "mlp.c_proj.weight": (inner, width),
            "mlp.c_proj.bias": (width,),
        }.items():
            shapes[f"h.{layer}.{name}"] = shape
    shapes |= {"ln_f.weight": (width,), "ln_f.bias": (width,)}
    if head:
        shapes["lm_head.weight"] = (vocabulary, width)
    state, first = {}, 1
    for name, shape in shapes.items():
        size = int(np.prod(shape))
        # SplitMix64 of a running number, in steps of 2^-14 from -2 to 2: exact in float32.
        bits = np.arange(first, first + size, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        steps = (bits >> np.uint64(48)).astype(np.float32)
        state[name] = (steps / np.float32(1 << 14) - np.float32(2)).reshape(shape)
        if name.endswith("bias") or "ln_" not in name:
            state[name] *= np.float32(0.25 if name.endswith("bias") else 0.5)  # else one token is always likeliest
        first += size
    return state


def catalogue(
    state: Mapping[str, NDArray[Any]],
    config: Mapping[str, Any] | None = CONFIG,
    *,
    prefix: str = "",
    transposed: bool = False,
    dtypes: Mapping[str, str] | None = None,
) -> Catalogue:
    """The arrays as a checkpoint: `transposed` stores the layers' matrices as [out, in], as the published files do."""
    tensors = {}
    for name, array in state.items():
        dtype = BY_NAME[(dtypes or {}).get(name, F32.name)]
        full = name if name.startswith("lm_head") else prefix + name
        if transposed and name.startswith("h.") and array.ndim == 2:
            tensors[full] = _tensor(array.T, dtype, full).t()
        else:
            tensors[full] = _tensor(array, dtype, full)
    return Catalogue(tensors, Origin("memory", "memory", (File("memory", 0),), config=config))


def _tensor(array: NDArray[Any], dtype: Dtype, name: str) -> Tensor:
    data = np.ascontiguousarray(array).tobytes()
    stride = tuple(int(np.prod(array.shape[axis + 1 :])) for axis in range(array.ndim))
    return Tensor(dtype, array.shape, stride, 0, Storage(Memory(data), 0, len(data), name))
