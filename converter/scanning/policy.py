"""A policy: the unknown globals that a user accepts, each with a reason and an expiry date.

The policy belongs to whoever scans and must not come from what is scanned. No entry and no wildcard can accept a
dangerous global.
"""

from __future__ import annotations

import datetime
import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from converter.errors import PolicyError
from converter.io import toml_file
from converter.pickles.values import ODD
from converter.reports.scan import PolicyReport
from converter.scanning.danger import danger

_HEADER: Final = re.compile(r"^[ \t]*\[\[[ \t]*accept[ \t]*\]\]", re.MULTILINE)
_KEYS: Final = ("global", "reason", "expires")
_ANYTHING: Final = ("some_module", "SomeName")  # an example of a global below a package


@dataclass(frozen=True, slots=True)
class Entry:
    """One accepted global, or everything in a package and below (`package.*`); the reason; the last day on which it counts."""

    pattern: str
    reason: str
    expires: datetime.date

    @property
    def package(self) -> str | None:
        """The package of a wildcard; None for a single global."""
        return self.pattern[:-2] if self.pattern.endswith(".*") else None


@dataclass(slots=True)
class Policy:
    """The entries of a policy that have not expired, and which of them were used. Made by `load`."""

    name: str
    sha256: str
    entries: tuple[Entry, ...]
    expired: tuple[Entry, ...] = ()
    used: set[str] = field(default_factory=set)
    exact: Mapping[str, Entry] = field(init=False)
    packages: Mapping[str, Entry] = field(init=False)

    def __post_init__(self) -> None:
        self.exact = {entry.pattern: entry for entry in self.entries if entry.package is None}
        self.packages = {entry.package: entry for entry in self.entries if entry.package is not None}

    def accepts(self, module: str, name: str) -> str | None:
        """The reason for which a global is accepted, or None. An entry for the global itself counts before a wildcard."""
        # A known global, called in an unknown way: a policy that accepts its package does not accept such calls.
        if name.endswith(ODD):
            return None
        entry = self.exact.get(f"{module}.{name}") or self._wildcard(module)
        if entry is None or danger(module, name) is not None:
            return None
        self.used.add(entry.pattern)
        return entry.reason

    def _wildcard(self, module: str) -> Entry | None:
        while module:
            if (entry := self.packages.get(module)) is not None:
                return entry
            module = module.rpartition(".")[0]
        return None

    def report(self, accepted: int, files: int) -> PolicyReport:
        """What the policy did: how many globals it accepted, in how many files."""
        return PolicyReport(
            self.name,
            self.sha256,
            len(self.entries) + len(self.expired),
            accepted,
            files,
            tuple(f"{entry.pattern} ({entry.expires})" for entry in self.expired),
            tuple(entry.pattern for entry in self.entries if entry.pattern not in self.used),
        )


def load(path: Path, today: datetime.date | None = None) -> Policy:
    """Read a policy. Raises PolicyError, with the line number if it is known."""
    text, document = toml_file.load(path, "policy", PolicyError)
    unknown = [key for key in document if key != "accept"]
    if unknown:
        raise PolicyError(f"the policy `{path}` has the key `{unknown[0]:.80}`: only `[[accept]]` tables are known")
    rows = document.get("accept")
    if type(rows) is not list or not rows:
        raise PolicyError(f"the policy `{path}` accepts nothing: it needs `[[accept]]` tables")
    lines = [text.count("\n", 0, header.start()) + 1 for header in _HEADER.finditer(text)]
    entries: dict[str, Entry] = {}
    for number, row in enumerate(rows):
        # The parser gives no line numbers. We know them if there is one header for each entry.
        at = f"line {lines[number]}" if len(lines) == len(rows) else f"entry {number + 1}"
        entry = _entry(row, f"the policy `{path}`, {at}")
        if entry.pattern in entries:
            raise PolicyError(f"the policy `{path}`, {at}: `{entry.pattern}` is there already")
        entries[entry.pattern] = entry
    day = today or datetime.datetime.now(datetime.UTC).date()
    counting = tuple(entry for entry in entries.values() if entry.expires >= day)
    expired = tuple(entry for entry in entries.values() if entry.expires < day)
    return Policy(str(path), hashlib.sha256(text.encode()).hexdigest(), counting, expired)


def _entry(row: Any, where: str) -> Entry:
    if type(row) is not dict:
        raise PolicyError(f"{where}: an entry is a {type(row).__name__}, not a table")
    for key in row:
        if key not in _KEYS:
            raise PolicyError(f"{where}: the key `{key:.80}` is not known: an entry has {', '.join(_KEYS)}")
    for key in _KEYS:
        if key not in row:
            raise PolicyError(f"{where}: `{key}` is missing: an entry has {', '.join(_KEYS)}")
    pattern, reason, expires = (row[key] for key in _KEYS)
    if type(pattern) is not str or not _is_pattern(pattern):
        raise PolicyError(
            f"{where}: {pattern!r:.80} is not a global: give `package.module.Name`, or `package.*` for everything in it"
        )
    if type(reason) is not str or not reason.strip():
        raise PolicyError(f"{where}: the reason for `{pattern}` is empty, or not text")
    if type(expires) is not datetime.date:
        raise PolicyError(f"{where}: `expires` of `{pattern}` is {expires!s:.40}, not a date such as 2027-06-30")
    entry = Entry(pattern, reason.strip(), expires)
    if entry.package is not None:
        why = danger(f"{entry.package}.{_ANYTHING[0]}", _ANYTHING[1])
        if why is not None:
            raise PolicyError(f"{where}: everything in `{entry.package}` is dangerous ({why}), and can't be accepted")
    else:
        # The module may end at any dot, because the name of a class inside a class has dots, too.
        parts = pattern.split(".")
        for at in range(1, len(parts)):
            if (why := danger(".".join(parts[:at]), ".".join(parts[at:]))) is not None:
                raise PolicyError(f"{where}: `{pattern}` is dangerous ({why}), and can't be accepted")
    return entry


def _is_pattern(pattern: str) -> bool:
    parts = pattern.split(".")
    *above, last = parts
    return len(parts) > 1 and all(part.isidentifier() for part in above) and (last == "*" or last.isidentifier())


def check_place(policy: Path, scanned: Iterable[Path]) -> None:
    """Raise PolicyError if the policy lies in a scanned folder or is itself scanned, even through links."""
    # The path as it is written and the place its links lead to must both be outside.
    places = (Path(os.path.abspath(policy)), Path(os.path.realpath(policy)))
    known = {key for place in places for above in (place, *place.parents) if (key := _identity(above)) is not None}
    for path in scanned:
        if _identity(path) in known:
            raise PolicyError(
                f"the policy `{policy}` lies in `{path}`, which is scanned: whoever made what is scanned could have "
                "written it; keep it elsewhere"
            )


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file or folder; None if there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
