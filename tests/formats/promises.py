"""What every format promises, once. A format that is listed in `converter.formats` inherits all of it."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converter import formats
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.conversion.surgery import rules
from converter.errors import ConverterError, OutputError, RuleError, UnsupportedError, WordError
from converter.formats.format import Format
from converter.formats.gguf.encodings import ALONE
from converter.io.parts import Portions, portioned
from converter.opening import open_checkpoint
from converter.tensors.catalogue import Catalogue
from converter.verification.verify import verify
from tests.build import damage
from tests.build.checkpoints import CLASSES, UNTYPED
from tests.build.depth import share
from tests.build.formats import BUILDERS, FLOATS, TWO, VIEWS, WRONG, Builder, Files, Stored, put
from tests.build.hub_server import Hub, serve
from tests.build.small_gpt2 import CONFIG, weights

WIDE = {**CONFIG, "n_embd": 32, "n_inner": 64, "n_positions": 16, "vocab_size": 64}  # rows of whole blocks
ROOT = Path(__file__).parent.parent.parent
NAMES = {
    "upwards": "../x", "absolute": "/etc/x", "through folders": "a/../../../x", "NUL": "a\0b", "a device": "CON",
    "backslashes": "..\\x", "very long": "x" * 5000, "an escape": "\x1b[31mred", "empty": "", "dots": "..",
}  # fmt: skip


def builder(format: Format) -> Builder:
    """The builder of a format; a format without one can't be tested."""
    if format.name not in BUILDERS:
        pytest.fail(f"`{format.name}` is listed in converter.formats: give it a builder in tests/build/formats.py")
    return BUILDERS[format.name]


