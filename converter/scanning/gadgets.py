"""Globals that are dangerous when a file chooses their arguments, each with what calling it can do.

The rows come from going through the standard library module by module (3.11 to 3.14, the modules that were removed
before, and those of Python 2), then numpy, torch and the libraries whose objects are found in checkpoints. A row names
a path, `module.name`, and covers everything below it: `os` covers the whole module, `gzip.open` one function. `x.y*`
covers everything in `x` whose name begins with `y`. HARMLESS lists exceptions from a row, and NAMES the names that are
dangerous only in some libraries. The table only chooses words: a global outside the closed table is refused whether it
has a row here or not.
"""

from __future__ import annotations

from typing import Final

RUNS: Final = "runs programs"
CODE: Final = "runs Python code"
IMPORTS: Final = "imports and calls by name"
FILES: Final = "reads, writes or removes files"
NETWORK: Final = "reaches the network"
LOADS: Final = "loads another pickle or library"
CALLS: Final = "calls what it is given"
WALKS: Final = "reaches any object by its attributes"
ENDS: Final = "ends the process"

# The same for a global of which only the module is known to be dangerous: the name may be harmless, or not exist.
CAN: Final = {
    RUNS: "run programs",
    CODE: "run Python code",
    IMPORTS: "import and call by name",
    FILES: "read, write or remove files",
    NETWORK: "reach the network",
    LOADS: "load another pickle or library",
    CALLS: "call what it is given",
    WALKS: "reach any object by its attributes",
    ENDS: "end the process",
}

