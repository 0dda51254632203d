"""Every report's JSON fits its schema, and the schema has no field that the code lacks."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import jsonschema
import pytest

from converter import reports
from converter.checking.check import check
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.difference.diff import diff
from converter.difference.three_way import three_way
from converter.inspection.report import inspect
from converter.models import declared as models
from converter.models.architecture import Activation
from converter.opening import open_checkpoint
from converter.reports.error import ErrorReport
from converter.reports.models import ModelsReport
from converter.resources import load_json, schemas
from converter.sample import write_sample
from converter.verification.expected import expect
from converter.verification.golden import load as load_golden
from converter.verification.verify import Options, examine, verify
from converter.words import ACTIVATIONS
from tests.build import gguf_files as files
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.reports.closed import closed, places_that_refuse

DOCUMENTS = (
    *("inspection", "check", "extraction", "manifest", "verification", "golden"),
    *("models", "diff", "diff-three-way", "error"),
)

CHOSEN = {  # every option that changes what a source is
    "root": "model", "ema": True, "weights": "bin", "merge": ["b.bin"], "include": ["a*"], "exclude": ["b"],
    "strip": ["optimizer"], "rename": ["a=b"], "imatrix": "x.imatrix",
    "tokens_sha256": "0" * 64, "imatrix_sha256": "0" * 64,
}  # fmt: skip


def checkpoint(folder: Path) -> Path:
    """A checkpoint with everything that a report can mention."""
    qint = Call(
        Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2, 3), (3, 1), False)
    )
    value = {
        "a": view("0", (2, 2), (1, 2)), "b": view("0", (2, 2), (1, 2)), "meta": qint, "epoch": 3,
        "args": Call(Global("trainers", "Namespace"), (), {"w": view("0", (1,))}), "x": Call(Global("os", "system"), ("ls",)),
    }  # fmt: skip
    return write_checkpoint(folder / "x.bin", value, {"0": floats(1, 2, 3, 4), "unused": b"hidden"})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Documents of each kind, by the name of the schema."""
    tmp_path = tmp_path_factory.mktemp("documents")
    write_sample(tmp_path / "tiny", "tiny")
    tiny = open_checkpoint(tmp_path / "tiny")
    full = inspect(open_checkpoint(checkpoint(tmp_path)), stats=True, sha256=True)
    large = inspect(tiny, stats=True, heat=True, filter="wpe")  # has enough elements for a histogram
    written = extract(tiny, tmp_path / "out", sha256=True)
    trainer = {"model": {"a.w": view("0", (2,))}, "epoch": 3, "name": "x", "optimizer": {"state": [view("0", (2,))]}}
    trained = open_checkpoint(write_checkpoint(tmp_path / "t.pt", trainer, {"0": floats(1, 2)}))
    carried = extract(trained, tmp_path / "trained", carry_values=True)
    convert(tiny, tmp_path / "x.gguf", dtype="q8_0")
    gguf = open_checkpoint(tmp_path / "x.gguf")
    keys = [files.key("general.architecture", "string", "other"), files.key("other.block_count", "u32", 1)]
    (tmp_path / "other.gguf").write_bytes(files.gguf(keys, [files.Info("a")], bytes(16)))
    other = expect(open_checkpoint(tmp_path / "other.gguf"))
    verified = examine(expect(tiny), [tmp_path / "x.gguf"], Options(level="inference", chosen=CHOSEN))
    failed = verify(tiny, [tmp_path / "x.bin"])
    lacking = verify(trained, [tmp_path / "trained"])
    convert(tiny, tmp_path / "bare", to="safetensors")
    (tmp_path / "bare" / "config.json").unlink()
    convert(tiny, tmp_path / "st", to="safetensors")
    (tmp_path / "st" / "config.json").write_text('{"n_embd": 3}')
    differences = [
        diff(one, other, rank=True) for one, other in ((tiny, open_checkpoint(tmp_path / "st")), (gguf, tiny))
    ]
    differences.append(diff(open_checkpoint(checkpoint(tmp_path)), trained))
    copy = open_checkpoint(tmp_path / "st")
    threes = [three_way(tiny, gguf, tiny), three_way(tiny, copy, copy), three_way(tiny, trained, gguf)]
    bare = verify(tiny, [tmp_path / "bare"])
    convert(tiny, tmp_path / "k.gguf", dtype="q4_k_m")
    derived = verify(tiny, [tmp_path / "k.gguf"])
    return {
        "inspection": [json.loads(reports.to_json(report)) for report in (full, inspect(tiny), large, inspect(gguf))],
        "check": [
            json.loads(reports.to_json(check([tmp_path / name for name in ("tiny", "x.bin", "absent")], going_on=True)))
        ],
        "extraction": [json.loads(reports.to_json(report)) for report in (written, carried)],
        "manifest": [json.loads((tmp_path / "out" / "manifest.json").read_text())],
        "verification": [
            json.loads(reports.to_json(report)) for report in (verified.report, failed, lacking, bare, derived)
        ],
        "golden": [json.loads(golden.text()) for golden in (verified.golden(), other.golden(()))],
        "diff": [json.loads(reports.to_json(report)) for report in differences],
        "diff-three-way": [json.loads(reports.to_json(report)) for report in threes],
        "models": [json.loads(reports.to_json(ModelsReport(models.declared())))],
        "error": [json.loads(reports.to_json(ErrorReport({"class": "SourceError", "message": "no such file"})))],
    }


