"""What `verify` computes with, and what it says about damage if it has only digests."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from converter.inference import evaluate
from converter.opening import open_checkpoint
from converter.verification.expected import expect
from converter.verification.golden import Golden
from converter.verification.verify import Options, examine, verify
from tests.attacks.commands import run
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.damage import Model, model, write_safetensors, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_source(model(scale=0.2), tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_safetensors(model(scale=0.2), tmp_path_factory.mktemp("copy"))


# ---- which tokens --------------------------------------------------------------------------------------------------------------


def test_tokens_of_a_file_are_computed_with(source: Path, copy: Path, tmp_path: Path) -> None:
    (tmp_path / "tokens.txt").write_text("3 14 15 9 2")

    done = run("verify", source, copy, "--level", "inference", "--tokens", tmp_path / "tokens.txt", "--json")

    assert done.code == 0
    (output,) = json.loads(done.out)["outputs"]
    assert output["verdict"] == "identical"
    assert output["inference"]["tokens"] == 5
    # 16 positions: one stays free, so ten tokens follow the five.
    assert output["inference"]["positions"] == 15
    assert len(output["inference"]["greedy"]) == 10


def test_the_tokens_of_a_prompt_are_computed_with(source: Path, copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tokenizer is another package, which may be absent here; tests/peers has it."""
    asked = []

    def encode(prompt: str, document: Callable[[], str], where: str, vocab_size: int, n_positions: int) -> list[int]:
        asked.append((prompt, where, vocab_size, n_positions))
        return [26, 2]

    monkeypatch.setattr(evaluate, "encode", encode)

    done = run("verify", source, copy, "--level", "inference", "--prompt", "abc", "--json")

    assert done.code == 0
    assert asked == [("abc", str(open_checkpoint(source).location), 40, 16)]
    (output,) = json.loads(done.out)["outputs"]
    assert output["inference"]["tokens"] == 2
    assert output["inference"]["max_difference"] == 0


def test_the_document_says_what_a_copy_in_another_dtype_was_held_to_in_the_units_of_what_was_found(
    source: Path, tmp_path: Path
) -> None:
    assert run("convert", source, tmp_path / "half.safetensors", "--dtype", "f16").code == 0

    done = run("verify", source, tmp_path / "half.safetensors", "--level", "inference", "--json")

    found = json.loads(done.out)["outputs"][0]["inference"]
    assert (found["threshold"]["difference"], found["threshold"]["kl_divergence"]) == (0.015, 1e-6)
    assert found["allowed"] == {
        "max_difference": pytest.approx(0.015 * found["spread"]),
        "kl_divergence": pytest.approx(1e-6 * found["spread"] * found["spread"]),
    }
    assert 0 < found["max_difference"] <= found["allowed"]["max_difference"]


def test_other_tokens_give_other_numbers(source: Path, copy: Path, tmp_path: Path) -> None:
    perplexities = set()
    for tokens in ("0 1 2 3", "3 2 1 0"):
        (tmp_path / "tokens.txt").write_text(tokens)
        done = run("verify", source, copy, "--level", "inference", "--tokens", tmp_path / "tokens.txt", "--json")
        perplexities.add(json.loads(done.out)["outputs"][0]["inference"]["perplexity"])

    assert len(perplexities) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--level", "inference", "--tokens", "t", "--prompt", "ab"], "not both"),
        (["--level", "inference", "--tokens", "t", "--prompt", ""], "not both"),
        (["--tokens", "t"], "are for --level inference"),
        (["--prompt", "ab"], "are for --level inference"),
        (["--prompt", ""], "are for --level inference"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], said: str, source: Path, copy: Path) -> None:
    done = run("verify", source, copy, *options)

    assert (done.code, done.out) == (2, "")
    assert said in " ".join(done.err.replace("│", " ").split())


# ---- which configuration -------------------------------------------------------------------------------------------------------