ROWS: Final = {
    RUNS: """
        os posix nt os2 ce riscos subprocess pty commands popen2 _posixsubprocess _bootsubprocess _winapi multiprocessing
        asyncio concurrent platform distutils setuptools pip idlelib venv ensurepip _osx_support _aix_support _ios_support
        _apple_support _android_support uuid pydoc webbrowser antigravity signal _signal pipes mailcap toaiff turtle
        turtledemo tkinter Tkinter _tkinter Tix ttk tkFileDialog tkMessageBox tkSimpleDialog tkColorChooser tkCommonDialog
        tkFont Dialog FileDialog SimpleDialog ScrolledText curses.wrapper wheel virtualenv pkgutil.main multiprocess billiard
        pathos loky sh plumbum invoke fabric pexpect ptyprocess psutil click docker git dulwich nox tox torch.multiprocessing
        torch.distributed.run torch.distributed.launch torch.distributed.elastic torch.distributed.launcher
        torch.utils.bottleneck torch.utils.collect_env torch.utils.cpp_extension torch.utils._cpp_extension_versioner
        torch.utils._strobelight accelerate.launchers accelerate.commands accelerate.notebook_launcher
        accelerate.debug_launcher deepspeed.launcher deepspeed.ops.op_builder transformers.testing_utils transformers.commands
        transformers.cli nltk.app nltk.internals nltk.parse.malt nltk.tag.stanford sympy.printing.preview
        sympy.utilities.autowrap
    """,
    ENDS: "faulthandler",
    CODE: """
        _asyncio code codeop runpy bdb pdb timeit profile cProfile _lsprof profiling hotshot trace doctest test lib2to3
        _pyrepl ast types new dis inspect marshal compiler rexec Bastion user sitecustomize usercustomize sched mutex
        threading _thread thread dummy_thread dummy_threading _dummy_thread _dummy_threading _interpreters _xxsubinterpreters
        interpreters unittest atexit gc ctypes _ctypes cffi _cffi_backend numba rlcompleter cgitb annotationlib
        _remote_debugging _testcapi _testinternalcapi _testlimitedcapi _testclinic typing.get_type_hints typing._eval_type
        typing.ForwardRef typing._GenericAlias._evaluate typing_extensions.get_type_hints
        typing_extensions.evaluate_forward_ref typing_extensions.ForwardRef typing_extensions._eval_with_owner
        typing.evaluate_forward_ref dataclasses._create_fn dataclasses._FuncBuilder dataclasses._process_class copyreg.pickle
        copy_reg.pickle cmd.Cmd.cmdloop cmd.Cmd.onecmd cmd.Cmd.default cmd.Cmd.do_help cython Cython pyximport numexpr
        llvmlite triton pycuda pyopencl IPython ipykernel jupyter_client jinja2.sandbox jinja2.environment jinja2.Template
        jinja2.Environment mako pytest _pytest py nose hypothesis.internal yaml.load yaml.load_all yaml.unsafe_load
        yaml.unsafe_load_all yaml.full_load yaml.full_load_all yaml.constructor yaml.loader yaml.Loader yaml.UnsafeLoader
        yaml.FullLoader yaml.CLoader yaml.CUnsafeLoader yaml.CFullLoader yaml.cyaml yaml.add_constructor
        yaml.add_multi_constructor ruamel.yaml ruamel_yaml sympy.sympify sympy.core.sympify sympy.S sympy.parsing
        sympy.lambdify sympy.utilities.lambdify sympy.utilities.runtests sympy.testing sympy.simplify sympy.nsimplify
        sympy.expand sympy.factor sympy.solve sympy.N sympy.diff sympy.integrate sympy.limit sympy.series torch.fx
        torch._dynamo torch._inductor torch.library torch._library.custom_ops torch.cuda.jiterator torch.cuda._compile_kernel
        torch.utils._freeze torch.utils.benchmark torch._C._import_ir_module* torch._C._nvrtc torch.utils.pipelining
        transformers.agents transformers.tools tensorflow.py_function tensorflow.numpy_function tensorflow.compat.v1.py_func
        tensorflow.python.ops.script_ops keras.layers.Lambda keras.src.layers.core.lambda_layer tensorflow.keras.layers.Lambda
        keras.config.enable_unsafe_deserialization jax.pure_callback jax.experimental.io_callback
        jax.experimental.host_callback lightning.pytorch.cli pytorch_lightning.cli pytorch_lightning.utilities.cli
        jsonargparse fire
    """,
    IMPORTS: """
        sys importlib importlib_metadata importlib_resources imp ihooks imputil _imp _frozen_importlib
        _frozen_importlib_external pkgutil zipimport operator _operator functools _functools site modulefinder logging
        copyreg.add_extension copy_reg.add_extension warnings._getcategory warnings._setoption warnings._processoptions
        _py_warnings xml.sax.make_parser xml.sax._create_parser xml.dom.getDOMImplementation pkg_resources wheel.cli six.moves
        six._import_module six._resolve sphinx django celery hydra fairseq.utils.import_user_module
        omegaconf._utils._get_class omegaconf.resolvers gin werkzeug.utils.import_string torch.hub torch.package
        torch.serialization torch.jit torch.utils torch.testing torch.distributed torch.ops torch._ops torch.classes
        torch._classes torch.compiler torch._prims torch._jit_internal torch._sources torch._import_utils torch._numpy.testing
        torch.backends._nnapi torch.backends.xeon numpy.lookfor numpy.lib.utils.lookfor numpy.lib._utils_impl.lookfor
        numpy.deprecate transformers.dynamic_module_utils transformers.utils.import_utils transformers.utils.dummy_pt_objects
        diffusers.utils.import_utils diffusers.utils.dynamic_modules_utils datasets.load datasets.utils.py_utils
        traitlets.config traitlets.import_item
    """,
    FILES: """
        shutil io _io _pyio pathlib tempfile fileinput glob dircache zipfile zipapp tarfile sqlite3 _sqlite3 pysqlite2
        linecache mmap fcntl pwd grp spwd codecs _codecs.register _codecs.register_error _codecs.unregister genericpath
        posixpath ntpath macpath os2emxpath posixfile statvfs filecmp compileall py_compile pyclbr tabnanny gettext
        _locale.bindtextdomain locale.bindtextdomain dbm _dbm _gdbm gdbm anydbm dumbdb dumbdbm whichdb dbhash bsddb _bsddb
        netrc mailbox mhlib mimetypes imghdr sndhdr aifc wave sunau audiodev ossaudiodev linuxaudiodev sunaudiodev winsound uu
        binhex readline getpass termios tty msilib _msi msvcrt winreg _winreg nis.maps pstats syslog _multiprocessing
        _posixshmem _sitebuiltins cgi Cookie.load cookielib json.tool gzip.open gzip.GzipFile gzip.main bz2.open bz2.BZ2File
        lzma.open lzma.LZMAFile compression.gzip.open compression.gzip.GzipFile compression.bz2.open
        compression.bz2.BZ2File compression.lzma.open compression.lzma.LZMAFile compression.zstd.open
        compression.zstd.ZstdFile tokenize.open tokenize.main _tokenize.open argparse.FileType
        argparse.ArgumentParser.parse_args configparser.ConfigParser.read configparser.RawConfigParser.read
        configparser.SafeConfigParser.read ConfigParser.ConfigParser.read ConfigParser.RawConfigParser.read
        ConfigParser.SafeConfigParser.read contextlib.chdir base64.main quopri.main shlex.shlex.sourcehook plistlib.readPlist
        plistlib.writePlist sysconfig._parse_makefile sysconfig._generate_posix_vars sysconfig.parse_makefile sysconfig._main
        tracemalloc.Snapshot.dump curses.getwin _curses.getwin _curses.setupterm curses.setupterm zoneinfo.reset_tzpath
        zoneinfo._tzpath zoneinfo._common.load_tzdata hashlib.file_digest xml.etree.ElementTree.parse
        xml.etree.ElementTree.iterparse xml.etree.ElementTree.ElementTree xml.etree.cElementTree xml.etree.ElementInclude
        xml.dom.minidom.parse xml.dom.pulldom.parse xml.dom.expatbuilder.parse xml.sax.saxutils.prepare_input_source
        lxml.etree.parse lxml.etree.iterparse lxml.html.parse numpy.memmap numpy.lib.npyio numpy.lib._npyio_impl
        numpy.lib._datasource numpy.lib.format.open_memmap numpy.lib.format.read_array numpy.lib._format_impl numpy.compat
        scipy.io scipy.sparse.load_npz scipy.sparse.save_npz scipy.sparse._matrix_io scipy.misc.imread scipy.misc.imsave
        pandas.io sklearn.tree.export_graphviz sklearn.tree._export.export_graphviz torch.from_file torch.save torch.onnx
        torch._C.PyTorchFileReader torch._C.PyTorchFileWriter torch.profiler.tensorboard_trace_handler
        torch.profiler.profiler.tensorboard_trace_handler torch.cuda.memory._dump_snapshot torch.cuda.memory._snapshot
        torch.utils.tensorboard torch.utils._content_store torch.utils.file_baton torch.utils.hipify torch.utils._filelock
        torch.utils._zip tensorflow.io tensorflow.gfile tensorflow.python.lib.io tensorflow.python.platform.gfile
        tensorflow.data.TFRecordDataset tensorflow.summary tensorflow.saved_model tensorflow.train.Checkpoint
        tensorflow.train.load_checkpoint torchvision.io torchvision.datasets torchvision.utils.save_image torchaudio.load
        torchaudio.save torchaudio.info omegaconf.OmegaConf.load omegaconf.OmegaConf.save omegaconf.omegaconf.OmegaConf.load
        omegaconf.omegaconf.OmegaConf.save xgboost.Booster xgboost.core.Booster xgboost.DMatrix xgboost.core.DMatrix
        lightgbm.Booster lightgbm.basic.Booster lightgbm.Dataset lightgbm.basic.Dataset catboost.Pool catboost.core.Pool
        onnx.load onnx.save onnx.load_model onnx.save_model onnx.external_data_helper onnx.hub h5py.File h5py._hl.files zarr
        PIL.Image.open PIL.ImageFont cv2 imageio skimage.io soundfile librosa.load fsspec smart_open filelock
    """,
    NETWORK: """
        socket _socket ssl _ssl _overlapped asynchat asyncore smtpd nis http httplib urllib urllib2 urllib3 requests
        requests_toolbelt aiohttp ftplib gopherlib smtplib imaplib poplib nntplib telnetlib xmlrpc xmlrpclib
        SimpleXMLRPCServer DocXMLRPCServer socketserver SocketServer BaseHTTPServer SimpleHTTPServer CGIHTTPServer robotparser
        wsgiref email.utils.make_msgid email.utils.getaddresses_from xml.sax xml.dom.xmlbuilder httpx httpcore pycurl
        websocket websockets paramiko asyncssh boto boto3 botocore aiobotocore s3fs s3transfer gcsfs adlfs google.cloud
        google.auth azure pymysql MySQLdb psycopg psycopg2 asyncpg pymongo redis sqlalchemy zmq grpc tornado twisted gevent
        eventlet flask bottle fastapi uvicorn gunicorn ray dask distributed pyspark wandb comet_ml neptune clearml gradio
        streamlit gdown wget openai huggingface_hub scipy.datasets sklearn.datasets._base._fetch_remote
        sklearn.datasets._openml sklearn.datasets.fetch_* sklearn.datasets._base.fetch_* nltk.download nltk.downloader
        torch.utils.model_zoo torch.distributed.init_process_group torch.distributed.rpc torch.distributed.distributed_c10d
        torch.distributed.rendezvous torch.distributed.TCPStore torch._C._distributed_c10d torch._C._distributed_rpc
        transformers.pipeline transformers.pipelines transformers.utils.hub transformers.hf_api
        transformers.file_utils.cached_path transformers.file_utils.get_from_cache torchvision.datasets.utils torchtext.utils
        torchaudio.utils.download tensorflow.keras.utils.get_file keras.utils.get_file keras.src.utils.file_utils
        keras.datasets tensorflow.keras.datasets tensorflow_hub evaluate.load sentence_transformers.SentenceTransformer
    """,
    LOADS: """
        pickle _pickle cPickle dill cloudpickle joblib shelve jsonpickle srsly hickle klepto skops.io mlflow bentoml
        tracemalloc.Snapshot.load pandas.compat.pickle_compat pyarrow.deserialize pyarrow.serialization torch.load
        torch.storage._load_from_bytes torch.export torch._export torch._C._jit* torch._C.import_ir_module* torch._C._load_*
        torch._C._import_* torch._C._aoti* torch._C._dlopen* torch._C._create_module* torch.aoti_load_package
        torch.cuda.memory.CUDAPluggableAllocator torch.cuda.CUDAPluggableAllocator torch.xpu.memory.XPUPluggableAllocator
        torch.utils._config_module torch.mobile torch.utils.mobile_optimizer torch.utils.show_pickle torch.utils.model_dump
        numpy.testing numpy.f2py numpy.distutils numpy.ctypeslib numpy.load numpy.loads sklearn.utils._joblib
        sklearn.externals.joblib sklearn.externals._numpydoc tensorflow.load_library tensorflow.load_op_library
        tensorflow.python.framework.load_library keras.saving keras.src.saving keras.src.legacy.saving tensorflow.keras.saving
        keras.engine.saving keras.saving.legacy tensorflow.python.keras.saving tensorflow.python.saved_model onnxruntime
        openvino tensorrt fairseq.checkpoint_utils fairseq.hub_utils nltk.data nltk.load spacy.load spacy.util.load_model
        spacy.cli spacy.util gensim.utils.unpickle gensim.utils.SaveLoad whisper.load_model clip.load timm.create_model
        timm.models.create_model timm.models.factory timm.models._factory timm.models.helpers timm.models._helpers
        timm.models._builder timm.models._hub ultralytics.YOLO ultralytics.hub ultralytics.models.yolo.model.YOLO
        ultralytics.yolo.engine.model.YOLO ultralytics.nn.tasks.torch_safe_load ultralytics.nn.tasks.attempt_load_one_weight
        ultralytics.nn.tasks.attempt_load_weights ultralytics.nn.tasks.yaml_model_load ultralytics.utils.downloads
        ultralytics.utils.checks ultralytics.nn.autobackend models.experimental.attempt_load mmcv.runner.checkpoint
        mmengine.runner.checkpoint mmengine.fileio mmcv.fileio lightning.fabric.utilities.cloud_io
        lightning_fabric.utilities.cloud_io pytorch_lightning.utilities.cloud_io xgboost.core._load_lib
        lightgbm.basic._load_lib
    """,
    CALLS: """
        copy._reconstruct weakref.finalize contextvars.Context.run contextvars.copy_context _contextvars.Context.run
        itertools.starmap itertools.imap future_builtins.map future_builtins.filter contextlib.ExitStack.callback
        contextlib._GeneratorContextManager contextlib.ContextDecorator.__call__ numpy.apply_along_axis numpy.apply_over_axes
        numpy.fromfunction numpy.piecewise numpy.lib.shape_base.apply_* numpy.lib._shape_base_impl.apply_*
        numpy.lib.function_base.piecewise numpy.lib._function_base_impl.piecewise numpy.core.numeric.fromfunction
        numpy._core.numeric.fromfunction torch.overrides.handle_torch_function torch._C._vmapmode* torch._functorch torch.func
        torch.vmap torch._higher_order_ops torch.utils.checkpoint torch.utils._pytree torch.utils._cxx_pytree
        torch.nn.parallel.parallel_apply sklearn.utils.parallel toolz cytoolz
    """,
}

