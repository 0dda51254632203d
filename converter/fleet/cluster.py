"""The engine of a Ray cluster: an order is a task of Ray, with one processor. The only importer of ray."""

from __future__ import annotations

import logging
import socket
from dataclasses import asdict
from typing import Any, Final
from urllib.parse import urlsplit

from converter.errors import JobError, UnsupportedError
from converter.fleet.engine import Engine
from converter.fleet.work import AGAIN, Order, Result, run
from converter.text import os_reason, safe_text

_EXTRA: Final = "pip install 'cerebras-tool[ray]'"
_PATIENCE: Final = 5.0  # seconds in which a cluster must accept a connection
_STARTS: Final = 3  # attempts to start a cluster on this machine


class Cluster(Engine):
    """Runs orders on the Ray cluster at an address, or on one of its own on this machine, with `processes` processors."""

    def __init__(self, address: str | None, processes: int | None) -> None:
        try:
            import ray
        except ImportError:
            raise UnsupportedError(f"the engine ray needs the package ray: `{_EXTRA}`") from None
        self._ray: Any = ray
        self._begin(address, processes)
        self._function: Any = ray.remote(num_cpus=1, max_retries=0)(_work)
        # Ray gets no more tasks than it can begin at once: the time of a task is counted from when it is handed over.
        self.slots = processes or max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._running: dict[Any, int] = {}

    def _begin(self, address: str | None, processes: int | None) -> None:
        """Connect to a cluster, or start one. Ray itself gives up a start after half a minute, which a busy machine may need."""
        if address is not None:
            _check_answers(address)
        options = {"address": address} if address is not None else {"num_cpus": processes, "include_dashboard": False}
        for left in reversed(range(1 if address is not None else _STARTS)):
            try:
                self._ray.init(**options, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=False)
                return
            except Exception as error:  # Ray raises the base class if its start takes too long
                where = (
                    f"there is no Ray cluster at `{address}`" if address is not None else "Ray can't be started here"
                )
                if not left:
                    raise JobError(f"{where}: {safe_text(str(error), 300)}") from None
                self._ray.shutdown()

    def start(self, order: Order) -> None:
        """Hand an order to the cluster. Ray's dashboard calls it by its source."""
        reference = self._function.options(name=safe_text(order.source)).remote(order.as_json())
        self._running[reference] = order.number

    def wait(self, seconds: float) -> list[tuple[int, Result]]:
        """The orders that have ended. If a worker or a machine was lost, its attempt is reported as worth another one."""
        ended, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        found = []
        for reference in ended:
            number = self._running.pop(reference)
            try:
                result = Result(**self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                self._check_alive()
                said = str(error).strip().splitlines()
                result = Result(
                    AGAIN, "", f"the worker was lost: {safe_text(said[0] if said else type(error).__name__, 200)}"
                )
            found.append((number, result))
        return found

    def give_up(self, number: int) -> None:
        """Kill the worker that has an order."""
        reference = next(reference for reference, other in self._running.items() if other == number)
        del self._running[reference]
        self._ray.cancel(reference, force=True)

    def _check_alive(self) -> None:
        """Raise JobError if no machine of the cluster is left: more attempts would only be used up."""
        if not any(node["Alive"] for node in self._ray.nodes()):
            raise JobError("no machine of the Ray cluster is left; what was done is kept, and the same command goes on")

    def close(self) -> None:
        """Give up all orders, and leave the cluster; a cluster of this machine ends."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running.clear()
        self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Raise JobError if nothing listens at an address of a machine: Ray itself would try again for ever."""
    place = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        host, port = place.hostname, place.port
    except ValueError as error:
        raise JobError(f"`{safe_text(address)}` is not the address of a Ray cluster: {error}") from None
    if host is None or port is None:  # `auto` and the like
        return
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except OSError as error:
        raise JobError(f"there is no Ray cluster at `{safe_text(address)}`: {os_reason(error)}") from None


def _work(told: dict[str, Any]) -> dict[str, Any]:
    return asdict(run(Order.of(told)))
