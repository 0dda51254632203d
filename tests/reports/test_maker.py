"""Who made a report: the project's address, and the links that follow from it."""

from __future__ import annotations

from typing import Any

import pytest

from converter.reports import maker, sarif

RULE = sarif.Rule("not-a-number", "error", "Elements are NaN", "Train again.", "check.md#what-is-a-fault")


@pytest.mark.parametrize(
    ("stated", "address"),
    [
        ([], None),
        (["Homepage, https://example.invalid/cerebras-tool"], "https://example.invalid/cerebras-tool"),
        (["Homepage, nonsense"], None),
        (["Source, https://host.org/x"], None),
        (["Source, https://host.org/x", "Homepage, https://host.org/tool"], "https://host.org/tool"),
        (["Homepage, https://invalid.org/tool"], "https://invalid.org/tool"),
    ],
)
def test_the_homepage_is_the_address(stated: list[str], address: str | None) -> None:
    assert maker.address_in(stated) == address


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("https://example.invalid/tool", True),
        ("https://invalid.org/tool", False),
        ("https://host.org/x.invalid", False),
    ],
)
def test_a_placeholder_is_told_by_its_host(address: str, expected: bool) -> None:
    assert maker.is_placeholder(address) == expected


def driver() -> dict[str, Any]:
    found: dict[str, Any] = sarif.failed([RULE], "no such file", "SourceError", 2)["runs"][0]["tool"]["driver"]
    return found


def test_without_an_address_the_help_is_in_the_log_and_no_link_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "home", lambda: None)

    assert "informationUri" not in driver()
    (rule,) = driver()["rules"]
    assert "helpUri" not in rule
    assert rule["help"] == {"text": "Train again.", "markdown": "**Elements are NaN.** Train again."}


def test_with_an_address_links_lead_to_the_page_of_this_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maker, "home", lambda: "https://host.org/tool")
    monkeypatch.setattr(maker, "version", lambda: "1.2.3")
    page = "https://host.org/tool/blob/v1.2.3/docs/check.md#what-is-a-fault"

    assert driver()["informationUri"] == "https://host.org/tool"
    (rule,) = driver()["rules"]
    assert rule["helpUri"] == page
    assert rule["help"] == {
        "text": f"Train again. See {page}.",
        "markdown": f"**Elements are NaN.** Train again. [More]({page}).",
    }
