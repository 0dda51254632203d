"""Tensors of a type that is not decoded here are compared byte by byte, where both sides have the type."""

from __future__ import annotations

from pathlib import Path

import pytest

from converter.conversion.convert import convert
from converter.errors import UnsupportedError
from converter.opening import open_checkpoint
from converter.verification.expected import expect
from converter.verification.verify import Options, examine, verify
from tests.build.gguf_files import F32, Info, gguf, key

NEWER = 77
BYTES = bytes(range(64))


def put(path: Path, data: bytes = BYTES, type: int = NEWER, sizes: tuple[int, ...] = (32, 4)) -> Path:
    keys = [key("general.architecture", "string", "other")]
    infos = [Info("new.weight", sizes, type, 0), Info("norm.weight", (4,), F32, len(data))]
    path.write_bytes(gguf(keys, infos, data + bytes(32)))
    return path


def test_equal_bytes_are_identical(tmp_path: Path) -> None:
    source = put(tmp_path / "a.gguf")

    output = verify(open_checkpoint(source), [put(tmp_path / "b.gguf")]).outputs[0]

    assert (output.verdict, output.tensors.compared, output.tensors.identical) == ("identical", 2, 2)


def test_our_own_copy_is_identical(tmp_path: Path) -> None:
    source = open_checkpoint(put(tmp_path / "a.gguf"))
    convert(source, tmp_path / "copy.gguf", no_tokenizer=True)

    assert verify(source, [tmp_path / "copy.gguf"]).outputs[0].verdict == "identical"


@pytest.mark.parametrize(
    ("data", "type", "sizes", "found"),
    [
        (bytes([1, *BYTES[1:]]), NEWER, (32, 4), ("new.weight", "one flipped bit")),
        (bytes(64), NEWER, (32, 4), ("new.weight", "zeroed")),
        (BYTES, NEWER + 1, (32, 4), ("new.weight", "another dtype")),
        (BYTES, NEWER, (64, 2), ("new.weight", "another shape")),
        (BYTES + bytes(32), NEWER, (32, 4), ("new.weight", "another size")),
        (bytes(512), F32, (32, 4), ("new.weight", "another dtype")),
    ],
)
def test_what_differs_is_named(
    data: bytes, type: int, sizes: tuple[int, ...], found: tuple[str, str], tmp_path: Path
) -> None:
    copy = put(tmp_path / "b.gguf", data, type, sizes)

    output = verify(open_checkpoint(put(tmp_path / "a.gguf")), [copy]).outputs[0]

    assert [(one.name, one.what) for one in output.tensors.different] == [found]
    assert (output.verdict, output.tensors.missing, output.tensors.unexpected) == ("different", (), ())


def test_a_type_that_only_the_copy_has_can_t_be_read(tmp_path: Path) -> None:
    source = open_checkpoint(put(tmp_path / "a.gguf", bytes(512), F32))

    output = verify(source, [put(tmp_path / "b.gguf")]).outputs[0]

    assert [(one.name, one.what) for one in output.tensors.different] == [("new.weight", "unreadable")]


def test_nothing_can_be_computed_and_no_manifest_be_made(tmp_path: Path) -> None:
    source = open_checkpoint(put(tmp_path / "a.gguf"))

    with pytest.raises(UnsupportedError, match=r"`new\.weight` is of ggml type 77, .* no manifest can be made"):
        examine(expect(source), [tmp_path / "a.gguf"]).golden()
    with pytest.raises(UnsupportedError, match=r"`new\.weight` is of ggml type 77, .* nothing can be computed"):
        verify(source, [tmp_path / "a.gguf"], Options(level="inference"))
