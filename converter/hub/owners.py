"""The models of an owner on the Hub, by a glob on their names."""

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

_GLOB: Final = re.compile(r"hf://(?:models/)?(?P<owner>[A-Za-z0-9][\w.-]*)/(?P<names>[\w.*?\[\]!-]+)", re.ASCII)
_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]*", re.ASCII)
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
    client, owner = Client(), found["owner"]
    begins = _PLAIN.match(found["names"])
    query = {"author": owner, "search": begins[0] if begins else "", "limit": _MOST}
    url = f"{client.endpoint}/api/models?{urlencode({key: value for key, value in query.items() if value})}"
    host = urlsplit(client.endpoint).netloc

    def refused(status: int, headers: Any) -> ConverterError:
        return SourceError(f"the models of `{owner}` can't be listed: {host} answered {status}")

    answer = client.load(url, limits().json_bytes, refused) or b"[]"
    listed = parse_json(b'{"models":' + answer + b"}", shown(url))["models"]  # a list is no document of its own there
    if type(listed) is not list:
        raise SourceError(f"the models of `{owner}` can't be listed: the answer of {host} is not a list")
    if len(listed) >= _MOST:
        raise LimitError(f"`{location}` fits more than {_MOST:,} models: begin the glob with more of their names")
    names = {str(model["id"]) for model in listed if type(model) is dict and type(model.get("id")) is str}
    inner = sorted(name[len(owner) + 1 :] for name in names if name.startswith(f"{owner}/"))
    fitting = [name for name in inner if _NAME.fullmatch(name) and fnmatchcase(name, found["names"])]
    if not fitting:
        raise SourceError(f"`{location}` fits no model of `{owner}` on {host}")
    return fitting
