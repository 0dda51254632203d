"""The URIs of a SARIF report are URIs, whatever a file is called and wherever it lies."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import unquote, unquote_to_bytes, urlsplit

import pytest

from converter.reports import sarif
from converter.reports.scan import FileScan, FindingReport, ScanReport
from converter.scanning.sarif import to_sarif

# RFC 3986, appendix A: `URI` and, without a scheme, `path-noscheme`.
UNRESERVED = r"[A-Za-z0-9\-._~]"
ESCAPED = "%[0-9A-F]{2}"
PCHAR = rf"(?:{UNRESERVED}|%[0-9A-Fa-f]{{2}}|[!$&'()*+,;=:@])"
AUTHORITY = rf"(?:(?:{UNRESERVED}|{ESCAPED}|[!$&'()*+,;=])*|\[[0-9A-Fa-f:.]+\])(?::\d*)?"
URI = re.compile(rf"[A-Za-z][A-Za-z0-9+.\-]*://{AUTHORITY}(?:/{PCHAR}*)*")
RELATIVE = re.compile(rf"(?:{UNRESERVED}|{ESCAPED}|[!$&'()*+,;=@])+(?:/{PCHAR}*)*")

NAMES = [
    "x.bin", "a b.bin", "ü.bin", "a:b.bin", "http:x", "%41.bin", "100%.bin", "a#b?c.bin", "::error::x", "##vso[x]", "[x]{y}|z^`",
    "\x1b[31m", "a\nb", "\u202e", '"<>"', "back\\slash", "a&b=c;d", "~", "-",
]  # fmt: skip


def uris(*locations: str) -> list[str]:
    finding = FindingReport("malformed", "error", "x", "", 7)
    files = tuple(FileScan(location, "pickle", 1, "malformed", (finding,), 0, (), None) for location in locations)
    (run,) = to_sarif(ScanReport("malformed", files, 0, 0))["runs"]
    places = [result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for result in run["results"]]
    assert places == [artifact["location"]["uri"] for artifact in run["artifacts"]]
    return places


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_local_file_is_a_relative_uri_or_one_of_a_file(name: str) -> None:
    relative, deeper, here, elsewhere = uris(name, f"a/{name}", str(Path.cwd() / name), f"/nowhere/{name}")

    for uri, path in ((relative, name), (deeper, f"a/{name}"), (here, name)):
        assert RELATIVE.fullmatch(uri), uri
        assert urlsplit(uri)[:2] == ("", "")
        assert unquote(urlsplit(uri).path) == path
    assert URI.fullmatch(elsewhere), elsewhere
    assert (urlsplit(elsewhere).scheme, unquote(urlsplit(elsewhere).path)) == ("file", f"/nowhere/{name}")


def test_a_name_that_is_not_text_keeps_its_bytes() -> None:
    (uri,) = uris("a\udcffb.bin")

    assert (uri, unquote_to_bytes(uri)) == ("a%FFb.bin", b"a\xffb.bin")


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_file_on_the_hub_is_a_uri(name: str) -> None:
    (uri,) = uris(f"hf://owner/name@0123456789abcdef0123456789abcdef01234567/deep/{name}")

    assert URI.fullmatch(uri), uri
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc, parts.query, parts.fragment) == ("hf", "owner", "", "")
    assert unquote(parts.path) == f"/name@0123456789abcdef0123456789abcdef01234567/deep/{name}"


@pytest.mark.parametrize(
    ("location", "uri"),
    [
        ("https://example.org/a/x.bin", "https://example.org/a/x.bin"),
        ("https://example.org:8443/a%20b/100%/ü x.bin", "https://example.org:8443/a%20b/100%25/%C3%BC%20x.bin"),
        ("http://127.0.0.1:80/x;y=1,z@2:3", "http://127.0.0.1:80/x;y=1,z@2:3"),
        ("http://[::1]:80/x[0]", "http://[::1]:80/x%5B0%5D"),
        ("https://bücher.example/x", "https://b%C3%BCcher.example/x"),
        ("https://example.org", "https://example.org"),
        ("s3://bucket/a b", "s3://bucket/a%20b"),
    ],
)
def test_a_url_stays_the_url_that_it_is(location: str, uri: str) -> None:
    assert uris(location) == [uri]
    assert URI.fullmatch(uri)


def test_the_document_is_ascii_and_no_line_of_it_a_command() -> None:
    finding = FindingReport("malformed", "error", "##vso[task]\n::error::x", "##[x]", 7)
    file = FileScan("##vso[x]", "pickle", 1, "malformed", (finding,), 0, (), None)
    text = sarif.text(to_sarif(ScanReport("malformed", (file,), 0, 0))).decode("ascii")

    assert json.loads(text)["runs"][0]["artifacts"][0]["location"]["uri"] == "%23%23vso%5Bx%5D"
    assert "##" not in text
    assert not re.search(r"^\s*::", text, re.MULTILINE)
