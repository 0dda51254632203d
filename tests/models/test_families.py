"""A family that is recognised by its JSON alone: what works for it, and what is refused with its name."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.errors import ModelError, UnsupportedError
from converter.formats.gguf import names as gguf_names
from converter.inspection.report import inspect
from converter.inspection.said import heading
from converter.models import families
from converter.models.recognition import recognise
from converter.opening import open_checkpoint
from converter.resources import schemas
from converter.sample import write_sample
from converter.tensors.catalogue import Catalogue
from converter.verification import golden
from converter.verification.expected import expect
from converter.verification.verify import Options, examine, verify, write_golden
from tests.build.checkpoints import floats, view, write_checkpoint
from tests.build.gguf_files import Info, gguf, key

# No such model exists: this document is all that the package knows about it.
HERON: dict[str, Any] = {
    "name": "heron",
    "title": "Heron",
    "model_type": "heron",
    "gguf_name": "heron",
    "prefixes": ["", "heron."],
    "layers": "depth",
    "sizes": [
        {"name": "depth", "config": ["num_layers"]},
        {"name": "heads", "title": "number of beaks", "config": ["num_heads"], "divides": "width"},
        {"name": "width", "config": ["width"]},
        {"name": "kv", "value": "2*width"},
        {"name": "vocabulary", "config": ["vocabulary"]},
    ],
    "metadata": [{"key": "heron.block_count", "type": "u32", "value": "depth"}],
    "rows": [
        {"name": "embed.weight", "shape": ["vocabulary", "width"], "gguf": "token_embd.weight"},
        {"name": "layers.{layer}.norm.weight", "shape": ["width"], "gguf": "blk.{layer}.attn_norm.weight"},
        {"name": "layers.{layer}.q.weight", "shape": ["width", "width"], "gguf": "blk.{layer}.attn_q.weight"},
        {
            "name": "layers.{layer}.kv.weight",
            "shape": ["width", "kv"],
            "parts": ["k", "v"],
            "gguf": "blk.{layer}.attn_kv.weight",
            "gguf_transposed": True,
        },
        {"name": "final.weight", "shape": ["width"], "gguf": "output_norm.weight"},
        {
            "name": "tail.weight",
            "shape": ["vocabulary", "width"],
            "gguf": "output.weight",
            "prefixed": False,
            "tied_to": "embed.weight",
            "optional": True,
        },
    ],
}
CONFIG = {"model_type": "heron", "num_layers": 2, "num_heads": 2, "width": 4, "vocabulary": 6}
SHAPES = {"embed.weight": (6, 4), "final.weight": (4,)} | {
    f"layers.{layer}.{name}": shape
    for layer in range(2)
    for name, shape in {"norm.weight": (4,), "q.weight": (4, 4), "kv.weight": (4, 8)}.items()
}
SCHEMA: dict[str, Any] = json.loads((schemas() / "architectures.schema.json").read_bytes())


def heron(folder: Path, *, prefix: str = "heron.", change: Mapping[str, tuple[float, ...]] | None = None) -> Path:
    """A folder with a checkpoint whose elements are all different."""
    state, storages, first = {}, {}, 0
    for number, (name, shape) in enumerate(SHAPES.items()):
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        stride = (shape[1], 1) if len(shape) > 1 else (1,)
        values = tuple(float(value) for value in range(first, first + size))
        storages[str(number)] = floats(*(change or {}).get(name, values))
        state[prefix + name] = view(str(number), shape, stride)
        first += size
    folder.mkdir()
    write_checkpoint(folder / "pytorch_model.bin", state, storages)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-2 and the heron are the families that are recognised."""
    both = (*families.families(), families.read(HERON))
    monkeypatch.setattr(families, "families", lambda: both)


@pytest.fixture
def source(known: None, tmp_path: Path) -> Path:
    return heron(tmp_path / "source")


def verdicts(source: Path, *outputs: Path) -> list[str]:
    report = verify(open_checkpoint(source), outputs)
    return [output.verdict for output in report.outputs]


# Words that are also names of families: a program that writes nanoGPT's checkpoints, and the key of an optimizer.
WORDS = {"nanogpt": {"pickles/weights.py"}, "opt": {"pickles/weights.py"}}


@pytest.mark.parametrize("name", sorted({*families.names()} - {"gpt2", "llama"}))
def test_no_code_is_about_a_family(name: str) -> None:
    """GPT-2 is what the published models are, and llama.cpp has its name from a family. Tokenizers have names of models, too."""
    package = Path(families.__file__).parents[1]
    word = re.compile(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9])", re.IGNORECASE)
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if word.search(path.read_text())}

    assert {path for path in found if not path.startswith("models/tokenizers/")} == WORDS.get(name, set())


