"""What is known of the globals that a pickle names: which are dangerous, why, and where they were abused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from converter.scanning.rules import DANGEROUS, PLAIN, UNKNOWN

if TYPE_CHECKING:
    from converter.tensors.catalogue import GlobalUse

# Modules whose functions run code, read or write files, or reach the network when a pickle that names them is loaded. The
# list only chooses words: a global outside the closed table is refused whether its module stands here or not.
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
                     "_interpreters", "_xxsubinterpreters", "unittest", "atexit", "gc", "ctypes", "_ctypes", "cffi",
                     "numba"), _CODE),
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
     "dir", "type", "super", "classmethod", "staticmethod", "property")
)  # fmt: skip


def danger(module: str, name: str) -> str | None:
    """What a global is known to be abused for, or None."""
    if module in _BUILTINS:
        return _CODE if name.split(".", maxsplit=1)[0] in _DANGEROUS_BUILTINS or "__" in name else None
    if module == "torch" and name.split(".", maxsplit=1)[0] in (
        "load",
        "compile",
        "hub",
        "jit",
        "ops",
        "package",
        "utils",
    ):
        return _LOADS
    parts = module.split(".")
    for count in range(len(parts), 0, -1):
        reason = _DANGEROUS_MODULES.get(".".join(parts[:count]))
        if reason is not None:
            return None if (module, name) in _HARMLESS else reason
    # A dotted name walks attributes: `Tensor.__class__.__base__` can end at any object.
    return _IMPORTS if "." in name or "__" in name else None


_HARMLESS: Final = frozenset((("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"), ("pathlib", "WindowsPath"),
                              ("pathlib", "PureWindowsPath"), ("pathlib", "Path"), ("types", "SimpleNamespace"),
                              ("functools", "partial"), ("uuid", "UUID"), ("torch.serialization", "_get_layout"),
                              ("threading", "RLock"), ("torch.jit._pickle", "build_intlist"),
                              ("torch.jit._pickle", "build_boollist"), ("torch.jit._pickle", "build_doublelist"),
                              ("torch.jit._pickle", "build_tensorlist"),
                              ("torch.jit._pickle", "build_tensor_from_id"), ("torch.jit._pickle", "restore_type_tag"),
                               ("_thread", "RLock"), ("multiprocessing.context", "AuthenticationString"),
                              ))  # fmt: skip


def evidence(module: str, name: str) -> str | None:
    """Where the abuse of a dangerous global is on public record, or None."""
    parts = [*module.split("."), *name.split(".")]
    return next((found for count in range(len(parts), 0, -1) if (found := _SEEN.get(".".join(parts[:count])))), None)


_OWN: Final = "picklescan's GHSA-"
_SEEN: Final = {  # a module or global: where its abuse, or that of anything below it, is on public record
    **dict.fromkeys(("os", "posix", "nt", "builtins.eval", "builtins.exec", "__builtin__.eval"),
                    "Python's own warning about pickle"),
    "pip": "CVE-2025-1716", "asyncio": "CVE-2025-10157", "pkgutil": f"{_OWN}vvpj-8cmc-gx39", "pty": f"{_OWN}vqmv-47xg-9wpr",
    **dict.fromkeys(("uuid", "_osx_support", "_aix_support", "imaplib", "test", "_pyrepl"), f"{_OWN}g38g-8gr9-h9xp"),
    "builtins.__import__": f"{_OWN}46h3-79wf-xr6c", "_operator": f"{_OWN}46h3-79wf-xr6c", "operator": f"{_OWN}84r2-jw7c-4r5q",
    "pydoc": f"{_OWN}84r2-jw7c-4r5q", "cProfile": f"{_OWN}49gj-c84q-6qm9", "profile": f"{_OWN}7wx9-6375-f5wh",
    "trace": f"{_OWN}5qwp-399c-mjwf", "code": f"{_OWN}cj3c-v495-4xqh", "ctypes": f"{_OWN}4675-36f9-wf6r",
    "distutils": f"{_OWN}m273-6v24-x4m4", "doctest": f"{_OWN}fqq6-7vqf-w3fg", "ensurepip": f"{_OWN}xp4f-hrf8-rxw7",
    "idlelib": f"{_OWN}7cq8-mj8x-j263", "lib2to3": f"{_OWN}f54q-57x4-jg88", "numpy.f2py": f"{_OWN}r8g5-cgf2-4m4m",
    "torch._dynamo": f"{_OWN}86cj-95qr-2p4f", "torch.fx": f"{_OWN}f4x7-rfwp-v3xw", "torch.jit": f"{_OWN}vr7h-p6mm-wpmh",
    "torch.utils._config_module": f"{_OWN}vv6j-3g6g-2pvj", "torch.utils.bottleneck": f"{_OWN}4whj-rm5r-c2v8",
    "torch.utils.collect_env": f"{_OWN}f745-w6jp-hpxx", "torch.utils.data": f"{_OWN}h3qp-7fh3-f8h4",
    **dict.fromkeys(("_interpreters", "_xxsubinterpreters"), "fickling's GHSA-6ggj-6f2q-f7mx"),
}  # fmt: skip


def verdict(uses: Sequence[GlobalUse]) -> tuple[str, list[str]]:
    """The verdict `plain`, `unknown-globals` or `dangerous`, and a sentence for each global that is not plain."""
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
