"""Which tensors of a file are judged by the others of their type."""

from __future__ import annotations

import pytest

from converter.verification.derivation import Derived, wrong


def tensor(encoding: str, fit: int, blocks: int = 1000) -> Derived:
    origin, first = "F32" if fit * 2 >= blocks else None, 7 if fit < blocks else None
    return Derived(encoding, origin, blocks=blocks, fit=fit, lost=[1], ours=[1], at=0, first_unlike=first)


@pytest.mark.parametrize(
    ("others", "found"),
    [
        ([1000, 1000, 1000, 1000], ["odd"]),
        ([999, 1000, 1000, 1000], ["odd"]),
        ([1000, 1000, 1000], []),  # too few to tell
        ([994, 995, 996, 995], []),  # another version of the quantiser
        ([1000, 1000, 1000, 1000, 990, 990], []),  # two of its kind as well
        ([1000, 1000, 1000, 1000, 0, 0], []),  # an importance matrix for some
    ],
)
def test_a_tensor_is_odd_if_nearly_all_others_of_its_type_fit(others: list[int], found: list[str]) -> None:
    tensors = {f"w{n}": tensor("Q6_K", fit) for n, fit in enumerate(others)}

    assert list(wrong({**tensors, "odd": tensor("Q6_K", 900)})) == found


def test_another_type_does_not_count() -> None:
    """A version may change the quantiser of one type alone."""
    tensors = {f"w{n}": tensor("Q4_K", 1000) for n in range(20)} | {f"v{n}": tensor("Q6_K", 990) for n in range(6)}

    assert wrong(tensors) == {}
