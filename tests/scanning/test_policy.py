"""A policy: what it may accept, what that means for the exit code and the reports, and where it may lie."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

import jsonschema
import pytest
from typer.testing import CliRunner

import converter
from converter.cli.app import app
from converter.errors import PolicyError
from converter.reports import to_json
from converter.resources import load_json
from converter.scanning.policy import load
from converter.scanning.sarif import to_sarif
from converter.scanning.scan import fails, scan
from tests.build.checkpoints import Call, Global, checkpoint_entries, dumps, floats, view, zip_bytes

RUN = CliRunner()
TODAY = datetime.date(2026, 6, 1)
LATER = "2099-12-31"
MODEL = Call(Global("ultralytics.nn.tasks", "DetectionModel"), ())
LAYER = Call(Global("ultralytics.nn.modules.conv", "Conv"), ())
OTHER = Call(Global("somewhere", "Thing"), ())
LS = Call(Global("os", "system"), ("ls",))
HUB = Call(Global("ultralytics.hub", "login"), ("key",))  # dangerous, and covered by `ultralytics.*`


def entry(pattern: str, reason: str = "ours", expires: str = LATER) -> str:
    return f"[[accept]]\nglobal = {pattern!r}\nreason = {reason!r}\nexpires = {expires}\n"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "policy.toml"
    path.write_text(entry("ultralytics.*", "the models that we train"))
    return path


def write(policy: Path, *values: Any) -> Path:
    path = policy.parent / "in" / "x.pt"
    path.write_bytes(zip_bytes(checkpoint_entries({"w": view("0", (2,)), "x": list(values)}, {"0": floats(1, 2)})))
    return path


# ---- what it accepts ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "module", "name", "accepted"),
    [
        (["a.b.C"], "a.b", "C", True),
        (["a.b.C"], "a.b", "D", False),
        (["a.b.C"], "a.b.C", "D", False),
        (["a.b.C"], "xa.b", "C", False),
        (["a.b.C.D"], "a.b", "C.D", True),
        (["a.*"], "a", "X", True),
        (["a.*"], "a.b.c", "X", True),
        (["a.*"], "ab", "X", False),
        (["a.*"], "b.a", "X", False),
        (["a.b.*"], "a", "X", False),
        (["a.b.*"], "a", "b", False),
        (["a.*"], "a", "os.system", False),
        (["a.*"], "a.b", "Model.from_pretrained", False),
        (["a.*"], "a", "__reduce__", False),
        (["torch.*"], "torch.nn.modules.conv", "Conv2d", True),
        (["torch.*"], "torch.hub", "load", False),
        (["torch.*"], "torch", "load", False),
    ],
)
def test_what_a_policy_accepts(patterns: list[str], module: str, name: str, accepted: bool, tmp_path: Path) -> None:
    (tmp_path / "p").write_text("".join(map(entry, patterns)))

    assert (load(tmp_path / "p", TODAY).accepts(module, name) == "ours") == accepted


def test_an_entry_of_its_own_counts_before_a_wildcard(tmp_path: Path) -> None:
    (tmp_path / "p").write_text(entry("a.*", "all") + entry("a.b.*", "some") + entry("a.b.C", "one"))
    read = load(tmp_path / "p", TODAY)

    assert [read.accepts("a.b", "C"), read.accepts("a.b", "D"), read.accepts("a", "E")] == ["one", "some", "all"]


@pytest.mark.parametrize(("expires", "counts"), [("2026-05-31", False), ("2026-06-01", True), ("2026-06-02", True)])
def test_an_entry_counts_up_to_its_last_day(expires: str, counts: bool, tmp_path: Path) -> None:
    (tmp_path / "p").write_text(entry("a.B", expires=expires))
    read = load(tmp_path / "p", TODAY)

    assert (read.accepts("a", "B") is not None) == counts
    assert read.report(0, 0).expired == (() if counts else (f"a.B ({expires})",))


# ---- what is wrong with a policy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "accepts nothing"),
        ("[accept]\nglobal = 'a.b'", "accepts nothing"),
        ("x = 1\n" + entry("a.B"), "has the key `x`: only `[[accept]]` tables are known"),
        (entry("a.B") + "resaon = 'x'\n", "line 1: the key `resaon` is not known"),
        (entry("a.C") + entry("a.B").replace("reason", "#"), "line 5: `reason` is missing"),
        (entry("a.B").replace("expires", "#"), "line 1: `expires` is missing"),
        (entry("a.B").replace("global", "#"), "line 1: `global` is missing"),
        (entry("a.B", reason=" "), "line 1: the reason for `a.B` is empty"),
        (entry("a.B", expires="'2099-12-31'"), "not a date such as 2027-06-30"),
        (entry("a.B", expires="2099-12-31T00:00:00"), "not a date such as 2027-06-30"),
        (entry("a.B", expires="true"), "not a date such as 2027-06-30"),
        (entry("a.B") + "\n" + entry("a.B"), "line 6: `a.B` is there already"),
        (entry("B"), "'B' is not a global"),
        (entry("*"), "'*' is not a global"),
        (entry("a.*.b"), "'a.*.b' is not a global"),
        (entry("a.b*"), "'a.b*' is not a global"),
        (entry("a..b"), "'a..b' is not a global"),
        (entry("a b.c"), "'a b.c' is not a global"),
        ("[[accept]]\nglobal = 1\nreason = 'x'\nexpires = 2099-01-01", "1 is not a global"),
        ("accept = [1]", "entry 1: an entry is a int, not a table"),
        ("accept = [{global = 'a.B', reason = 'x'}]", "entry 1: `expires` is missing"),
        (entry("os.system"), "line 1: `os.system` is dangerous (runs programs), and can't be accepted"),
        (entry("torch.hub.load"), "is dangerous"),
        (entry("builtins.eval"), "is dangerous"),
        (entry("somewhere.os.system"), "is dangerous"),
        (entry("os.*"), "line 1: everything in `os` is dangerous (runs programs), and can't be accepted"),
        (entry("torch.hub.*"), "everything in `torch.hub` is dangerous"),
        (entry("pickle.*"), "everything in `pickle` is dangerous"),
        ("[[accept", "is not valid TOML: "),
        ("a = " + "[" * 5000, "is not valid TOML: "),
        ("# " + "x" * (1 << 20), "has more than 1,048,576 bytes"),
    ],
)
def test_a_policy_that_is_wrong_is_refused(text: str, says: str, policy: Path) -> None:
    policy.write_text(text)
    done = RUN.invoke(app, ["scan", str(write(policy, MODEL)), "--policy", str(policy), "--no-fickling"])

    with pytest.raises(PolicyError) as error:
        load(policy)
    assert says in str(error.value)
    assert done.exit_code == 2
    assert done.stdout == ""


def test_a_policy_that_is_not_text_or_is_missing_is_refused(policy: Path) -> None:
    policy.write_bytes(b"\xff\xfe")
    with pytest.raises(PolicyError, match="is not valid TOML"):
        load(policy)
    with pytest.raises(PolicyError, match="can't be read"):
        load(policy.parent / "nowhere.toml")
    with pytest.raises(PolicyError, match="can't be read"):
        load(policy.parent)


# ---- what follows -------------------------------------------------------------------------------------------------------


def test_a_wholly_accepted_file_passes_and_keeps_its_verdict(policy: Path) -> None:
    path = write(policy, MODEL, LAYER)
    report = scan([path], fickling=False, policy=policy)
    (file,) = report.files

    assert (file.verdict, file.accepted, file.unaccepted) == ("unknown-globals", 2, 0)
    assert not fails(report)
    assert report.policy is not None
    assert (report.policy.entries, report.policy.accepted, report.policy.files) == (1, 2, 1)
    assert {finding.accepted for finding in file.findings} == {"the models that we train"}
    assert fails(scan([path], fickling=False))


@pytest.mark.parametrize(
    ("values", "verdict", "code"),
    [
        ([MODEL], "unknown-globals", 0),
        ([MODEL, OTHER], "unknown-globals", 1),
        ([OTHER], "unknown-globals", 1),
        ([MODEL, LS], "dangerous", 1),
        ([MODEL, HUB], "dangerous", 1),
        ([], "plain", 0),
    ],
    ids=["accepted", "one is not", "none is", "a program", "dangerous below the wildcard", "plain"],
)
def test_the_exit_code_is_0_only_where_all_is_accepted(
    values: list[Any], verdict: str, code: int, policy: Path
) -> None:
    words = ["scan", str(write(policy, *values)), "--policy", str(policy)]

    assert scan([words[1]], fickling=False, policy=policy).verdict == verdict
    assert RUN.invoke(app, [*words, "--no-fickling"]).exit_code == code
    assert RUN.invoke(app, words).exit_code == code
    # A file whose globals are all accepted passes, whatever fickling says; any other counts as it would without a policy.
    if code == 0:
        assert RUN.invoke(app, [*words, "--fail-on", "dangerous"]).exit_code == 0


def test_a_malformed_file_fails_whatever_is_accepted(policy: Path) -> None:
    path = policy.parent / "in" / "x.pkl"
    path.write_bytes(dumps(MODEL) + b"\xff")

    assert fails(scan([path], fickling=False, policy=policy))


def test_one_file_that_is_accepted_does_not_pass_another(policy: Path) -> None:
    write(policy, MODEL)
    (policy.parent / "in" / "y.pkl").write_bytes(dumps(OTHER))

    assert fails(scan([policy.parent / "in"], fickling=False, policy=policy))


def test_unlisted_findings_count_as_well(policy: Path) -> None:
    """More globals than are listed: no entry accepts the last one."""
    many = [Call(Global("ultralytics.nn", f"C{number}"), ()) for number in range(1_100)]

    assert not fails(scan([write(policy, *many)], fickling=False, policy=policy))
    assert fails(scan([write(policy, *many, OTHER)], fickling=False, policy=policy))


def test_every_report_tells_what_was_accepted(policy: Path) -> None:
    policy.write_text(
        entry("ultralytics.*", "we \x1b[31mtrain them".replace("\x1b", ""))
        + entry("old.X", expires="2020-01-01")
        + entry("never.*")
    )
    path = write(policy, MODEL, Call(Global("ultralytics.utils", "IterableSimpleNamespace"), (), {"a": 1}), OTHER)
    report = scan([path], fickling=False, policy=policy)
    document, log = json.loads(to_json(report)), to_sarif(report)
    text = RUN.invoke(app, ["scan", str(path), "--policy", str(policy), "--no-fickling"]).stdout

    jsonschema.validate(document, load_json("reports", "scan.json"))
    assert document["policy"] == {
        "name": str(policy), "sha256": hashlib.sha256(policy.read_bytes()).hexdigest(), "entries": 3, "accepted": 2, "files": 1, "expired": ["old.X (2020-01-01)"], "unused": ["never.*"],
    }  # fmt: skip
    assert [bool(one.get("suppressions")) for one in log["runs"][0]["results"]] == [True, True, False]
    assert log["runs"][0]["results"][0]["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": "we [31mtrain them"}
    ]
    assert log["runs"][0]["properties"]["policy"]["accepted"] == 2
    assert "2 unknown globals accepted in 1 file" in text
    assert "old.X (2020-01-01) has expired and does not count" in text
    assert "never.* fits nothing here" in text
    assert "2 of them accepted" in text


def test_reports_name_the_policy_by_its_digest(policy: Path) -> None:
    path, digest = write(policy, MODEL), hashlib.sha256(policy.read_bytes()).hexdigest()
    kinds = {kind: str(policy.parent / kind) for kind in ("junit", "sarif", "bom")}
    words = [word for kind, place in kinds.items() for word in (f"--{kind}", place)]

    for chosen, shown in (["dangerous"], "dangerous"), ([], "unknown"):
        fail_on = [word for word in ("--fail-on", *chosen) if chosen]
        assert (
            RUN.invoke(app, ["scan", str(path), "--policy", str(policy), "--no-fickling", *fail_on, *words]).exit_code
            == 0
        )
        properties = {one.get("name"): one.get("value") for one in Xml.parse(kinds["junit"]).iter("property")}
        assert (properties["policy"], properties["policy.sha256"]) == ("policy.toml", digest)
        assert properties["fail-on"] == shown
    (run,) = json.loads(Path(kinds["sarif"]).read_text())["runs"]
    assert (run["properties"]["policy"]["name"], run["properties"]["policy"]["sha256"]) == ("policy.toml", digest)
    stated = {one["name"]: one["value"] for one in json.loads(Path(kinds["bom"]).read_text())["metadata"]["properties"]}
    assert stated["cerebras-tool:policy"] == "policy.toml"
    assert stated["cerebras-tool:policy.sha256"] == digest


def test_python_takes_a_policy(policy: Path) -> None:
    report = converter.scan(write(policy, MODEL), fickling=False, policy=str(policy))

    assert report.policy is not None
    assert report.policy.accepted == 1


# ---- where it lies ------------------------------------------------------------------------------------------------------


def refused(policy: Path, *scanned: Path) -> None:
    with pytest.raises(PolicyError, match="which is scanned"):
        scan(list(scanned), fickling=False, policy=policy)


def test_a_policy_from_the_folder_that_is_scanned_is_refused(policy: Path) -> None:
    write(policy, MODEL)
    folder = policy.parent / "in"
    (folder / "deep").mkdir()
    for inner in (folder / "policy.toml", folder / "deep" / "policy.toml", folder / ".policy"):
        inner.write_text(policy.read_text())
        refused(inner, folder)
        refused(inner, policy.parent)
    refused(policy, folder, policy.parent)
    assert RUN.invoke(app, ["scan", str(folder), "--policy", str(folder / "policy.toml")]).exit_code == 2
    assert not fails(scan([folder], fickling=False, policy=policy))


def test_links_do_not_lead_around_that(policy: Path) -> None:
    write(policy, MODEL)
    folder = policy.parent / "in"
    (folder / "real.toml").write_text(policy.read_text())
    (policy.parent / "link.toml").symlink_to("in/real.toml")  # from outside to a file inside
    (folder / "out.toml").symlink_to(policy)  # from inside to a file outside
    (policy.parent / "way").symlink_to("in")  # another way to the folder

    for inner in (policy.parent / "link.toml", folder / "out.toml", policy.parent / "way" / "real.toml"):
        refused(inner, folder)
        refused(inner, policy.parent / "way")
    refused(folder / "real.toml", policy.parent / "way")
    refused(folder / ".." / "in" / "real.toml", folder)


def test_the_policy_is_not_one_of_the_files(policy: Path) -> None:
    refused(policy, policy)


def test_beside_a_file_that_is_named_itself_it_may_lie(policy: Path) -> None:
    beside = policy.parent / "in" / "policy.toml"
    beside.write_text(policy.read_text())

    assert not fails(scan([write(policy, MODEL)], fickling=False, policy=beside))


def test_the_schema_of_a_policy_says_what_is_read(policy: Path) -> None:
    import tomllib

    schema = load_json("policy.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    for text, fits in (
        (policy.read_text(), True),
        (entry("a.b.C"), True),
        (entry("B"), False),
        (entry("a.*.b"), False),
        (entry("a.B").replace("reason", "x"), False),
        ("x = 1\n" + entry("a.B"), False),
    ):
        document = json.loads(json.dumps(tomllib.loads(text), default=str))
        assert jsonschema.Draft202012Validator(schema).is_valid(document) == fits


def test_a_policy_in_the_cache_beside_a_snapshot_is_refused(policy: Path) -> None:
    """A snapshot's links lead to the files that the cache keeps for it, so that folder is scanned, too."""
    repository = policy.parent / "hub" / "models--someone--model"
    snapshot, blobs = repository / "snapshots" / "abc", repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    write(policy, MODEL).rename(blobs / "1")
    (snapshot / "x.pt").symlink_to("../../blobs/1")
    (blobs / "policy.toml").write_text(policy.read_text())

    refused(blobs / "policy.toml", snapshot)
    assert not fails(scan([snapshot], fickling=False, policy=policy))
