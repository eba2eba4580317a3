"""The filter grammar is written so that Klaviyo reads what was meant."""

import re
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.api.requests import (
    filter_clause,
    format_filter_time,
    join_clauses,
    percent_encode,
)

ONE_STRING = re.compile(r'equals\(name,"((?:[^"\\]|\\.)*)"\)', re.DOTALL)


@given(st.text() | st.text(alphabet="a\"\\'(),"))
def test_a_string_comes_back_whole(value: str) -> None:
    """Whatever a string holds, its clause is one quoted literal that reads back as the string."""
    match = ONE_STRING.fullmatch(filter_clause("equals", "name", value))
    assert match is not None
    assert re.sub(r"\\(.)", r"\1", match.group(1), flags=re.DOTALL) == value


def test_literals_have_the_documented_forms() -> None:
    """Strings are quoted; booleans, numbers and times are bare."""
    assert filter_clause("equals", "archived", value=True) == "equals(archived,true)"
    assert filter_clause("equals", "archived", value=False) == "equals(archived,false)"
    assert filter_clause("less-than", "timestamp", 1769817600) == "less-than(timestamp,1769817600)"
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    assert (
        filter_clause("less-than", "updated", moment) == "less-than(updated,2026-01-31T00:00:00Z)"
    )


def test_times_are_written_in_utc() -> None:
    """A moment of another zone is the same moment, written in UTC; no plus sign can be lost."""
    east = timezone(timedelta(hours=5, minutes=30))
    assert format_filter_time(datetime(2026, 1, 31, 5, 30, tzinfo=east)) == "2026-01-31T00:00:00Z"


def test_an_exact_time_stays_exact() -> None:
    """A bound between two seconds is not moved to one of them."""
    moment = datetime(2026, 1, 31, 0, 0, 0, 250_000, tzinfo=UTC)
    assert format_filter_time(moment) == "2026-01-31T00:00:00.250000Z"


def test_a_time_without_a_zone_is_refused() -> None:
    """A naive time is refused, not guessed to be in some zone."""
    with pytest.raises(ValueError, match="no zone"):
        format_filter_time(datetime(2026, 1, 31))  # noqa: DTZ001 - what is refused


def test_a_comma_means_and() -> None:
    """Clauses are joined by commas, and what is empty leaves no stray comma."""
    assert join_clauses("a", "", "b") == "a,b"
    assert join_clauses("", "") == ""


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_every_character_survives_the_url(text: str) -> None:
    """Encoded text is plain ASCII without delimiters, and decodes to what it was."""
    assert re.fullmatch(r"[A-Za-z0-9_.~%-]*", percent_encode(text))
    assert unquote_to_bytes(percent_encode(text)).decode() == text


def test_a_lone_surrogate_does_not_break_the_url() -> None:
    """JSON can carry half a character into an id; the URL is still made."""
    assert percent_encode("a\ud800") == "a%ED%A0%80"
