"""What fickling makes of a pickle. It runs in a process of its own, which gets the bytes and little else.

That process has an empty environment, `/` for its folder, limits of memory and processor time, and no network where the
kernel lets anyone give it up. Once fickling is imported it can open nothing more: no file, no socket. This is not a sandbox.

Run as a script, this file is that process: it must import nothing of this package.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_MEMORY: Final = 1 << 30  # bytes of address space
_SECONDS: Final = 30  # of processor time for one answer
_PATIENCE: Final = 90  # seconds until an answer, on however busy a machine
_ANSWER: Final = 1 << 20  # bytes
_RENEWED: Final = (
    32 << 20
)  # bytes of pickles, after which the process is started anew: it may not have freed all memory
_READY: Final = b"+"
_UNSHARE: Final = "/usr/bin/unshare"  # gives up the network before Python 3.12 does
_CODECS: Final = ("raw_unicode_escape", "unicode_escape", "latin-1", "ascii", "utf-8", "utf-16-le", "utf-32-le")
_FIRST: Final = b"cposix\nsystem\n(Vx\ntR0K\1."
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


class Opinions:
    """Asks fickling about the pickles of many files. The process starts with the first, and anew after one that it died of."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._spent = 0  # bytes of pickles that the process was asked about

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def ask(self, pickles: list[bytes]) -> Opinion:
        """Ask about the pickles of one file. Never raises: fickling's failures are an answer, too."""
        sent = b"".join(len(data).to_bytes(8, "little") + data for data in pickles)
        if self._spent + len(sent) > _RENEWED:
            self.close()
        deadline = time.monotonic() + _PATIENCE
        try:
            if self._process is None:
                self._process, self._spent = _started(deadline), 0
            self._spent += len(sent)
            answer: dict[str, Any] = json.loads(_answer(self._process, sent, deadline))
        except TimeoutError:
            self.close()
            return Opinion("", None, (), f"it gave no answer within {_PATIENCE} seconds")
        except (ValueError, OSError):
            self.close()
            return Opinion("", None, (), "it ended without an answer: out of memory or time, or not installed")
        if answer["severity"] not in _SEVERITIES:
            return Opinion(answer["version"], None, (), answer["note"])
        return Opinion(answer["version"], answer["severity"], tuple(answer["reasons"]), answer["note"])


def _started(deadline: float) -> subprocess.Popen[bytes]:
    """The process, once it answers: without a network if that can be had. Raises OSError."""
    # -I: no folder that someone is standing in, and no variable, lends its modules. So it is told where fickling lies.
    found = find_spec("fickling")
    folder = str(Path(found.origin).parent.parent) if found is not None and found.origin else ""
    python = [sys.executable, "-I", __file__, folder]
    unshared = [_UNSHARE, "--user", "--net", "--", *python]
    commands = [unshared, python] if sys.version_info < (3, 12) and Path(_UNSHARE).is_file() else [python]
    for command in commands:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
        )
        try:
            if _received(process, len(_READY), deadline) == _READY:
                return process
        except BaseException:
            process.kill()
            process.communicate()
            raise
        process.kill()
        process.communicate()
    raise OSError("no process answers")


def _answer(process: subprocess.Popen[bytes], sent: bytes, deadline: float) -> bytes:
    """Send the pickles of a file and return the document that comes back. Raises OSError and TimeoutError."""
    if process.stdin is None:
        raise OSError("the process has no input")
    process.stdin.write(len(sent).to_bytes(8, "little") + sent)
    process.stdin.flush()
    size = int.from_bytes(_received(process, 8, deadline), "little")
    return _received(process, min(size, _ANSWER), deadline)


def _received(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    """So many bytes, or fewer if the process ends. Raises TimeoutError."""
    if process.stdout is None:
        raise OSError("the process has no output")
    pipe, parts = process.stdout.fileno(), bytearray()
    poll = select.poll()
    poll.register(pipe, select.POLLIN | select.POLLHUP)
    while len(parts) < size:
        if not poll.poll(max(0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        piece = os.read(pipe, size - len(parts))
        if not piece:
            break
        parts += piece
    return bytes(parts)


# ---- the process ----------------------------------------------------------------------------------------------------


def _main(folder: str) -> None:
    """Answer each document of pickles on stdin with one of JSON; what fickling prints goes nowhere."""
    import codecs
    import resource

    sys.path.append(folder)
    if sys.version_info >= (3, 12) and sys.platform == "linux":
        from contextlib import suppress

        with suppress(OSError):
            os.unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.write(answer, _READY)
    # All that will be needed has to be imported by now.
    for name in _CODECS:
        codecs.lookup(name)
    _judged(len(_FIRST).to_bytes(8, "little") + _FIRST)
    for what, most in (
        (resource.RLIMIT_AS, _MEMORY),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
        (resource.RLIMIT_NPROC, 0),
    ):
        _limit(what, most, most)
    while len(size := sys.stdin.buffer.read(8)) == 8:
        sent = sys.stdin.buffer.read(int.from_bytes(size, "little"))
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + _SECONDS, None)
        said = json.dumps(_judged(sent)).encode()
        os.write(answer, len(said).to_bytes(8, "little") + said)


def _limit(what: int, soft: int, hard: int | None) -> None:
    """Set a limit as far as the system has it: macOS knows no RLIMIT_AS. Without `hard` that stays, to be raised up to."""
    import resource

    try:
        resource.setrlimit(what, (soft, resource.getrlimit(what)[1] if hard is None else hard))
    except (ValueError, OSError):
        return


def _judged(sent: bytes) -> dict[str, Any]:
    from importlib.metadata import version

    said: dict[str, Any] = {"version": _VERSION[0] if _VERSION else "", "severity": None, "reasons": [], "note": None}
    worst, position = -1, 0
    try:
        if not _VERSION:
            _VERSION.append(version("fickling"))
        said["version"] = _VERSION[0]
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


_VERSION: Final[list[str]] = []  # fickling's, once it was asked for

if __name__ == "__main__":
    _main(sys.argv[1])
