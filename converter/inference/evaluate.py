"""Whether two models compute the same: logits, greedy tokens and perplexity on the same token ids."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from converter.errors import ConverterError, ManifestError, ModelError
from converter.inference.engine import Engine, Model, compute
from converter.io.local import LocalFile
from converter.limits import limits
from converter.models.architecture import Activation
from converter.models.tokenizers import library
from converter.tensors.catalogue import Catalogue
from converter.text import plural

TOKENS: Final = 64  # tokens of the built-in sequence
STEPS: Final = 32  # greedy tokens
_LARGEST_LOGARITHM: Final = 709.0  # exp of more does not fit into float64
_DIGITS: Final = 10  # digits of a token id
_PICTURED: Final = 96  # positions whose logits are kept in part, for a picture
_STRIDE: Final = 7919  # a prime, by which each position's extra token lies further on in the vocabulary
_ROWS: Final = 8  # positions at a time, in float64: 3 MB for a vocabulary of 50,257


@dataclass(frozen=True, slots=True)
class Reference:
    """What the source computes. `tokens` are the given tokens and then the greedy ones; logits are of all of them."""

    activation: Activation
    tokens: tuple[int, ...]
    given: int
    logits: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A copy compared with its source, over all positions of the given and the greedy tokens.

    Differences are of logits, in their own unit; `spread` is the standard deviation of the source's logits within a
    position. `kl_divergence` is the mean over positions, in nats. `greedy_difference` is the first of the `greedy`
    steps at which the other would choose another token; None if it never would. A value that can't be computed, because
    logits are NaN or infinite, is None. `not_finite` and `other_not_finite` count such logits.
    `kl_by_position` and `difference_by_position` have the divergence and the largest difference of each position.
    `logit_pairs` are logits of the source, each with the other's: at each of some positions the largest and the smallest
    of the source, the one that differs most, and one more.
    """

    engine: str
    activation: Activation
    source_activation: Activation
    positions: int
    max_difference: float | None
    mean_difference: float | None
    spread: float | None
    kl_divergence: float | None
    top1_agreement: float
    greedy: tuple[int, ...]
    greedy_difference: int | None
    perplexity: float | None
    other_perplexity: float | None
    not_finite: int
    other_not_finite: int
    kl_by_position: tuple[float | None, ...] = ()
    difference_by_position: tuple[float | None, ...] = ()
    logit_pairs: tuple[tuple[float, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The fields as they are in JSON."""
        return {**asdict(self), "greedy": list(self.greedy)}


@dataclass(frozen=True, slots=True)
class Threshold:
    """What a comparison must hold: `difference` and `kl_divergence` at most these, `top1` at least this.

    The difference is a share of the logits' spread, and the divergence a share of its square: a rounded weight moves a
    logit in proportion to its size, so a model with larger logits may differ by more.
    """

    difference: float
    kl_divergence: float
    top1: float
    greedy: bool = False  # whether all greedy tokens must be equal

    def allowed(self, spread: float) -> Allowed:
        """The largest values that hold for a source whose logits have that spread."""
        return Allowed(self.difference * spread, self.kl_divergence * spread**2)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The largest values of a comparison that still hold, in the units of these values."""

    max_difference: float
    kl_divergence: float


# The same weights in the same engine give the same bits, whatever format they come from: see converter.inference.decoder.
EXACT: Final = Threshold(difference=0, kl_divergence=0, top1=1, greedy=True)

# Three to five times what each encoding did to a 111M with random weights. For the agreement of the likeliest token, well
# below the measured share. The comments have what was measured: largest difference / spread, KL / spread², agreement. Trained
# weights have outliers, which cost the formats with blocks more. On the same model, a transposed c_proj exceeds all of these
# thresholds, two swapped layers exceed all but those of Q4, and a wrong bias exceeds only those of F16 and BF16. Damage that
# is too small to be noticed here is found by comparing every tensor with its own bound.
THRESHOLDS: Final = {
    "F16": Threshold(0.015, 1e-6, 0.95),  # 0.0038, 2.0e-7, 100 %
    "BF16": Threshold(0.1, 6e-5, 0.93),  # 0.026, 1.3e-5, 99 %
    "Q8_0": Threshold(0.3, 7e-4, 0.93),  # 0.088, 1.4e-4, 99 %
    "Q5_1": Threshold(2.0, 0.03, 0.6),  # 0.68, 0.0071, 82 %
    "Q5_0": Threshold(2.5, 0.04, 0.6),  # 0.87, 0.0093, 88 %
    "Q4_1": Threshold(4.0, 0.12, 0.4),  # 1.37, 0.031, 79 %
    "Q4_0": Threshold(4.5, 0.14, 0.4),  # 1.45, 0.035, 62 %
    # These were measured on a smaller model of as many layers, with ggml's blocks. There the encodings above lose a third
    # of the difference and an eighth of the divergence that they lose on the 111M. So these thresholds are ten and thirty
    # times the measured loss, and still below what two unrelated models differ by. At two bits and below they catch little.
    "Q8_1": Threshold(0.3, 7e-4, 0.93),
    "Q8_K": Threshold(0.3, 7e-4, 0.93),
    "Q6_K": Threshold(0.9, 6e-3, 0.8),  # 0.089, 1.9e-4, 95 %
    "Q5_K": Threshold(2.0, 0.03, 0.6),  # 0.20, 8.2e-4, 92 %
    "Q4_K": Threshold(3.8, 0.1, 0.4),  # 0.38, 0.0032, 95 %
    "IQ4_NL": Threshold(4.0, 0.11, 0.4),  # 0.40, 0.0036, 86 %
    "IQ4_XS": Threshold(4.2, 0.11, 0.4),  # 0.41, 0.0037, 84 %
    "NVFP4": Threshold(5.7, 0.2, 0.3),  # 0.56, 0.0066, 83 %
    "MXFP4": Threshold(6.3, 0.25, 0.3),  # 0.63, 0.0081, 77 %
    "Q3_K": Threshold(8.0, 0.45, 0.2),  # 0.80, 0.014, 79 %
    "IQ3_S": Threshold(8.6, 0.5, 0.2),  # 0.86, 0.017, 77 %
    "IQ3_XXS": Threshold(10, 0.9, 0.1),  # 1.1, 0.029, 66 %
    "IQ2_S": Threshold(10, 0.9, 0),  # 1.6, 0.044, 67 %
    "IQ2_XS": Threshold(10, 0.9, 0),  # 1.6, 0.056, 65 %
    "IQ2_XXS": Threshold(10, 0.9, 0),  # 1.7, 0.072, 60 %
    "Q2_K": Threshold(10, 0.9, 0),  # 1.7, 0.055, 45 %
    "IQ1_S": Threshold(10, 0.9, 0),  # 2.9, 0.15, 12 %
    "IQ1_M": Threshold(10, 0.9, 0),  # 3.6, 0.21, 48 %
    "Q1_0": Threshold(10, 0.9, 0),  # 3.4, 0.21, 16 %
    "Q2_0": Threshold(10, 0.9, 0),
    "TQ1_0": Threshold(10, 0.9, 0),  # 4.3, 0.37, 34 %
    "TQ2_0": Threshold(10, 0.9, 0),  # 4.3, 0.37, 34 %
}

# A program that cuts digits off instead of rounding has twice the error.
_OTHERWISE: Final = 2

# What other engines may add. transformers sums in another order, which gives 6e-6 of the spread on 111M. llama.cpp
# takes its GELU from a table of float16 values, which gives 0.002 of the spread.
ENGINES: Final = {
    "numpy": EXACT,
    "transformers": Threshold(1e-4, 1e-9, 0.99),
    "llama.cpp": Threshold(0.01, 1e-6, 0.95),
}


def reference(source: Model, tokens: Sequence[int], steps: int = STEPS) -> Reference:
    """Compute the source: `steps` greedy tokens, fewer if its positions end, and the logits of all tokens.

    The other side then needs one pass over these tokens: its choice at each position is the likeliest of its logits
    there. So even a model that is read again for every pass is only read once.
    """
    steps = steps_of(source, tokens, steps)
    sequence = (*tokens, *source.greedy(tokens, steps))
    return Reference(source.activation, sequence, len(tokens), source.logits(sequence))


def steps_of(source: Model, tokens: Sequence[int], steps: int = STEPS) -> int:
    """How many greedy tokens there is room for."""
    # One position stays free, because llama.cpp needs room for the next token.
    return max(0, min(steps, source.n_positions - 1 - len(tokens)))


def compare(source: Reference, other: Engine) -> Comparison:
    """Compare an engine's logits with the source's."""
    found = other.logits(source.tokens)
    if found.shape != source.logits.shape:
        raise ModelError(f"`{other.name}` gives logits of shape {found.shape}: expected {source.logits.shape}")
    sums = _Sums(source, found, other.log_probabilities)
    choices, chosen = source.logits.argmax(-1), found.argmax(-1)
    same = choices == chosen
    steps = range(source.given - 1, len(source.tokens) - 1)
    return Comparison(
        engine=other.name,
        activation=other.activation,
        source_activation=source.activation,
        positions=len(source.tokens),
        max_difference=sums.max_difference if sums.compared else None,
        mean_difference=sums.difference / sums.compared if sums.compared else None,
        spread=math.sqrt(sums.variance / sums.rows) if sums.rows else None,
        kl_divergence=max(0.0, sums.kl_divergence / sums.rows) if sums.rows else None,
        top1_agreement=float(same.mean()),
        greedy=source.tokens[source.given :],
        greedy_difference=next((step - steps.start for step in steps if not same[step]), None),
        perplexity=perplexity(source.logits, source.tokens[: source.given]),
        other_perplexity=perplexity(found, source.tokens[: source.given]),
        not_finite=int(np.count_nonzero(~np.isfinite(source.logits))),
        other_not_finite=int(np.count_nonzero(~np.isfinite(found))),
        kl_by_position=tuple(sums.kl_by_position),
        difference_by_position=tuple(sums.difference_by_position),
        logit_pairs=tuple(_pairs(source.logits, found)),
    )


def _pairs(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> Iterator[tuple[float, float]]:
    """Some logits [positions, vocabulary] of both sides, for a picture."""
    for number, row in enumerate(range(0, len(ours), -(-len(ours) // _PICTURED) or 1)):
        one, two = ours[row], theirs[row]
        known = np.flatnonzero(np.isfinite(one) & np.isfinite(two))
        if not len(known):
            continue
        one, two = one[known], two[known]
        chosen = {int(one.argmax()), int(one.argmin()), int(np.abs(two - one).argmax()), number * _STRIDE % len(known)}
        for token in sorted(chosen):
            yield float(one[token]), float(two[token])


def perplexity(logits: NDArray[np.float32], tokens: Sequence[int]) -> float | None:
    """The exponential of the mean surprise at all tokens but the first; None if that is not a finite number."""
    surprise = 0.0
    for start, rows in _in_rows(logits[: len(tokens) - 1]):
        following = np.asarray(tokens[start + 1 : start + 1 + len(rows)])
        surprise -= float(_log_softmax(rows)[np.arange(len(rows)), following].sum())
    mean = surprise / max(1, len(tokens) - 1)
    return math.exp(mean) if len(tokens) > 1 and mean < _LARGEST_LOGARITHM else None


def threshold(source: Catalogue, output: Catalogue, engine: str = "numpy") -> Threshold:
    """The threshold for the coarsest encoding of an output, and for the engine that computes it."""
    lossy = _encodings(output) - _encodings(source)
    held_to = [ENGINES[engine], *(THRESHOLDS[name] for name in lossy if name in THRESHOLDS)]
    return Threshold(
        difference=max(limit.difference for limit in held_to),
        kl_divergence=max(limit.kl_divergence for limit in held_to),
        top1=min(limit.top1 for limit in held_to),
        greedy=all(limit.greedy for limit in held_to),
    )


def widened(limit: Threshold, rounding: Comparison) -> Threshold:
    """The threshold for a model, given how much `rounding` its own weights to the output's dtype changes it."""
    if rounding.max_difference is None or rounding.kl_divergence is None or not rounding.spread:
        return limit
    return Threshold(
        difference=max(limit.difference, _OTHERWISE * rounding.max_difference / rounding.spread),
        kl_divergence=max(limit.kl_divergence, _OTHERWISE**2 * rounding.kl_divergence / rounding.spread**2),
        top1=max(0, min(limit.top1, 1 - _OTHERWISE * (1 - rounding.top1_agreement))),
        greedy=limit.greedy,
    )


def shortcomings(comparison: Comparison, limit: Threshold) -> list[str]:
    """A sentence for each value that is beyond the threshold; none if the comparison holds."""
    found: list[str] = []
    if comparison.not_finite != comparison.other_not_finite:
        found.append(
            f"{plural(comparison.other_not_finite, 'logit is', 'logits are')} NaN or infinite: expected "
            f"{comparison.not_finite:,}, as in the source"
        )
    if comparison.max_difference is None or comparison.spread is None or comparison.kl_divergence is None:
        found.append("no position has finite logits on both sides")
    else:
        allowed = limit.allowed(comparison.spread)
        for what, value, most in (
            ("a logit differs by", comparison.max_difference, allowed.max_difference),
            ("the KL divergence is", comparison.kl_divergence, allowed.kl_divergence),
        ):
            if value > most:
                found.append(f"{what} {value:.3g}: expected at most {most:.3g}")
    if comparison.top1_agreement < limit.top1:
        found.append(
            f"the likeliest token is the same at {comparison.top1_agreement:.1%} of the positions: expected at least "
            f"{limit.top1:.1%}"
        )
    if limit.greedy and comparison.greedy_difference is not None:
        found.append(f"greedy token {comparison.greedy_difference + 1} of {len(comparison.greedy)} differs")
    return found


def activation_effect(source: Catalogue, tokens: Sequence[int], config: Mapping[str, Any] | None = None) -> Comparison:
    """Compare the source with itself under the other GELU, which llama.cpp and the Java client compute.

    The difference is not an error of any output, so it is reported separately.
    """
    own = compute(source, config=config)
    other = compute(source, config=config, activation="tanh" if own.activation == "erf" else "erf")
    return compare(reference(own, tokens), other)


def builtin_tokens(vocab_size: int, n_positions: int) -> list[int]:
    """The fixed sequence: up to 64 ids from all over the vocabulary, and at most half the positions."""
    state, tokens = 1, []
    for _ in range(min(TOKENS, (n_positions + 1) // 2)):
        state = (1103515245 * state + 12345) % (1 << 31)  # POSIX's rand
        tokens.append((state >> 8) % vocab_size)
    return tokens


def load_tokens(path: str | Path, vocab_size: int, n_positions: int) -> list[int]:
    """Read token ids: a JSON list, or decimal numbers with spaces or line ends between them."""
    source = LocalFile(path)
    if source.size > limits().json_bytes:
        raise ManifestError(f"`{path}` has {plural(source.size, 'byte')}: at most {limits().json_bytes:,} are read")
    words = bytes(source.read(0, source.size)).strip()
    if words.startswith(b"[") and words.endswith(b"]"):
        words = words[1:-1].replace(b",", b" ")
    tokens = []
    for word in words.split():
        if not word.isdigit() or len(word) > _DIGITS:
            raise ManifestError(
                f"`{path}` holds {word[:40].decode(errors='replace')!r}: expected token ids, whole numbers from 0"
            )
        tokens.append(int(word))
    return check_tokens(tokens, f"`{path}`", vocab_size, n_positions)


def encode(prompt: str, document: Callable[[], str], where: str, vocab_size: int, n_positions: int) -> list[int]:
    """Turn a text into tokens. `document` gives the tokenizer.json of the source, which messages call `where`."""
    if not library.is_installed():
        raise ConverterError(f"a prompt needs the package `tokenizers`: {library.INSTALL}, or give token ids")
    return check_tokens(library.split(document(), prompt, where), "the prompt", vocab_size, n_positions)


def check_tokens(tokens: list[int], holder: str, vocab_size: int, n_positions: int) -> list[int]:
    """Return the tokens if a model can read them; raise ModelError if it can't."""
    if not tokens:
        raise ModelError(f"{holder} holds no token")
    if len(tokens) > n_positions:
        raise ModelError(
            f"{holder} has {plural(len(tokens), 'token')}, but the model has {plural(n_positions, 'position')}"
        )
    if max(tokens) >= vocab_size:
        raise ModelError(
            f"{holder} has the token {max(tokens):,}, but the model's vocabulary has {plural(vocab_size, 'token')}"
        )
    return tokens


def _encodings(catalogue: Catalogue) -> set[str]:
    return {tensor.storage.encoding or tensor.dtype.name for tensor in catalogue.values() if tensor.dtype.floating}


class _Sums:
    """Sums over the positions at which both sides have finite numbers."""

    def __init__(self, source: Reference, found: NDArray[np.float32], normalised: bool) -> None:
        self.compared, self.difference, self.max_difference = 0, 0.0, 0.0
        self.rows, self.variance, self.kl_divergence = 0, 0.0, 0.0
        self.kl_by_position: list[float | None] = []
        self.difference_by_position: list[float | None] = []
        for (_, ours), (_, theirs) in zip(_in_rows(source.logits), _in_rows(found), strict=True):
            whole = (np.isfinite(ours) & np.isfinite(theirs)).all(-1)
            expected, actual = ours[whole], theirs[whole]
            if not len(expected):
                self.kl_by_position += [None] * len(ours)
                self.difference_by_position += [None] * len(ours)
                continue
            log_p, log_q = _log_softmax(expected), _log_softmax(actual)
            difference = np.abs(log_p - log_q if normalised else expected - actual)
            self.compared += difference.size
            self.difference += float(difference.sum())
            self.max_difference = max(self.max_difference, float(difference.max()))
            self.rows += len(expected)
            self.variance += float(expected.var(-1).sum())
            divergences = (np.exp(log_p) * (log_p - log_q)).sum(-1)
            self.kl_divergence += float(divergences.sum())
            self.kl_by_position += _spread(np.maximum(divergences, 0), whole)
            self.difference_by_position += _spread(difference.max(-1), whole)


def _spread(values: NDArray[np.float64], whole: Any) -> list[float | None]:
    """One number for each position, rounded to four digits; None for a position that was left out."""
    found = iter(values.tolist())
    return [float(f"{next(found):.4g}") if there else None for there in whole.tolist()]


def _in_rows(logits: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float64]]]:
    for start in range(0, len(logits), _ROWS):
        yield start, logits[start : start + _ROWS].astype(np.float64)


def _log_softmax(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):
        shifted = rows - rows.max(-1, keepdims=True)
        result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result