def contents(catalogue: Catalogue) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Everything about the tensors that is read."""
    return {n: (t.dtype.name, t.shape, b"".join(bytes(tile) for tile in t.tiles())) for n, t in catalogue.items()}


def everything(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def assert_a_sentence(text: str) -> None:
    assert text.strip()
    assert "\n" not in text
    assert "Traceback" not in text


# What a tensor gets for a word if its rows can't be divided into blocks of 256, or nothing is asked for.
WRITTEN_FOR = {"keep": "F32", "q6_k": "Q8_0", "q5_k": "Q5_1", "q4_k": "Q5_0", "q3_k": "Q4_0", "q2_k": "Q4_0"}


class ReadPromises:
    """What holds for every format that is read. `format` comes from the tuple."""

    def test_every_dtype_comes_as_it_is(self, format: Format, tmp_path: Path) -> None:
        made = builder(format)
        for dtype in made.dtypes:
            _, itemsize = CLASSES.get(dtype) or UNTYPED[dtype]
            data = bytes(range(1, 1 + 6 * itemsize)) if dtype != "BOOL" else b"\1\0\1\1\0\0"
            path = put(made.write({"a": Stored(dtype, (2, 3), data)}), tmp_path / dtype)

            with open_checkpoint(path) as catalogue:
                assert contents(catalogue) == {made.nameless or "a": (dtype, (2, 3), data)}

    def test_every_view_is_read_in_its_logical_order(self, format: Format, tmp_path: Path) -> None:
        made = builder(format)
        numbers = np.arange(24, dtype="<f4")
        for kind in made.views:
            shape, stride, offset = VIEWS[kind]
            expected = np.lib.stride_tricks.as_strided(numbers[offset:], shape, [4 * step for step in stride])
            stored = Stored("F32", shape, numbers.tobytes() if expected.size else b"", stride, offset)
            if not made.strided:
                stored = Stored("F32", shape, expected.tobytes())
            with open_checkpoint(put(made.write({"a": stored}), tmp_path / kind)) as catalogue:
                (tensor,) = catalogue.values()

                assert (tensor.shape, tensor.bits().tolist()) == (shape, expected.tolist())
                assert b"".join(bytes(tile) for tile in tensor.tiles()) == expected.tobytes()

    def test_every_truncation_is_one_sentence(self, format: Format, tmp_path: Path) -> None:
        files = builder(format).write(TWO)
        for name, data in files.items():
            step = max(1, len(data) // 40)
            for end in {*range(0, len(data), step), len(data) - 1}:
                assert_refused(dict(files) | {name: data[:end]}, tmp_path / f"{name}-{end}")

    def test_changed_bytes_are_read_or_refused(self, format: Format, tmp_path: Path) -> None:
        files, chance = builder(format).write(TWO), random.Random(format.name)
        for number in range(60):
            changed = {}
            for name, data in files.items():
                raw = bytearray(data)
                for _ in range(chance.randint(1, 3)):
                    raw[chance.randrange(len(raw))] = chance.choice([0, 1, 2, 0x7F, 0x80, 0xFF])
                changed[name] = bytes(raw)
            try:
                with open_checkpoint(put(changed, tmp_path / str(number))) as catalogue:
                    contents(catalogue)
            except ConverterError as error:
                assert_a_sentence(str(error))

    def test_an_error_about_a_file_is_one_sentence(self, format: Format, tmp_path: Path) -> None:
        made = builder(format)
        assert {*made.wrong, *made.cannot} == {*WRONG}, "every kind has a file, or a reason why there is none"
        for kind, files in made.wrong.items():
            assert_refused(files(), tmp_path / kind)

    @pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
    def test_a_name_is_never_a_path(self, format: Format, name: str, tmp_path: Path) -> None:
        made = builder(format)
        (tmp_path / "in").mkdir()
        try:
            source = open_checkpoint(put(made.write({name: TWO["a"]}), tmp_path / "in" / "x"))
        except ConverterError as error:
            assert_a_sentence(str(error))
            return
        for target in share(formats.WRITABLE, [*NAMES.values()].index(name) + formats.FORMATS.index(format), 2):
            try:
                convert(source, tmp_path / "deep" / "er" / target.name, to=target.name)
            except ConverterError as error:
                assert_a_sentence(str(error))
        try:
            extract(source, tmp_path / "deep" / "er" / "named", form="named")
        except ConverterError as error:
            assert_a_sentence(str(error))

        outputs = tmp_path / "deep" / "er"
        names = {path.name for path in outputs.iterdir()} if outputs.exists() else set()
        assert names <= {"named", *(target.name for target in formats.WRITABLE)}
        assert {path.name for path in tmp_path.iterdir()} <= {"in", "deep"}
        assert not Path("/etc/x").exists()

    def test_a_closed_file_is_a_sentence(self, format: Format, tmp_path: Path) -> None:
        catalogue = open_checkpoint(put(builder(format).write(TWO), tmp_path / "x"))
        catalogue.close()

        with pytest.raises(ConverterError, match="closed"):
            contents(catalogue)

    def test_two_threads_read_one_catalogue(self, format: Format, tmp_path: Path) -> None:
        catalogue = open_checkpoint(put(builder(format).write(TWO), tmp_path / "x"))
        expected = contents(catalogue)
        found: list[dict[str, tuple[str, tuple[int, ...], bytes]]] = []
        threads = [
            threading.Thread(target=lambda: found.extend(contents(catalogue) for _ in range(20))) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert found == [expected] * 40


class RemotePromises:
    """What holds for every format that is a file: it may lie on a server."""

    def test_remote_equals_local_and_each_byte_is_read_once(self, format: Format, tmp_path: Path) -> None:
        made = builder(format)
        rows = Stored("F32", (600, 1000), np.arange(600_000, dtype="<f4").tobytes())
        path = put(made.write({"a": rows, "b": rows}), tmp_path / "x")
        with Hub() as hub:
            hub.on_elsewhere = serve({"/x": path.read_bytes()})
            remote = open_checkpoint(f"{hub.url('elsewhere')}/x")

            found = contents(remote)

            assert found == contents(open_checkpoint(path))
            assert remote.origin.traffic is not None
            # A zip's checksum follows the data: 16 bytes that are read first.
            assert remote.origin.traffic.nbytes <= path.stat().st_size + 16 * len(found)


class WritePromises:
    """What holds for every format that is written."""

    def test_an_honest_copy_is_identical_and_another_dtype_equivalent(
        self, format: Format, model: Path, tmp_path: Path
    ) -> None:
        source = open_checkpoint(model)
        # The types that only ggml's library makes are compared where it is installed, in tests/peers.
        for dtype in (dtype for dtype in format.dtypes if dtype.upper() not in ALONE):
            output = target(format, tmp_path / dtype)
            convert(source, output, to=format.name, dtype=dtype)

            wanted = "identical" if dtype in ("keep", "f32") else "equivalent"
            assert [o.verdict for o in verify(source, [output]).outputs] == [wanted], dtype

    def test_a_flipped_bit_is_found_in_any_tensor(self, format: Format, model: Path, tmp_path: Path) -> None:
        source = open_checkpoint(model)
        output = target(format, tmp_path)
        convert(source, output, to=format.name)
        whole = everything(output)
        for name, tensor in list(source.items())[::5]:
            if name.endswith("attn.bias"):
                continue
            array = np.array(tensor.bits())
            file, at = found_in(whole, array)
            damaged = bytearray(whole[file])
            damaged[at + array.nbytes // 2] ^= 1
            put(dict(whole) | {file: bytes(damaged)}, output)

            (report,) = verify(source, [output]).outputs
            assert report.verdict == "different"
            assert [name.removeprefix("transformer.")] == [
                d.name.removeprefix("transformer.") for d in report.tensors.different
            ]
        put(whole, output)

    def test_wrong_words_are_refused_before_anything_is_written(
        self, format: Format, model: Path, tmp_path: Path
    ) -> None:
        source = open_checkpoint(model)
        others = {word for other in formats.WRITABLE for word in other.dtypes} - set(format.dtypes)
        with pytest.raises(WordError, match="float99"):
            convert(source, target(format, tmp_path), to=format.name, dtype="float99")
        for word in others:
            with pytest.raises(UnsupportedError, match=f"no dtype {word.upper()}"):
                convert(source, target(format, tmp_path), to=format.name, dtype=word)
        with pytest.raises(WordError, match="onnx"):
            convert(source, target(format, tmp_path), to="onnx")

        assert everything(tmp_path) == {}

    def test_an_existing_output_needs_force(self, format: Format, model: Path, tmp_path: Path) -> None:
        output = put({"x": b"old"}, target(format, tmp_path)) if format.ending is None else target(format, tmp_path)
        if format.ending is not None:
            output.write_bytes(b"old")
        before = everything(tmp_path)

        with pytest.raises(OutputError, match="--force"):
            convert(open_checkpoint(model), output, to=format.name)
        assert everything(tmp_path) == before
        convert(open_checkpoint(model), output, to=format.name, force=True)

        assert b"old" not in everything(tmp_path).values()

    def test_an_input_is_never_overwritten(self, format: Format, model: Path, tmp_path: Path) -> None:
        where = target(format, tmp_path)
        inside = where if format.ending else where / "pytorch_model.bin"
        put({"": (model / "pytorch_model.bin").read_bytes()}, inside)
        before = everything(tmp_path)

        with pytest.raises(OutputError, match="input"):
            convert(open_checkpoint(inside), where, to=format.name, force=True)

        assert everything(tmp_path) == before

    def test_what_an_interruption_left_is_completed_to_the_same_bytes(
        self, format: Format, model: Path, tmp_path: Path
    ) -> None:
        source = open_checkpoint(model)
        convert(source, target(format, tmp_path / "whole"), to=format.name)
        wanted = everything(tmp_path / "whole")
        nbytes = sum(map(len, wanted.values()))
        for moment in (1, nbytes // 3, nbytes * 3 // 4):
            output = target(format, tmp_path / str(moment))
            # Every whole piece is noted in the journal at once. Otherwise a run would start such a small output over.
            with pytest.raises(KeyboardInterrupt), portioned(Portions(synced=1)):
                convert(source, output, to=format.name, resume=True, progress=Interrupted(moment))
            assert not output.exists()
            convert(source, output, to=format.name, resume=True)

            assert everything(tmp_path / str(moment)) == wanted

    @pytest.mark.parametrize("old", [False, True], ids=["absent", "old"])
    def test_a_kill_leaves_what_was_there(self, format: Format, old: bool, model: Path, tmp_path: Path) -> None:
        output = target(format, tmp_path)
        if old:
            convert(open_checkpoint(model), output, to=format.name)
        before = everything(output) if old else None
        killed = run(
            "def tell(n, seen=[0]):\n"
            "    seen[0] += n\n"
            "    if seen[0] > 30_000: os.kill(os.getpid(), signal.SIGKILL)\n"
            f"convert(open_checkpoint({str(model)!r}), Path({str(output)!r}), to={format.name!r}, force=True, progress=tell)"
        )

        assert killed.returncode == -signal.SIGKILL
        assert (everything(output) if output.exists() else None) == before

    def test_a_full_disk_is_one_sentence_and_leaves_nothing(self, format: Format, model: Path, tmp_path: Path) -> None:
        """A limit on file sizes takes the place of a full disk: a file of the output is larger."""
        limit = 4_000
        output = target(format, tmp_path)
        done = run(
            "try:\n"
            f"    convert(open_checkpoint({str(model)!r}), Path({str(output)!r}), to={format.name!r})\n"
            "except ConverterError as error:\n"
            "    print(error)",
            limit=limit,
        )

        assert (done.returncode, done.stderr) == (0, "")
        assert_a_sentence(done.stdout.strip())
        assert "too large" in done.stdout
        assert everything(tmp_path) == {}

    def test_any_number_of_threads_gives_the_same_bytes(self, format: Format, model: Path, tmp_path: Path) -> None:
        written = []
        for threads in (1, 2, 5):
            convert(open_checkpoint(model), target(format, tmp_path / str(threads)), to=format.name, threads=threads)
            written.append(everything(tmp_path / str(threads)))

        assert written[0]
        assert written[1:] == [written[0]] * 2


class FreePromises:
    """What holds for every format that can hold any tensors, and not only those of one model."""

    def test_every_view_of_every_dtype_comes_back(self, format: Format, tmp_path: Path) -> None:
        torch = BUILDERS["torch-zip"]
        tensors, expected = {}, {}
        for dtype, bits in (
            ("F64", "<f8"),
            ("F32", "<f4"),
            ("I16", "<i2"),
            ("BF16", "<u2"),
            ("F8_E4M3", "|u1"),
            ("C64", "<c8"),
        ):
            numbers = np.arange(1, 25).astype(bits)
            for kind, (shape, stride, offset) in VIEWS.items():
                steps = [step * numbers.itemsize for step in stride]
                array = np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps)
                tensors[f"{dtype} {kind}"] = Stored(dtype, shape, numbers.tobytes(), stride, offset)
                expected[f"{dtype} {kind}"] = (dtype, shape, array.tobytes())
        source = open_checkpoint(put(torch.write(tensors), tmp_path / "in.bin"))
        convert(source, target(format, tmp_path), to=format.name)

        assert contents(open_checkpoint(target(format, tmp_path))) == expected


class SurgeryPromises:
    """What holds for every pair of a format that is read and one that is written. `format` is the source's, `to` the output's."""

    def test_every_rule_gives_the_same_tensors(self, format: Format, to: Format, tmp_path: Path) -> None:
        wanted = weights(WIDE)
        source = strange_model(format, tmp_path)
        surgery = rules(exclude=["net.h.0.attn.extra*"], strip=["optimizer"], rename=["net.*=transformer.*"])
        output = target(to, tmp_path)
        report = convert(source, output, to=to.name, surgery=surgery, no_tokenizer=True)

        assert report.excluded == ("net.h.0.attn.extra", "optimizer.step")
        assert set(report.excluded) <= {left.name for left in report.dropped}
        assert dict(report.renamed) == {f"net.{name}": f"transformer.{name}" for name in wanted}
        found = formats.canonical(open_checkpoint(output))
        assert {name.removeprefix("transformer.") for name in found} == wanted.keys()
        for name, array in wanted.items():
            tensor = found.get(f"transformer.{name}") or found[name]
            assert np.array_equal(tensor.bits(), array), name

    def test_a_dry_run_plans_what_is_written(self, format: Format, to: Format, tmp_path: Path) -> None:
        source = strange_model(format, tmp_path)
        surgery = rules(exclude=["*extra*", "optimizer.*"], rename=["net.*=*"])
        output = target(to, tmp_path)
        planned = convert(source, output, to=to.name, surgery=surgery, no_tokenizer=True, dry_run=True)
        assert not output.exists()
        written = convert(source, output, to=to.name, surgery=surgery, no_tokenizer=True)

        assert planned.excluded == written.excluded
        assert planned.renamed == written.renamed
        assert [[tensor.name for tensor in file.tensors] for file in planned.files] == [
            [tensor.name for tensor in file.tensors] for file in written.files
        ]

    def test_every_dtype_of_the_output_is_chosen_by_name(self, format: Format, to: Format, tmp_path: Path) -> None:
        source = strange_model(format, tmp_path)
        for word in share(to.dtypes, formats.FORMATS.index(format), 3):
            if word.upper() in ALONE:  # tests/peers has the library
                continue
            surgery = rules(
                exclude=["*extra*", "optimizer.*"], rename=["net.*=*"], tensor_type={"*": "keep", "*c_fc.weight": word}
            )
            output = target(to, tmp_path / word)
            report = convert(source, output, to=to.name, surgery=surgery, no_tokenizer=True)

            types = {tensor.name: tensor.dtype for file in report.files for tensor in file.tensors}
            if types and to.ending:  # a folder of parameters names its files
                named = [name for name in types if "ffn_up.weight" in name or "c_fc.weight" in name]
                assert {types[name] for name in named} == {WRITTEN_FOR.get(word, word.upper())}
                assert {types[name] for name in types.keys() - set(named)} == {"F32"}

    def test_shards_of_any_size_hold_the_same(self, format: Format, to: Format, tmp_path: Path) -> None:
        source = strange_model(format, tmp_path)
        surgery = rules(exclude=["*extra*", "optimizer.*"], rename=["net.*=*"])
        try:
            report = convert(
                source, tmp_path / "out", to=to.name, max_shard_size=20_000, surgery=surgery, no_tokenizer=True
            )
        except OutputError as error:
            assert to.shard is None
            assert "--max-shard-size" in str(error)
            return

        assert sum(bool(file.tensors) for file in report.files) > 2
        found = formats.canonical(open_checkpoint(tmp_path / "out"))
        assert len(found) == len(weights(WIDE))

    def test_nothing_left_is_one_sentence(self, format: Format, to: Format, tmp_path: Path) -> None:
        with pytest.raises(RuleError) as error:
            convert(
                strange_model(format, tmp_path), target(to, tmp_path), to=to.name, surgery=rules(include=["nothing"])
            )

        assert_a_sentence(str(error.value))
        assert {path.name for path in tmp_path.iterdir()} == {"in"}


def strange_model(format: Format, folder: Path) -> Catalogue:
    """A small GPT-2 whose names start with `net.`, with one tensor that does not belong to it, and one of an optimizer."""
    tensors = {f"net.{name}": Stored("F32", array.shape, array.tobytes()) for name, array in weights(WIDE).items()}
    tensors |= {"net.h.0.attn.extra": Stored("F32", (4,), FLOATS), "optimizer.step": Stored("F32", (4,), FLOATS)}
    path = put(builder(format).write(tensors), folder / "in" / "x")
    beside = path if path.is_dir() else path.parent
    (beside / "config.json").write_text(json.dumps(WIDE))
    return open_checkpoint(path)


class Interrupted:
    """Progress that Control-C stops after this many bytes."""

    def __init__(self, nbytes: int) -> None:
        self.left = nbytes

    def __call__(self, nbytes: int) -> None:
        self.left -= nbytes
        if self.left <= 0:
            raise KeyboardInterrupt


def target(format: Format, folder: Path) -> Path:
    """Where an output of the format goes: a lone file if it may be one."""
    return folder / f"out{format.ending or ''}"


def assert_refused(files: Files, path: Path) -> None:
    with pytest.raises(ConverterError) as raised, open_checkpoint(put(files, path)) as catalogue:
        contents(catalogue)
    assert_a_sentence(str(raised.value))


def found_in(files: Mapping[str, bytes], array: np.ndarray[Any, Any]) -> tuple[str, int]:
    """The file that holds an array's bytes, row by row or column by column, and their offset."""
    for order in "CF":
        for file, data in files.items():
            if (at := data.find(array.tobytes(order))) >= 0:  # type: ignore[arg-type]
                return file, at
    raise AssertionError("the output holds no such bytes")


def run(code: str, *, limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a conversion in a process of its own, with a limit on the size of its files."""
    start = (
        "import os, signal\nfrom pathlib import Path\nfrom converter.conversion.convert import convert\n"
        "from converter.errors import ConverterError\nfrom converter.opening import open_checkpoint\n"
    )

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        [sys.executable, "-c", start + code],
        cwd=ROOT, env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}, check=False, capture_output=True, text=True, preexec_fn=limited,
    )  # fmt: skip


def write_model(folder: Path) -> Path:
    """A small GPT-2 whose matrices are transposed views, as the published ones are."""
    return damage.write_source(damage.model(n_layer=1, n_embd=32, n_inner=64, n_positions=8), folder)
