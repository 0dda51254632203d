"""The verdicts, and the kinds of finding that lead to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from converter.words import DANGEROUS, MALFORMED, PLAIN, PROGRAM, UNKNOWN

VERDICTS: Final = (PLAIN, UNKNOWN, PROGRAM, DANGEROUS, MALFORMED)  # each worse than the one before


@dataclass(frozen=True, slots=True)
class Rule:
    """A kind of finding: its level in SARIF, the verdict it leads to, and what it means.

    `severity` is how bad it is for security, from 0 to 10, as CVSS counts: from 9 critical, from 7 high, from 4 medium.
    """

    level: str
    verdict: str
    title: str
    meaning: str
    severity: float


RULES: Final = {
    "dangerous-global": Rule(
        "error",
        DANGEROUS,
        "A global that is known to run code",
        "Unpickling the file imports this global and usually calls it. It is known to run code, to read or write files, "
        "or to reach the network. Do not load the file.",
        9.8,
    ),
    "unknown-global": Rule(
        "warning",
        UNKNOWN,
        "A global outside the closed table",
        "The pickle names something that a checkpoint of tensors does not need. Unpickling imports it, whatever it is.",
        6.5,
    ),
    "nested-pickle": Rule(
        "warning",
        PLAIN,
        "A pickle inside data",
        "Text, bytes or a storage hold a pickle of their own. It is inert until something unpickles it.",
        3.1,
    ),
    "hidden-data": Rule(
        "warning",
        PLAIN,
        "Data that nothing refers to",
        "The archive holds records that no tensor refers to and torch.save does not write: things could be hidden there.",
        3.1,
    ),
    "incomplete": Rule(
        "note",
        PLAIN,
        "A part of a model without the others",
        "The model was cut into several files, and not all of them lie beside this one. What is absent was not scanned.",
        1.0,
    ),
    "unchecked": Rule(
        "note",
        PLAIN,
        "Saved without CRCs",
        "The archive has no CRCs, so damage to it can't be noticed.",
        1.0,
    ),
    "program": Rule(
        "warning",
        PROGRAM,
        "A program, not a checkpoint",
        "The program that the file is made for runs code from it: TorchScript, torch.package, torch.export, a Keras "
        "layer of Python code, an ONNX model with operators from elsewhere. Its pickles are looked into; the code is not.",
        6.5,
    ),
    "malformed": Rule(
        "error",
        MALFORMED,
        "Malformed, or readable in two ways",
        "Readers disagree on what such a file holds; a scanner may see something other than what the program that loads it sees.",
        7.5,
    ),
    "not-looked-into": Rule(
        "error",
        MALFORMED,
        "Not looked into",
        "The file, or a part of it, has a form that this program does not open, or exceeds a limit.",
        5.0,
    ),
    "second-opinion": Rule(
        "warning",
        PLAIN,
        "fickling disagrees",
        "fickling reaches another result. Its opinion is shown beside the verdict and does not change it.",
        3.1,
    ),
}

# The order of files in a report: harmful files first, then those that could be harmful, the worst first.
SHOWN: Final = (DANGEROUS, *(verdict for verdict in reversed(VERDICTS) if verdict != DANGEROUS))
