"""The forward pass of decoders in numpy, one layer at a time, over any catalogue whose family says what is computed.

It follows transformers in float32. Tensors are found by their names in GGUF, and lie as they do there. A weight is read
when its layer needs it, and dropped after the product, so a pass needs the memory of one matrix and its activations,
however large the model is. BLAS gets matrices with the strides that they have; a transposed view and a row-major matrix
give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from converter.dtypes import F32
from converter.errors import ModelError, UnsupportedError
from converter.inference.activations import ACTIVATIONS
from converter.inference.attention import attention, layer_norm, rms_norm
from converter.inference.configured import INWARD, OUTWARD, configured
from converter.inference.positions import Rotary, sinusoids, slopes
from converter.inference.weights import Floats, Weights, floats
from converter.inference.work import pass_work
from converter.models.architecture import Activation
from converter.steps import at, follower
from converter.tensors.casting import can_convert
from converter.tensors.catalogue import Catalogue
from converter.text import plural

_HEAD: Final = 32 << 20  # bytes of the output head that are read at a time
_GUESSED: Final = 7  # tokens that generation tries ahead


class Decoder:
    """The model that a catalogue holds. `config` replaces the catalogue's own, and `activation` that of the config.

    `resident` is how many bytes of weights generation keeps between its steps; by default as many as the embeddings and
    a layer take.

    Building it raises ModelError for a catalogue that is not a complete model or contradicts its config.json, and
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
        known = configured(catalogue, config)
        self.family, self.location = known.family, catalogue.location
        self.activation: Activation = activation or known.activation
        self.n_layer, self.n_embd = known.n_layer, known.n_embd
        self.n_positions, self.vocab_size = known.n_positions, known.vocab_size
        self._known, self._catalogue = known, catalogue
        forward = known.forward
        self._rotary = Rotary(forward.rotary, known) if forward.rotary is not None else None
        self._slopes = slopes(known.n_head) if forward.positions == "alibi" else None
        self._work = pass_work(catalogue) / self.n_layer
        self._resident = self._embeddings_and_layer() if resident is None else resident
        found = known.recognition
        for name, tensor in catalogue.items():
            if name not in found.buffers and name not in found.unexpected and not can_convert(tensor.dtype, F32):
                raise UnsupportedError(f"`{name}` is {tensor.dtype.name}: expected floating-point weights")

    def logits(self, tokens: ArrayLike) -> Floats:
        """The logits of all positions: [tokens] → [tokens, vocabulary], [batch, tokens] → [batch, …]."""
        ids = self._checked(np.asarray(tokens))
        batch = ids.reshape(-1, ids.shape[-1])
        weights = Weights(self._catalogue, self._known.rows, room=0)
        at(f"computing {plural(ids.size, 'token')}")
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
                f"{plural(len(ids), 'token')} and {count} more are too many for `{self.location}`: it has "
                f"{plural(self.n_positions, 'position')}"
            )
        weights = Weights(self._catalogue, self._known.rows, room=self._resident)
        kept = self._known.n_kv * self._known.head_size
        past = _Past(np.empty((self.n_layer, 2, len(ids) + count, kept), np.float32))
        end = len(ids) + count
        with np.errstate(all="ignore"):
            while len(ids) < end:
                at(f"computing token {count - (end - len(ids)) + 1} of {count}")
                guess = _guess(ids, end - len(ids) - 1)
                new = np.asarray([*ids[past.length :], *guess])[None]
                hidden = self._hidden(new, weights, past)[-1 - len(guess) :]
                choices = self._projected(hidden, weights).argmax(-1).tolist()
                right = next((n for n, token in enumerate(guess) if token != choices[n]), len(guess))
                past.length = len(ids) + right
                ids += choices[: right + 1]
                follower().worked(right * self.n_layer * self._work)
        return ids[-count:] if count else []

    def _embeddings_and_layer(self) -> int:
        """The bytes that they take as float32."""
        rows = self._known.rows.values()
        return sum(self._catalogue[name].size * F32.itemsize for name, row in rows if row.layer in (None, 0))

    def _checked(self, tokens: NDArray[Any]) -> NDArray[Any]:
        if tokens.ndim not in {1, 2} or not tokens.size or tokens.dtype.kind not in "iu":
            raise ModelError(
                f"expected token ids, a list of whole numbers: found {tokens.dtype} of shape {tokens.shape}"
            )
        if tokens.shape[-1] > self.n_positions:
            raise ModelError(
                f"{tokens.shape[-1]:,} tokens are too many for `{self.location}`: it has {plural(self.n_positions, 'position')}"
            )
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            wrong = tokens.min() if tokens.min() < 0 else tokens.max()
            raise ModelError(
                f"token {wrong} is not in the vocabulary of `{self.location}`, which has {self.vocab_size}"
            )
        return tokens

    def _hidden(self, ids: NDArray[Any], weights: Weights, past: _Past | None) -> Floats:
        """[batch, tokens] → [batch · tokens, the head's width], after the last norm. With a past, `ids` go on from its end."""
        first = past.length if past else 0
        x = self._embedded(ids, weights, first)
        for layer in range(self.n_layer):
            block = f"blk.{layer}."
            y = self._normed(x, weights, f"{block}attn_norm") if self._known.before else x
            attended = self._attended(y, ids.shape, weights, layer, past)
            if not self._known.parallel:
                x += attended
            if not self._known.before:
                x = y = self._normed(x, weights, f"{block}attn_norm")
            elif not self._known.parallel or f"{block}ffn_norm.weight" in weights:
                y = self._normed(x, weights, f"{block}ffn_norm")
            if self._known.parallel:
                x += attended
            x += self._fed_forward(y, weights, block)
            if not self._known.before:
                x = self._normed(x, weights, f"{block}ffn_norm")
            follower().worked(self._work)
        if self._known.before:
            x = self._normed(x, weights, "output_norm")
        return weights.dense(x, OUTWARD) if self._known.narrow else x

    def _embedded(self, ids: NDArray[Any], weights: Weights, first: int) -> Floats:
        unique, where = np.unique(ids, return_inverse=True)
        table = weights["token_embd.weight"]
        rows = np.concatenate([floats(table.rows(token, token + 1)) for token in unique.tolist()])
        x: Floats = rows[where.reshape(ids.shape)]
        if self._known.multiplied is not None:
            x *= self._known.multiplied
        if self._known.narrow:
            x = weights.dense(x.reshape(-1, x.shape[-1]), INWARD).reshape(*ids.shape, -1)
        start = first + self._known.forward.first_position
        if self._known.forward.positions == "learned":
            x = x + floats(weights["position_embd.weight"].rows(start, start + ids.shape[1]))
        elif self._known.forward.positions == "sinusoidal":
            x = x + sinusoids(start, ids.shape[1], self.n_embd)
        x = x.reshape(-1, self.n_embd)
        return self._normed(x, weights, "token_embd_norm") if "token_embd_norm.weight" in weights else x

    def _attended(self, y: Floats, shape: tuple[int, ...], weights: Weights, layer: int, past: _Past | None) -> Floats:
        """A layer's attention over [batch · tokens, n_embd]."""
        known, block, first = self._known, f"blk.{layer}.", past.length if past else 0
        wide, narrow = known.n_head * known.head_size, known.n_kv * known.head_size
        if f"{block}attn_qkv.weight" in weights:
            together = weights.dense(y, f"{block}attn_qkv").reshape(*shape, wide + 2 * narrow)
            queries, keys, values = np.split(together, (wide, wide + narrow), axis=-1)
        else:
            queries, keys, values = (
                weights.dense(y, f"{block}attn_{part}").reshape(*shape, -1) for part in ("q", "k", "v")
            )
        if self._rotary is not None:
            queries, keys = (self._rotary.turned(part, first) for part in (queries, keys))
        queries *= known.attention_scale(layer)
        out = np.empty((*shape, wide), np.float32)
        # Each is [tokens, the heads side by side].
        for query, new_keys, new_values, result in zip(queries, keys, values, out, strict=True):
            key, value = past.extended(layer, new_keys, new_values) if past else (new_keys, new_values)
            attention(query, key, value, known.n_head, known.n_kv, result, self._slopes, known.window(layer))
        return weights.dense(out.reshape(-1, wide), f"{block}attn_output")

    def _fed_forward(self, y: Floats, weights: Weights, block: str) -> Floats:
        """[rows, n_embd] → [rows, n_embd] through the layer's n_inner."""
        gated = f"{block}ffn_gate.weight" in weights
        inner = weights.dense(y, f"{block}ffn_gate" if gated else f"{block}ffn_up")
        ACTIVATIONS[self.activation](inner)
        if gated:
            inner *= weights.dense(y, f"{block}ffn_up")
        return weights.dense(inner, f"{block}ffn_down")

    def _normed(self, x: Floats, weights: Weights, name: str) -> Floats:
        if self._known.forward.norm == "rms":
            return rms_norm(x, weights.array(f"{name}.weight"), self._known.epsilon)
        names = (f"{name}.weight", f"{name}.bias")
        weight, bias = (weights.array(own) if own in weights else None for own in names)
        return layer_norm(x, weight, bias, self._known.epsilon)

    def _projected(self, x: Floats, weights: Weights) -> Floats:
        """[rows, n_embd] → [rows, vocabulary]; the head is read in pieces."""
        logits = np.empty((len(x), self.vocab_size), np.float32)
        step = max(1, _HEAD // (4 * self.n_embd))
        head = weights["output.weight" if self._known.untied else "token_embd.weight"]
        for start in range(0, self.vocab_size, step):
            stop = min(start + step, self.vocab_size)
            piece = weights.kept(f"head {start}", head.rows(start, stop), lent=True)
            np.matmul(x, piece.T, out=logits[:, start:stop])
        if "output.bias" in weights:
            logits += weights.array("output.bias")
        return logits


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


def _guess(ids: list[int], most: int) -> list[int]:
    """The tokens that followed the last token where it occurred before."""
    before = next((index for index in range(len(ids) - 2, -1, -1) if ids[index] == ids[-1]), None)
    if before is None:
        return []
    period = len(ids) - 1 - before
    return [ids[before + 1 + step % period] for step in range(min(most, _GUESSED))]