class TestDocuments:
    @pytest.mark.parametrize("path", sorted((schemas() / "architectures").glob("*.json")), ids=lambda path: path.stem)
    def test_every_architecture_is_as_the_schema_says(self, path: Path) -> None:
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

        jsonschema.validate(json.loads(path.read_bytes()), SCHEMA)

    def test_so_is_the_heron(self) -> None:
        jsonschema.validate(HERON, SCHEMA)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("title",), None),
            (("named",), "heron"),
            (("prefixes",), ["heron"]),
            (("sizes", 0), {"name": "depth"}),
            (("sizes", 3), {"name": "kv", "title": "pairs"}),
            (("rows", 0), {"name": "embed.weight"}),
            (("rows", 0, "shape"), [0, "width"]),
            (("rows", 3, "parts"), ["k", "k"]),
            (("rows", 0, "client_parts"), ["a", "b"]),
            (("metadata", 0, "type"), "u8"),
            (("activation",), {"setting": "act", "names": {"sine": ["sin"]}}),
            (("client",), [{"key": "a", "value": "b", "text": "c"}]),
        ],
        ids=str,
    )
    def test_the_schema_refuses(self, path: tuple[Any, ...], value: Any) -> None:
        document = deepcopy(HERON)
        place: Any = document
        for step in path[:-1]:
            place = place[step]
        place[path[-1]] = value

        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, SCHEMA)


class TestWhatJsonAloneAllows:
    def test_it_is_recognised(self, tmp_path: Path) -> None:
        catalogue = open_checkpoint(heron(tmp_path / "source"))

        seen = recognise(catalogue, catalogue.config, families=[families.read(HERON)])

        assert seen is not None
        assert (seen.family.name, seen.prefix, seen.complete, seen.contradictions) == ("heron", "heron.", True, ())
        assert seen.sizes == {"depth": 2, "heads": 2, "width": 4, "kv": 8, "vocabulary": 6}
        assert recognise(catalogue, catalogue.config) is None

    def test_inspect_calls_it_by_its_title(self, source: Path) -> None:
        report = inspect(open_checkpoint(source))

        assert report.model is not None
        assert (report.model.architecture, report.model.title) == ("heron", "Heron with 2 layers of 4")
        assert heading(report) == "Heron with 2 layers of 4, complete"
        assert report.problems == ()

    def test_it_goes_to_safetensors_and_into_a_folder_and_both_are_identical(
        self, source: Path, tmp_path: Path
    ) -> None:
        convert(open_checkpoint(source), tmp_path / "a.safetensors")
        extract(open_checkpoint(source), tmp_path / "storages")
        extract(open_checkpoint(source), tmp_path / "named", form="named")

        outputs = [tmp_path / "a.safetensors", tmp_path / "storages", tmp_path / "named"]
        assert verdicts(source, *outputs) == ["identical"] * 3
        assert verdicts(tmp_path / "a.safetensors", source) == ["identical"]

    def test_its_prefix_does_not_count_when_two_are_compared(self, source: Path, tmp_path: Path) -> None:
        bare = heron(tmp_path / "bare", prefix="")

        assert verdicts(source, bare) == ["identical"]
        assert verdicts(bare, source) == ["identical"]

    def test_parts_of_a_tensor_that_are_swapped_are_named(self, source: Path, tmp_path: Path) -> None:
        rows = [range(start, start + 8) for start in range(48, 80, 8)]
        swapped = tuple(float(value) for row in rows for value in (*row[4:], *row[:4]))
        right = tuple(float(value) for row in rows for value in row)
        assert open_checkpoint(source)["heron.layers.0.kv.weight"].bits().reshape(-1).tolist() == list(right)
        other = heron(tmp_path / "other", change={"layers.0.kv.weight": swapped})

        report = verify(open_checkpoint(source), [other])
        made = examine(expect(open_checkpoint(source)), [source]).golden()
        write_golden(made, tmp_path / "golden.json", inputs=[])
        by_digests = verify(golden.load(tmp_path / "golden.json"), [other])

        for found in (report, by_digests):
            assert [(wrong.name, wrong.what) for wrong in found.outputs[0].tensors.different] == [
                ("layers.0.kv.weight", "k and v swapped")
            ]


