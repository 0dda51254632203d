"""Attention and norms in float32."""

from __future__ import annotations

from typing import Final

import numpy as np

from converter.inference.weights import Floats

_QUERIES: Final = 128  # rows of attention scores at a time: with 2,048 keys they take 1 MiB


def layer_norm(x: Floats, weight: Floats | None, bias: Floats | None, epsilon: np.float32) -> Floats:
    """Normalise the last axis; the variance is the biased one."""
    y: Floats = x - x.mean(-1, keepdims=True, dtype=np.float32)
    y /= np.sqrt(np.square(y).mean(-1, keepdims=True, dtype=np.float32) + epsilon)
    if weight is not None:
        y *= weight
    if bias is not None:
        y += bias
    return y


def rms_norm(x: Floats, weight: Floats, epsilon: np.float32) -> Floats:
    """Divide the last axis by the root of its mean square."""
    y: Floats = x / np.sqrt(np.square(x).mean(-1, keepdims=True, dtype=np.float32) + epsilon)
    y *= weight
    return y


def attention(
    query: Floats,
    key: Floats,
    value: Floats,
    n_head: int,
    n_kv: int,
    out: Floats,
    slopes: Floats | None = None,
    window: int | None = None,
) -> None:
    """Causal attention: [new, heads] and twice [all, heads of keys] → [new, heads]. The new tokens are the last of all.

    Several heads of queries share one of keys. `slopes` [n_head] make keys weigh less the further back they are (ALiBi);
    with a `window`, a token sees the last `window` tokens, itself among them.
    """
    new, first, width = len(query), len(key) - len(query), query.shape[1] // n_head
    rows = min(_QUERIES, new)
    future = np.triu(np.full((rows, rows), -np.inf, np.float32), 1)
    for start in range(0, new, _QUERIES):
        stop = min(start + _QUERIES, new)
        seen = first + stop
        # How far a key lies behind a query: [queries, seen].
        if slopes is not None or window is not None:
            back = np.arange(first + start, first + stop, dtype=np.float32)[:, None] - np.arange(seen, dtype=np.float32)
        for head in range(n_head):
            part = slice(head * width, (head + 1) * width)
            shared = head // (n_head // n_kv)
            their = slice(shared * width, (shared + 1) * width)
            scores = query[start:stop, part] @ key[:seen, their].T  # [queries, seen]
            if slopes is not None:
                scores -= slopes[head] * back
            if window is not None:
                scores[back >= window] = -np.inf
            scores[:, first + start :] += future[: stop - start, : stop - start]
            scores -= scores.max(-1, keepdims=True)
            np.exp(scores, out=scores)
            out[start:stop, part] = (scores @ value[:seen, their]) / scores.sum(-1, keepdims=True)
