"""A report's schema, made as strict as this version of the program: a document may have nothing that the schema does not name."""

from typing import Any


def closed(schema: Any) -> Any:
    """The schema without its room for later versions: no unknown fields, and no words except those that it lists."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(inner) for name, inner in schema.items()}
    if is_open_enum(schema):
        words, other = found.pop("anyOf")
        nothing = [None] if "null" in other["type"] else []
        return found | {"enum": [*words["enum"], *nothing]}
    # A dict that holds `properties` as a field's name describes no object.
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found


def is_open_enum(schema: Any) -> bool:
    """Whether a schema lists words, and allows any other text, too."""
    match schema:
        case {"anyOf": [{"enum": [*_]}, {"type": "string" | ["string", "null"]}]}:
            return True
    return False


def places_that_refuse(schema: Any, at: str = "") -> list[str]:
    """The places of a schema that refuse a field or a word that a later version of the program may add."""
    if isinstance(schema, list):
        return [found for index, inner in enumerate(schema) for found in places_that_refuse(inner, f"{at}/{index}")]
    if not isinstance(schema, dict):
        return []
    found = [at] if schema.get("additionalProperties") is False or "enum" in schema else []
    for name, inner in schema.items():
        if name == "anyOf" and is_open_enum(schema):
            continue
        found += places_that_refuse(inner, f"{at}/{name}")
    return found