# The dangerous builtins, and the names of their module.
BUILTINS: Final = frozenset(
    ("builtins", "__builtin__", "__builtins__", "past.builtins", "future.builtins", "six.moves.builtins")
)
DANGEROUS_BUILTINS: Final = {
    CODE: """
        eval exec execfile compile breakpoint input raw_input type super classmethod staticmethod property help reload
    """,
    ENDS: "exit quit",
    IMPORTS: "__import__ getattr setattr delattr",
    FILES: "open file memoryview copyright credits license",
    CALLS: "apply map filter reduce",
    WALKS: "globals locals vars dir",
}

# Harmless though they lie inside a dangerous row. A path covers only itself; `.*` covers everything below it.
# Looking up a codec imports a module, but only one of Python's package `encodings`: dots in the name are refused.
HARMLESS: Final = """
        pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePath pathlib.PurePosixPath pathlib.PureWindowsPath
        pathlib._local.Path pathlib._local.PosixPath pathlib._local.WindowsPath pathlib._local.PurePath
        pathlib._local.PurePosixPath pathlib._local.PureWindowsPath types.SimpleNamespace types.MappingProxyType
        types.NoneType types.EllipsisType types.NotImplementedType types.GenericAlias functools.partial _functools.partial
        functools._make_key functools.total_ordering functools.cmp_to_key functools.wraps uuid.UUID uuid.SafeUUID
        threading.RLock threading.Lock _thread.RLock _thread.lock _thread.allocate_lock threading.local threading.Event
        threading.Condition threading.Semaphore io.BytesIO io.StringIO _io.BytesIO _io.StringIO _pyio.BytesIO _pyio.StringIO
        codecs.encode codecs.decode codecs.lookup codecs.lookup_error codecs.getencoder codecs.getdecoder
        codecs.getincrementalencoder codecs.getincrementaldecoder
        logging.Logger logging.RootLogger logging.getLogger logging.PlaceHolder
        logging.NullHandler logging.Formatter logging.LogRecord logging.LoggerAdapter operator.itemgetter _operator.itemgetter
        signal.Signals signal.Handlers inspect.Parameter inspect.Signature inspect._empty inspect._ParameterKind
        ast.literal_eval ast.dump pipes.quote urllib.parse.* urllib2.quote http.HTTPStatus http.HTTPMethod
        http.cookies.SimpleCookie http.cookies.Morsel multiprocessing.context.AuthenticationString
        multiprocessing.process.AuthenticationString asyncio.CancelledError asyncio.exceptions.*
        concurrent.futures._base.CancelledError copyreg.__newobj__ copyreg.__newobj_ex__ copy_reg.__newobj__
        copy_reg.__newobj_ex__ configparser.ConfigParser configparser.RawConfigParser joblib.numpy_pickle.NumpyArrayWrapper
        sklearn.externals.joblib.numpy_pickle.NumpyArrayWrapper torch.serialization._get_layout
        torch.utils.hooks.RemovableHandle torch.utils.hooks.BackwardHook torch.utils.data.dataset.* torch.utils.data.sampler.*
        torch.utils.data.distributed.* torch.utils.data.dataloader.* torch.utils._pytree.Context
        torch.jit._pickle.build_intlist torch.jit._pickle.build_boollist torch.jit._pickle.build_doublelist
        torch.jit._pickle.build_tensorlist torch.jit._pickle.build_tensor_from_id torch.jit._pickle.restore_type_tag
        torch.fx.immutable_collections.immutable_list torch.fx.immutable_collections.immutable_dict
        torch.onnx.OperatorExportTypes torch.onnx.TrainingMode torch.onnx._enums.* torch._C._onnx.*
        torch._dynamo.decorators._DimRange
        torch._library.utils.parse_namespace torch.distributed.tensor.* torch.distributed._tensor.* torch.distributed._shard.*
        torch.distributed.device_mesh.DeviceMesh torch.distributed._mesh_layout.*
        torch.distributed.remote_device._remote_device torch.distributed.checkpoint.metadata.*
        torch.distributed.checkpoint.filesystem._StorageInfo torch.distributed.checkpoint.filesystem._StoragePrefix
        torch.distributed.checkpoint.planner.* torch.distributed.fsdp.api.* torch.distributed.fsdp.ShardingStrategy
        torch.distributed.fsdp.BackwardPrefetch torch.distributed.optim.zero_redundancy_optimizer.ZeroRedundancyOptimizer
        transformers.utils.import_utils.OptionalDependencyNotAvailable nltk.internals.Deprecated
        transformers.pipelines.base.PipelineException tensorflow.io.FixedLenFeature tensorflow.io.VarLenFeature
    """

