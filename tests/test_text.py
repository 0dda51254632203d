"""How names, lists of them and numbers in them are said."""

from __future__ import annotations

import pytest

from converter.text import listed, more, numbered, safe_name, shortened


@pytest.mark.parametrize(
    ("count", "shown", "before", "text"),
    [
        (0, 1, " and ", ""),
        (1, 1, " and ", ""),
        (2, 1, ", nor ", ", nor 1 more"),
        (5, 5, " and ", ""),
        (1_006, 5, ", and ", ", and 1,001 more"),
    ],
)
def test_how_many_more_there_are(count: int, shown: int, before: str, text: str) -> None:
    assert more(count, shown, before) == text


def test_names_are_listed_up_to_a_number() -> None:
    assert listed(["a", "b"], 2) == "`a`, `b`"
    assert listed(["a", "b", "c", "d"], 2) == "`a`, `b` and 2 more"
    assert listed([]) == ""
    assert shortened(["a", "b\x1b"], 2) == "a, b\\x1b"
    assert shortened(["a", "b", "c"], 2) == "a, b and 1 more"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("", '""'),
        (" ", "\\x20"),
        ("  a b ", "\\x20\\x20a b\\x20"),
        ("a\n", "a\\x0a"),
        ("a\u3000", "a\\u{3000}"),
        ("x" * 4096, "x" * 4096),
        ("x" * 4097, "x" * 4095 + "…"),
        (" " * 5000, "\\x20" * 4095 + "…"),
    ],
)
def test_names_are_shown_so_that_each_character_is_seen(name: str, text: str) -> None:
    assert safe_name(name) == text


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("h.0.w", (0, ("h.", ".w"))),
        ("h.10.w", (10, ("h.", ".w"))),
        ("h.00.w", (None, ("h.00.w",))),
        ("h.01.2.w", (2, ("h.01.", ".w"))),
        ("h.٣.w", (None, ("h.٣.w",))),
    ],
)
def test_only_a_text_that_prints_as_itself_is_a_number(name: str, found: tuple[int | None, tuple[str, ...]]) -> None:
    assert numbered(name) == found