def test_a_folder_without_a_configuration_is_computed_by_the_source_s(source: Path, copy: Path, tmp_path: Path) -> None:
    shutil.copytree(copy, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").unlink()

    (output,) = verify(open_checkpoint(source), [tmp_path / "copy"], Options(level="inference")).outputs

    assert output.inference is not None
    assert output.inference["max_difference"] == 0
    assert (output.verdict, output.tensors.different) == ("identical", ())
    assert [note.name for note in output.notes] == ["config.json"]


@pytest.mark.parametrize("heads", [2, 8])
def test_a_lone_file_beside_another_s_configuration_is_computed_by_the_source_s(
    heads: int, source: Path, copy: Path, tmp_path: Path
) -> None:
    """Another number of heads gives other logits from the same weights."""
    shutil.copy(copy / "model.safetensors", tmp_path / "x.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"n_head": heads}))

    (output,) = verify(open_checkpoint(source), [tmp_path / "x.safetensors"], Options(level="inference")).outputs

    assert output.inference is not None
    assert output.inference["max_difference"] == 0
    assert output.verdict == "identical"


# ---- by a manifest -------------------------------------------------------------------------------------------------------------


def golden_of(source: Path) -> Golden:
    made = examine(expect(open_checkpoint(source)), [source]).golden()
    assert made is not None
    return made


ATTN, FC = "h.1.attn.c_attn.weight", "h.1.mlp.c_fc.weight"
QKV = (slice(0, 32), slice(32, 64), slice(64, 96))


def _bit(made: Model) -> None:
    made.tensors[FC].view("<u4")[3, 5] ^= 1


def _zeroed(made: Model) -> None:
    made.tensors[FC][:] = 0


def _copied(made: Model) -> None:
    made.tensors["h.1.ln_1.weight"][:] = made.tensors["h.0.ln_2.weight"]


def _transposed(made: Model) -> None:
    made.tensors["h.1.attn.c_proj.weight"] = made.tensors["h.1.attn.c_proj.weight"].T.copy()


def _permuted(made: Model) -> None:
    parts = [made.tensors[ATTN][:, part] for part in QKV]
    made.tensors[ATTN] = np.concatenate([parts[1], parts[0], parts[2]], axis=1)


DAMAGE = {
    "one bit": (_bit, FC, "changed", "its digest differs"),
    "zeros": (_zeroed, FC, "zeroed", "every element is zero"),
    "another's": (_copied, "h.1.ln_1.weight", "a copy of h.0.ln_2.weight", None),
    "transposed": (
        _transposed,
        "h.1.attn.c_proj.weight",
        "transposed",
        "its elements are those of the transposed matrix",
    ),
    "q and k": (_permuted, ATTN, "q and k swapped", None),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_manifest_is_enough_to_name_the_damage(kind: str, source: Path, tmp_path: Path) -> None:
    change, name, what, detail = DAMAGE[kind]
    made = model(scale=0.2)
    change(made)

    (output,) = verify(golden_of(source), [write_safetensors(made, tmp_path)]).outputs

    (found,) = output.tensors.different
    assert (found.name, found.what) == (name, what)
    assert detail is None or found.detail == detail


def test_a_manifest_leaves_out_what_follows_from_the_architecture(tmp_path: Path) -> None:
    """Left out are the masks and a head that is the embedding under a second name; an untied head is kept."""
    tied, own = model(), model(seed=8)
    tied.tied = True
    own.tensors["lm_head.weight"] = np.ones((40, 32), "<f4")

    manifests = [
        golden_of(write_source(made, tmp_path / str(number))) for number, made in enumerate((model(), tied, own))
    ]

    plain, with_tie, with_head = (set(manifest.tensors) for manifest in manifests)
    assert plain == set(model().tensors)
    assert with_tie == plain
    assert with_head == plain | {"lm_head.weight"}
    assert [manifest.tied for manifest in manifests] == [(), (), ()]


def test_a_manifest_of_no_known_family_has_every_name_and_every_tie(tmp_path: Path) -> None:
    value = {"a": view("0", (2,)), "b": view("1", (2,)), "lm_head.weight": view("0", (2,))}
    path = write_checkpoint(tmp_path / "x.bin", value, {"0": floats(1, 2), "1": floats(3, 4)})

    made = golden_of(path)

    assert {name: tensor.sha256 for name, tensor in made.tensors.items()} == {
        "a": hashlib.sha256(floats(1, 2)).hexdigest(),
        "b": hashlib.sha256(floats(3, 4)).hexdigest(),
        "lm_head.weight": hashlib.sha256(floats(1, 2)).hexdigest(),
    }
    assert made.tied == (("a", "lm_head.weight"),)


# ---- the numbers behind it -----------------------------------------------------------------------------------------------------


class Given:
    """An engine that answers with given logits."""

    name, activation, log_probabilities = "numpy", "erf", False

    def __init__(self, logits: np.ndarray) -> None:
        self._logits = logits

    def logits(self, tokens: object) -> np.ndarray:
        return self._logits


def reference_of(logits: np.ndarray, tokens: tuple[int, ...]) -> evaluate.Reference:
    return evaluate.Reference("erf", tokens, len(tokens), logits)


LOGITS = np.array([[0.0, -1.0, -3.0], [2.0, 2.0, -1.0], [0.5, 0.25, 0.0]], dtype=np.float32)
# By hand: the surprise of 1 after LOGITS[0], and of 2 after LOGITS[1]; exp of their mean.
SURPRISES = (np.log(1 + np.exp(-1.0) + np.exp(-3.0)) + 1.0, np.log(2 + np.exp(-3.0)) + 3.0)
PERPLEXITY = float(np.exp(sum(SURPRISES) / 2))


@pytest.mark.parametrize("shift", [0.0, 1024.0, -1024.0, 65536.0, -65536.0])
def test_logits_far_from_zero_mean_the_same(shift: float) -> None:
    """Softmax knows no constant; the sums are exact in float32 for these numbers."""
    found = evaluate.compare(reference_of(LOGITS, (0, 1, 2)), Given(LOGITS + np.float32(shift)))  # type: ignore[arg-type]

    assert found.perplexity == pytest.approx(PERPLEXITY, rel=1e-12)
    assert found.other_perplexity == pytest.approx(PERPLEXITY, rel=1e-12)
    assert found.kl_divergence == pytest.approx(0, abs=1e-12)
    assert found.max_difference == abs(shift)


def test_the_divergence_of_far_logits_is_what_the_formula_says() -> None:
    ours, theirs = LOGITS + np.float32(1024), LOGITS[:, ::-1] - np.float32(1024)
    exact = LOGITS.astype(np.float64)
    p = np.exp(exact) / np.exp(exact).sum(-1, keepdims=True)
    expected = float((p * np.log(p / p[:, ::-1])).sum(-1).mean())

    found = evaluate.compare(reference_of(ours, (0, 1, 2)), Given(np.ascontiguousarray(theirs)))  # type: ignore[arg-type]

    assert found.kl_divergence == pytest.approx(expected, rel=1e-9)