# Names that are dangerous wherever they stand: as an alias, a method, or a function that several libraries have.
ANYWHERE: Final = {
    RUNS: "system popen Popen check_output check_call getoutput getstatusoutput spawnv spawnve spawnvp posix_spawn startfile",
    CODE: "eval exec execfile exec_module run_code runcode runsource run_module run_path interact register_new_resolver",
    IMPORTS: """
        import_module attrgetter methodcaller getattr setattr delattr load_module import_string import_object
        import_from_string import_user_module get_class_from_dynamic_module direct_transformers_import resolve_name
        _getattribute
    """,
    FILES: """
        rmtree unlink removedirs rmdir makedirs copytree copyfile chmod mkfifo symlink tofile export_chrome_trace
        export_stacks export_memory_timeline save_pretrained to_pickle to_csv
    """,
    NETWORK: """
        from_pretrained push_to_hub hf_hub_download snapshot_download cached_download urlopen urlretrieve
        load_state_dict_from_url download_url_to_file download_url download_from_url download_file_from_google_drive
        download_and_extract_archive get_file_from_repo cached_file
    """,
    LOADS: """
        load_library LoadLibrary dlopen cdll CDLL PyDLL load_from_checkpoint read_pickle load_pickle pickle_loads pickle_load
        Unpickler unpickle load_from_disk from_single_file load_sharded_checkpoint _load_from_bytes
    """,
}  # fmt: skip

