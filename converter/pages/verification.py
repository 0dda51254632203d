"""The page of `verify`: a verdict on each output, what differs, what a change of dtype costs, and what is computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from converter import formats
from converter.pages import page, rounded
from converter.text import safe_name, safe_text
from converter.words import ACTIVATIONS

if TYPE_CHECKING:
    from converter.reports.verification import Difference, Loss, Verification, VerifiedOutput

_VALUE: Final = 2000  # characters of a value that are shown
_TONES: Final[Mapping[str, str]] = {"identical": "good", "equivalent": "good"}  # any other verdict is bad

_LACKS: Final = {"missing": "the output does not have it", "unexpected": "the source does not have it"}


def verification(report: Verification) -> bytes:
    """The page, in UTF-8."""
    return page(
        "verification",
        {"kind": "verification", "outputs": [_data(output) for output in report.outputs]},
        kind="verification",
        title=_title(report),
        source=safe_text(report.source, _VALUE),
        outputs=[_output(output) for output in report.outputs],
    )


def _title(report: Verification) -> str:
    """The verdict on all outputs together."""
    if not report.ok:
        return "Different" if report.differs else "Not compared"
    return "Identical" if all(output.verdict == "identical" for output in report.outputs) else "Equivalent"


def _output(output: VerifiedOutput) -> dict[str, Any]:
    tensors = output.tensors
    return {
        "location": safe_text(output.location, _VALUE),
        "format": formats.named(output.format).title if output.format else None,
        "verdict": output.verdict,
        "tone": _TONES.get(output.verdict, "bad"),
        "weights": output.weights,
        "companions": output.companions,
        "agree": output.agree,
        "cards": [
            ("tensors compared", tensors.compared),
            ("identical in every bit", tensors.identical),
            ("within what their dtype allows", tensors.converted),
            ("differences", len(tensors.different) + len(tensors.unexplained())),
        ],
        "notes": [
            f"{safe_name(one.name)} {safe_text(one.what)}: {safe_text(one.detail, _VALUE)}" for one in output.notes
        ],
        "left_out": [safe_name(name) for name in output.left_out],
        "lacks": [safe_name(name) for name in output.lacks],
        "wrong": bool(tensors.different or tensors.missing or tensors.unexpected),
        "costs": bool(output.losses),
        "computed": None if output.inference is None else _computed(output.inference),
    }


def _computed(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the model computes, as words and numbers."""
    greedy = found["greedy_difference"]
    return [
        ("engine", f"{found['engine']}, {ACTIVATIONS[found['activation']]}, {found['tokens']:,} tokens"),
        ("likeliest token", f"equal at {found['top1_agreement']:.1%} of {found['positions']:,} positions"),
        ("greedy tokens", f"{len(found['greedy']):,} equal" if greedy is None else f"number {greedy + 1} differs"),
        (
            "logits",
            f"differ by {_number(found['max_difference'])} at most, {_number(found['mean_difference'])} on average",
        ),
        ("KL divergence", f"{_number(found['kl_divergence'])} on average"),
        ("perplexity", f"{_number(found['other_perplexity'])}; source: {_number(found['perplexity'])}"),
    ]


def _number(value: float | None) -> str:
    return "no number" if value is None else f"{value:.3g}"


def _data(output: VerifiedOutput) -> dict[str, Any]:
    inference = output.inference or {}
    tensors = output.tensors
    return {
        "wrong": [
            *(_difference(one) for one in tensors.different),
            *([name, safe_name(name), what, _LACKS[what]] for name, what in tensors.unexplained()),
        ],
        "costs": [_loss(one) for one in output.losses],
        "layers": [_loss(one) for one in output.layer_losses],
        "kl": list(inference.get("kl_by_position", ())),
        "pairs": sorted(inference.get("logit_pairs", ())),
        "apart": list(inference.get("difference_by_position", ())),
    }


def _difference(one: Difference) -> list[Any]:
    share = one.differing / one.elements if one.differing is not None and one.elements else None
    numbers = [rounded(share), one.index, rounded(one.expected), rounded(one.found), rounded(one.largest)]
    return [one.name, safe_name(one.name), one.what, safe_text(one.detail, _VALUE), *numbers]


def _loss(one: Loss) -> list[Any]:
    return [one.name, safe_name(one.name), one.dtype, one.elements, one.relative, rounded(one.largest)]
