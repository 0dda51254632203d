"""The pictures of docs/gallery.md, which tests/gallery.py makes."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent.parent.parent / "docs"
MOST = 150_000  # bytes of a picture


def test_every_picture_is_shown_and_small() -> None:
    shown = set(re.findall(r"\(gallery/([^)]+)\)", (DOCS / "gallery.md").read_text()))
    found = {path.name: path.stat().st_size for path in (DOCS / "gallery").iterdir()}

    assert shown == set(found)
    assert max(found.values()) <= MOST


def test_drawings_run_and_load_nothing_of_ours() -> None:
    for path in (DOCS / "gallery").glob("*.svg"):
        text = path.read_text()
        assert "<script" not in text
        assert "/tmp/" not in text
