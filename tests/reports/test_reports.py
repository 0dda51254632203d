"""Every report's JSON fits its schema, and the schema has no field that the code lacks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from converter import reports
from converter.conversion.convert import convert
from converter.conversion.extract import extract
from converter.inspection.report import inspect
from converter.models import declared as models
from converter.opening import open_checkpoint
from converter.reports.models import ModelsReport
from converter.resources import load_json, schemas
from converter.sample import write_sample
from converter.verification.expected import expect
from converter.verification.verify import Options, examine, verify
from tests.build.checkpoints import Call, Global, floats, view, write_checkpoint


def checkpoint(folder: Path) -> Path:
    """Give a checkpoint with everything that a report can tell."""
    qint = Call(
        Global("torch._utils", "_rebuild_meta_tensor_no_storage"), (Global("torch", "float32"), (2, 3), (3, 1), False)
    )
    value = {
        "a": view("0", (2, 2), (1, 2)), "b": view("0", (2, 2), (1, 2)), "meta": qint, "epoch": 3,
        "args": Call(Global("trainers", "Namespace"), (), {"w": view("0", (1,))}), "x": Call(Global("os", "system"), ("ls",)),
    }  # fmt: skip
    return write_checkpoint(folder / "x.bin", value, {"0": floats(1, 2, 3, 4), "unused": b"hidden"})


def documents(tmp_path: Path) -> dict[str, Any]:
    write_sample(tmp_path / "tiny", "tiny")
    tiny = open_checkpoint(tmp_path / "tiny")
    full = inspect(open_checkpoint(checkpoint(tmp_path)), stats=True)
    written = extract(tiny, tmp_path / "out", sha256=True)
    convert(tiny, tmp_path / "x.gguf", dtype="q8_0")
    verified = examine(expect(tiny), [tmp_path / "x.gguf"], Options(level="inference"))
    failed = verify(tiny, [tmp_path / "x.bin"])
    return {
        "inspection": [json.loads(reports.to_json(report)) for report in (full, inspect(tiny))],
        "extraction": [json.loads(reports.to_json(written))],
        "manifest": [json.loads((tmp_path / "out" / "manifest.json").read_text())],
        "verification": [json.loads(reports.to_json(report)) for report in (verified.report, failed)],
        "golden": [json.loads(verified.golden().text())],
        "models": [json.loads(reports.to_json(ModelsReport(models.declared())))],
    }


@pytest.mark.parametrize("name", ["inspection", "extraction", "manifest", "verification", "golden", "models"])
def test_what_is_printed_fits_the_schema(name: str, tmp_path: Path) -> None:
    schema = load_json("reports", f"{name}.json")
    jsonschema.Draft202012Validator.check_schema(schema)

    for document in documents(tmp_path)[name]:
        jsonschema.validate(document, schema)


def properties(schema: dict[str, Any], at: str = "") -> set[str]:
    """Give every field that a schema names, with the path to it."""
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


@pytest.mark.parametrize("name", ["inspection", "extraction", "manifest", "verification", "golden", "models"])
def test_the_schema_has_no_field_that_is_never_printed(name: str, tmp_path: Path) -> None:
    printed = set().union(*(present(document) for document in documents(tmp_path)[name]))

    assert properties(load_json("reports", f"{name}.json")) <= printed


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
