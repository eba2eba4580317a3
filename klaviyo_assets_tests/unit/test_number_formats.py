"""Numbers in sentences."""

import pytest

from klaviyo_assets.errors import format_quantity, format_seconds


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (22483, "22,483 rows")]
)
def test_what_is_counted_has_its_plural(number: int, text: str) -> None:
    """One is a singular, everything else a plural, thousands are apart."""
    assert format_quantity(number, "row") == text


def test_a_plural_of_its_own() -> None:
    """A noun that takes no plain s brings its plural along."""
    assert format_quantity(2, "stretch", plural="stretches") == "2 stretches"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (48.4, "48 s"),
        (59.7, "1 min 0 s"),
        (125, "2 min 5 s"),
        (18720, "5 h 12 min"),
    ],
)
def test_a_duration_is_formatted_for_people(seconds: float, text: str) -> None:
    """Tenths only where they matter, minutes from a minute on."""
    assert format_seconds(seconds) == text
