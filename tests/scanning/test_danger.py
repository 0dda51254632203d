"""Every global that `scan` knows, written out once more: a table is held entry by entry, not by examples."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.io.local import LocalFile
from converter.limits import Limits, using
from converter.scanning.danger import danger, evidence
from converter.scanning.scan import scan_file
from tests.build.checkpoints import Call, Entry, Global, dumps, zip_bytes

RUNS = "runs programs"
CODE = "runs Python code"
IMPORTS = "imports and calls by name"
FILES = "reads, writes or removes files"
NETWORK = "reaches the network"
LOADS = "loads another pickle or library"

MODULES = {
    RUNS: """os posix nt subprocess pty commands popen2 _posixsubprocess multiprocessing asyncio concurrent platform distutils
        setuptools pip idlelib venv ensurepip _osx_support _aix_support uuid pydoc webbrowser antigravity signal""",
    CODE: """code codeop runpy bdb pdb timeit profile cProfile trace doctest test lib2to3 _pyrepl ast types dis inspect marshal
        sched threading _thread _interpreters _xxsubinterpreters unittest atexit gc ctypes _ctypes cffi numba""",
    IMPORTS: """sys importlib imp pkgutil zipimport operator _operator functools _functools site modulefinder logging hydra
        torch.hub torch.package torch.serialization torch.jit torch.utils torch._dynamo torch._inductor torch.fx torch.testing
        torch.distributed torch.cuda.jiterator torch.ops torch.classes""",
    FILES: """shutil io _io pathlib tempfile fileinput glob zipfile tarfile sqlite3 linecache mmap fcntl pwd codecs""",
    NETWORK: """socket _socket ssl _ssl http httplib urllib urllib2 requests aiohttp ftplib smtplib imaplib poplib nntplib
        telnetlib xmlrpc socketserver wsgiref""",
    LOADS: """pickle _pickle cPickle dill cloudpickle joblib shelve pandas torch.storage numpy.testing numpy.f2py
        numpy.distutils""",
}
KNOWN = [(module, reason) for reason, modules in MODULES.items() for module in modules.split()]
BUILTINS = [
    "eval",
    "exec",
    "execfile",
    "compile",
    "open",
    "file",
    "__import__",
    "getattr",
    "setattr",
    "delattr",
    "globals",
    "locals",
    "vars",
    "breakpoint",
    "input",
    "raw_input",
    "apply",
    "map",
    "filter",
    "memoryview",
    "help",
    "exit",
    "quit",
    "dir",
    "type",
    "super",
    "classmethod",
    "staticmethod",
    "property",
]
HARMLESS_BUILTINS = [
    "set",
    "frozenset",
    "dict",
    "list",
    "tuple",
    "int",
    "float",
    "complex",
    "str",
    "bytes",
    "bytearray",
    "bool",
    "object",
    "slice",
    "range",
]
HARMLESS = [
    ("pathlib", "PosixPath"),
    ("pathlib", "PurePosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib", "PureWindowsPath"),
    ("pathlib", "Path"),
    ("types", "SimpleNamespace"),
    ("functools", "partial"),
    ("uuid", "UUID"),
    ("torch.serialization", "_get_layout"),
    ("threading", "RLock"),
    ("_thread", "RLock"),
    ("multiprocessing.context", "AuthenticationString"),
    ("torch.jit._pickle", "build_intlist"),
    ("torch.jit._pickle", "build_boollist"),
    ("torch.jit._pickle", "build_doublelist"),
    ("torch.jit._pickle", "build_tensorlist"),
    ("torch.jit._pickle", "build_tensor_from_id"),
    ("torch.jit._pickle", "restore_type_tag"),
]


@pytest.mark.parametrize(("module", "reason"), KNOWN)
def test_a_module_that_is_abused_is_known_for_what_it_does(module: str, reason: str) -> None:
    assert danger(module, "x") == reason
    assert danger(f"{module}.deeper.still", "x") == reason
    assert danger(f"{module}x", "x") is None


@pytest.mark.parametrize("module", ["builtins", "__builtin__", "__builtins__"])
@pytest.mark.parametrize("name", [*BUILTINS, "__build_class__", "getattr.x", "set.__class__"])
def test_a_builtin_that_runs_code_is_known(module: str, name: str) -> None:
    assert danger(module, name) == CODE


@pytest.mark.parametrize("name", HARMLESS_BUILTINS)
def test_a_builtin_that_only_makes_values_is_not_dangerous(name: str) -> None:
    assert danger("builtins", name) is None


@pytest.mark.parametrize(("module", "name"), HARMLESS)
def test_a_class_that_only_holds_values_is_not_dangerous_though_its_module_is(module: str, name: str) -> None:
    assert danger(module, name) is None
    assert danger(module, f"{name}x") is not None
    assert danger(module, f"{name}.x") is not None


@pytest.mark.parametrize("name", ["load", "compile", "hub", "jit", "ops", "package", "utils", "hub.load", "jit.load"])
def test_what_torch_itself_loads_is_known(name: str) -> None:
    assert danger("torch", name) == LOADS
    assert danger("torchvision", name.partition(".")[0]) is None


@pytest.mark.parametrize(
    ("module", "name", "reason"),
    [
        ("torch", "Tensor.__class__.__base__", IMPORTS),
        ("torch", "nn.Linear", IMPORTS),
        ("somewhere", "__reduce__", IMPORTS),
        ("somewhere", "Thing", None),
        ("torch", "Tensor", None),
        ("argparse", "Namespace", None),
    ],
)
def test_a_name_that_walks_attributes_ends_anywhere(module: str, name: str, reason: str | None) -> None:
    assert danger(module, name) == reason


PYTHON = "Python's own warning about pickle"
EVIDENCE = {
    ("os", "system"): PYTHON,
    ("posix", "system"): PYTHON,
    ("nt", "system"): PYTHON,
    ("builtins", "eval"): PYTHON,
    ("builtins", "exec"): PYTHON,
    ("__builtin__", "eval"): PYTHON,
    ("pip", "main"): "CVE-2025-1716",
    ("asyncio.unix_events", "_UnixSubprocessTransport._start"): "CVE-2025-10157",
    ("pkgutil", "resolve_name"): "picklescan's GHSA-vvpj-8cmc-gx39",
    ("pty", "spawn"): "picklescan's GHSA-vqmv-47xg-9wpr",
    ("uuid", "_get_command_stdout"): "picklescan's GHSA-g38g-8gr9-h9xp",
    ("_osx_support", "x"): "picklescan's GHSA-g38g-8gr9-h9xp",
    ("_aix_support", "x"): "picklescan's GHSA-g38g-8gr9-h9xp",
    ("imaplib", "IMAP4_stream"): "picklescan's GHSA-g38g-8gr9-h9xp",
    ("test.support", "x"): "picklescan's GHSA-g38g-8gr9-h9xp",
    ("_pyrepl.pager", "x"): "picklescan's GHSA-g38g-8gr9-h9xp",
    ("builtins", "__import__"): "picklescan's GHSA-46h3-79wf-xr6c",
    ("_operator", "attrgetter"): "picklescan's GHSA-46h3-79wf-xr6c",
    ("operator", "methodcaller"): "picklescan's GHSA-84r2-jw7c-4r5q",
    ("pydoc", "locate"): "picklescan's GHSA-84r2-jw7c-4r5q",
    ("cProfile", "run"): "picklescan's GHSA-49gj-c84q-6qm9",
    ("profile", "run"): "picklescan's GHSA-7wx9-6375-f5wh",
    ("trace", "Trace.run"): "picklescan's GHSA-5qwp-399c-mjwf",
    ("code", "InteractiveInterpreter.runcode"): "picklescan's GHSA-cj3c-v495-4xqh",
    ("ctypes", "CDLL"): "picklescan's GHSA-4675-36f9-wf6r",
    ("distutils.file_util", "write_file"): "picklescan's GHSA-m273-6v24-x4m4",
    ("doctest", "debug_script"): "picklescan's GHSA-fqq6-7vqf-w3fg",
    ("ensurepip", "_run_pip"): "picklescan's GHSA-xp4f-hrf8-rxw7",
    ("idlelib.pyshell", "ModifiedInterpreter.runcode"): "picklescan's GHSA-7cq8-mj8x-j263",
    ("lib2to3.pgen2.grammar", "Grammar.loads"): "picklescan's GHSA-f54q-57x4-jg88",
    ("numpy.f2py.crackfortran", "_eval_length"): "picklescan's GHSA-r8g5-cgf2-4m4m",
    ("torch._dynamo.guards", "x"): "picklescan's GHSA-86cj-95qr-2p4f",
    ("torch.fx.experimental", "x"): "picklescan's GHSA-f4x7-rfwp-v3xw",
    ("torch.jit.unsupported_tensor_ops", "x"): "picklescan's GHSA-vr7h-p6mm-wpmh",
    ("torch.utils._config_module", "ConfigModule.load_config"): "picklescan's GHSA-vv6j-3g6g-2pvj",
    ("torch.utils.bottleneck.__main__", "run_cprofile"): "picklescan's GHSA-4whj-rm5r-c2v8",
    ("torch.utils.collect_env", "run"): "picklescan's GHSA-f745-w6jp-hpxx",
    ("torch.utils.data.datapipes.utils.decoder", "basichandlers"): "picklescan's GHSA-h3qp-7fh3-f8h4",
    ("_interpreters", "run_string"): "fickling's GHSA-6ggj-6f2q-f7mx",
    ("_xxsubinterpreters", "run_string"): "fickling's GHSA-6ggj-6f2q-f7mx",
    ("torch.utils", "x"): None,
    ("shutil", "rmtree"): None,
    ("builtins", "getattr"): None,
}


@pytest.mark.parametrize(("module", "name"), EVIDENCE)
def test_where_an_abuse_was_seen_is_told(module: str, name: str) -> None:
    assert evidence(module, name) == EVIDENCE[module, name]


# ---- what follows for a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "verdict"),
    [
        ("shutil", "rmtree", "dangerous"),
        ("io", "open", "dangerous"),
        ("builtins", "__build_class__", "dangerous"),
        ("builtins", "frozenset", "unknown-globals"),
    ],
)
def test_a_pickle_that_calls_it_has_the_verdict(module: str, name: str, verdict: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(dumps(Call(Global(module, name), ())))

    assert scan_file(LocalFile(path), fickling=False).verdict == verdict


def test_the_second_opinion_is_asked_unless_told_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(dumps(Call(Global("os", "system"), ("ls",))))

    asked, not_asked = scan_file(LocalFile(path)), scan_file(LocalFile(path), fickling=False)

    assert asked.fickling is not None
    assert asked.fickling.severity == "LIKELY_OVERTLY_MALICIOUS"
    assert not_asked.fickling is None


ONE = dumps([Call(Global("trainers", "Namespace"), ()), b"x" * 150_000])
WITHIN = 2 * len(ONE) + 100_000  # two of them and a part of the third
MANY = {
    "one after another": ("x.pkl", 3 * ONE),
    "records of a zip": ("x.zip", zip_bytes([Entry(f"a/{number}.pkl", ONE) for number in range(3)])),
    "deflated records of a zip": (
        "x.zip",
        zip_bytes([Entry(f"a/{number}.pkl", ONE, deflated=True) for number in range(3)]),
    ),
}


@pytest.mark.parametrize("kind", MANY)
def test_many_pickles_share_what_one_may_have(kind: str, tmp_path: Path) -> None:
    """Each of three pickles is within the limit, all together are not: the last is not run to its end, and that is said."""
    name, data = MANY[kind]
    path = tmp_path / name
    path.write_bytes(data)

    with using(Limits(pickle_bytes=WITHIN)):
        found = scan_file(LocalFile(path), fickling=False)
    with using(Limits(pickle_bytes=3 * len(ONE))):
        whole = scan_file(LocalFile(path), fickling=False)

    assert 150_000 < len(ONE) < 155_000
    assert found.verdict == "malformed"
    assert "not-looked-into" in [finding.rule for finding in found.findings]
    assert [pickle.end is not None for pickle in found.pickles] == [True, True, False]
    assert whole.verdict == "unknown-globals"
    assert [pickle.end is not None for pickle in whole.pickles] == [True, True, True]
