"""Tries every promise of `promises` on every format that `converter.formats` lists."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.cli.commands import convert
from converter.formats import FORMATS, WRITABLE
from converter.formats.format import Format
from tests.build.formats import BUILDERS
from tests.formats.promises import (
    FreePromises,
    ReadPromises,
    RemotePromises,
    SurgeryPromises,
    WritePromises,
    write_model,
)

MODELS_ALONE = ("gguf",)  # the names of tensors are those of a model that the format knows


def listed(*found: Format) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("format", found, ids=[format.name for format in found])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@listed(*(format for format in FORMATS if format.read or format.read_folder))
class TestRead(ReadPromises):
    pass


@listed(*(format for format in FORMATS if format.read))
class TestRemote(RemotePromises):
    pass


@listed(*WRITABLE)
class TestWritten(WritePromises):
    pass


@listed(*(format for format in WRITABLE if format.name not in MODELS_ALONE))
class TestFree(FreePromises):
    pass


@pytest.mark.parametrize("to", WRITABLE, ids=[format.name for format in WRITABLE])
@listed(*(format for format in FORMATS if not BUILDERS[format.name].nameless))
class TestSurgery(SurgeryPromises):
    pass


def test_formats_have_names_of_their_own() -> None:
    assert len({format.name for format in FORMATS}) == len(FORMATS) >= 2


def test_the_command_offers_what_is_written() -> None:
    assert [format.name for format in WRITABLE] == convert._TARGETS
    assert set(WRITABLE) == {format for format in FORMATS if format.plan}
