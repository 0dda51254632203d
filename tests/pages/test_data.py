"""How data gets into a page."""

import json

import pytest

from converter.pages import in_script


def test_data_in_a_script_is_json_that_ends_no_element() -> None:
    data = {"a": "</script><!--&\u2028é", "b": [1, None, True, 0.5]}

    found = in_script(data)

    assert json.loads(found) == data
    assert found.isascii()
    assert not set(found) & set("<>& ")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_lacks_are_our_mistake(number: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        in_script([number])
