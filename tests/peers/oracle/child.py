"""The process that the loaders run in: no network, no programs, an empty folder, little memory; files come over a pipe.

A request is a number of files (4 bytes), and for each what is asked (1 byte), its length (4 bytes) and its bytes. The
answer to each is a length and JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import struct
import sys
from typing import BinaryIO

PICKLE, CONTAINER = 0, 1  # what is asked
_SECONDS = 10  # of processor time that a file may take
_MEMORY = 256 << 20  # bytes of addresses beyond those that the libraries take
_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen", "socket.connect",
              "socket.bind", "pty.spawn", "ctypes.dlopen", "os.remove", "os.rename", "os.mkdir", "os.symlink", "os.link",
              "shutil.", "urllib.", "webbrowser.", "exec")  # fmt: skip


def main() -> None:
    _leave_network()
    from tests.peers.oracle import loaders

    loaders.prepare()
    _warm()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    os.dup2(2, 1)
    _guard()
    ran: list[str] = []
    sys.addaudithook(lambda event, arguments: _hook(ran, event, arguments))
    while count := requests.read(4):
        files = [_file(requests) for _ in range(struct.unpack("<I", count)[0])]
        for what, data in files:
            used = resource.getrusage(resource.RUSAGE_SELF)
            spent = int(used.ru_utime + used.ru_stime)
            resource.setrlimit(resource.RLIMIT_CPU, (spent + _SECONDS, resource.RLIM_INFINITY))
            names = loaders.OF_CONTAINERS if what == CONTAINER else loaders.OF_PICKLES
            found = {"asked": loaders.asked(names, data), "weights": None, "ran": ran}
            if what == CONTAINER:
                found["weights"] = loaders.weights(data)
                found["safetensors"] = loaders.safetensors_weights(data)
            packed = json.dumps(found).encode()
            ran.clear()
            answers.write(struct.pack("<I", len(packed)) + packed)
            answers.flush()


def _file(requests: BinaryIO) -> tuple[int, bytes]:
    what, size = struct.unpack("<BI", requests.read(5))
    return what, requests.read(size)


def _warm() -> None:
    """Let each library import what it imports late, on files of our own, before that is forbidden."""
    import encodings
    import importlib
    import io
    import pkgutil

    import joblib
    import numpy as np
    import torch

    from tests.peers.oracle import loaders

    for found in pkgutil.iter_modules(encodings.__path__):  # a pickle may name any
        with contextlib.suppress(ImportError):
            importlib.import_module(f"encodings.{found.name}")
    for save in (
        lambda file: torch.save({"w": torch.ones(2)}, file),
        lambda file: torch.save({"w": torch.ones(2)}, file, _use_new_zipfile_serialization=False),
        lambda file: np.save(file, np.zeros(2)),
        lambda file: np.savez(file, a=np.zeros(2)),
        lambda file: joblib.dump([1, np.zeros(2)], file, compress=("zlib", 1)),
        lambda file: joblib.dump([1, np.zeros(2)], file, compress=("xz", 1)),
    ):
        file = io.BytesIO()
        save(file)
        loaders.asked(loaders.OF_CONTAINERS, file.getvalue())
        loaders.weights(file.getvalue())


def _leave_network() -> None:
    """Leave the network for one of our own, which has nothing in it; if the kernel does not offer that, forbid sockets."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_NETWORK if os.geteuid() == 0 else _NEW_USER | _NEW_NETWORK):
        import socket

        def closed(*arguments: object, **options: object) -> None:
            raise OSError("the oracle's loaders have no network")

        socket.socket.connect = closed  # type: ignore[assignment,method-assign]


def _guard() -> None:
    """Give up what the loaders don't need: rights, memory, files, programs."""
    with open("/proc/self/statm", encoding="ascii") as file:
        most = int(file.read().split()[0]) * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def _hook(ran: list[str], event: str, arguments: tuple[object, ...]) -> None:
    writes = (
        event == "open" and len(arguments) > 1 and isinstance(arguments[1], str) and set("wax+") & set(arguments[1])
    )
    if writes or event.startswith(_FORBIDDEN):
        ran.append(f"{event} {arguments!r}"[:200])
        raise RuntimeError(f"the oracle's loaders may not: {event}")


if __name__ == "__main__":
    main()