@pytest.mark.parametrize("name", DOCUMENTS)
def test_what_is_printed_fits_the_schema(name: str, documents: dict[str, Any]) -> None:
    schema = load_json("reports", f"{name}.json")
    jsonschema.Draft202012Validator.check_schema(schema)

    for document in documents[name]:
        jsonschema.validate(document, schema)
        jsonschema.validate(document, closed(schema))


@pytest.mark.parametrize("path", sorted((schemas() / "reports").glob("*.json")), ids=lambda path: path.stem)
def test_a_schema_allows_what_a_later_version_adds(path: Path) -> None:
    assert places_that_refuse(json.loads(path.read_text())) == []


def test_places_that_refuse_are_found() -> None:
    shut = {"additionalProperties": False, "properties": {"a": {"enum": ["x"]}, "b": {"items": {"enum": ["x", None]}}}}
    opened = {"properties": {"a": {"anyOf": [{"enum": ["x"]}, {"type": "string"}]}}}

    assert places_that_refuse(shut) == ["", "/properties/a", "/properties/b/items"]
    assert places_that_refuse(opened) == []


def test_a_closed_schema_refuses_an_unknown_field_and_an_unknown_word() -> None:
    word = {"anyOf": [{"enum": ["x"]}, {"type": "string"}]}
    maybe = {"anyOf": [{"enum": ["x"]}, {"type": ["string", "null"]}]}
    schema = closed({"type": "object", "properties": {"a": word, "properties": {"type": "array", "items": maybe}}})

    jsonschema.validate({"a": "x", "properties": ["x", None]}, schema)
    for document in ({"a": "y"}, {"c": 1}, {"properties": ["y"]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(document, schema)


def test_a_manifest_with_unknown_fields_is_read(tmp_path: Path) -> None:
    write_sample(tmp_path / "tiny", "tiny")
    extract(open_checkpoint(tmp_path / "tiny"), tmp_path / "out")
    path = tmp_path / "out" / "manifest.json"
    manifest = json.loads(path.read_text())
    more = {"from a later version": {"x": [1]}}
    for key in ("files", "tensors"):
        manifest[key] = [entry | more for entry in manifest[key]]
    path.write_text(json.dumps(manifest | {"source": manifest["source"] | more} | more))

    assert verify(open_checkpoint(tmp_path / "tiny"), [tmp_path / "out"]).ok


def test_a_golden_manifest_with_unknown_fields_is_read(tmp_path: Path) -> None:
    write_sample(tmp_path / "tiny", "tiny")
    tiny = open_checkpoint(tmp_path / "tiny")
    document = json.loads(examine(expect(tiny), [tmp_path / "tiny"], Options()).golden().text())
    more = {"from a later version": {"x": [1]}}
    document["tensors"] = {name: entry | more for name, entry in document["tensors"].items()}
    (tmp_path / "golden.json").write_text(json.dumps(document | more))

    assert verify(load_golden(tmp_path / "golden.json"), [tmp_path / "tiny"]).ok


def properties(schema: dict[str, Any], at: str = "") -> set[str]:
    """Every field that a schema names, with the path to it."""
    found: set[str] = set()
    for name, inner in schema.get("properties", {}).items():
        found |= {f"{at}{name}"} | properties(inner, f"{at}{name}.")
    inner_schemas = [*schema.get("anyOf", []), *([schema["items"]] if "items" in schema else [])]
    return found.union(*(properties(inner, at) for inner in inner_schemas))


def present(document: Any, at: str = "") -> set[str]:
    if isinstance(document, dict):
        return set().union(*({f"{at}{key}"} | present(inner, f"{at}{key}.") for key, inner in document.items()))
    if isinstance(document, list):
        return set().union(*(present(inner, at) for inner in document))
    return set()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_schema_has_no_field_that_is_never_printed(name: str, documents: dict[str, Any]) -> None:
    printed = set().union(*(present(document) for document in documents[name]))

    assert properties(closed(load_json("reports", f"{name}.json"))) <= printed


def test_every_schema_is_tested_here() -> None:
    assert {path.stem for path in (schemas() / "reports").glob("*.json")} >= {
        "inspection",
        "extraction",
        "manifest",
        "verification",
        "golden",
        "models",
        "diff",
        "error",
    }


def test_every_report_that_is_printed_has_a_schema() -> None:
    printed = [
        getattr(reports, name).schema.split("/")[1]
        for name in dir(reports)
        if dataclasses.is_dataclass(getattr(reports, name)) and hasattr(getattr(reports, name), "schema")
    ]

    assert {f"{name}.json" for name in printed} <= {path.name for path in (schemas() / "reports").iterdir()}


def test_every_activation_that_is_computed_has_a_word_in_the_schema_and_in_sentences() -> None:
    """What `verify --level inference` reports of a LLaMA is silu, and of an OPT relu."""
    enums: list[list[str]] = []

    def look(node: Any) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in ("activation", "source_activation") and isinstance(value, dict):
                    enums.append(value["anyOf"][0]["enum"])
                look(value)
        elif isinstance(node, list):
            for value in node:
                look(value)

    look(load_json("reports", "verification.json"))
    known = {"erf", "tanh", "silu", "relu", "relu2"}
    assert len(enums) == 4
    assert all(set(words) == known for words in enums)
    assert set(ACTIVATIONS) == set(get_args(Activation)) == known
