"""What fickling makes of a pickle. It runs in a process of its own, which gets the bytes and little else.

Run as a script, this file is that process: it must import nothing of this package.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Final

_MEMORY: Final = 1 << 30  # bytes of address space
_SECONDS: Final = 30  # of processor time
_PATIENCE: Final = 90  # seconds until an answer, on however busy a machine
_ANSWER: Final = 1 << 20  # bytes
_SEVERITIES: Final = (
    "LIKELY_SAFE",
    "POSSIBLY_UNSAFE",
    "SUSPICIOUS",
    "LIKELY_UNSAFE",
    "LIKELY_OVERTLY_MALICIOUS",
    "OVERTLY_MALICIOUS",
)


@dataclass(frozen=True, slots=True)
class Opinion:
    """The worst severity over several pickles, as fickling names it, and its reasons; or why there is none."""

    version: str
    severity: str | None
    reasons: tuple[str, ...]
    note: str | None = None

    @property
    def alarmed(self) -> bool:
        """Whether fickling holds the pickle for unsafe."""
        return self.severity is not None and _SEVERITIES.index(self.severity) >= _SEVERITIES.index("LIKELY_UNSAFE")


def ask(pickles: list[bytes]) -> Opinion:
    """Ask about pickles, in one process. Never raises: fickling's failures are an answer, too."""
    sent = b"".join(len(data).to_bytes(8, "little") + data for data in pickles)
    try:
        # -P: a folder that someone is standing in must not lend its modules.
        done = subprocess.run(
            [sys.executable, "-P", __file__],
            input=sent,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_PATIENCE,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout[:_ANSWER])
    except subprocess.TimeoutExpired:
        return Opinion("", None, (), f"it gave no answer within {_PATIENCE} seconds")
    except (ValueError, OSError):
        return Opinion("", None, (), "it ended without an answer: out of memory or time, or not installed")
    if answer["severity"] not in _SEVERITIES:
        return Opinion(answer["version"], None, (), answer["note"])
    return Opinion(answer["version"], answer["severity"], tuple(answer["reasons"]), answer["note"])


def _main() -> None:
    """Read pickles from stdin and write one JSON document; what fickling prints goes nowhere."""
    import resource

    for what, most in (
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):  # macOS knows no RLIMIT_AS
            continue
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sent = sys.stdin.buffer.read()
    os.write(answer, json.dumps(_judged(sent)).encode())


def _judged(sent: bytes) -> dict[str, Any]:
    from importlib.metadata import version

    said: dict[str, Any] = {"version": version("fickling"), "severity": None, "reasons": [], "note": None}
    worst, position = -1, 0
    try:
        # Its standard list calls 105 of 108 ordinary checkpoints unsafe; without three of its analyses, none.
        from fickling.analysis import (
            Analyzer,
            BadCalls,
            DuplicateProtoAnalysis,
            ExpansionAttackAnalysis,
            InterpretationErrorAnalysis,
            InvalidOpcode,
            MisplacedProtoAnalysis,
            ResourceExhaustionAnalysis,
            ScannerDeactivation,
            UnsafeImports,
            UnsafeImportsML,
            check_safety,
        )
        from fickling.fickle import Pickled
        from fickling.ml import MLAllowlist

        analyses = (
            MLAllowlist, InvalidOpcode, InterpretationErrorAnalysis, ResourceExhaustionAnalysis, DuplicateProtoAnalysis,
            MisplacedProtoAnalysis, ExpansionAttackAnalysis, UnsafeImportsML, UnsafeImports, BadCalls, ScannerDeactivation,
        )  # fmt: skip
        while position < len(sent):
            size = int.from_bytes(sent[position : position + 8], "little")
            pickled = Pickled.load(sent[position + 8 : position + 8 + size])
            position += 8 + size
            found = check_safety(pickled, analyzer=Analyzer([analysis() for analysis in analyses]))
            severity = _SEVERITIES.index(found.severity.name)
            if severity > worst:
                worst, said["severity"] = severity, found.severity.name
            if severity:
                said["reasons"] += [line[:300] for line in found.to_string().splitlines() if line.strip()][:5]
    # Whatever it raises on bytes that it does not understand: 441 of 2,393 hostile files in a trial.
    except BaseException as error:
        said["note"] = f"it failed: {type(error).__name__}: {error}"[:300]
    said["reasons"] = said["reasons"][:10]
    return said


if __name__ == "__main__":
    _main()
