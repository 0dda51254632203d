"""GPT-2's forward pass in numpy, one layer at a time, over any catalogue with GPT-2's names.

It follows transformers' modeling_gpt2.py in float32. A weight is read when its layer needs it, and dropped after the
product, so a pass needs the memory of one matrix and its activations, however large the model is. BLAS gets matrices
with the strides that they have; a transposed view and a row-major matrix give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from converter.dtypes import BF16, F16, F32, F64
from converter.errors import ModelError, UnsupportedError
from converter.inference.activations import GELU
from converter.models import recognition as models
from converter.models.architecture import Activation
from converter.models.family import Family
from converter.tensors import casting as numbers
from converter.tensors.catalogue import Catalogue
from converter.tensors.tensor import Tensor

Floats = NDArray[np.float32]

_HEAD: Final = 32 << 20  # bytes of the output head that are read at a time
_GUESSED: Final = 7  # tokens that generation tries ahead
_QUERIES: Final = 128  # rows of attention scores at a time: with 2,048 keys they take 1 MiB
# Elements. OpenBLAS has special kernels for products of up to 10⁶ multiplications (interface/gemm.c, SkylakeX), whose
# rounding depends on the layout. With two rows or more, only matrices below this size reach them. These are copied into
# one layout, which costs nothing at that size.
_SMALL: Final = 1 << 20


class Gpt2:
    """The model that a catalogue holds. `config` replaces the catalogue's own, and `activation` that of the config.

    `resident` is how many bytes of weights generation keeps between its steps; by default as many as the embeddings and
    a layer take.

    Building it raises ModelError for a catalogue that is not a complete GPT-2 or contradicts its config.json, and
    UnsupportedError for a configuration or a dtype that this engine does not compute.
    """

    name = "numpy"
    log_probabilities = False

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        config: Mapping[str, Any] | None = None,
        activation: Activation | None = None,
        resident: int | None = None,
    ) -> None:
        config = catalogue.config if config is None else config
        found = _recognised(catalogue, config)
        if config is None:
            config = found.model.config if found.model else {}
        self.family = found.family
        settings = _settings(self.family, config, catalogue.location)
        sizes = found.sizes
        if "n_head" not in sizes:
            raise ModelError(
                f"`{catalogue.location}` does not tell how many heads it has: put its config.json beside it"
            )
        self.location = catalogue.location
        own = _activation(self.family, settings, catalogue.location)
        self.activation: Activation = activation or own
        self.n_layer, self.n_head, self.n_embd = sizes["n_layer"], sizes["n_head"], sizes["n_embd"]
        self.n_positions, self.vocab_size = sizes["n_positions"], sizes["vocab_size"]
        self._epsilon = np.float32(settings["layer_norm_epsilon"])
        self._scaled = settings["scale_attn_weights"]
        self._by_layer = settings["scale_attn_by_inverse_layer_idx"]
        self._catalogue, self._prefix = catalogue, found.prefix
        self._wte = catalogue[f"{found.prefix}wte.weight"]
        self._head = self._wte
        if found.tied_head == "untied":
            self._head = catalogue["lm_head.weight"]
        elif not settings["tie_word_embeddings"] and found.tied_head == "absent":
            raise ModelError(
                f"`{catalogue.location}` has no `lm_head.weight`, and its config.json says that `tie_word_embeddings` "
                "is false"
            )
        self._resident = self._embeddings_and_layer() if resident is None else resident
        for name, tensor in catalogue.items():
            if (
                name not in found.buffers
                and name not in found.unexpected
                and not numbers.can_convert(tensor.dtype, F32)
            ):
                raise UnsupportedError(f"`{name}` is {tensor.dtype.name}: expected floating-point weights")

    def logits(self, tokens: ArrayLike) -> Floats:
        """The logits of all positions: [tokens] → [tokens, vocabulary], [batch, tokens] → [batch, …]."""
        ids = self._checked(np.asarray(tokens))
        batch = ids.reshape(-1, ids.shape[-1])
        weights = _Weights(self._catalogue, self._prefix, room=0)
        with np.errstate(all="ignore"):
            hidden = self._hidden(batch, weights, None)
            return self._projected(hidden, weights).reshape(*ids.shape, self.vocab_size)

    def greedy(self, tokens: Sequence[int], count: int) -> list[int]:
        """The `count` tokens that follow, each the likeliest after those before it; of equally likely ones the lowest.

        A pass has to read all weights that are not resident, whether it is for one token or for eight. So we guess: the
        tokens that followed the last token where it occurred before are computed in the same pass, and kept as far as
        the model would have chosen them itself.
        """
        ids = self._checked(np.asarray(tokens)).tolist()
        if len(ids) + count > self.n_positions:
            raise ModelError(
                f"{len(ids)} tokens and {count} more are too many for `{self.location}`: it has "
                f"{self.n_positions} positions"
            )
        weights = _Weights(self._catalogue, self._prefix, room=self._resident)
        past = _Past(np.empty((self.n_layer, 2, len(ids) + count, self.n_embd), np.float32))
        end = len(ids) + count
        with np.errstate(all="ignore"):
            while len(ids) < end:
                guess = _guess(ids, end - len(ids) - 1)
                new = np.asarray([*ids[past.length :], *guess])[None]
                hidden = self._hidden(new, weights, past)[-1 - len(guess) :]
                choices = self._projected(hidden, weights).argmax(-1).tolist()
                right = next((n for n, token in enumerate(guess) if token != choices[n]), len(guess))
                past.length = len(ids) + right
                ids += choices[: right + 1]
        return ids[-count:] if count else []

    def _embeddings_and_layer(self) -> int:
        """The bytes that they take as float32."""
        names = [name for name in self._catalogue if name.startswith(f"{self._prefix}h.0.")]
        tensors = {self._wte, self._head, self._catalogue[f"{self._prefix}wpe.weight"]}
        return sum(tensor.size * F32.itemsize for tensor in (*tensors, *map(self._catalogue.__getitem__, names)))

    def _checked(self, tokens: NDArray[Any]) -> NDArray[Any]:
        if tokens.ndim not in {1, 2} or not tokens.size or tokens.dtype.kind not in "iu":
            raise ModelError(
                f"expected token ids, a list of whole numbers: found {tokens.dtype} of shape {tokens.shape}"
            )
        if tokens.shape[-1] > self.n_positions:
            raise ModelError(
                f"{tokens.shape[-1]} tokens are too many for `{self.location}`: it has {self.n_positions} positions"
            )
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ModelError(
                f"token {wrong} is not in the vocabulary of `{self.location}`, which has {self.vocab_size}"
            )
        return tokens

    def _hidden(self, ids: NDArray[Any], weights: _Weights, past: _Past | None) -> Floats:
        """[batch, tokens] → [batch · tokens, n_embd], after the last norm. With a past, `ids` continue from its end."""
        first = past.length if past else 0
        x = self._embedded(ids, weights, first)
        for layer in range(self.n_layer):
            self._attend(x, ids.shape, weights, layer, past)
            y = self._normed(x, weights, f"h.{layer}.ln_2")
            y = weights.dense(y, f"h.{layer}.mlp.c_fc")  # [rows, n_inner]
            GELU[self.activation](y)
            x += weights.dense(y, f"h.{layer}.mlp.c_proj")
        return self._normed(x, weights, "ln_f")

    def _embedded(self, ids: NDArray[Any], weights: _Weights, first: int) -> Floats:
        unique, where = np.unique(ids, return_inverse=True)
        wte = np.concatenate([_floats(self._wte.rows(token, token + 1)) for token in unique.tolist()])
        wpe = _floats(weights["wpe.weight"].rows(first, first + ids.shape[1]))
        x: Floats = wte[where.reshape(ids.shape)] + wpe
        return x.reshape(-1, self.n_embd)

    def _attend(self, x: Floats, shape: tuple[int, ...], weights: _Weights, layer: int, past: _Past | None) -> None:
        """Add a layer's attention to x."""
        y = self._normed(x, weights, f"h.{layer}.ln_1")
        qkv = weights.dense(y, f"h.{layer}.attn.c_attn").reshape(*shape, 3, self.n_embd)
        qkv[:, :, 0] *= self._attention_scale(layer)
        for batch, out in zip(qkv, y.reshape(*shape, self.n_embd), strict=True):
            query, key, value = batch.swapaxes(0, 1)  # each [tokens, n_embd], the heads side by side
            if past:
                key, value = past.extended(layer, key, value)
            _attention(query, key, value, self.n_head, out)
        x += weights.dense(y, f"h.{layer}.attn.c_proj")

    def _attention_scale(self, layer: int) -> np.float32:
        scale = 1.0
        if self._scaled:
            scale /= math.sqrt(self.n_embd // self.n_head)
        if self._by_layer:
            scale /= layer + 1
        return np.float32(scale)

    def _normed(self, x: Floats, weights: _Weights, name: str) -> Floats:
        return layer_norm(x, weights.array(f"{name}.weight"), weights.array(f"{name}.bias"), self._epsilon)

    def _projected(self, x: Floats, weights: _Weights) -> Floats:
        """[rows, n_embd] → [rows, vocabulary]; the head is read in pieces."""
        logits = np.empty((len(x), self.vocab_size), np.float32)
        step = max(1, _HEAD // (4 * self.n_embd))
        for start in range(0, self.vocab_size, step):
            stop = min(start + step, self.vocab_size)
            piece = weights.kept(f"head {start}", self._head.rows(start, stop), lent=True)
            np.matmul(x, piece.T, out=logits[:, start:stop])
        return logits


def layer_norm(x: Floats, weight: Floats, bias: Floats, epsilon: np.float32) -> Floats:
    """Normalise the last axis; the variance is the biased one."""
    y: Floats = x - x.mean(-1, keepdims=True, dtype=np.float32)
    y /= np.sqrt(np.square(y).mean(-1, keepdims=True, dtype=np.float32) + epsilon)
    y *= weight
    y += bias
    return y


def _attention(query: Floats, key: Floats, value: Floats, n_head: int, out: Floats) -> None:
    """Causal attention: [new, n_embd] and twice [all, n_embd] → [new, n_embd]. The new tokens are the last of all."""
    new, first, width = len(query), len(key) - len(query), query.shape[1] // n_head
    rows = min(_QUERIES, new)
    future = np.triu(np.full((rows, rows), -np.inf, np.float32), 1)
    for start in range(0, new, _QUERIES):
        stop = min(start + _QUERIES, new)
        seen = first + stop
        for head in range(n_head):
            part = slice(head * width, (head + 1) * width)
            scores = query[start:stop, part] @ key[:seen, part].T  # [queries, seen]
            scores[:, first + start :] += future[: stop - start, : stop - start]
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            out[start:stop, part] = (scores @ value[:seen, part]) / scores.sum(-1, keepdims=True)


@dataclass(slots=True)
class _Past:
    """The keys and values of the first `length` positions: [layer, 2, positions, n_embd]."""

    keys_values: Floats
    length: int = 0

    def extended(self, layer: int, key: Floats, value: Floats) -> tuple[Floats, Floats]:
        """Store a layer's new keys and values after the first `length`, and return all of them."""
        end = self.length + len(key)
        keys, values = self.keys_values[layer, :, :end]
        keys[self.length :], values[self.length :] = key, value
        return keys, values


class _Weights:
    """A catalogue's tensors by their bare names, as float32. The first that are used stay in memory, up to `room` bytes."""

    def __init__(self, catalogue: Catalogue, prefix: str, *, room: int) -> None:
        self._catalogue, self._prefix, self._room = catalogue, prefix, room
        self._kept: dict[str, Floats] = {}
        self._lent = bytearray()

    def __getitem__(self, name: str) -> Tensor:
        return self._catalogue[self._prefix + name]

    def array(self, name: str) -> Floats:
        return self.kept(name, self[name])

    def dense(self, x: Floats, name: str) -> Floats:
        """[rows, in] → [rows, out], by the matrix [in, out] and the bias."""
        y: Floats = np.matmul(x, self.kept(f"{name}.weight", self[f"{name}.weight"], lent=True))
        y += self.array(f"{name}.bias")
        return y

    def kept(self, key: str, tensor: Tensor, *, lent: bool = False) -> Floats:
        """The tensor, which stays in memory if there is room. A `lent` one is valid until the next is asked for."""
        array = self._kept.get(key)
        if array is not None:
            return array
        nbytes = tensor.size * F32.itemsize
        if nbytes <= self._room:
            self._room -= nbytes
            self._kept[key] = array = _floats(tensor)
            return array
        if not lent:
            return _floats(tensor)
        if len(self._lent) < nbytes:
            self._lent = bytearray(nbytes)
        return _floats(tensor, self._lent)


def _guess(ids: list[int], most: int) -> list[int]:
    """The tokens that followed the last token where it occurred before."""
    before = next((index for index in range(len(ids) - 2, -1, -1) if ids[index] == ids[-1]), None)
    if before is None:
        return []
    period = len(ids) - 1 - before
    return [ids[before + 1 + step % period] for step in range(min(most, _GUESSED))]


def _recognised(catalogue: Catalogue, config: Mapping[str, Any] | None) -> models.Recognition:
    found = models.recognise(catalogue, config)
    if found is None or found.family.engine() != "numpy-gpt2":
        raise ModelError(f"`{catalogue.location}` is not a GPT-2: inference is for Cerebras-GPT and models like it")
    if found.missing:
        raise ModelError(f"`{catalogue.location}` lacks `{found.missing[0]}`: inference needs every parameter")
    for wrong in found.mismatched:
        raise ModelError(f"`{wrong.name}`: expected the shape {wrong.expected}, found {wrong.found}")
    for contradiction in found.contradictions:
        raise ModelError(f"`{catalogue.location}` can't be computed: {contradiction}")
    return found


def _settings(family: Family, config: Mapping[str, Any], location: str) -> dict[str, Any]:
    settings = {known.name: config.get(known.name, known.default) for known in family.settings}
    for known in family.settings:
        value = settings[known.name]
        if type(known.default) is bool and type(value) is not bool:
            raise ModelError(
                f"the config.json of `{location}` says `{known.name}` is {value!r}: expected true or false"
            )
    epsilon = settings["layer_norm_epsilon"]
    if type(epsilon) not in {int, float} or not 0 <= epsilon < 1:
        raise ModelError(
            f"the config.json of `{location}` says `layer_norm_epsilon` is {epsilon!r}: expected about 1e-05"
        )
    return settings


def _activation(family: Family, settings: Mapping[str, Any], location: str) -> Activation:
    found = family.activation_of(settings)
    if found is None:
        names = [name for names in (family.activation.names.values() if family.activation else ()) for name in names]
        raise UnsupportedError(
            f"the config.json of `{location}` says `activation_function` is {settings['activation_function']!r}: "
            f"expected one of {', '.join(names)}"
        )
    return found


def _floats(tensor: Tensor, buffer: bytearray | None = None) -> Floats:
    """Read a tensor as float32, into `buffer` if it fits. It keeps its strides unless it is small."""
    array = tensor.array(buffer)
    if tensor.dtype == BF16:
        array = (array.astype(np.uint32) << 16).view(np.float32)
    elif tensor.dtype in {F64, F32, F16}:
        array = array.astype(np.float32, copy=False)
    else:
        array = numbers.values(tensor.dtype)[array]
    floats: Floats = array.copy(order="C") if array.size < _SMALL and not array.flags.c_contiguous else array
    return floats
