"""Reads tensors once, in several threads, and reports on each."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from itertools import repeat
from threading import Lock
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from converter.dtypes import C32
from converter.errors import ConverterError
from converter.io.parts import Buffers, Part, portions
from converter.io.writer import cores
from converter.reports.details import StatisticsReport
from converter.statistics.counting import PASS, Counts, Workspace, kind
from converter.statistics.heat import Heat, pictured
from converter.statistics.summary import TINY, of_complex, of_few, of_tiny, summary
from converter.steps import at, step
from converter.tensors.parts import tensor_parts
from converter.text import plural

if TYPE_CHECKING:
    from converter.dtypes import Dtype
    from converter.tensors.tensor import Tensor

Progress = Callable[[int], None]
READ: Final = 512 << 10  # bytes of a read: a table of counts is made for each, and a processor's cache holds it
_SMALLEST: Final = 1 << 20  # bytes of all tensors that are worth a second thread


def measured(
    tensors: Sequence[Tensor],
    *,
    names: Sequence[str] = (),
    sha256: bool = False,
    heat: bool = False,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[StatisticsReport | ConverterError]:
    """The statistics of each tensor, or why it can't be read. Equal views are read once.

    As many threads read as there are processors, or as `threads` says. `progress` is called with the bytes read since its
    last call, by any of them. `names` are what the tensors are called while they are read. With `sha256` the statistics
    include the SHA-256 of the canonical bytes, and with `heat` a picture of each matrix.
    """
    progress = progress or _ignored
    views = dict(zip(tensors, names or repeat(""), strict=False))
    gauges = {view: _Gauge(view, name, sha256, heat, progress) for view, name in views.items()}
    nbytes = sum(view.nbytes for view in views)
    run = _Run(gauges.values())
    count = min(threads or cores(), 1 + nbytes // _SMALLEST)
    with step("measure", plural(len(views), "tensor")):
        if count == 1:
            run.work(Buffers(portions().tiles))
        else:
            run.together(count)
    progress(sum(tensor.nbytes for tensor in tensors) - nbytes)
    return [gauges[tensor].result for tensor in tensors]


def _ignored(nbytes: int) -> None:
    """Take the place of a progress that nobody wants to see."""


class _Run:
    """The parts of all tensors, which threads share."""

    def __init__(self, gauges: Iterable[_Gauge]) -> None:
        self._tasks = _tasks(gauges)
        self._lock = Lock()
        self._stopped = False

    def together(self, threads: int) -> None:
        """Work in several threads. The calling thread only waits: in the main one, a signal may raise anywhere."""
        with ThreadPoolExecutor(threads) as pool:
            shares = [
                pool.submit(copy_context().run, self.work, Buffers(portions().tiles // threads)) for _ in range(threads)
            ]
            try:
                for share in shares:
                    share.result()
            finally:
                self._stopped = True

    def work(self, buffers: Buffers) -> None:
        """Do tasks until none is left."""
        work = Workspace()
        while not self._stopped:
            with self._lock:
                task = next(self._tasks, None)
            if task is None:
                return
            gauge, part, start = task
            try:
                gauge.take(part, start, buffers, work)
            except BaseException:
                self._stopped = True
                raise


def _tasks(gauges: Iterable[_Gauge]) -> Iterator[tuple[_Gauge, Part, int]]:
    """The parts of all tensors, each with the bytes of its tensor that come before it."""
    for gauge in gauges:
        start = 0
        for part in gauge.parts:
            yield gauge, part, start
            start += part.nbytes
        gauge.parts = ()


class _Gauge:
    """A tensor that is being read, by any number of threads."""

    result: StatisticsReport | ConverterError

    def __init__(self, tensor: Tensor, name: str, sha256: bool, heat: bool, progress: Progress) -> None:
        self._dtype, self._name, self._progress = tensor.dtype, name, progress
        self._kind = kind(tensor.dtype)
        self._few = self._kind is not None and tensor.size <= self._kind.few
        self._sha256 = hashlib.sha256() if sha256 else None
        view = tensor if sha256 else in_storage_order(tensor)
        self._turned = view.shape != tensor.shape or view.stride != tensor.stride
        self._heat = Heat(view.shape, view.dtype) if heat and pictured(view) else None
        self._shape = view.shape
        self.parts = tensor_parts(view, whole=sha256, step=READ)
        self._left = len(self.parts)
        self._counts = Counts()
        self._square = 0.0
        self._lock = Lock()
        self._error: ConverterError | None = None
        if not self.parts:
            self._finish([])

    def take(self, part: Part, start: int, buffers: Buffers, work: Workspace) -> None:
        """Read the part from byte `start` on and count its elements. What can't be read is the tensor's result."""
        counts, kept, square = Counts(), bytearray(), 0.0
        at(self._name)
        heat = None if self._heat is None else Heat(self._shape, self._dtype)
        try:
            with np.errstate(all="ignore"):
                for tile in part.tiles(buffers):
                    if self._sha256 is not None:
                        self._sha256.update(tile)
                    if self._few:
                        kept += tile
                    elif self._kind is not None:
                        self._kind.take(tile, self._dtype, work, counts)
                    else:
                        square += _complex(tile, self._dtype, counts)
                    if heat is not None:
                        heat.take(tile, start // self._dtype.itemsize)
                        start += len(tile)
                    self._progress(len(tile))
        except ConverterError as error:
            self._error = error
        if self._kind is not None and not self._few:
            self._kind.settle(self._dtype, work, counts)
        with self._lock:
            self._counts.join(counts)
            self._square += square
            if heat is not None and self._heat is not None:
                self._heat.join(heat)
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish(kept)

    def _finish(self, kept: bytes | bytearray | list[int]) -> None:
        digest = None if self._sha256 is None else self._sha256.hexdigest()
        counts, self._counts = self._counts, Counts()
        if self._error is not None:
            self.result = self._error
            return
        found = self._summary(counts, kept, digest)
        picture = None if self._heat is None else self._heat.report(turned=self._turned)
        self.result = found if picture is None else replace(found, heat=picture)

    def _summary(self, counts: Counts, kept: bytes | bytearray | list[int], digest: str | None) -> StatisticsReport:
        if self._few and self._kind is not None:
            elements = self._kind.elements(self._dtype, bytes(kept))
            tiny = elements.size <= TINY
            return of_tiny([*map(float, elements.tolist())], digest) if tiny else of_few(elements, digest)
        if self._kind is not None:
            return summary(self._dtype, self._kind, counts, digest)
        square = self._square if self._dtype.component else None
        return of_complex(counts.zeros, counts.nan, counts.inf, square, digest)


def in_storage_order(tensor: Tensor) -> Tensor:
    """The view with its dimensions in the order in which they lie, if it then has no gaps. Their order changes no statistic."""
    if tensor.contiguous:
        return tensor
    axes = sorted(range(len(tensor.shape)), key=lambda axis: -tensor.stride[axis])
    view = replace(
        tensor,
        shape=tuple(tensor.shape[axis] for axis in axes),
        stride=tuple(tensor.stride[axis] for axis in axes),
    )
    return view if view.contiguous else tensor


def _complex(tile: memoryview, dtype: Dtype, counts: Counts) -> float:
    """Count complex numbers, and return the sum of the squares of finite ones. Other dtypes are no numbers: nothing counts."""
    if dtype == C32:
        pairs: Any = np.frombuffer(tile, "<f2").reshape(-1, 2)
    elif np.dtype(dtype.numpy).kind == "c":
        pairs = np.frombuffer(tile, f"<f{dtype.itemsize // 2}").reshape(-1, 2)
    else:
        return 0.0
    square = 0.0
    for start in range(0, len(pairs), PASS):
        part = pairs[start : start + PASS].astype(np.float64)
        nan = np.isnan(part).any(axis=1)
        good = np.isfinite(part).all(axis=1)
        counts.zeros += int(np.count_nonzero((part == 0).all(axis=1)))
        counts.nan += int(np.count_nonzero(nan))
        counts.inf += int(np.count_nonzero(~good & ~nan))
        square += math.fsum(np.square(part[good]).reshape(-1).tolist())
    return square
