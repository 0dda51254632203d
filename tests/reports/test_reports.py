"""Every report's JSON fits its schema, and the schema has no field that the code lacks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from converter import reports
from converter.checking.check import check
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.inspection.report import inspect
from converter.models import declared as models
from converter.opening import open_checkpoint
from converter.reports.models import ModelsReport
from converter.resources import load_json, schemas
from converter.sample import write_sample
from converter.verification.expected import expect
from converter.verification.golden import load as load_golden
from converter.verification.verify import Options, examine, verify
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint
from tests.reports.closed import closed, places_that_refuse


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
    large = inspect(tiny, stats=True, filter="wpe")  # has enough elements for a histogram
    written = extract(tiny, tmp_path / "out", sha256=True)
    trainer = {"model": {"a.w": view("0", (2,))}, "epoch": 3, "name": "x", "optimizer": {"state": [view("0", (2,))]}}
    trained = open_checkpoint(write_checkpoint(tmp_path / "t.pt", trainer, {"0": floats(1, 2)}))
    carried = extract(trained, tmp_path / "trained", carry_values=True)
    convert(tiny, tmp_path / "x.gguf", dtype="q8_0")
    gguf = open_checkpoint(tmp_path / "x.gguf")
    verified = examine(expect(tiny), [tmp_path / "x.gguf"], Options(level="inference"))
    failed = verify(tiny, [tmp_path / "x.bin"])
    lacking = verify(trained, [tmp_path / "trained"])
    convert(tiny, tmp_path / "bare", to="safetensors")
    (tmp_path / "bare" / "config.json").unlink()
    bare = verify(tiny, [tmp_path / "bare"])
    return {
        "inspection": [json.loads(reports.to_json(report)) for report in (full, inspect(tiny), large, inspect(gguf))],
        "check": [json.loads(reports.to_json(check([tmp_path / "tiny", tmp_path / "x.bin"])))],
        "extraction": [json.loads(reports.to_json(report)) for report in (written, carried)],
        "manifest": [json.loads((tmp_path / "out" / "manifest.json").read_text())],
        "verification": [json.loads(reports.to_json(report)) for report in (verified.report, failed, lacking, bare)],
        "golden": [json.loads(verified.golden().text())],
        "models": [json.loads(reports.to_json(ModelsReport(models.declared())))],
    }


@pytest.mark.parametrize("name", ["inspection", "check", "extraction", "manifest", "verification", "golden", "models"])
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


@pytest.mark.parametrize("name", ["inspection", "check", "extraction", "manifest", "verification", "golden", "models"])
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
    }


def test_every_report_that_is_printed_has_a_schema() -> None:
    printed = [
        getattr(reports, name).schema.split("/")[1]
        for name in dir(reports)
        if dataclasses.is_dataclass(getattr(reports, name)) and hasattr(getattr(reports, name), "schema")
    ]

    assert {f"{name}.json" for name in printed} <= {path.name for path in (schemas() / "reports").iterdir()}
