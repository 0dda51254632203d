"""A folder of public files, malicious, broken and sound, that `CEREBRAS_TOOL_CORPUS` names; its MANIFEST.tsv labels them.

None of them is ever unpickled. Without the variable there is nothing to parametrise, and nothing runs.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from converter.conversion.convert import convert
from converter.opening import open_checkpoint
from converter.sample import write_sample


@dataclass(frozen=True)
class Case:
    path: Path
    name: str
    expected: str
    what: str


def _cases(folder: Path) -> list[Case]:
    with open(folder / "MANIFEST.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    return [Case(folder / r["file"], r["file"], r["expected outcome"], r["what it is"]) for r in rows]


FOLDERS = [Path(os.environ["CEREBRAS_TOOL_CORPUS"])] if os.environ.get("CEREBRAS_TOOL_CORPUS") else []
CASES = [case for folder in FOLDERS for case in _cases(folder)]

# Runs in a process of its own, because an audit hook can't be removed. The warm-up reads only files of ours, one of each format, so
# that Python's one-time imports are done before a file of the corpus is opened.
_AUDITED = """
import json, os, sys, tempfile, unicodedata
import importlib, pathlib, converter
for path in sorted(pathlib.Path(converter.__file__).parent.rglob("*.py")):  # each format reads some file of the corpus
    if not {{"inference", "cli"}} & {{*path.parts}} and path.stem != "second_opinion" and path.stem != "__main__":
        importlib.import_module(".".join(path.relative_to(pathlib.Path(converter.__file__).parent.parent).with_suffix("").parts).removesuffix(".__init__"))
{read}

warm, names = (json.loads(open(name).read()) for name in sys.argv[1:])
for path in (*warm, os.devnull):
    read(path)
b"x".decode("raw-unicode-escape")
events, reading = [], ""
temporary = tempfile.gettempdir()  # asked for before the hook is there: it opens a file itself
harmless = {harmless!r}

def hook(event, arguments):
    if not reading or event in harmless:
        return
    if event == "mmap.__new__" and arguments[0] == -1:  # memory of our own
        return
    # What is deflated is inflated into a file without a name.
    if event in ("open", "os.remove") and not isinstance(arguments[0], int):
        at = os.fspath(arguments[0])
        if temporary in (at, os.path.dirname(at)):
            return
    if event == "open":
        path = os.fspath(arguments[0]) if not isinstance(arguments[0], int) else ""
        if path in ("", reading, os.path.join(os.path.dirname(reading), "config.json")):
            return
    events.append([event, repr(arguments)[:200], reading])

sys.addaudithook(hook)
for path in names:
    reading = path
    read(path)
reading = ""
print(json.dumps({{"opened": len(names), "events": events}}))
"""
# The audit events of opening a file and of listing its folder.
HARMLESS = [
    "array.__new__",
    "builtins.id",
    "object.__getattr__",
    "os.listdir",
    "os.scandir",
    "sys._getframe",
    "tempfile.mkstemp",
]


def audited(read: str, tmp_path: Path) -> dict[str, Any]:
    """How many files of the corpus `read` was called on, and the audit events; `read` is Python source that defines it."""
    write_sample(tmp_path / "warm")
    source = open_checkpoint(tmp_path / "warm")
    warm = [tmp_path / "warm" / "pytorch_model.bin", tmp_path / "warm.safetensors", tmp_path / "warm.gguf"]
    for path in warm[1:]:
        convert(source, path)
    (tmp_path / "warm.json").write_text(json.dumps([str(path) for path in warm]))
    (tmp_path / "names.json").write_text(json.dumps([str(case.path) for case in CASES]))

    code = _AUDITED.format(read=read, harmless=HARMLESS)
    words = [sys.executable, "-c", code, str(tmp_path / "warm.json"), str(tmp_path / "names.json")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
