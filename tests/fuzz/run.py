"""Coverage-guided fuzzing of every parser: `run.py [--runs N] [--seconds N] [PARSER …]`, in the environment of `make fuzz`.

It starts with the inputs in `corpus/`. Inputs that it finds on the way go to `.fuzz/PARSER`, and are used again the
next time; inputs that break a parser go to `.fuzz/PARSER-…`. An input may take 5 seconds and 1 GiB. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.build.layouts import Field, gguf_fields, legacy_fields, pickle_fields, sealed, zip_fields

ROOT = Path(__file__).parent.parent.parent
CORPUS = Path(__file__).parent / "corpus"
FOUND = ROOT / ".fuzz"
NAMES = ("zip", "machine", "legacy", "safetensors", "gguf", "index", "manifest", "properties")
SECONDS, MEBIBYTES, LONGEST = 5, 1024, 2048
NUMBERS = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 10**30, 0.0, 1e300)
TEXTS = ("", ".", "..", "../a", "/a", "a/b", "a\0b", "\u202e", "é", "w", "0", "F32", "little", "big", "x" * 200)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parsers", nargs="*", metavar="PARSER", default=NAMES, help=", ".join(NAMES))
    parser.add_argument("--runs", type=int, default=0, help="executions of each; 0: as long as the seconds last")
    parser.add_argument(
        "--timeout", type=int, default=SECONDS, help="seconds that an input may take; on a busy machine, more"
    )
    parser.add_argument("--seconds", type=int, default=60, help="of each at most; 0: as long as the runs last")
    options = parser.parse_args()
    print("| parser | executions | a second | longest, s | most memory, MiB | inputs that reach something new |")
    print("|---|---:|---:|---:|---:|---:|", flush=True)
    failed = [name for name in options.parsers if not fuzz(name, options.runs, options.seconds, options.timeout)]
    sys.exit(f"findings in {', '.join(failed)}: see {FOUND}" if failed else 0)


def fuzz(name: str, runs: int, seconds: int, timeout: int) -> bool:
    """Fuzz one parser in a process of its own and print its line. False if the parser broke."""
    (FOUND / name).mkdir(parents=True, exist_ok=True)
    flags = [f"-runs={runs or -1}", f"-max_total_time={seconds}", f"-max_len={LONGEST}", "-print_final_stats=1"]
    flags += [f"-timeout={timeout}", f"-rss_limit_mb={MEBIBYTES}", f"-artifact_prefix={FOUND / name}-"]
    command = [sys.executable, "-m", "tests.fuzz.run", "--worker", name, *flags, str(FOUND / name), str(CORPUS / name)]
    with open(FOUND / f"{name}.log", "w+", encoding="utf-8", errors="replace") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False, cwd=ROOT)
        log.seek(0)
        text = log.read()
    found = dict(re.findall(r"stat::(\w+):\s*(\d+)", text))
    figures = [f"{int(found.get(key, 0)):,}" for key in STATISTICS]
    print(f"| {name} | {' | '.join(figures)} |", flush=True)
    if done.returncode:
        print(text[-3000:], file=sys.stderr)
    return not done.returncode


STATISTICS = (
    "number_of_executed_units", "average_exec_per_sec", "slowest_unit_time_sec", "peak_rss_mb", "new_units_added",
)  # fmt: skip


def work(name: str, flags: list[str]) -> None:
    """Fuzz until a flag says enough; libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["converter"]):
        from tests.fuzz.parsers import accepts

    def run(data: bytes) -> None:
        accepts(name, data)

    def mutate(data: bytes, longest: int, seed: int) -> bytes:
        made = MUTATORS[name](data, random.Random(seed)) if seed % EVERY[name] == 0 else None
        if made is None or len(made) > longest:
            return bytes(atheris.Mutate(data, longest))
        return made

    mutator = {"custom_mutator": mutate} if name in MUTATORS else {}
    atheris.Setup([sys.argv[0], *flags], run, **mutator)
    atheris.Fuzz()


# ---- bytes changed at random are seldom JSON or an archive any more ---------------------------------------------------


