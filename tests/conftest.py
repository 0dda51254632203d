"""Fixtures and options that several test files share."""

from __future__ import annotations

import functools
import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.testing
from huggingface_hub import constants
from hypothesis import settings

from converter.hub.patience import Patience, waiting
from converter.sample import write_sample
from tests.build.depth import some
from tests.build.hub_server import TINY, Hub, Repository, files_of

# An example may take as long as a busy machine makes it; what must be fast is measured in processor time.
settings.register_profile("patient", deadline=None, max_examples=some(100, 40))
settings.load_profile("patient")

# A shell that runs the tests in the background lets them, and every program that they start, ignore Control-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Thousands of tests run a command in this process. Its options are the same each time, and building them is most of what a
# short command takes.
typer.testing._get_command = functools.cache(typer.testing._get_command)  # type: ignore[attr-defined]

# They have nothing to read without the folder.
collect_ignore = (
    []
    if os.environ.get("CEREBRAS_TOOL_CORPUS")
    else ["test_corpus.py", "test_corpus_mutations.py", "test_scan_corpus.py"]
)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep what is made until all tests are known out of the garbage collector, which takes a tenth of the time otherwise.

    These are a million objects that stay until the end: it would look for garbage among them again and again.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_sample(folder, "tiny")
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    write_sample(folder, "tiny-13B")
    return folder


@pytest.fixture
def hub(tiny: Path, sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that huggingface_hub is pointed at, with a token that must not get anywhere else."""
    repositories = {
        TINY: Repository(files_of(tiny)),
        "someone/sharded": Repository(files_of(sharded)),
        "someone/private": Repository(files_of(tiny), private=True),
        "someone/gated": Repository(files_of(tiny), gated=True),
    }
    with Hub(repositories) as hub, waiting(Patience(backoff=0.01, shortest=3.0, slowest=1_000_000)):
        hub.point(monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
        yield hub
