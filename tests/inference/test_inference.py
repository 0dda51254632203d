"""The forward pass in numpy, against numbers that transformers computed, and what a comparison says."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter.errors import ConverterError, ManifestError, ModelError, UnsupportedError
from converter.inference import evaluate
from converter.inference.activations import gelu_erf, gelu_tanh
from converter.inference.attention import layer_norm
from converter.inference.decoder import Decoder
from converter.inference.engines import LlamaCpp, Transformers
from converter.inference.positions import slopes
from converter.models.architecture import Activation
from converter.models.families import family
from tests.build.small_gpt2 import CONFIG, TOKENS, catalogue, weights

GOLDEN = json.loads(Path(__file__).parent.with_name("data").joinpath("golden_logits.json").read_text())
PREFIXES = ("", "transformer.")


def model(**options: Any) -> Decoder:
    return Decoder(catalogue(weights()), **options)


# ---- activations --------------------------------------------------------------------------------------------------


def test_the_erf_gelu_is_exact_to_float32_on_a_fine_grid() -> None:
    x = np.concatenate([np.linspace(-16, 16, 100_001), np.linspace(-1e-3, 1e-3, 1001)]).astype(np.float32)
    expected = [v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()]

    y = x.copy()
    gelu_erf(y)

    assert np.max(np.abs(y - expected) / np.maximum(1, np.abs(x))) < 1.3e-7


def test_the_erf_gelu_keeps_its_digits_where_it_is_nearly_zero() -> None:
    x = np.linspace(-5, -1e-3, 50_001).astype(np.float32)
    expected = np.array([v * 0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])

    y = x.copy()
    gelu_erf(y)

    assert np.max(np.abs(y / expected - 1)) < 1.5e-6


def test_the_tanh_gelu_is_exact_to_float32_on_a_fine_grid() -> None:
    x = np.linspace(-16, 16, 100_001).astype(np.float32)
    expected = [v * 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]

    y = x.copy()
    gelu_tanh(y)

    assert np.max(np.abs(y - expected) / np.maximum(1, np.abs(x))) < 2.5e-7


@pytest.mark.parametrize("gelu", [gelu_erf, gelu_tanh])
def test_a_gelu_of_the_largest_numbers_is_zero_or_themselves(gelu: Callable[[np.ndarray], object]) -> None:
    x = np.array([-3e38, -1e9, -50, 0, 50, 1e9, 3e38, np.inf, np.nan], np.float32)

    gelu(x)

    np.testing.assert_array_equal(x, np.array([0, 0, 0, 0, 50, 1e9, 3e38, np.inf, np.nan], np.float32))


def test_a_gelu_of_several_pieces_is_that_of_each() -> None:
    x = np.linspace(-3, 3, 70_000).astype(np.float32).reshape(7, 10_000)
    rows = x.copy()

    gelu_erf(x)

    for row in rows:
        gelu_erf(row)
    np.testing.assert_array_equal(x, rows)


def test_the_layer_norm_divides_by_the_biased_deviation() -> None:
    x = np.array([[1, 2, 3, 6]], np.float32)
    weight, bias = np.array([1, 1, 2, 1], np.float32), np.array([0, 0, 0, 10], np.float32)

    y = layer_norm(x, weight, bias, np.float32(0.5))

    # mean 3, variance (4 + 1 + 0 + 9) / 4 = 3.5, and √(3.5 + 0.5) = 2
    np.testing.assert_array_equal(y, [[-1, -0.5, 0, 11.5]])


# ---- the forward pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", GOLDEN["logits"])
@pytest.mark.parametrize("prefix", PREFIXES, ids=["bare names", "transformer."])
@pytest.mark.parametrize("transposed", [False, True], ids=["row-major", "transposed views"])
def test_computes_the_logits_of_transformers(variant: str, prefix: str, transposed: bool) -> None:
    config = CONFIG | GOLDEN["changes"][variant]
    state = weights(head=not config["tie_word_embeddings"])

    found = Decoder(catalogue(state, config, prefix=prefix, transposed=transposed)).logits(TOKENS)

    assert found.dtype == np.float32
    np.testing.assert_allclose(found, GOLDEN["logits"][variant], rtol=0, atol=2e-5)


def test_the_two_gelus_give_logits_that_differ() -> None:
    assert np.abs(np.subtract(GOLDEN["logits"]["gelu"], GOLDEN["logits"]["gelu_new"])).max() > 1e-4


def test_the_activation_can_be_chosen_against_the_config() -> None:
    found = model(activation="tanh").logits(TOKENS)

    np.testing.assert_allclose(found, GOLDEN["logits"]["gelu_new"], rtol=0, atol=2e-5)


def test_a_config_can_be_given_from_outside() -> None:
    found = Decoder(catalogue(weights(), None), config=CONFIG).logits(TOKENS)

    np.testing.assert_allclose(found, GOLDEN["logits"]["gelu"], rtol=0, atol=2e-5)


def test_transposed_views_give_the_bits_of_row_major_matrices() -> None:
    config = CONFIG | {"n_embd": 640, "n_inner": 2048, "n_layer": 1}  # past the size of OpenBLAS's small kernels
    state = weights(config)

    a = Decoder(catalogue(state, config)).logits(TOKENS)
    b = Decoder(catalogue(state, config, transposed=True)).logits(TOKENS)

    np.testing.assert_array_equal(a, b)


def test_a_batch_gives_the_logits_of_its_rows() -> None:
    other = [16, 0, 1, 7, 7, 7, 12, 3, 9, 2]

    found = model().logits([TOKENS, other])

    assert found.shape == (2, 10, 17)
    np.testing.assert_allclose(found[0], model().logits(TOKENS), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found[1], model().logits(other), rtol=0, atol=1e-5)


def test_no_position_sees_a_later_one() -> None:
    changed = [*TOKENS[:6], 1, 1, 1, 1]

    a, b = model().logits(TOKENS), model().logits(changed)

    np.testing.assert_array_equal(a[:6], b[:6])
    assert (a[6:] != b[6:]).any(-1).all()


def test_every_position_sees_the_first() -> None:
    changed = [TOKENS[0] + 1, *TOKENS[1:]]

    a, b = model().logits(TOKENS), model().logits(changed)

    assert (a != b).any(-1).all()


def test_long_inputs_are_attended_to_in_parts_that_fit_together() -> None:
    config = CONFIG | {"n_positions": 300}
    long = Decoder(catalogue(weights(config), config))
    tokens = [(7 * i * i + i) % 17 for i in range(300)]

    whole = long.logits(tokens)

    for end in (1, 127, 128, 129, 257):
        np.testing.assert_allclose(whole[end - 1], long.logits(tokens[:end])[-1], rtol=0, atol=2e-5)


@pytest.mark.parametrize("resident", [0, 2000, 1 << 30], ids=["nothing stays", "a part stays", "all stays"])
def test_generates_the_greedy_tokens_of_transformers(resident: int) -> None:
    config = CONFIG | GOLDEN["changes"]["untied"]
    untied = Decoder(catalogue(weights(head=True), config), resident=resident)

    assert untied.greedy([13, 9], 10) == GOLDEN["greedy"]


def test_greedy_tokens_with_a_cache_are_those_without() -> None:
    config = CONFIG | {"n_positions": 60, "n_layer": 3}
    long = Decoder(catalogue(weights(config, head=True), config | {"tie_word_embeddings": False}))

    found = long.greedy([5, 1], 50)

    sequence = [5, 1]
    for _ in range(50):
        sequence.append(int(long.logits(sequence)[-1].argmax()))
    assert found == sequence[2:]


def test_half_precision_weights_are_widened() -> None:
    rounded = {name: array.astype(np.float16).astype(np.float32) for name, array in weights().items()}
    name = "h.0.mlp.c_fc.weight"

    expected = Decoder(catalogue(rounded)).logits(TOKENS)
    f16 = Decoder(
        catalogue({n: a.astype(np.float16) for n, a in rounded.items()}, dtypes=dict.fromkeys(rounded, "F16"))
    )
    np.testing.assert_array_equal(f16.logits(TOKENS), expected)

    bits = weights()[name].view(np.uint32) >> 16
    cut = weights() | {name: (bits << 16).view(np.float32)}
    bf16 = weights() | {name: bits.astype(np.uint16)}
    np.testing.assert_array_equal(
        Decoder(catalogue(bf16, dtypes={name: "BF16"}, transposed=True)).logits(TOKENS),
        Decoder(catalogue(cut)).logits(TOKENS),
    )


def test_eight_bit_weights_are_widened() -> None:
    name = "ln_f.bias"
    codes = {name: np.array([0x38, 0xB8, 0, 0x40, 0x30, 1, 0x7E, 0x08], np.uint8)}
    values = {name: np.array([1, -1, 0, 2, 0.5, 2**-9, 448, 2**-6], np.float32)}

    found = Decoder(catalogue(weights() | codes, dtypes={name: "F8_E4M3"})).logits(TOKENS)

    np.testing.assert_array_equal(found, Decoder(catalogue(weights() | values)).logits(TOKENS))


# ---- what is refused ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"activation_function": "relu"}, UnsupportedError, "`activation_function` is 'relu': expected one of gelu, "),
        ({"activation_function": ["gelu"]}, UnsupportedError, "`activation_function` is "),
        ({"layer_norm_epsilon": "small"}, ModelError, "`layer_norm_epsilon` is 'small'"),
        ({"layer_norm_epsilon": -1.0}, ModelError, "`layer_norm_epsilon` is -1.0"),
        ({"scale_attn_weights": 1}, ModelError, "`scale_attn_weights` is 1: expected true or false"),
        ({"tie_word_embeddings": False}, ModelError, "has no `lm_head.weight`"),
        ({"n_positions": 13}, ModelError, "`n_positions` is 13"),
        ({"n_head": 3}, ModelError, "`n_head` is 3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_refuses_a_configuration_that_it_does_not_compute(changes: dict[str, Any], error: type, words: str) -> None:
    with pytest.raises(error) as caught:
        Decoder(catalogue(weights(), CONFIG | changes))

    assert words in str(caught.value)


def test_refuses_weights_without_a_configuration() -> None:
    with pytest.raises(ModelError, match=r"does not tell how many heads it has: put its config.json beside it"):
        Decoder(catalogue(weights(), None))


def test_refuses_a_model_that_lacks_a_parameter() -> None:
    state = weights()
    del state["h.1.ln_2.bias"]

    with pytest.raises(ModelError, match=r"lacks `h.1.ln_2.bias`"):
        Decoder(catalogue(state))


def test_refuses_a_parameter_of_another_shape() -> None:
    state = weights() | {"h.1.mlp.c_fc.weight": np.zeros((20, 8), np.float32)}

    with pytest.raises(ModelError, match=r"`h.1.mlp.c_fc.weight`: expected the shape \(8, 20\), found \(20, 8\)"):
        Decoder(catalogue(state))


def test_refuses_what_is_of_no_family() -> None:
    with pytest.raises(ModelError, match="has no architecture that can be computed here"):
        Decoder(catalogue({"weight": np.zeros((3, 3), np.float32)}))


def test_refuses_weights_that_are_whole_numbers() -> None:
    state = weights() | {"ln_f.bias": np.zeros(8, np.int64)}

    with pytest.raises(UnsupportedError, match=r"`ln_f.bias` is I64: expected floating-point weights"):
        Decoder(catalogue(state, dtypes={"ln_f.bias": "I64"}))


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([], "expected token ids"),
        ([0.5], "expected token ids"),
        ([[[1]]], "expected token ids"),
        ([1] * 13, "13 tokens are too many"),
        ([1, 17], "token 17 is not in the vocabulary"),
        ([-1, 3], "token -1 is not in the vocabulary"),
    ],
    ids=str,
)
def test_refuses_tokens_that_the_model_has_not(tokens: list[int], words: str) -> None:
    with pytest.raises(ModelError) as caught:
        model().logits(tokens)

    assert words in str(caught.value)


def test_refuses_to_generate_past_the_last_position() -> None:
    with pytest.raises(ModelError, match="10 tokens and 3 more are too many"):
        model().greedy(TOKENS, 3)


# ---- comparison ---------------------------------------------------------------------------------------------------


class Fixed:
    """An engine that returns the logits that it was given."""

    name = "fixed"
    activation: Activation = "erf"

    def __init__(self, logits: np.ndarray, *, log_probabilities: bool = False) -> None:
        self._logits, self.log_probabilities = logits, log_probabilities

    def logits(self, tokens: object) -> np.ndarray:
        return self._logits


def two_positions(logits: list[list[float]], given: int = 2) -> evaluate.Reference:
    return evaluate.Reference("erf", (0, 1), given, np.array(logits, np.float32))


def test_the_same_model_in_another_layout_compares_as_exact() -> None:
    source, copy = catalogue(weights()), catalogue(weights(), prefix="transformer.", transposed=True)

    found = evaluate.compare(evaluate.reference(Decoder(source), [3, 14, 15]), Decoder(copy))

    assert (found.positions, len(found.greedy)) == (11, 8)  # of 12 positions one stays free
    assert (found.max_difference, found.mean_difference, found.kl_divergence) == (0, 0, 0)
    assert (found.top1_agreement, found.greedy_difference) == (1, None)
    assert found.perplexity == found.other_perplexity
    assert evaluate.shortcomings(found, evaluate.threshold(source, copy)) == []


def test_measures_what_two_lists_of_logits_differ_by() -> None:
    ln2, ln3 = math.log(2), math.log(3)
    source = two_positions([[0, 0], [0, ln3]], given=2)  # probabilities ½ ½ and ¼ ¾

    found = evaluate.compare(source, Fixed(np.array([[0, 0], [ln2, 0]], np.float32)))  # ½ ½ and ⅔ ⅓

    assert found.max_difference == pytest.approx(ln3, rel=1e-6)
    assert found.mean_difference == pytest.approx((ln2 + ln3) / 4, rel=1e-6)
    assert found.spread == pytest.approx(math.sqrt((ln3 / 2) ** 2 / 2), rel=1e-6)
    assert found.kl_divergence == pytest.approx((0.25 * math.log(3 / 8) + 0.75 * math.log(9 / 4)) / 2, rel=1e-6)
    divergence = 0.25 * math.log(3 / 8) + 0.75 * math.log(9 / 4)
    assert list(found.kl_by_position) == pytest.approx([0, divergence], rel=1e-3)
    assert list(found.difference_by_position) == pytest.approx([0, ln3], rel=1e-3)
    assert [*map(list, found.logit_pairs)] == [[0, 0], [0, pytest.approx(ln2)], [pytest.approx(ln3), 0]]
    assert found.top1_agreement == 0.5
    two: Any = pytest.approx(2)
    assert (found.perplexity, found.other_perplexity) == (two, two)


def test_an_engine_of_log_probabilities_is_compared_without_their_constant() -> None:
    source = two_positions([[5, 5], [7, 7]])
    halves = np.full((2, 2), -math.log(2), np.float32)

    normalised = evaluate.compare(source, Fixed(halves, log_probabilities=True)).max_difference
    as_they_are = evaluate.compare(source, Fixed(halves)).max_difference

    assert normalised is not None
    assert normalised < 1e-6
    assert as_they_are is not None
    assert as_they_are > 5


def test_names_the_first_greedy_token_that_is_another() -> None:
    logits = np.zeros((6, 3), np.float32)
    logits[:, 1] = 1
    other = logits.copy()
    other[4, 2] = 2
    source = evaluate.Reference("erf", (0, 0, 1, 1, 1, 1), 2, logits)

    found = evaluate.compare(source, Fixed(other))

    assert (found.greedy, found.greedy_difference) == ((1, 1, 1, 1), 3)
    assert "greedy token 4 of 4 differs" in evaluate.shortcomings(found, evaluate.EXACT)


def test_nan_and_infinity_are_counted_and_become_null() -> None:
    bad = np.array([[np.nan, 1], [np.inf, 2]], np.float32)

    found = evaluate.compare(two_positions([[0, 1], [0, 2]]), Fixed(bad))

    assert (found.not_finite, found.other_not_finite) == (0, 2)
    assert found.max_difference is found.kl_divergence is found.other_perplexity is None
    assert found.kl_by_position == found.difference_by_position == (None, None)
    json.dumps(found.to_json(), allow_nan=False)
    assert evaluate.shortcomings(found, evaluate.EXACT)[:2] == [
        "2 logits are NaN or infinite: expected 0, as in the source",
        "no position has finite logits on both sides",
    ]


def test_refuses_an_engine_with_another_vocabulary() -> None:
    with pytest.raises(ModelError, match=r"gives logits of shape \(2, 3\): expected \(2, 2\)"):
        evaluate.compare(two_positions([[0, 1], [0, 2]]), Fixed(np.zeros((2, 3), np.float32)))


def test_a_threshold_grows_with_the_spread_of_the_logits_and_the_divergence_with_its_square() -> None:
    limit = evaluate.Threshold(difference=0.3, kl_divergence=7e-4, top1=0.9)

    allowed = limit.allowed(2.5)

    assert allowed.max_difference == pytest.approx(0.75)
    assert allowed.kl_divergence == pytest.approx(0.004375)


@pytest.mark.parametrize("damage", ["two layers swapped", "a square matrix transposed", "one bias zeroed", "one bit"])
def test_damage_goes_beyond_the_threshold(damage: str) -> None:
    state = weights()
    if damage == "two layers swapped":
        for name in [name for name in state if name.startswith("h.0.")]:
            other = name.replace("h.0.", "h.1.")
            state[name], state[other] = state[other], state[name]
    elif damage == "a square matrix transposed":
        state["h.0.attn.c_proj.weight"] = state["h.0.attn.c_proj.weight"].T
    elif damage == "one bias zeroed":
        state["h.1.ln_2.bias"] = np.zeros(8, np.float32)
    else:
        state["wte.weight"].view(np.uint32)[3, 0] ^= 1 << 12
    source, copy = catalogue(weights()), catalogue(state)

    found = evaluate.compare(evaluate.reference(Decoder(source), TOKENS[:6]), Decoder(copy))

    assert evaluate.shortcomings(found, evaluate.threshold(source, copy))


def test_a_rounded_copy_stays_within_its_dtypes_threshold_and_beyond_that_of_f32() -> None:
    source = catalogue(weights())
    dtypes = dict.fromkeys(weights(), "F16")
    nudged = {name: (array * np.float32(1 + 2**-11)).astype(np.float16) for name, array in weights().items()}
    copy = catalogue(nudged, dtypes=dtypes)

    found = evaluate.compare(evaluate.reference(Decoder(source), TOKENS[:6]), Decoder(copy))

    assert evaluate.threshold(source, copy) == evaluate.THRESHOLDS["F16"]
    assert evaluate.shortcomings(found, evaluate.threshold(source, copy)) == []
    assert evaluate.shortcomings(found, evaluate.EXACT)


def test_the_effect_of_the_other_gelu_is_reported_apart() -> None:
    found = evaluate.activation_effect(catalogue(weights()), TOKENS[:6])

    assert (found.source_activation, found.activation) == ("erf", "tanh")
    assert found.max_difference is not None
    assert 1e-4 < found.max_difference < 0.05


# ---- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0, 1000, -1000])
def test_perplexity_depends_only_on_the_differences_of_logits(shift: float) -> None:
    logits = np.array([[3, 1, 0]] * 3, np.float32) + np.float32(shift)

    # -ln of the softmax of (3, 1, 0) is 0.169846 for the first token and 2.169846 for the second.
    assert evaluate.perplexity(logits, (2, 0, 1)) == pytest.approx(math.exp((0.169846 + 2.169846) / 2), rel=1e-5)


def test_the_built_in_tokens_are_fixed_and_fit_the_model() -> None:
    assert evaluate.builtin_tokens(50257, 2048)[:4] == [38809, 16771, 26049, 11122]
    assert len(evaluate.builtin_tokens(50257, 2048)) == 64
    assert len(evaluate.builtin_tokens(17, 12)) == 6
    assert max(evaluate.builtin_tokens(17, 2048)) <= 16
    assert len(evaluate.builtin_tokens(3, 1)) == 1


@pytest.mark.parametrize("text", ["[3, 14,\n15]", "3 14\n15\n", " [3,14,15] "])
def test_reads_tokens_from_a_file(text: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)

    assert evaluate.load_tokens(file, 17, 12) == [3, 14, 15]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", ModelError, "holds no token"),
        ("[]", ModelError, "holds no token"),
        ("3 -1", ManifestError, "holds '-1': expected token ids"),
        ("[3, 1.5]", ManifestError, "holds '1.5'"),
        ("hello", ManifestError, "holds 'hello'"),
        ("9" * 5000, ManifestError, "expected token ids"),
        ("\xff", ManifestError, "expected token ids"),
        ("²", ManifestError, "expected token ids"),
        ("3 17", ModelError, "has the token 17, but the model's vocabulary has 17 tokens"),
        ("1 " * 13, ModelError, "has 13 tokens, but the model has 12 positions"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_refuses_a_file_of_other_things(text: str, error: type, words: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(text)

    with pytest.raises(error) as caught:
        evaluate.load_tokens(file, 17, 12)

    assert words in str(caught.value)


# ---- what is not installed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda folder: evaluate.encode("a", str, str(folder), 17, 12), "pip install 'cerebras-tool[text]'"),
        (
            lambda folder: Transformers(folder, CONFIG, "erf", family("gpt2")),
            "pip install 'cerebras-tool[transformers]'",
        ),
        (lambda folder: LlamaCpp(folder, 17), "pip install 'cerebras-tool[llama-cpp]'"),
    ],
    ids=["tokenizers", "transformers", "llama.cpp"],
)
def test_a_missing_package_is_a_sentence_that_names_the_extra(
    call: Callable[[Path], object], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for package in ("tokenizers", "transformers", "torch", "xllamacpp"):
        monkeypatch.setitem(sys.modules, package, None)

    with pytest.raises(ConverterError) as caught:
        call(tmp_path)

    assert words in str(caught.value)


def test_the_engine_needs_numpy_alone() -> None:
    code = (
        "import sys; import converter.inference.evaluate, converter.inference.engines; "
        "print(sorted({'torch', 'transformers', 'tokenizers', 'xllamacpp', 'scipy', 'rich'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_the_slopes_of_alibi_are_those_of_its_authors() -> None:
    whole = [2.0**-n for n in range(1, 9)]

    assert slopes(8).tolist() == whole
    assert slopes(12).tolist() == np.array([*whole, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5], "<f4").tolist()
    assert slopes(1).tolist() == [2.0**-8]
