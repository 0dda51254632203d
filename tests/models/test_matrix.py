"""Every family against a checkpoint of every other: none is taken for another, and none that nobody knows for one of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import product
from typing import Any, NamedTuple

import pytest

from converter.models.families import families, family, names
from converter.models.recognition import recognise
from converter.opening import open_checkpoint
from converter.sample import samples, write_sample

# The family of each sample that has another name than its family.
OTHERS = {"tiny": "gpt2", "tiny-13B": "gpt2", "tiny-13B-prefixed": "gpt2", "mistral": "llama", "galactica": "opt"}
Found = tuple[Mapping[str, Any], dict[str, Any]]


class Shape(NamedTuple):
    shape: tuple[int, ...]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Found]:
    """The tensors and the settings of a sample, which is written once."""
    folder, found = tmp_path_factory.mktemp("samples"), dict[str, Found]()

    def read(name: str) -> Found:
        if name not in found:
            write_sample(folder / name, name, sparse=True)
            catalogue = open_checkpoint(folder / name)
            found[name] = (
                {key: Shape(tensor.shape) for key, tensor in catalogue.items()},
                dict(catalogue.config or {}),
            )
        return found[name]

    return read


def test_every_family_has_a_sample() -> None:
    assert {OTHERS.get(name, name) for name in samples()} == set(names())


@pytest.mark.parametrize("name", samples())
def test_a_sample_is_of_its_family_only(name: str, sample: Callable[[str], Found]) -> None:
    tensors, config = sample(name)

    found = recognise(tensors, config)

    expected = OTHERS.get(name, name)
    assert found is not None
    assert (found.family.name, found.complete, found.unexpected, found.contradictions) == (expected, True, (), ())
    assert [other.name for other in families() if recognise(tensors, config, families=[other])] == [expected]


@pytest.mark.parametrize("name", samples())
def test_another_model_type_with_the_same_tensors_is_not_taken_for_it(
    name: str, sample: Callable[[str], Found]
) -> None:
    tensors, config = sample(name)

    found = recognise(tensors, config | {"model_type": "nobody knows it"})

    told = family(OTHERS.get(name, name)).told
    assert found is None or (not told and not found.claimed and found.contradictions)


@pytest.mark.parametrize(
    ("name", "other"),
    [pair for pair in product(samples(), repeat=2) if OTHERS.get(pair[0], pair[0]) != OTHERS.get(pair[1], pair[1])],
)
def test_the_config_json_of_another_family_does_not_make_it_one(
    name: str, other: str, sample: Callable[[str], Found]
) -> None:
    tensors, _ = sample(name)
    _, config = sample(other)
    ours, theirs = OTHERS.get(name, name), OTHERS.get(other, other)

    found = recognise(tensors, config)

    # GPT-2 and nanoGPT are known by their tensors, whatever config.json says; then it is said that the two don't fit.
    # Qwen2 is LLaMA with biases, so that LLaMA's tensors are a part of one.
    assert found is None or not found.complete or (found.family.name == ours and not family(ours).told)
    assert found is None or found.missing or found.contradictions or {ours, theirs} == {"gpt2", "nanogpt"}


@pytest.mark.parametrize("name", [name for name in samples() if family(OTHERS.get(name, name)).told])
def test_without_a_config_json_names_and_shapes_are_not_enough(name: str, sample: Callable[[str], Found]) -> None:
    tensors, _ = sample(name)

    assert recognise(tensors) is None


@pytest.mark.parametrize("name", samples())
def test_names_alone_are_not_enough(name: str, sample: Callable[[str], Found]) -> None:
    """The names of the family, and matrices that can't be those of any model."""
    tensors, config = sample(name)
    wrong = {key: Shape((*(3 + at for at, _ in enumerate(one.shape)), 2)) for key, one in tensors.items()}

    assert recognise(wrong, config) is None


@pytest.mark.parametrize("name", samples())
def test_neither_are_shapes_alone(name: str, sample: Callable[[str], Found]) -> None:
    tensors, config = sample(name)

    assert recognise({f"of.nobody.{key}": one for key, one in tensors.items()}, config) is None