class TestWhatIsRefusedByName:
    def test_gguf(self, source: Path, tmp_path: Path) -> None:
        with pytest.raises(UnsupportedError, match=r"^Heron is recognised, but GGUF of it is not written here: choose"):
            convert(open_checkpoint(source), tmp_path / "o.gguf")

        assert not (tmp_path / "o.gguf").exists()

    def test_gguf_says_so_before_it_asks_for_more(self, source: Path, tmp_path: Path) -> None:
        (source / "config.json").unlink()

        with pytest.raises(UnsupportedError, match=r"^Heron is recognised"):
            convert(open_checkpoint(source), tmp_path / "o.gguf")

    @pytest.mark.parametrize("form", ["storages", "named"])
    def test_model_properties(self, form: str, source: Path, tmp_path: Path) -> None:
        report = extract(open_checkpoint(source), tmp_path / "out", form=form)

        assert report.properties is None
        assert report.notes == ("no model.properties: Heron is recognised, but the Java client does not know it",)
        assert not (tmp_path / "out" / "model.properties").exists()
        with pytest.raises(ModelError, match="Heron is recognised"):
            extract(open_checkpoint(source), tmp_path / "two", properties=tmp_path / "model.properties")

    def test_inference(self, source: Path) -> None:
        with pytest.raises(ModelError, match=r"^Heron is recognised, but what it computes can't be compared here"):
            verify(open_checkpoint(source), [source], Options(level="inference"))

    def test_inference_of_an_unrecognised_model(self, tmp_path: Path) -> None:
        folder = heron(tmp_path / "source")

        with pytest.raises(ModelError, match=r"has no architecture that can be computed here \(GPT-2, BLOOM, "):
            verify(open_checkpoint(folder), [folder], Options(level="inference"))


class TestGguf:
    """Names and settings are converted and converted back by the rows of the family."""

    def test_a_family_of_json_alone_has_its_names(self, known: None, tmp_path: Path) -> None:
        infos = [Info("token_embd.weight", (4, 6)), Info("blk.0.attn_kv.weight", (4, 8), offset=96)]
        keys = [key("general.architecture", "string", "heron"), key("heron.block_count", "u32", 1)]
        (tmp_path / "heron.gguf").write_bytes(gguf(keys, infos, bytes(224)))

        found = gguf_names.canonical(open_checkpoint(tmp_path / "heron.gguf"))

        assert {name: tensor.shape for name, tensor in found.items()} == {
            "heron.embed.weight": (6, 4),
            "heron.layers.0.kv.weight": (4, 8),
        }
        assert found.config == {
            "model_type": "heron",
            "num_layers": 1,
            "vocabulary": 6,
            "tie_word_embeddings": True,
        }

    @pytest.mark.parametrize("name", ["gelu_python", "gelu_fast", "gelu_accurate", "gelu_python_tanh"])
    def test_every_activation_that_is_written_can_be_verified(self, name: str, tmp_path: Path) -> None:
        write_sample(tmp_path / "sample")
        config = json.loads((tmp_path / "sample" / "config.json").read_bytes())
        (tmp_path / "sample" / "config.json").write_text(json.dumps(config | {"activation_function": name}))
        convert(open_checkpoint(tmp_path / "sample"), tmp_path / "o.gguf")

        report = verify(open_checkpoint(tmp_path / "sample"), [tmp_path / "o.gguf"], Options(level="inference"))

        assert [output.verdict for output in report.outputs] == ["identical"]
        assert report.outputs[0].inference is not None
        assert report.outputs[0].inference["activation"] == ("erf" if name == "gelu_python" else "tanh")


class TestAnArchitectureThatNobodyKnows:
    @pytest.fixture(params=["F32", "Q8_0"])
    def llama(self, request: pytest.FixtureRequest, tmp_path: Path) -> Path:
        keys = [
            key("general.architecture", "string", "llama"),
            key("llama.block_count", "u32", 1),
            key("tokenizer.ggml.model", "string", "llama"),
            key("tokenizer.ggml.tokens", "array:string", ["a", "b"]),
        ]
        infos = [
            Info("token_embd.weight", (32, 2)),
            Info("blk.0.attn_q.weight", (32, 2), 8 if request.param == "Q8_0" else 0, 256),
            Info("output_norm.weight", (32,), offset=352 if request.param == "Q8_0" else 512),
        ]
        path = tmp_path / "llama.gguf"
        path.write_bytes(gguf(keys, infos, (bytes(range(1, 225)) * 3)[: 480 if request.param == "Q8_0" else 640]))
        return path

    def test_convert_and_verify_agree_on_it_both_ways(
        self, llama: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        # Blocks approximate their source's elements, and have other bits.
        back = "equivalent" if "Q8_0" in request.node.name else "identical"
        convert(open_checkpoint(llama), tmp_path / "out.safetensors")

        assert sorted(open_checkpoint(tmp_path / "out.safetensors")) == [
            "blk.0.attn_q.weight",
            "output_norm.weight",
            "token_embd.weight",
        ]
        assert verdicts(llama, tmp_path / "out.safetensors", llama) == ["identical"] * 2
        assert verdicts(tmp_path / "out.safetensors", llama) == [back]

    def test_inspect_lists_it(self, llama: Path) -> None:
        report = inspect(open_checkpoint(llama))

        assert report.model is None
        assert [tensor.name for tensor in report.tensors] == [
            "token_embd.weight",
            "blk.0.attn_q.weight",
            "output_norm.weight",
        ]

    def test_it_has_no_config(self, llama: Path) -> None:
        catalogue: Catalogue = open_checkpoint(llama)

        assert gguf_names.canonical(catalogue).config is None
