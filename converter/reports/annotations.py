"""What a SARIF log holds as workflow commands, which GitHub shows beside the files of a pull request.

`python -m converter.reports.annotations LOG` prints them. Only the action does so: every other text of this program is
escaped, so that no name in a file can be a command. Here names are values of commands, and are escaped as values.
Source: https://github.com/actions/toolkit/blob/main/packages/core/src/command.ts
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

_MOST: Final = 10  # commands of one kind; GitHub shows no more for a step
_WORDS: Final = {"error": "error", "warning": "warning", "note": "notice"}
_LONGEST: Final = 1000  # characters of a message


def commands(log: Mapping[str, Any]) -> Iterator[str]:
    """Yield a command for each finding that nobody accepted, the worst first, and for why there is no answer."""
    found = [one for run in log["runs"] for one in (*_notifications(run), *_results(run))]
    for level, word in _WORDS.items():
        of_level = [(place, title, message) for one, place, title, message in found if one == level]
        for place, title, message in islice(of_level, _MOST):
            where = f"file={_value(place)},line=1," if place else ""
            yield f"::{word} {where}title={_value(title)}::{_text(message)}"
        if len(of_level) > _MOST:
            yield f"::notice title=cerebras-tool::{len(of_level) - _MOST} more of level {level} are in the report"


def _notifications(run: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for invocation in run["invocations"]:
        for told in invocation.get("toolExecutionNotifications", ()):
            yield told["level"], "", f"cerebras-tool: {told['descriptor']['id']}", told["message"]["text"]


def _results(run: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for result in run["results"]:
        if not result.get("suppressions"):
            address = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
            yield (
                result["level"],
                unquote(address.removeprefix("file://")),
                f"cerebras-tool: {result['ruleId']}",
                result["message"]["text"],
            )


def _text(text: str) -> str:
    return text[:_LONGEST].replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _value(text: str) -> str:
    return _text(text).replace(":", "%3A").replace(",", "%2C")


def main() -> None:
    """Print the commands of the log that the command line names."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    for line in commands(json.loads(Path(sys.argv[1]).read_text("ascii"))):
        print(line)


if __name__ == "__main__":
    main()
