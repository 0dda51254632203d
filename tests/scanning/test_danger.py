"""What `scan` calls dangerous, compared with literals: globals with what calling them can do, and globals that are not dangerous."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from converter.io.local import LocalFile
from converter.limits import Limits, using
from converter.pickles.closed_table import TABLE
from converter.scanning.danger import danger, evidence, sentence, verdict
from converter.scanning.gadgets import ANYWHERE, BUILTINS, CAN, DANGEROUS_BUILTINS, EVIDENCE, HARMLESS, NAMES, ROWS
from converter.scanning.scan import scan_file
from converter.tensors.catalogue import GlobalUse
from tests.build.checkpoints import Call, Entry, Global, dumps, zip_bytes

RUNS = "runs programs"
CODE = "runs Python code"
IMPORTS = "imports and calls by name"
FILES = "reads, writes or removes files"
NETWORK = "reaches the network"
LOADS = "loads another pickle or library"
CALLS = "calls what it is given"
WALKS = "reaches any object by its attributes"
ENDS = "ends the process"

# What each does was looked up in its library's sources and documentation.
DANGEROUS = {
    RUNS: """os.system posix.system nt.system subprocess.Popen _posixsubprocess.fork_exec pty.spawn commands.getoutput popen2.popen2
        multiprocessing.Process asyncio.create_subprocess_shell concurrent.futures.ProcessPoolExecutor platform.popen
        distutils.spawn.spawn setuptools.setup pip.main idlelib.pyshell.main venv.create ensurepip._run_pip
        _osx_support._read_output _aix_support._read_cmd_output uuid._get_command_stdout pydoc.pipepager webbrowser.open
        signal.signal _signal.signal pipes.Template mailcap.findmatch turtledemo.main tkinter.Tk tkinter.filedialog.test
        _tkinter.create _winapi.CreateProcess torch.multiprocessing.spawn torch.multiprocessing.start_processes fabric.Connection
        pexpect.run pexpect.spawn sh.Command plumbum.local invoke.run click.launch docker.from_env psutil.Popen
        git.Repo.clone_from git.cmd.Git nltk.app torch.utils.collect_env.run torch.utils.cpp_extension.load
        accelerate.notebook_launcher""",
    CODE: """builtins.eval builtins.exec __builtin__.execfile builtins.compile code.interact codeop.compile_command runpy.run_path bdb.Bdb.run pdb.run timeit.timeit
        profile.run cProfile.run _lsprof.Profiler trace.Trace.run doctest.debug_script test.support.run_code lib2to3.main.main
        _pyrepl.main.x types.FunctionType types.CodeType marshal.loads sched.scheduler threading.Thread _thread.start_new_thread
        _interpreters.run_string unittest.main atexit.register gc.get_objects ctypes.CDLL cffi.FFI numba.jit
        rlcompleter.Completer cgitb.handler annotationlib.ForwardRef typing.get_type_hints typing._eval_type typing.ForwardRef
        dataclasses._create_fn copyreg.pickle _testcapi.run_in_subinterp _remote_debugging.RemoteUnwinder _asyncio.Task
        cython.inline Cython.Build.Inline.cython_inline numexpr.evaluate llvmlite.binding.load_library_permanently
        triton.compile cupy.RawModule pycuda.compiler.SourceModule IPython.core.interactiveshell.InteractiveShell yaml.load
        yaml.unsafe_load yaml.full_load ruamel.yaml.YAML sympy.sympify sympy.parsing.sympy_parser.parse_expr
        tensorflow.py_function torch._dynamo.guards.GuardBuilder torch.fx._symbolic_trace.Tracer torch.cuda._compile_kernel
        omegaconf.OmegaConf.register_new_resolver pandas.eval compiler.compile user.x""",
    IMPORTS: """sys.settrace importlib.import_module imp.load_source pkgutil.resolve_name zipimport.zipimporter operator.attrgetter
        _operator.methodcaller functools.reduce site.addsitedir modulefinder.ModuleFinder logging.config.dictConfig
        _imp.create_dynamic _frozen_importlib._load _frozen_importlib_external.SourceFileLoader copyreg.add_extension
        warnings._getcategory xml.sax.make_parser builtins.__import__ builtins.getattr __builtin__.setattr pkg_resources.run_script pkg_resources._vendor
        wheel.cli.main django.core.management.execute_from_command_line hydra.utils.instantiate torch.hub.load
        torch.package.PackageImporter torch.serialization.load torch.jit.load torch.ops.load_library
        torch._ops._Ops.load_library torch.distributed.x transformers.utils.import_utils.direct_transformers_import
        transformers.dynamic_module_utils.get_class_from_dynamic_module six.moves.builtins numpy.lookfor
        somewhere.import_module""",
    FILES: """builtins.open __builtin__.file shutil.rmtree io.open _io.FileIO _pyio.open pathlib.Path.unlink tempfile.mkstemp
        fileinput.input glob.glob zipfile.ZipFile zipapp.create_archive tarfile.open sqlite3.connect _sqlite3.connect
        linecache.getlines mmap.mmap fcntl.ioctl pwd.getpwall codecs.open genericpath.getsize posixpath.realpath ntpath.exists
        filecmp.cmp compileall.compile_dir py_compile.compile pyclbr.readmodule tabnanny.check gettext.translation dbm.open
        dbm.dumb.open _dbm.open _gdbm.open netrc.netrc mailbox.mbox mimetypes.init imghdr.what sndhdr.what aifc.open wave.open
        sunau.open uu.decode binhex.binhex readline.read_history_file getpass.getpass termios.tcsetattr msilib.Table
        msvcrt.open_osfhandle winreg.CreateKey pstats.Stats syslog.syslog _multiprocessing.SemLock _posixshmem.shm_open
        cgi.parse json.tool.main gzip.open gzip.GzipFile bz2.open bz2.BZ2File lzma.open lzma.LZMAFile compression.zstd.open
        tokenize.open argparse.FileType configparser.ConfigParser.read plistlib.readPlist xml.etree.ElementTree.parse
        xml.dom.minidom.parse numpy.save numpy.savetxt numpy.fromfile numpy.memmap numpy.lib.npyio.load
        numpy.lib._npyio_impl.load scipy.io.loadmat scipy.io.readsav torch.save torch.from_file torch.UntypedStorage.from_file
        torch.FloatStorage.from_file torch.onnx.export torch.onnx.utils.export torch._C.PyTorchFileReader
        tensorflow.io.gfile.GFile onnx.load xgboost.Booster lightgbm.Booster anydbm.open dircache.listdir""",
    NETWORK: """socket.socket _socket.socket ssl.create_default_context http.client.HTTPConnection urllib.request.urlopen urllib2.urlopen
        requests.get aiohttp.request ftplib.FTP smtplib.SMTP imaplib.IMAP4 poplib.POP3 nntplib.NNTP telnetlib.Telnet
        xmlrpc.client.ServerProxy socketserver.TCPServer wsgiref.simple_server.make_server asyncore.dispatcher smtpd.SMTPServer
        nis.match xml.sax.parse httpx.get urllib3.PoolManager pycurl.Curl websockets.connect pymysql.connect paramiko.SSHClient
        boto3.client huggingface_hub.hf_hub_download huggingface_hub.snapshot_download transformers.pipeline
        transformers.AutoModel.from_pretrained diffusers.DiffusionPipeline.from_pretrained sklearn.datasets.fetch_openml
        keras.utils.get_file torch.utils.model_zoo.load_url somewhere.urlopen somewhere.Model.from_pretrained""",
    LOADS: """pickle.loads _pickle.loads cPickle.loads dill.loads cloudpickle.loads joblib.load shelve.open pandas.read_pickle torch.load
        torch.storage._load_from_bytes torch.export.load torch._export.load torch._C._jit_load torch._C.import_ir_module
        torch._C._load_mobile_module_from_file torch.cuda.memory.CUDAPluggableAllocator numpy.load numpy.loads
        numpy.core.numeric.load numpy.ctypeslib.load_library numpy.testing.run_module_suite numpy.f2py.compile
        sklearn.utils._joblib.load sklearn.externals.joblib.load tensorflow.keras.models.load_model keras.models.load_model
        keras.saving.load_model mlflow.pyfunc.load_model jax.numpy.load onnxruntime.InferenceSession jsonpickle.decode
        jsonpickle.unpickler.decode srsly.pickle_loads hickle.load klepto._pickle.loads skops.io.load tracemalloc.Snapshot.load
        timm.create_model lightning.pytorch.LightningModule.load_from_checkpoint""",
    CALLS: """builtins.map __builtin__.apply builtins.filter itertools.starmap itertools.imap copy._reconstruct weakref.finalize
        torch.overrides.handle_torch_function torch._functorch torch._higher_order_ops numpy.apply_along_axis""",
    WALKS: """somewhere.__reduce__ torch.Tensor.__class__ somewhere.__builtins__ somewhere.Thing.__subclasses__ somewhere.f.__globals__ builtins.vars
        builtins.__build_class__ builtins.set.__class__""",
    ENDS: "builtins.exit builtins.quit faulthandler._sigsegv",
}
# Calling these does nothing dangerous by itself, or they do not exist. They stay unknown.
UNKNOWN = """nturl2path.url2pathname numpy.core.multiarray._reconstruct numpy.lib.utils.safe_eval cmd.Cmd sysconfig.get_config_vars
    crypt.crypt pipes.quote xdrlib.Packer torch.nn.Module torch.nn.modules.module.Module torch.nn.modules.conv.Conv2d
    torch.nn.Module.load_state_dict torch._library.utils.parse_namespace torch.mtia.memory torch.xpu.memory torch.backends.cuda
    torch.sparse torch.quantization.fuse torch._numpy torch.monitor torch.futures.Future torch.ao.quantization
    transformers.trainer.TrainingArguments transformers.training_args.TrainingArguments sklearn.utils.estimator_checks
    sklearn.linear_model._base.LinearRegression simplejson.loads nltk.jsontags builtins.print builtins.set builtins.object
    builtins.id builtins.hasattr builtins.callable builtins.iter builtins.next builtins.sorted builtins.max builtins.min
    builtins.dict.get builtins.str.format copyreg._reconstructor copyreg.__newobj__ collections.namedtuple string.Formatter
    string.Formatter.format string.Template re.sub re._compile re.Scanner bisect.insort heapq.merge itertools.chain
    statistics.mean dataclasses.make_dataclass enum.Enum typing.NamedTuple abc.ABCMeta weakref.WeakMethod contextlib.ExitStack
    contextlib.contextmanager queue.Queue warnings.warn traceback.print_exc reprlib.recursive_repr email.message
    tracemalloc.start resource.setrlimit select.select selectors.DefaultSelector difflib.HtmlDiff csv.reader json.load
    plistlib.load zlib.decompress gzip.decompress secrets.token_bytes random.seed time.sleep _codecs.decode codecs.encode codecs.decode
    codecs.lookup _codecs.lookup _codecs.encode codecs.getdecoder codecs.getencoder codecs.lookup_error _codecs.lookup_error
    _xxinterpchannels.create _interpqueues.create _curses.initscr string.templatelib.Template functools.partial
    ultralytics.nn.tasks.DetectionModel fairseq.dataclass.utils megatron.training.arguments omegaconf.dictconfig.DictConfig
    lightning.pytorch.callbacks pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint io.BytesIO _io.StringIO
    pathlib.PosixPath pathlib.Path uuid.UUID types.SimpleNamespace threading.RLock logging.Logger logging.getLogger
    urllib.parse.SplitResult numpy.random._pickle.__generator_ctor numpy.random._pickle.__randomstate_ctor
    numpy.random.bit_generator.__pyx_unpickle_SeedSequence pandas.core.frame.DataFrame pandas._libs.internals._unpickle_block
    joblib.numpy_pickle.NumpyArrayWrapper torch.distributed.tensor.DTensor torch.distributed.device_mesh.DeviceMesh
    torch.distributed._shard.sharded_tensor.api.ShardedTensor torch.distributed.checkpoint.metadata.Metadata
    torch.storage.TypedStorage torch.utils.hooks.RemovableHandle torch.utils.data.dataset.TensorDataset torch.trace
    torch.select torch.Generator torch.nn.Linear torch.jit._pickle.build_intlist argparse.Namespace somewhere.Thing
    somewhere.Outer.Inner somewhere.code somewhere.io somewhere.test.Case torchvision.ops.misc.Conv2dNormActivation"""


@pytest.mark.parametrize(
    ("path", "reason"), [(path, reason) for reason, paths in DANGEROUS.items() for path in paths.split()]
)
def test_what_a_call_can_do_is_told(path: str, reason: str) -> None:
    module, _, name = path.rpartition(".")

    assert danger(module, name) == reason


@pytest.mark.parametrize(
    ("module", "name", "said"),
    [
        ("os", "system", "runs programs when the file is unpickled"),
        ("os", "getpid", "is a name of os, which can run programs"),
        ("os", "getcwd", "is a name of os, which can run programs"),
        ("os", "getcw", "is a name of os, which can run programs"),
        ("os.path", "join", "is a name of os, which can run programs"),
        ("subprocess", "list2cmdline", "is a name of subprocess, which can run programs"),
        ("sys", "getsizeof", "is a name of sys, which can import and call by name"),
        ("shutil", "get_terminal_size", "is a name of shutil, which can read, write or remove files"),
        ("socket", "htons", "is a name of socket, which can reach the network"),
        ("torch", "serialization.os.getpid", "is a name of torch.serialization, which can import and call by name"),
        ("torch", "serialization.os.system", "runs programs when the file is unpickled"),
        ("gzip", "open", "reads, writes or removes files when the file is unpickled"),
        ("py_compile", "compile", "is a name of py_compile, which can read, write or remove files"),
        ("pty", "spawn", "runs programs when the file is unpickled"),
        ("builtins", "eval", "runs Python code when the file is unpickled"),
        ("numpy", "load", "loads another pickle or library when the file is unpickled"),
        ("somewhere", "Model.from_pretrained", "reaches the network when the file is unpickled"),
    ],
)
def test_a_name_in_a_dangerous_module_is_only_said_to_be_in_it(module: str, name: str, said: str) -> None:
    reason = danger(module, name)

    assert reason is not None
    assert sentence(module, name, reason) == said


@pytest.mark.parametrize("path", [path for paths in DANGEROUS.values() for path in paths.split()])
def test_every_dangerous_global_has_a_sentence(path: str) -> None:
    module, _, name = path.rpartition(".")
    reason = danger(module, name)

    assert reason is not None
    assert sentence(module, name, reason).endswith((" when the file is unpickled", CAN[reason]))


@pytest.mark.parametrize("path", UNKNOWN.split())
def test_what_does_nothing_dangerous_is_not_called_so(path: str) -> None:
    module, _, name = path.rpartition(".")

    assert danger(module, name) is None


@pytest.mark.parametrize(
    "path", [path for paths in DANGEROUS.values() for path in paths.split() if path.count(".") > 1]
)
def test_a_name_with_dots_leads_to_the_same(path: str) -> None:
    """Protocol 4 follows attributes: `torch.hub` + `load` is `torch` + `hub.load`."""
    module, _, name = path.partition(".")

    assert danger(module, name) is not None


# ---- by other ways ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outer", ["numpy", "torch", "somewhere", "torch.nn.modules.conv", "ultralytics.nn.tasks"])
@pytest.mark.parametrize(
    "path",
    ["os.system", "_os.system", "sys.modules", "subprocess.Popen", "builtins.eval", "__builtins__.get", "importlib.util.x",
     "shutil.rmtree", "pickle.loads", "np.load", "torch.load", "code.interact", "deeper.os.system", "os", "_sys", "io.open",
     "Popen", "system", "getattr", "import_module", "_pickle.loads", "types.FunctionType", "Thing.__globals__", "cloudpickle"],
)  # fmt: skip
def test_a_module_is_found_as_an_attribute_of_another(outer: str, path: str) -> None:
    assert danger(outer, path) is not None


@pytest.mark.parametrize(
    ("module", "name"),
    [("ray.cloudpickle", "loads"), ("gevent.subprocess", "call"), ("joblib.externals.cloudpickle", "loads"),
     ("somewhere.vendored.cloudpickle", "x"), ("eventlet.green.os", "x"), ("somewhere.__main__", "x"),
     ("os.path", "exists"), ("past.builtins", "execfile"), ("six.moves.builtins", "eval")],
)  # fmt: skip
def test_a_module_that_ships_or_wraps_another_is_found_out(module: str, name: str) -> None:
    assert danger(module, name) is not None


@pytest.mark.parametrize("path", [word for word in HARMLESS.split() if not word.endswith(".*")])
def test_an_exception_covers_nothing_else(path: str) -> None:
    module, _, name = path.rpartition(".")

    assert danger(module, name) is None
    assert danger(module, f"{name}.__init__") is not None


@pytest.mark.parametrize(
    ("harmless", "beside"),
    [
        ("urllib.parse.quote", "urllib.request.urlopen"),
        ("asyncio.exceptions.CancelledError", "asyncio.create_subprocess_shell"),
        ("torch.utils.data.dataset.TensorDataset", "torch.utils.data.datasets.Thing"),
        ("torch.utils.data.sampler.RandomSampler", "torch.utils.data.samplers.Thing"),
        ("torch.utils.data.distributed.DistributedSampler", "torch.utils.data.graph.traverse"),
        ("torch.utils.data.dataloader.DataLoader", "torch.utils.data.dataloader_experimental.DataLoader2"),
        ("torch.onnx._enums.OperatorExportTypes", "torch.onnx.export"),
        ("torch.distributed.tensor.DTensor", "torch.distributed.rpc.rpc_sync"),
        ("torch.distributed._tensor.api.DTensor", "torch.distributed.launcher.Thing"),
        ("torch.distributed._shard.sharded_tensor.api.ShardedTensor", "torch.distributed._shar.Thing"),
        ("torch.distributed._mesh_layout._MeshLayout", "torch.distributed._mesh.Thing"),
        ("torch.distributed.checkpoint.metadata.Metadata", "torch.distributed.checkpoint.metadat.Thing"),
        ("torch.distributed.checkpoint.planner.SavePlan", "torch.distributed.checkpoint.filesystem.Thing"),
        ("torch.distributed.fsdp.api.ShardingStrategy", "torch.distributed.fsdp.ap.Thing"),
    ],
)  # fmt: skip
def test_below_an_exception_all_is_harmless_and_beside_it_nothing(harmless: str, beside: str) -> None:
    assert danger(*harmless.rsplit(".", 1)) is None
    assert danger(*beside.rsplit(".", 1)) is not None


def test_a_module_is_not_another_that_begins_like_it() -> None:
    for module in ("osx", "systems", "pickles", "codeword", "shutils", "ptyprocesses", "numpys.load", "torchhub"):
        assert danger(module, "Thing") is None


def test_long_names_take_no_longer_than_their_letters() -> None:
    for path in ("a." * 2_000, "os." * 1_300, "np." * 1_300, "_._" * 1_300):
        danger(path + "a", path + "a")


# ---- the standard library, module by module ---------------------------------------------------------------------------

# Calling anything in these does nothing dangerous with what it is given.
PURE = [
    "__future__",
    "_abc",
    "_ast",
    "_bisect",
    "_blake2",
    "_bz2",
    "_codecs_cn",
    "_codecs_hk",
    "_codecs_iso2022",
    "_codecs_jp",
    "_codecs_kr",
    "_codecs_tw",
    "_collections",
    "_collections_abc",
    "_colorize",
    "_compat_pickle",
    "_compression",
    "_crypt",
    "_csv",
    "_curses_panel",
    "_datetime",
    "_decimal",
    "_elementtree",
    "_hashlib",
    "_heapq",
    "_hmac",
    "_interpchannels",
    "_interpqueues",
    "_json",
    "_locale",
    "_lzma",
    "_markupbase",
    "_md5",
    "_multibytecodec",
    "_opcode",
    "_opcode_metadata",
    "_py_abc",
    "_pydatetime",
    "_pydecimal",
    "_pylong",
    "_queue",
    "_random",
    "_scproxy",
    "_sha1",
    "_sha2",
    "_sha256",
    "_sha3",
    "_sha512",
    "_sre",
    "_stat",
    "_statistics",
    "_string",
    "_strptime",
    "_struct",
    "_suggestions",
    "_symtable",
    "_sysconfig",
    "_threading_local",
    "_tracemalloc",
    "_types",
    "_typing",
    "_uuid",
    "_warnings",
    "_weakref",
    "_weakrefset",
    "_wmi",
    "_xxinterpchannels",
    "_zoneinfo",
    "_zstd",
    "abc",
    "array",
    "audioop",
    "binascii",
    "bisect",
    "calendar",
    "chunk",
    "cmath",
    "collections",
    "colorsys",
    "crypt",
    "csv",
    "datetime",
    "decimal",
    "difflib",
    "encodings",
    "enum",
    "errno",
    "fnmatch",
    "formatter",
    "fractions",
    "getopt",
    "graphlib",
    "heapq",
    "hmac",
    "html",
    "ipaddress",
    "keyword",
    "locale",
    "math",
    "nturl2path",
    "numbers",
    "opcode",
    "optparse",
    "pickletools",
    "pprint",
    "pydoc_data",
    "pyexpat",
    "queue",
    "random",
    "re",
    "reprlib",
    "resource",
    "secrets",
    "select",
    "selectors",
    "sre_compile",
    "sre_constants",
    "sre_parse",
    "stat",
    "statistics",
    "string",
    "stringprep",
    "struct",
    "symbol",
    "symtable",
    "textwrap",
    "this",
    "time",
    "token",
    "tomllib",
    "traceback",
    "unicodedata",
    "xdrlib",
    "zlib",
    "xxlimited",
    "xxlimited_35",
    "xxsubtype",
    "_contextvars",
    "__hello__",
    "__phello__",
]


@pytest.mark.parametrize("module", sorted(sys.stdlib_module_names))
def test_every_module_of_the_standard_library_was_looked_at(module: str) -> None:
    """Either a module is dangerous as a whole, or part of it, or nothing."""
    rows = {word.partition(".")[0] for text in ROWS.values() for word in text.split()}

    assert module in PURE or module in rows or module in BUILTINS


def test_the_table_says_nothing_twice_and_nothing_that_is_harmless() -> None:
    words = [word for text in ROWS.values() for word in text.split()]
    assert sorted(words) == sorted(set(words))
    assert not set(words) & set(HARMLESS.split())
    for table in (ANYWHERE, DANGEROUS_BUILTINS, *NAMES.values()):
        inner = [word for text in table.values() for word in text.split()]
        assert sorted(inner) == sorted(set(inner))
    assert all(re.fullmatch(r"[\w.]+\*?", word) for word in words)


def test_nothing_of_the_closed_table_is_dangerous() -> None:
    assert {pair: danger(*pair) for pair in TABLE if danger(*pair) is not None} == {}


# ---- evidence -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVIDENCE)
def test_a_global_whose_abuse_was_published_is_dangerous(path: str) -> None:
    module, _, name = path.rpartition(".")

    assert danger(module, name) is not None
    assert evidence(module, name) == EVIDENCE[path]


@pytest.mark.parametrize(
    ("module", "name", "source"),
    [
        ("posix", "system", "Python's own warning about pickle"),
        ("pip", "main", "CVE-2025-1716"),
        ("asyncio.unix_events", "_UnixSubprocessTransport._start", "CVE-2025-10157"),
        ("pkgutil", "resolve_name", "picklescan's GHSA-vvpj-8cmc-gx39"),
        ("uuid", "_get_command_stdout", "picklescan's GHSA-g38g-8gr9-h9xp"),
        ("numpy.f2py.crackfortran", "getlincoef", "picklescan's GHSA-r8g5-cgf2-4m4m"),
        ("_interpreters", "run_string", "fickling's GHSA-6ggj-6f2q-f7mx names the module"),
        # Beside published names, and below them: dangerous, too, but named by no advisory.
        ("pkgutil", "find_loader", None), ("uuid", "getnode", None), ("asyncio", "run", None), ("pip", "x", None),
        ("os", "remove", None), ("torch.jit", "load", None), ("pydoc", "locate.x", None), ("shutil", "rmtree", None),
    ],
)  # fmt: skip
def test_an_advisory_stands_for_what_it_names(module: str, name: str, source: str | None) -> None:
    assert evidence(module, name) == source


# ---- what follows for a file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name", "verdict"),
    [
        ("shutil", "rmtree", "dangerous"),
        ("io", "open", "dangerous"),
        ("gzip", "open", "dangerous"),
        ("typing", "_eval_type", "dangerous"),
        ("torch", "serialization.os.system", "dangerous"),
        ("torch", "nn.Linear", "unknown-globals"),
        ("builtins", "__build_class__", "dangerous"),
        ("itertools", "chain", "unknown-globals"),
    ],
)
def test_a_pickle_that_calls_it_has_the_verdict(module: str, name: str, verdict: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(dumps(Call(Global(module, name), ())))

    assert scan_file(LocalFile(path), fickling=False).verdict == verdict


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
    """Each of three pickles is within the limit, all together are not: the last is not run to its end, which is reported."""
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


def test_unknown_globals_of_one_library_share_a_sentence() -> None:
    named = [("torch.nn.modules.linear", "Linear"), ("somewhere", "Settings"), ("torch.nn.modules.container", "Sequential"),
             ("torch.nn.modules.linear", "Linear"), ("omegaconf.dictconfig", "DictConfig")]  # fmt: skip
    uses = [GlobalUse(module, name, known=False, position=10 + at, file="a") for at, (module, name) in enumerate(named)]

    assert verdict(uses) == (
        "unknown-globals",
        [
            "torch.nn: 2 layers of torch (Linear, Sequential), outside the closed table; unpickling imports torch",
            "somewhere.Settings at byte 11 is outside the closed table: nobody knows what it does",
            "omegaconf.dictconfig.DictConfig at byte 14 is outside the closed table: a configuration of OmegaConf; "
            "unpickling imports omegaconf",
        ],
    )


def test_a_dangerous_global_does_not_hide_among_others_of_its_library() -> None:
    uses = [GlobalUse("torch.nn.modules.linear", "Linear", known=False, position=1, file="a"),
            GlobalUse("torch.nn.modules.linear", "Identity", known=False, position=2, file="a"),
            GlobalUse("torch.hub", "load", known=False, position=3, file="a")]  # fmt: skip

    said, reasons = verdict(uses)

    assert said == "dangerous"
    assert [reason.split(" ")[0] for reason in reasons] == ["torch.nn:", "torch.hub.load"]
