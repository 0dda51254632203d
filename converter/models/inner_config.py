"""The settings of a model that lie in the file beside its weights: what a family's program writes in place of config.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from converter.models import families as registry
from converter.models.recognition import recognise
from converter.pickles.plain import Plainly

if TYPE_CHECKING:
    from converter.models.families import Family
    from converter.tensors.catalogue import Catalogue


def with_inner_config(catalogue: Catalogue) -> Catalogue:
    """The catalogue with these settings as its config.json, if none is beside it and the tensors are those that they describe."""
    others = {other.name: other.value for other in catalogue.others}
    for known in registry.families():
        key = known.published.get("config")
        if key not in others:
            continue
        config = _config(known, others[key])
        found = recognise(catalogue, config, families=[known]) if config is not None else None
        if found is not None and not found.contradictions:
            note = f"there is no config.json: the settings come from `{key}`"
            return catalogue.with_origin(config=config, notes=(*catalogue.origin.notes, note))
    return catalogue


def _config(known: Family, value: object) -> dict[str, Any] | None:
    plain = Plainly()(value)
    if plain is None or not isinstance(plain.value, dict):
        return None
    return {"model_type": known.model_type, **plain.value}
