"""Reports as pages of HTML: one file each, which asks for nothing else and runs no script but its own.

jinja2 escapes every text. What scripts need lies in a script element as JSON, in which `<` is escaped, so no name can leave it.
The page's content security policy has the hashes of its own scripts and styles: a browser runs nothing else, and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from converter.errors import UnsupportedError
from converter.text import nbytes_text, plural, safe_name, safe_text

if TYPE_CHECKING:
    from jinja2 import Environment

HEAD: Final = b"<!doctype html><!-- cerebras-tool: "  # how every page begins
INSTALL: Final = "install it with `pip install 'cerebras-tool[pages]'`"
_FOLDER: Final = Path(__file__).parent
_SCRIPTS: Final = ("vendored/uPlot.iife.min.js", "vendored/d3-hierarchy.min.js", "assets/page.js")
_STYLES: Final = ("vendored/uPlot.min.css", "assets/page.css")
_LICENCES: Final = ("vendored/uPlot.LICENSE", "vendored/d3-hierarchy.LICENSE")
# What would end a script element, or begin a comment in it, cannot be written without one of these.
_ESCAPES: Final = {ord("<"): r"\u003c", ord(">"): r"\u003e", ord("&"): r"\u0026"}


def is_installed() -> bool:
    """Whether jinja2, which pages are made with, is there."""
    return find_spec("jinja2") is not None


def check_installed() -> None:
    """Raise UnsupportedError if jinja2 is not installed."""
    if not is_installed():
        raise UnsupportedError(f"a page of HTML needs the package `jinja2`: {INSTALL}")


def page(template: str, data: Mapping[str, Any], **values: Any) -> bytes:
    """A whole page: a template of that name, the values that it shows, and the data that its script reads."""
    check_installed()
    from markupsafe import Markup

    scripts, styles = (["\n" + _asset(path) for path in paths] for paths in (_SCRIPTS, _STYLES))
    policy = (
        f"default-src 'none'; script-src {_hashes(scripts)}; style-src {_hashes(styles)}; base-uri 'none'; "
        "form-action 'none'"
    )
    text = (
        _environment()
        .get_template(f"{template}.html")
        .render(
            values,
            csp=policy,
            scripts=[Markup(script) for script in scripts],  # noqa: S704 (files of ours)
            styles=[Markup(style) for style in styles],  # noqa: S704
            licences=[_asset(path) for path in _LICENCES],
            data=Markup(in_script(data)),  # noqa: S704
        )
    )
    return text.encode("utf-8", "backslashreplace")


def fragment(template: str, **values: Any) -> str:
    """A part of a page, for a notebook."""
    return _environment().get_template(f"{template}.html").render(values)


def in_script(data: object) -> str:
    """JSON that means the same in a script element, whatever texts are in it: ASCII, without `<`, `>` and `&`."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)


def rounded(value: float | None) -> float | None:
    """A number with six digits, which say all that a picture can show."""
    return None if value is None else float(f"{value:.6g}")


def _asset(path: str) -> str:
    return (_FOLDER / path).read_text("utf-8")


def _hashes(texts: list[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(_FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"safe_name": safe_name, "safe_text": safe_text, "nbytes": nbytes_text, "plural": plural}
    return made
