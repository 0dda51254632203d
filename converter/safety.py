"""What a pickle asks for, and what may be carried over of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from converter.errors import ManifestError, UnsafeError, UnsupportedError

if TYPE_CHECKING:
    from converter.tensors import Catalogue, GlobalUse

PLAIN: Final = "plain"
UNKNOWN: Final = "unknown-globals"
DANGEROUS: Final = "dangerous"
MALFORMED: Final = "malformed"
VERDICTS: Final = (PLAIN, UNKNOWN, DANGEROUS, MALFORMED)  # each worse than the one before

# Modules by which a pickle runs code, reads or writes files, or reaches the network when it is loaded, and what for.
# The list only chooses words: what is outside the closed table is refused whether it stands here or not.
_RUNS: Final = "runs programs"
_CODE: Final = "runs Python code"
_IMPORTS: Final = "imports and calls by name"
_FILES: Final = "reads, writes or removes files"
_NETWORK: Final = "reaches the network"
_LOADS: Final = "loads another pickle or library"
_DANGEROUS_MODULES: Final = {
    **dict.fromkeys(("os", "posix", "nt", "subprocess", "pty", "commands", "popen2", "_posixsubprocess", "multiprocessing",
                     "asyncio", "concurrent", "platform", "distutils", "setuptools", "pip", "idlelib", "venv", "ensurepip",
                     "_osx_support", "_aix_support", "uuid", "pydoc", "webbrowser", "antigravity", "signal"), _RUNS),
    **dict.fromkeys(("code", "codeop", "runpy", "bdb", "pdb", "timeit", "profile", "cProfile", "trace", "doctest", "test",
                     "lib2to3", "_pyrepl", "ast", "types", "dis", "inspect", "marshal", "sched", "threading", "_thread",
                     "unittest", "atexit", "gc", "ctypes", "_ctypes", "cffi", "numba"), _CODE),
    **dict.fromkeys(("sys", "importlib", "imp", "pkgutil", "zipimport", "operator", "_operator", "functools", "_functools",
                     "site", "modulefinder", "logging", "hydra", "torch.hub", "torch.package", "torch.serialization",
                     "torch.jit", "torch.utils", "torch._dynamo", "torch._inductor", "torch.fx", "torch.testing",
                     "torch.distributed", "torch.cuda.jiterator", "torch.ops", "torch.classes"), _IMPORTS),
    **dict.fromkeys(("shutil", "io", "_io", "pathlib", "tempfile", "fileinput", "glob", "zipfile", "tarfile", "sqlite3",
                     "linecache", "mmap", "fcntl", "pwd", "codecs"), _FILES),
    **dict.fromkeys(("socket", "_socket", "ssl", "_ssl", "http", "httplib", "urllib", "urllib2", "requests", "aiohttp", "ftplib",
                     "smtplib", "imaplib", "poplib", "nntplib", "telnetlib", "xmlrpc", "socketserver", "wsgiref"), _NETWORK),
    **dict.fromkeys(("pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "pandas", "torch.storage",
                     "numpy.testing", "numpy.f2py", "numpy.distutils"), _LOADS),
}  # fmt: skip
_BUILTINS: Final = frozenset(("builtins", "__builtin__", "__builtins__"))
_DANGEROUS_BUILTINS: Final = frozenset(
    ("eval", "exec", "execfile", "compile", "open", "file", "__import__", "getattr", "setattr", "delattr", "globals",
     "locals", "vars", "breakpoint", "input", "raw_input", "apply", "map", "filter", "memoryview", "help", "exit", "quit",
     "dir", "type", "super", "classmethod", "staticmethod", "property", "print")
)  # fmt: skip


def danger(module: str, name: str) -> str | None:
    """Say what a global is known to be abused for, or None."""
    if module in _BUILTINS:
        return _CODE if name.split(".", maxsplit=1)[0] in _DANGEROUS_BUILTINS or "__" in name else None
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        reason = _DANGEROUS_MODULES.get(".".join(parts[:count]))
        if reason is not None:
            return None if (module, name) in _HARMLESS else reason
    # A dotted name walks attributes: `Tensor.__class__.__base__` ends anywhere.
    return _IMPORTS if "." in name or "__" in name else None


_HARMLESS: Final = frozenset((("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"), ("pathlib", "WindowsPath"),
                              ("pathlib", "PureWindowsPath"), ("pathlib", "Path"), ("types", "SimpleNamespace"),
                              ("functools", "partial"), ("uuid", "UUID"), ("torch.serialization", "_get_layout"),
                              ("threading", "RLock"), ("_thread", "RLock"), ("multiprocessing.context", "AuthenticationString"),
                              ))  # fmt: skip


def verdict(uses: Sequence[GlobalUse]) -> tuple[str, list[str]]:
    """Give `plain`, `unknown-globals` or `dangerous`, and a sentence for each global that is not plain."""
    findings: dict[str, None] = {}
    worst = PLAIN
    for use in uses:
        if use.known:
            continue
        reason = danger(use.module, use.name)
        if reason is not None:
            worst = DANGEROUS
            findings[f"{use} at byte {use.position:,} {reason} when the file is unpickled"] = None
        else:
            worst = UNKNOWN if worst == PLAIN else worst
            findings[f"{use} at byte {use.position:,} is outside the closed table; nobody knows what it does"] = None
    return worst, list(findings)


def check_portable(catalogue: Catalogue, *, ignore_globals: bool, no_crc: bool) -> None:
    """Raise unless every tensor can be carried over whole, and the pickle names nothing outside the table.

    UnsafeError, UnsupportedError or ManifestError; each says which option, if any, goes on regardless.
    """
    unknown = catalogue.unknown_globals()
    if unknown and not ignore_globals:
        listed = ", ".join(f"`{name}`" for name in unknown[:5]) + (
            f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        )
        raise UnsafeError(
            f"`{catalogue.location}` names {listed}, which a checkpoint of tensors alone does not need; nothing was "
            "executed: give --ignore-globals to carry over the tensors and drop the rest"
        )
    if catalogue.unsupported:
        first = catalogue.unsupported[0]
        more = f" (and {len(catalogue.unsupported) - 1:,} more)" if len(catalogue.unsupported) > 1 else ""
        raise UnsupportedError(
            f"`{first.name}` is a {first.kind} tensor{more}, which has no plain bytes to carry over: turn it into a plain "
            "tensor with torch and save again"
        )
    if catalogue.missing:
        raise ManifestError(
            f"`{catalogue.location}` is not whole: its index promises `{catalogue.missing[0]}`, which no shard holds"
            + (f", and {len(catalogue.missing) - 1:,} more" if len(catalogue.missing) > 1 else "")
        )
    if catalogue.unchecked and not no_crc:
        raise UnsupportedError(
            f"`{catalogue.location}` was saved without CRCs, so damage to it can't be noticed: give --no-crc to go on"
        )