# Names that are dangerous anywhere in one library, its classes included.
NAMES: Final = {
    "numpy": {
        FILES: """
            fromfile memmap tofile dump save savez savez_compressed savetxt loadtxt genfromtxt fromregex DataSource recfromcsv
            recfromtxt open_memmap mafromtxt ndfromtxt
        """,
        LOADS: "load loads load_library ctypes_load_library",
    },
    "torch": {
        FILES: """
            from_file _new_shared_filename_cpu _new_shared_fd_cpu _new_using_filename_cpu _share_filename_cpu_ _write_file
            _new_with_file _set_from_file
        """,
        LOADS: "load_config load_config_from_file compile hub jit ops package utils",
    },
    "pandas": {
        LOADS: "read_*",
        FILES: """
            HDFStore ExcelFile ExcelWriter to_csv to_hdf to_parquet to_excel to_feather to_json to_stata to_sql to_xml to_html
            to_latex
        """,
        CODE: "eval query",
    },
    "scipy": {LOADS: "loadmat savemat readsav load_npz save_npz LowLevelCallable"},
    "sklearn": {
        FILES: """
            load_files load_svmlight_file load_svmlight_files dump_svmlight_file clear_data_home get_data_home
            load_sample_image load_sample_images export_graphviz
        """,
        NETWORK: "fetch_openml fetch_*",
    },
    "transformers": {LOADS: """
            load_state_dict load_tf_weights load_pytorch_checkpoint_in_tf2_model torch_load
        """, FILES: "from_json_file"},
    "diffusers": {LOADS: "load_state_dict load_lora_weights load_textual_inversion load_config"},
    "datasets": {NETWORK: "load_dataset load_dataset_builder load_metric", LOADS: "load_from_disk from_file"},
    "tensorflow": {
        LOADS: """
            load_model model_from_config model_from_json model_from_yaml load_weights deserialize* load_op_library
            load_library
        """,
        FILES: "GFile save_model TFRecordWriter",
        NETWORK: "get_file",
    },
    "keras": {
        LOADS: "load_model model_from_config model_from_json model_from_yaml load_weights deserialize*",
        FILES: "save_model",
        NETWORK: "get_file",
    },
    "jax": {LOADS: "load loads", FILES: "save savez fromfile"},
    "cupy": {
        LOADS: "load",
        FILES: "save savez fromfile loadtxt genfromtxt",
        CODE: "RawModule RawKernel ElementwiseKernel ReductionKernel fuse compile_with_cache",
    },
    "lightning": {LOADS: "_load load_from_checkpoint"},
    "pytorch_lightning": {LOADS: "_load load_from_checkpoint"},
    "timm": {LOADS: """
            create_model load_checkpoint load_state_dict load_pretrained load_model_config_from_hf resume_checkpoint
        """},
    "torchvision": {
        NETWORK: "get_model get_weight get_state_dict",
        FILES: "read_image read_file write_file write_jpeg write_png",
    },
    "sentence_transformers": {LOADS: "load"},
    "xgboost": {FILES: "load_model save_model load_config"},
    "lightgbm": {FILES: "model_from_file save_model"},
    "catboost": {FILES: "load_model save_model"},
    "gensim": {LOADS: "load", FILES: "save load_word2vec_format"},
    "spacy": {LOADS: "from_disk from_bytes"},
}  # fmt: skip

