"""What we say about a file, and whether the oracle's statements hold for it."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from typing import Any

from converter.errors import ConverterError
from converter.formats import open_source
from converter.io.source import Memory
from converter.scanning.scan import scan
from converter.tensors.catalogue import Catalogue
from converter.tensors.guards import check_expansion, check_portable
from tests.peers.oracle.child import CONTAINER

_SLOW = 1.0  # seconds of processor time: the files of the oracle have a few kilobytes


@dataclass(frozen=True)
class Ours:
    """Our verdict; the tensors that we would convert, by their names in the file (None if we refuse it); how we failed.

    `beside` are the names that the report lists as left out. `seconds` are of processor time.
    """

    verdict: str
    tensors: dict[str, list[Any]] | None
    beside: list[str]
    refused: str
    failure: str
    seconds: float


@dataclass(frozen=True)
class Finding:
    """A file for which a statement does not hold. `kind` says how, without details that differ from file to file."""

    kind: str
    detail: str
    name: str
    what: int
    data: bytes = field(repr=False)


def ours(what: int, name: str, data: bytes) -> Ours:
    """Scan a file, and open a container as `convert` does."""
    start = time.process_time()
    verdict, tensors, refused, failure = "", None, "", ""
    beside: list[str] = []
    try:
        verdict = scan([Memory(data, name)], fickling=False).verdict
    except ConverterError as error:
        verdict, refused = "refused", str(error)
    except Exception as error:
        failure = f"scan: {_where(error)}"
    if what == CONTAINER:
        try:
            catalogue = open_source(Memory(data, name))
            check_portable(catalogue, ignore_globals=False, no_crc=False)
            check_expansion(catalogue)
            tensors = {_full_name(catalogue, key): _facts(tensor) for key, tensor in catalogue.items()}
            beside = [other.name for other in catalogue.others]
        except ConverterError as error:
            refused = str(error)
        except Exception as error:
            failure = failure or f"open: {_where(error)}"
    return Ours(verdict, tensors, beside, refused, failure, time.process_time() - start)


def _full_name(catalogue: Catalogue, name: str) -> str:
    """The keys that lead to a tensor from the top of the file: names start below the part that holds the weights."""
    root, prefix = (str(catalogue.facts.get(what) or "") for what in ("root", "prefix"))
    if name == "tensor" and len(catalogue) == 1 and root:
        return root
    return f"{root}.{prefix}{name}" if root else f"{prefix}{name}"


def _where(error: Exception) -> str:
    """The failure, and the line of our code that it came from."""
    place, trace = "", error.__traceback__
    while trace is not None:
        if "converter" in trace.tb_frame.f_code.co_filename:
            place = f"{trace.tb_frame.f_code.co_filename.rpartition('converter/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} at {place}"


def _facts(tensor: Any) -> list[Any]:
    digest = hashlib.sha1()
    if tensor.nbytes > 1 << 24:
        return [f"torch.{tensor.dtype.torch}", list(tensor.shape), "large"]
    for piece in tensor.tiles():
        digest.update(piece)
    return [f"torch.{tensor.dtype.torch}", list(tensor.shape), digest.hexdigest()]


def judge(what: int, name: str, data: bytes, said: Ours, answer: dict[str, Any]) -> Finding | None:
    """The first statement that does not hold, or None."""
    if said.failure:
        return Finding(f"failure: {said.failure}", said.failure, name, what, data)
    if answer["ran"] and said.verdict == "plain":
        return Finding(f"ran: {answer['ran'][0].split()[0]}", answer["ran"][0], name, what, data)
    if answer["asked"] and said.verdict == "plain":
        loader, *pair = answer["asked"][0]
        loaders = ", ".join(entry[0] for entry in answer["asked"])
        return Finding(f"plain, but asked for by {loader}", f"{pair!r} asked for by {loaders}", name, what, data)
    for key in ("weights", "safetensors"):
        if answer.get(key) and said.tensors is not None and (problem := _differs(answer[key], said)):
            return Finding(
                f"{key}: {problem.partition(':')[0]}",
                f"{problem}; torch gives {answer[key]!r:.2000}; ours are {said.tensors!r:.2000}",
                name,
                what,
                data,
            )
    if said.seconds > _SLOW:
        return Finding("slow", f"{said.seconds:.2f} s for {len(data):,} bytes", name, what, data)
    return None


def _beside(name: str, said: Ours) -> bool:
    """Whether the report lists a name, or a part that it is in, as left out."""
    return any(name == other or name.startswith(f"{other}.") for other in said.beside)


def _differs(theirs: list[list[Any]], said: Ours) -> str | None:
    """How torch's tensors and ours differ, or None."""
    mine = said.tensors or {}
    names = {name for name, *_ in theirs}
    if len(mine) == 1:
        [(only, facts)] = mine.items()
        if only not in names and f"{only}.tensor" in names:
            # `tensor` is a key of the file, and not our name for a tensor without keys
            mine = {f"{only}.tensor": facts}
    named: dict[str, list[Any]] = {}
    for name, *facts in theirs:
        # Two keys, such as 1 and "1", may give one name. That does no harm in a part that the report lists as left out.
        if name in named and (name in mine or not _beside(name, said)):
            return "a name that torch has twice"
        named[name] = facts
    if more := sorted(set(mine) - set(named)):
        return f"other names: torch has no {more!r:.300}, but {list(named)!r:.300}"
    for name, facts in named.items():
        if name not in mine:
            if not _beside(name, said):
                return f"left out without a word: `{name}`"
            continue
        for field_name, one, other in zip(("dtype", "shape", "bytes"), facts, mine[name], strict=True):
            if one != other and "large" not in (one, other):
                return f"another {field_name}: `{name}` is {one} in torch and {other} here"
    return None
