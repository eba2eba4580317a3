"""Counts are read as Klaviyo means them, and nothing is guessed."""

import json
from datetime import date

import pytest

from klaviyo_assets.decode.reports import parse_event_counts
from klaviyo_assets.errors import BrokenBodyError, MalformedPageError


def answer(dates: list[str], *rows: list[float]) -> bytes:
    """Return an answer with these rows of counts."""
    listed: list[object] = [{"dimensions": [], "measurements": {"count": row}} for row in rows]
    attributes: dict[str, object] = {"dates": dates, "data": listed}
    return json.dumps({"data": {"type": "metric-aggregate", "attributes": attributes}}).encode()


DATES = ["2026-09-01T00:00:00+00:00", "2026-09-02T00:00:00Z"]


def test_counts_by_utc_day() -> None:
    """Dates are instants: one told in another zone belongs to its UTC day."""
    shifted = [DATES[0], "2026-09-02T02:00:00+02:00"]
    for dates in (DATES, shifted):
        found = parse_event_counts(answer(dates, [3.0, 4.0]))
        assert found == {date(2026, 9, 1): 3, date(2026, 9, 2): 4}


def test_no_row_means_none() -> None:
    """A metric without events in the window has days with none, not no days."""
    assert parse_event_counts(answer(DATES)) == {date(2026, 9, 1): 0, date(2026, 9, 2): 0}


@pytest.mark.parametrize("body", [b'{"data": {}}', answer(DATES, [3.0])])
def test_another_shape_is_refused(body: bytes) -> None:
    """Counts that do not belong to their dates are no counts."""
    with pytest.raises(MalformedPageError):
        parse_event_counts(body)


def test_a_broken_body_may_be_requested_again() -> None:
    """Half an answer is not a wrong one, nor is one that is none."""
    sound = answer(DATES, [1.0, 2.0])
    for body in (sound[:-9], b"{}", b'{"errors": []}', b'{"errors": [{"id": "e"}], ' + sound[1:]):
        with pytest.raises(BrokenBodyError):
            parse_event_counts(body)
