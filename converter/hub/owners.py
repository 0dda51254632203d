"""Lists of models on the Hub: those of an owner, by a glob on their names, and those that a search finds."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from converter.errors import ConverterError, LimitError, SourceError
from converter.hub.client import Client
from converter.hub.locations import check_online, shown
from converter.io.strict_json import parse_json
from converter.limits import limits
from converter.text import safe_text

_GLOB: Final = re.compile(r"hf://(?:models/)?(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<names>[\w.*?\[\]!-]+)", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_PLAIN: Final = re.compile(r"[\w.-]*", re.ASCII)
_MOST: Final = 1000  # models that the Hub lists in one answer


def models(location: str) -> list[str]:
    """The names of an owner's models that `hf://owner/GLOB` fits, in order.

    Raises SourceError if the Hub can't be asked or there are none, and LimitError if there are more than it lists at once.
    """
    found = _GLOB.fullmatch(location)
    if found is None:
        raise SourceError(f"`{location}` is not a glob on the models of an owner: `hf://owner/GLOB` was expected")
    check_online(location)
    owner = found["owner"]
    begins = _PLAIN.match(found["names"])
    names = _listed(
        f"the models of `{owner}`",
        {"author": owner, "search": begins[0] if begins else ""},
        f"`{location}` fits more than {_MOST:,} models: begin the glob with more of their names",
    )
    inner = [name[len(owner) + 1 :] for name in names if name.startswith(f"{owner}/")]
    fitting = [name for name in inner if fnmatchcase(name, found["names"])]
    if not fitting:
        raise SourceError(f"`{location}` fits no model of `{owner}` on {_host(Client())}")
    return fitting


def searched(words: str) -> list[str]:
    """The models, as `owner/name`, that the Hub finds by words in their names, in order. Raises as `models` does."""
    said = safe_text(words, 80)
    check_online(f"the search for `{said}`")
    names = _listed(
        f"the models that the search for `{said}` finds",
        {"search": words},
        f"the search for `{said}` finds more than {_MOST:,} models: give more words",
    )
    if not names:
        raise SourceError(f"the search for `{said}` finds no model on {_host(Client())}")
    return names


def _listed(what: str, query: dict[str, str], too_many: str) -> list[str]:
    """The models that the Hub lists for a query, without those whose names no model can have."""
    client = Client()
    asked = {key: value for key, value in query.items() if value} | {"limit": str(_MOST)}
    url = f"{client.endpoint}/api/models?{urlencode(asked)}"

    def refused(status: int, headers: Any) -> ConverterError:
        return SourceError(f"{what} can't be listed: {_host(client)} answered {status}")

    answer = client.load(url, limits().json_bytes, refused) or b"[]"
    listed = parse_json(b'{"models":' + answer + b"}", shown(url))["models"]  # our reader takes no bare list
    if type(listed) is not list:
        raise SourceError(f"{what} can't be listed: the answer of {_host(client)} is not a list")
    if len(listed) >= _MOST:
        raise LimitError(too_many)
    names = {str(model["id"]) for model in listed if type(model) is dict and type(model.get("id")) is str}
    return sorted(name for name in names if _NAME.fullmatch(name))


def _host(client: Client) -> str:
    return urlsplit(client.endpoint).netloc