def changed_json(data: bytes, draw: random.Random) -> bytes | None:
    """Change a value, key or order somewhere in a JSON document. None if it is not a JSON document."""
    try:
        document = [json.loads(data)]
    except (ValueError, RecursionError):
        return None
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [document]
    while waiting:
        node = waiting.pop()
        keys = range(len(node)) if isinstance(node, list) else list(node)
        places += [(node, key) for key in keys]
        waiting += [node[key] for key in keys if isinstance(node[key], dict | list)]
    for _ in range(draw.choice((1, 1, 2, 4))):
        node, key = draw.choice(places)
        if not _is_there(node, key):
            continue
        other, there = draw.choice(places)
        match draw.randrange(7):
            case 0:
                node[key] = draw.choice(NUMBERS)
            case 1:
                node[key] = draw.choice(TEXTS)
            case 2:
                node[key] = draw.choice((None, True, False, [], {}, [0], {"a": 1}, [[]]))
            case 3 if type(node[key]) is int:
                node[key] += draw.choice((-1, 1, 4, 8))
            case 4 if node is not document:
                del node[key]
            case 5 if isinstance(node, dict):
                node[draw.choice(TEXTS)] = node.pop(key)
            case 6 if _is_there(other, there):
                node[key] = json.loads(json.dumps(other[there]))
    return json.dumps(document[0], ensure_ascii=False).encode("utf-8", "replace") if document else None


def _is_there(node: Any, key: Any) -> bool:
    return key < len(node) if isinstance(node, list) else key in node


def changed_fields(data: bytes, draw: random.Random, walk: Callable[[bytes], list[Field]]) -> bytes | None:
    """Put other numbers into some of the fields. None if the walk finds no fields."""
    try:
        fields = walk(data)
    except (struct.error, ValueError, KeyError, IndexError, EOFError):
        return None
    if not fields:
        return None
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 4))):
        field = draw.choice(fields)
        numbers = (
            0,
            1,
            field.read(data) - 1,
            field.read(data) + 1,
            draw.choice(fields).read(data),
            draw.choice(NUMBERS),
        )
        field.write(changed, int(draw.choice(numbers)))
    return bytes(changed)


def changed_zip(data: bytes, draw: random.Random) -> bytes | None:
    """Change fields, and in half of the cases bytes of the records; changed records get their new CRCs."""
    changed = changed_fields(data, draw, lambda data: zip_fields(data)[0])
    if changed is None or draw.randrange(2):
        return changed
    records = [record for record in zip_fields(data)[1] if record.start < record.end <= len(data)]
    out = bytearray(data if draw.randrange(2) else changed)
    for _ in range(draw.choice((1, 2, 4)) if records else 0):
        record = draw.choice(records)
        out[draw.randrange(record.start, record.end)] = draw.randrange(256)
    return sealed(bytes(out), records)


def changed_legacy(data: bytes, draw: random.Random) -> bytes | None:
    """Change a number in one of the pickles, or after them."""
    return changed_fields(data, draw, lambda data: legacy_fields(data, [draw.randrange(max(1, len(data) - 8))]))


def changed_header(data: bytes, draw: random.Random) -> bytes | None:
    """Change the header of a safetensors file, and its length with it."""
    (length,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))
    header = changed_json(data[8 : 8 + length], draw) if length <= len(data) else None
    return None if header is None else struct.pack("<Q", len(header)) + header + data[8 + length :]


def changed_config(data: bytes, draw: random.Random) -> bytes | None:
    """Change the line of JSON before the properties."""
    config, _, text = data.partition(b"\n")
    made = changed_json(config, draw)
    return None if made is None else made + b"\n" + text


MUTATORS: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "zip": changed_zip, "legacy": changed_legacy, "machine": lambda data, draw: changed_fields(data, draw, pickle_fields),
    "gguf": lambda data, draw: changed_fields(data, draw, lambda data: gguf_fields(data)[0]),
    "safetensors": changed_header, "index": changed_json, "manifest": changed_json, "properties": changed_config,
}  # fmt: skip

# One in this many changes is made by these: walking a pickle takes longer than reading it.
EVERY = dict.fromkeys(MUTATORS, 2) | dict.fromkeys(("zip", "legacy", "machine"), 8)

if __name__ == "__main__":
    main()
