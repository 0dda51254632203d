"""The loaders: pickle, joblib, numpy and torch themselves, with their `find_class` replaced by one that imports nothing."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
import struct
import tarfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

import joblib.numpy_pickle
import joblib.numpy_pickle_compat
import numpy as np
import numpy.lib._format_impl
import numpy.lib._npyio_impl
import safetensors.torch
import torch

from converter.pickles.walk import key_text
from tests.peers.oracle import recorder
from tests.peers.oracle.recorder import ASKED, CUnpickler, Inert, OutsideError, PatientC, PatientPython, PythonUnpickler

_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.complex128}
_PATIENCE = 64  # pickles that are read from one member of a tar


class _Array(joblib.numpy_pickle.NumpyArrayWrapper):  # type: ignore[misc]
    """joblib's wrapper of an array, which reads the array's bytes; its dtype and class are made plain first."""

    def __init__(self) -> None: ...

    def __setstate__(self, state: Any) -> None:
        dtype, order = state.get("dtype"), state.get("order", "C")
        self.dtype = dtype.plain if isinstance(dtype, _Dtype) else np.dtype("u1")
        self.shape = tuple(int(length) for length in state.get("shape", ()))
        self.subclass, self.order, self.allow_mmap = np.ndarray, order, False
        self.numpy_array_alignment_bytes = state.get("numpy_array_alignment_bytes")


class _Dtype(Inert):
    """A dtype as numpy pickles it: `dtype('f8', False, True)`; its state gives the byte order."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        # A dtype that holds objects matters: an array of it is a pickle.
        text = args[0] if args and type(args[0]) is str and len(args[0]) < 8 else "u1"
        object.__setattr__(self, "plain", np.dtype(text))

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|"):
            object.__setattr__(self, "plain", self.plain.newbyteorder(state[1]))


def prepare() -> None:
    """Replace the functions that look names up, in this process."""
    warnings.simplefilter("ignore")
    replaced = SimpleNamespace(load=recorder.load, UnpicklingError=pickle.UnpicklingError)
    numpy.lib._format_impl.pickle = numpy.lib._npyio_impl.pickle = replaced
    joblib.numpy_pickle.NumpyUnpickler.find_class = recorder.find_class
    joblib.numpy_pickle_compat.ZipNumpyUnpickler.find_class = recorder.find_class
    recorder.stand_in(("joblib.numpy_pickle", "NumpyArrayWrapper"), _Array)
    recorder.stand_in(("numpy", "dtype"), _Dtype)
    for name in ("UntypedStorage", "_UntypedStorage"):
        recorder.stand_in(("torch.storage", name), dtype=torch.uint8)


_MODULE = ModuleType("recorder")
vars(_MODULE).update(Unpickler=CUnpickler, load=recorder.load, UnpicklingError=pickle.UnpicklingError)


def _patient_c(data: bytes) -> None:
    PatientC(io.BytesIO(data)).load()


def _patient_c_bytes(data: bytes) -> None:
    PatientC(io.BytesIO(data), encoding="bytes").load()


def _patient_python(data: bytes) -> None:
    PatientPython(io.BytesIO(data)).load()


def _c(data: bytes) -> None:
    CUnpickler(io.BytesIO(data)).load()


def _python(data: bytes) -> None:
    PythonUnpickler(io.BytesIO(data)).load()


def _joblib(data: bytes) -> None:
    joblib.load(io.BytesIO(data))


def _numpy(data: bytes) -> None:
    loaded = np.load(io.BytesIO(data), allow_pickle=True)
    if isinstance(loaded, np.lib.npyio.NpzFile):
        for name in loaded.files:
            with contextlib.suppress(Exception):
                loaded[name]


def _program(data: bytes) -> bool:
    """Whether torch would treat a zip as a program and run it: such a file is not given to torch."""
    return b"constants.pk" in data.lower()


def _torch(data: bytes) -> None:
    if not _program(data):
        torch.load(io.BytesIO(data), weights_only=False, pickle_module=_MODULE, map_location="cpu")


