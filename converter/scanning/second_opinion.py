"""What fickling says about a pickle. fickling runs in a process of its own, which gets the bytes and little else.

The process has an empty environment, `/` as its folder, limits on memory and processor time and, if the kernel allows
it, no network. Once fickling is imported, the process can't open any file or socket. This is not a sandbox.

This file runs as a script in that process, so it must import nothing of this package.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    import subprocess
    from types import TracebackType

_MEMORY: Final = 1 << 30  # bytes of address space
_SECONDS: Final = 30  # seconds of processor time for one answer
_ANSWER: Final = 1 << 20  # bytes
_READY: Final = b"+"
UNSHARE: Final = "/usr/bin/unshare"  # cuts off the network for Python before 3.12
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
    """The worst severity over several pickles, in the words of fickling, and its reasons; or why there is none."""

    version: str
    severity: str | None
    reasons: tuple[str, ...]
    note: str | None = None

    @property
    def alarmed(self) -> bool:
        """Whether fickling considers the pickle unsafe."""
        return self.severity is not None and _SEVERITIES.index(self.severity) >= _SEVERITIES.index("LIKELY_UNSAFE")


class Opinions:
    """Asks fickling about the pickles of many files. A process starts with the first file, and again after it has died.

    `patience` is the seconds to wait for an answer, even on a busy machine. After `most` bytes of pickles a new process
    is started, because the old one may not have freed all memory. `unshare` is the program that cuts off the network.
    """

    def __init__(self, *, patience: float = 90, most: int = 32 << 20, unshare: str = UNSHARE) -> None:
        self.patience, self._most, self._unshare = patience, most, unshare
        self._process: subprocess.Popen[bytes] | None = None
        self._spent = 0  # bytes of pickles that this process was asked about

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
        """Ask about the pickles of one file. Never raises: a failure of fickling is an answer, too."""
        sent = b"".join(len(data).to_bytes(8, "little") + data for data in pickles)
        if self._spent + len(sent) > self._most:
            self.close()
        deadline = time.monotonic() + self.patience
        try:
            if self._process is None:
                self._process, self._spent = _started(deadline, self._unshare), 0
            self._spent += len(sent)
            answer: dict[str, Any] = json.loads(_answer(self._process, sent, deadline))
        except TimeoutError:
            self.close()
            return Opinion("", None, (), f"it gave no answer within {self.patience} seconds")
        except (ValueError, OSError):
            self.close()
            return Opinion("", None, (), "it ended without an answer: out of memory or time, or not installed")
        if answer["severity"] not in _SEVERITIES:
            return Opinion(answer["version"], None, (), answer["note"])
        return Opinion(answer["version"], answer["severity"], tuple(answer["reasons"]), answer["note"])


def _started(deadline: float, unshare: str) -> subprocess.Popen[bytes]:
    """The process, once it is ready; without a network if that is possible. Raises OSError."""
    # Imported here, because most scans start no process and these modules take time to import.
    import subprocess
    from importlib.util import find_spec

    # -I: no module comes from the current folder or an environment variable. So we pass the path of fickling.
    found = find_spec("fickling")
    folder = str(Path(found.origin).parent.parent) if found is not None and found.origin else ""
    python = [sys.executable, "-I", __file__, folder]
    unshared = [unshare, "--user", "--net", "--", *python]
    commands = [unshared, python] if sys.version_info < (3, 12) and Path(unshare).is_file() else [python]
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
    """Exactly `size` bytes, or fewer if the process ends. Raises TimeoutError."""
    import select

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
    """Answer each document of pickles on stdin with one of JSON. Whatever fickling prints is discarded."""
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
    # Nothing can be imported from here on.
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
    """Set a limit if the system has it (macOS has no RLIMIT_AS). Without `hard`, the hard limit stays as it is."""
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
        # With its standard list, fickling calls 105 of 108 ordinary checkpoints unsafe; without three of its analyses, none.
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
    # fickling raises all kinds of errors on bytes it does not understand: for 441 of 2,393 hostile files in a trial.
    except BaseException as error:
        said["note"] = f"it failed: {type(error).__name__}: {error}"[:300]
    said["reasons"] = said["reasons"][:10]
    return said


_VERSION: Final[list[str]] = []  # fickling's version, once it has been looked up

if __name__ == "__main__":
    _main(sys.argv[1])
