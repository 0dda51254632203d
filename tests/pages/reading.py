"""Reads a page of HTML as a browser does: its elements, its scripts and what its policy allows."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

INLINE = {"strong", "bdi", "b", "code", "label"}


@dataclass
class Page(HTMLParser):
    """The tags in order, each with its attributes; texts; scripts and styles."""

    tags: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    scripts: list[tuple[dict[str, str | None], str]] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)
    raw: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.texts += [" "] if tag not in INLINE else []
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag == "style":
            self.styles.append("")

    def handle_data(self, data: str) -> None:
        last = self.tags[-1][0] if self.tags else ""
        if last == "script" and self.lasttag == "script" and self.cdata_elem == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif last == "style" and self.cdata_elem == "style":
            self.styles[-1] += data
        else:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    @property
    def data(self) -> Any:
        (found,) = [text for attributes, text in self.scripts if attributes.get("type") == "application/json"]
        return json.loads(found)

    @property
    def policy(self) -> dict[str, list[str]]:
        (content,) = [
            attributes["content"] or ""
            for tag, attributes in self.tags
            if tag == "meta" and attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        return {name: words for name, *words in (part.split() for part in content.split(";"))}


def read(page: bytes) -> Page:
    found = Page(raw=page.decode())
    found.feed(found.raw)
    found.close()
    return found


def check(page: bytes) -> Page:
    """What every page must hold: it loads nothing, runs only what its policy names, and names nothing twice."""
    assert page.startswith(b"<!doctype html><!-- cerebras-tool")
    found = read(page)
    policy = found.policy
    assert policy["default-src"] == ["'none'"]
    assert policy["base-uri"] == policy["form-action"] == ["'none'"]
    run = [text for attributes, text in found.scripts if attributes.get("type") != "application/json"]
    assert policy["script-src"] == [digest(text) for text in run]
    assert policy["style-src"] == [digest(text) for text in found.styles]
    for tag, attributes in found.tags:
        assert not {"src", "srcset", "action", "style", "background", "poster"} & attributes.keys(), tag
        assert not [name for name in attributes if name.startswith("on")], tag
        assert re.fullmatch("#[a-z]+", attributes.get("href") or "#main"), attributes
    assert {tag for tag, _ in found.tags}.isdisjoint({"iframe", "object", "embed", "link", "base", "img", "form"})
    identifiers = [attributes["id"] for _, attributes in found.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    return found


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
