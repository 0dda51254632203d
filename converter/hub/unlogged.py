"""Keeps URLs and headers of our requests out of the host program's logs.

httpx logs whole URLs, and httpcore the headers of answers, with the signed links of redirects. The levels and handlers
of their loggers belong to the host program, so a filter drops the records of our own requests and lets all others pass.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

_OURS: Final = ContextVar("converter.unlogged", default=False)
_PARTS: Final = ("connection", "http11", "http2", "proxy", "socks")
_LOGGERS: Final = (  # huggingface_hub requires httpx or httpx2
    *("httpx", "httpx2"),
    *(f"{core}.{part}" for core in ("httpcore", "httpcore2") for part in _PARTS),
)


@contextmanager
def unlogged() -> Iterator[None]:
    """Keep the requests that are made in the body of a `with` out of the logs."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_of_others)  # adding a filter twice has no effect
    before = _OURS.set(True)
    try:
        yield
    finally:
        _OURS.reset(before)


def _is_of_others(record: logging.LogRecord) -> bool:
    return not _OURS.get()