# Modules that are recognised at any place in a path: as an attribute of another module (`torch` + `serialization.os.system`)
# or below a package with its own copy (`ray.cloudpickle`, `gevent.subprocess`). Leading underscores are ignored.
_STRONG: Final = """
        os posix nt sys subprocess posixsubprocess builtins builtins__ builtin__ importlib pkgutil pickle cPickle cloudpickle
        dill shutil socket ctypes runpy pty marshal multiprocessing
    """
STRONG: Final = frozenset(_STRONG.split())
ALIASES: Final = {"np": "numpy", "pd": "pandas", "tf": "tensorflow", "sp": "scipy", "mp": "multiprocessing"}

# Where the abuse of a global is on public record. The advisory's text or its sample names exactly this global.
_OWN: Final = "picklescan's GHSA-"
EVIDENCE: Final = {
    **dict.fromkeys(("os.system", "posix.system", "nt.system", "builtins.eval", "builtins.exec", "__builtin__.eval",
                     "__builtin__.exec"), "Python's own warning about pickle"),
    "pip.main": "CVE-2025-1716",
    "asyncio.unix_events._UnixSubprocessTransport._start": "CVE-2025-10157",
    "pkgutil.resolve_name": f"{_OWN}vvpj-8cmc-gx39",
    "pty.spawn": f"{_OWN}vqmv-47xg-9wpr",
    **dict.fromkeys(("uuid._get_command_stdout", "_osx_support._read_output", "_aix_support._read_cmd_output",
                     "imaplib.IMAP4_stream", "test.support.script_helper.assert_python_ok", "_pyrepl.pager.pipe_pager"),
                    f"{_OWN}g38g-8gr9-h9xp"),
    "builtins.__import__": f"{_OWN}46h3-79wf-xr6c", "_operator.attrgetter": f"{_OWN}46h3-79wf-xr6c",
    "_operator.methodcaller": f"{_OWN}955r-x9j8-7rhh",
    "operator.methodcaller": f"{_OWN}84r2-jw7c-4r5q", "pydoc.locate": f"{_OWN}84r2-jw7c-4r5q",
    "cProfile.run": f"{_OWN}49gj-c84q-6qm9", "cProfile.runctx": f"{_OWN}9w88-8rmg-7g2p",
    "profile.run": f"{_OWN}7wx9-6375-f5wh", "profile.Profile.run": f"{_OWN}x696-vm39-cp64",
    "profile.Profile.runctx": f"{_OWN}6vqj-c2q5-j97w",
    "trace.Trace.run": f"{_OWN}5qwp-399c-mjwf", "trace.Trace.runctx": f"{_OWN}g344-hcph-8vgg",
    "code.InteractiveInterpreter.runcode": f"{_OWN}cj3c-v495-4xqh",
    "ctypes.CDLL": f"{_OWN}4675-36f9-wf6r", "distutils.file_util.write_file": f"{_OWN}m273-6v24-x4m4",
    "doctest.debug_script": f"{_OWN}fqq6-7vqf-w3fg", "ensurepip._run_pip": f"{_OWN}xp4f-hrf8-rxw7",
    "idlelib.pyshell.ModifiedInterpreter.runcode": f"{_OWN}3gf5-cxq9-w223",
    "idlelib.pyshell.ModifiedInterpreter.runcommand": f"{_OWN}j343-8v2j-ff7w",
    "idlelib.debugobj.ObjectTreeItem.SetText": f"{_OWN}3vg9-h568-4w9m",
    "idlelib.autocomplete.AutoComplete.get_entity": f"{_OWN}6w4w-5w54-rjvr",
    "idlelib.autocomplete.AutoComplete.fetch_completions": f"{_OWN}7cq8-mj8x-j263",
    "idlelib.calltip.Calltip.fetch_tip": f"{_OWN}8r4j-24qv-fmq9", "idlelib.calltip.get_entity": f"{_OWN}9xph-j2h6-g47v",
    "idlelib.run.Executive.runcode": f"{_OWN}m869-42cg-3xwr",
    "lib2to3.pgen2.grammar.Grammar.loads": f"{_OWN}f54q-57x4-jg88",
    "lib2to3.pgen2.pgen.ParserGenerator.make_label": f"{_OWN}p9w7-82w4-7q8m",
    "numpy.f2py.crackfortran.getlincoef": f"{_OWN}r8g5-cgf2-4m4m",
    "torch._dynamo.guards.GuardBuilder.get": f"{_OWN}86cj-95qr-2p4f",
    "torch.fx.experimental.symbolic_shapes.ShapeEnv.evaluate_guards_expression": f"{_OWN}f4x7-rfwp-v3xw",
    "torch.jit.unsupported_tensor_ops.execWrapper": f"{_OWN}vr7h-p6mm-wpmh",
    "torch.utils._config_module.ConfigModule.load_config": f"{_OWN}vv6j-3g6g-2pvj",
    "torch.utils.bottleneck.__main__.run_cprofile": f"{_OWN}4r9r-ch6f-vxmx",
    "torch.utils.bottleneck.__main__.run_autograd_prof": f"{_OWN}4whj-rm5r-c2v8",
    "torch.utils.collect_env.run": f"{_OWN}f745-w6jp-hpxx",
    "torch.utils.collect_env.run_and_read_all": f"{_OWN}jhph-76pp-mggw",
    "torch.utils.data.datapipes.utils.decoder.basichandlers": f"{_OWN}h3qp-7fh3-f8h4",
}  # fmt: skip

# The same for advisories that name a whole module.
EVIDENCE_OF_MODULES: Final = {"_interpreters": "fickling's GHSA-6ggj-6f2q-f7mx names the module"}
