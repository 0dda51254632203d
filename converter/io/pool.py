"""Threads that fetch, and how to wait for what they fetch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from converter.errors import SourceError

_T = TypeVar("_T")

CONNECTIONS: Final = 8


class Pool:
    """Threads that run what they are given. They are daemons, so the program can end while one waits for a server."""

    def __init__(self, connections: int = CONNECTIONS) -> None:
        self._connections = connections
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._threads = 0

    def __del__(self) -> None:
        for _ in range(self._threads):
            self._tasks.put(None)

    def submit(self, function: Callable[[], _T]) -> Future[_T]:
        """Call `function` in one of the threads, under the limits that are in force here."""
        if self._threads < self._connections:
            self._threads += 1
            threading.Thread(target=_work, args=(self._tasks,), daemon=True).start()
        future: Future[_T] = Future()
        self._tasks.put((future, partial(copy_context().run, function)))
        return future


def awaited(future: Future[_T], name: str, patience: float) -> _T:
    """The result of a task that a Pool was given. `patience` is in seconds.

    We wait twice as long as that, because the work may first have to wait for a free thread.
    """
    try:
        return future.result(2 * patience)
    except TimeoutError:
        raise SourceError(
            f"`{name}` can't be read: no complete answer came within {2 * patience:.0f} seconds"
        ) from None


def _work(tasks: SimpleQueue[Any]) -> None:
    while (task := tasks.get()) is not None:
        future, function = task
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)
        del task, future, function  # otherwise the last result stays in memory until the next task comes
