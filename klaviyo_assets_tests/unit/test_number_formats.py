"""Numbers in sentences."""

import pytest

from klaviyo_assets.errors import format_quantity


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (22483, "22,483 rows")]
)
def test_what_is_counted_has_its_plural(number: int, said: str) -> None:
    """One is a singular, everything else a plural, thousands are apart."""
    assert format_quantity(number, "row") == said


def test_a_plural_of_its_own() -> None:
    """A noun that takes no plain s brings its plural along."""
    assert format_quantity(2, "stretch", plural="stretches") == "2 stretches"