def _torch_tar(data: bytes) -> None:
    """What torch does with a tar, which it unpacks into a folder; here the members stay in memory."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:", format=tarfile.PAX_FORMAT) as archive:
        for name, numbers in (("storages", _after_storage), ("tensors", _after_tensor)):
            member = archive.extractfile(name)
            assert member is not None
            for _ in range(min(recorder.load(member, encoding="utf-8"), _PATIENCE)):
                numbers(member, recorder.load(member, encoding="utf-8"))
            if name == "storages":
                recorder.load(member, encoding="utf-8")
        member = archive.extractfile("pickle")
        assert member is not None
        PatientC(member, encoding="utf-8").load()


def _after_storage(file: Any, entry: Any) -> None:
    (count,) = struct.unpack("<q", file.read(8))
    file.read(4 * count)


def _after_tensor(file: Any, entry: Any) -> None:
    (rank,) = struct.unpack("<i", file.read(4))
    file.read(4 + 16 * rank + 8)


@dataclass(frozen=True)
class Loader:
    """A loader, and whether it could do something with some bytes that no loader before it does."""

    name: str
    load: Callable[[bytes], None]
    when: Callable[[bytes], bool] = lambda data: True


def _has_strings(data: bytes) -> bool:
    """Whether there may be strings of Python 2 that ASCII can't decode; only these depend on the encoding."""
    return not data.isascii() and (b"U" in data or b"T" in data or b"S" in data)


def _for_joblib(data: bytes) -> bool:
    return b"joblib" in data or data.startswith((b"x", b"\x1f\x8b", b"BZ", b"\xfd7zXZ", b"]\0", b"\4\x22M\x18", b"ZF"))


OF_PICKLES = (
    Loader("pickle in C", _patient_c),
    Loader("pickle in Python", _patient_python),
    Loader("pickle in C, bytes", _patient_c_bytes, _has_strings),
    Loader("joblib", _joblib, _for_joblib),
    Loader("torch", _torch, lambda data: b"\xfc\x9cF\xf9 j\xa8P\x19" in data or _has_strings(data)),
)
OF_CONTAINERS = (
    Loader("pickle in C", _c),
    Loader("pickle in Python", _python),
    Loader("joblib", _joblib),
    Loader("torch", _torch),
    Loader("torch, tar", _torch_tar),
    Loader("numpy", _numpy),
)


def asked(loaders: tuple[Loader, ...], data: bytes) -> list[tuple[str, str, str]]:
    """Return (loader, module, name) of the first global outside the table that each loader asked for."""
    found = []
    for loader in loaders:
        if not loader.when(data):
            continue
        ASKED.clear()
        try:
            loader.load(data)
        except OutsideError:
            pass
        except Exception:  # whatever a loader raises, it has refused the file
            pass
        found += [(loader.name, *pair) for pair in ASKED]
    return found


def weights(data: bytes) -> list[list[Any]] | None:
    """Return (name, dtype, shape, digest) of the tensors that torch.load(weights_only=True) gives, or None if it refuses."""
    if _program(data):
        return None
    try:
        value = torch.load(io.BytesIO(data), weights_only=True)
        return [_facts(name, tensor) for name, tensor in _flat(value)]
    except Exception:
        return None


def safetensors_weights(data: bytes) -> list[list[Any]] | None:
    """The same for the tensors that the safetensors library gives."""
    try:
        return [_facts(name, tensor) for name, tensor in safetensors.torch.load(data).items()]
    except BaseException as error:  # Rust's panics are not derived from Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        return None


def _flat(value: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors below the keys that lead to them."""
    if depth > 100:
        raise ValueError("too deep")
    if isinstance(value, torch.Tensor):
        yield name if depth else "tensor", value
        return
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, inner in items:
        yield from _flat(inner, f"{name}.{key_text(key)}" if depth else key_text(key), depth + 1)


def _facts(name: str, tensor: torch.Tensor) -> list[Any]:
    if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_nested:
        return [name, f"{tensor.dtype} {tensor.layout} {tensor.device.type}", list(tensor.shape), ""]
    if tensor.is_conj() or tensor.is_neg():
        return [name, f"{tensor.dtype}, conjugated or negated", list(tensor.shape), ""]
    if tensor.numel() * tensor.element_size() > 1 << 24:
        return [name, str(tensor.dtype), list(tensor.shape), "large"]
    # Raw bits, because copies of booleans and of halves change some of them.
    bits = torch.empty(0, dtype=_BITS[tensor.element_size()])
    bits.set_(tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())
    return [name, str(tensor.dtype), list(tensor.shape), hashlib.sha1(bits.contiguous().numpy().tobytes()).hexdigest()]
