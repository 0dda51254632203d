"""What is done with one checkpoint: the steps of a job, by the functions that the commands call."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from converter.errors import ConverterError, OutputError, SourceError
from converter.fleet.job import Work
from converter.limits import parse, using
from converter.text import nbytes_text, safe_text
from converter.words import in_job

_FOLLOWS: Final = ("mask",)  # kinds of things that are dropped because they follow from the rest
_LONGEST: Final = 500  # characters of a reason
AGAIN: Final = "again"  # the end of an attempt that is worth another one


@dataclass(frozen=True, slots=True)
class Result:
    """How one attempt ended. `state` is one of the journal's, or `again`; `step` is where it ended, `reason` says why.

    `left` names what the output lacks of the checkpoint, apart from what follows from the rest.
    """

    state: str
    step: str = ""
    reason: str = ""
    seconds: float = 0.0
    written: int = 0
    left: str = ""


@dataclass(frozen=True, slots=True)
class Order:
    """One attempt that is ordered. Places are absolute, or addresses. With `force` an output that is there is replaced."""

    number: int
    source: str
    output: str
    work: Work
    force: bool

    def as_json(self) -> dict[str, Any]:
        """The order as values that JSON knows."""
        return asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Order:
        """The order that `as_json` wrote."""
        work = {field.name: told["work"][field.name] for field in fields(Work)}
        work |= {name: tuple(work[name]) for name in ("steps", "limits")}
        return cls(told["number"], told["source"], told["output"], Work(**work), told["force"])


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step found: why the checkpoint fails it, or nothing; the bytes that were written, and what was left behind."""

    refused: str = ""
    written: int = 0
    left: str = ""


def run(order: Order) -> Result:
    """Do the steps of an order, one after another. Nothing is raised: how it ended is the result."""
    start, step, written, left = time.perf_counter(), "", 0, ""

    def ended(state: str, reason: str = "") -> Result:
        said = safe_text(reason, _LONGEST)
        return Result(
            state, "" if state == "done" else step, said, round(time.perf_counter() - start, 3), written, left
        )

    try:
        with in_job(), bounded(order.work.memory), using(parse(order.work.limits)):
            for step in order.work.steps:
                outcome = STEPS[step](order)
                written, left = written + outcome.written, left or outcome.left
                if outcome.refused:
                    return ended("failed", outcome.refused)
        return ended("done")
    except MemoryError:
        return ended("broken", f"it needs more memory than {nbytes_text(order.work.memory)}, which `memory` allows")
    except (SourceError, OutputError) as error:
        # Something on another machine may be back later; something on this one will not.
        return ended(AGAIN if "://" in f"{order.source} {order.output}" else "refused", str(error))
    except ConverterError as error:
        return ended("refused", f"{error}")
    except OSError as error:
        return ended(AGAIN, str(error))
    except Exception as error:
        return ended("broken", f"a bug in this program; please report it: {type(error).__name__}: {error}")


def _scan(order: Order) -> Outcome:
    from converter.scanning.scan import fails, scan
    from converter.words import FAIL_ON

    work = order.work
    report = scan([order.source], fickling=work.fickling, policy=Path(work.policy) if work.policy else None)
    if not fails(report, unknown=work.fail_on == FAIL_ON[-1]):
        return Outcome()
    worst = next((file for file in report.files if file.verdict == report.verdict), report.files[0])
    finding = worst.findings[0].message if worst.findings else worst.kind
    return Outcome(f"{report.verdict}: {finding}")


def _check(order: Order) -> Outcome:
    from converter.checking.check import check, fails

    report = check([order.source], threads=1)
    if not fails(report, warnings=False):
        return Outcome()
    fault = next(fault for one in report.checkpoints for fault in one.faults if fault.level == "error")
    more = sum(one.count("error") for one in report.checkpoints) - 1
    return Outcome(f"{fault.name + ': ' if fault.name else ''}{fault.message}{f' and {more:,} more' if more else ''}")


def _convert(order: Order) -> Outcome:
    from converter.conversion.convert import convert
    from converter.opening import open_checkpoint

    work = order.work
    with open_checkpoint(order.source) as catalogue:
        report = convert(
            catalogue,
            Path(order.output),
            to=work.to,
            dtype=work.dtype,
            max_shard_size=work.max_shard_size,
            force=order.force,
            threads=1,
        )
    left = [row.name for row in report.dropped if row.kind not in _FOLLOWS]
    return Outcome("", report.nbytes, safe_text(", ".join(left), _LONGEST))


def _verify(order: Order) -> Outcome:
    from converter.opening import open_checkpoint
    from converter.verification.verify import verify

    with open_checkpoint(order.source) as catalogue:
        report = verify(catalogue, [order.output], threads=1)
    if report.ok:
        return Outcome()
    tensors = report.outputs[0].tensors
    found = next(iter(tensors.different), None)
    said = (
        f"{found.name}: {found.detail}" if found is not None else ", ".join((*tensors.missing, *tensors.unexpected)[:3])
    )
    return Outcome(f"the copy is different: {said}")


STEPS: Final[Mapping[str, Callable[[Order], Outcome]]] = MappingProxyType(
    {"scan": _scan, "check": _check, "convert": _convert, "verify": _verify}
)


@contextlib.contextmanager
def bounded(memory: int) -> Iterator[None]:
    """Let this process map at most `memory` bytes more than it has now, where the system counts them (Linux)."""
    if sys.platform == "darwin":
        yield
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = min(pages * resource.getpagesize() + memory, sys.maxsize)
    resource.setrlimit(resource.RLIMIT_AS, (wanted if hard < 0 else min(wanted, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, hard))
