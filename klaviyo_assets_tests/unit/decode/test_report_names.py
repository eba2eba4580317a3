"""Rows of one message under several names become one, and nothing is counted twice."""

from datetime import date

from klaviyo_assets.decode.reports import ReportRow, merge_renamed_rows
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.streams.reports import FLOW_SERIES_REPORTS

ONE, TWO = date(2026, 3, 1), date(2026, 3, 2)


def report() -> ReportEndpoint:
    """Return the report that rows are of."""
    assert isinstance(FLOW_SERIES_REPORTS.source, ReportEndpoint)
    return FLOW_SERIES_REPORTS.source


def row(
    name: str, day: date | None, channel: str | None = "email", **found: float | None
) -> ReportRow:
    """Return a row of one message."""
    groupings = {
        "flow_id": "F",
        "flow_message_id": "M",
        "send_channel": channel,
        "flow_message_name": name,
    }
    return ReportRow(day=day, groupings=groupings, statistics=found)


def test_rows_of_keys_of_their_own_are_left_alone() -> None:
    """Also those of another channel or day."""
    rows = [row("a", ONE, opens=1), row("a", TWO, opens=1), row("b", ONE, "sms", opens=1)]
    assert merge_renamed_rows(rows, report()) is rows


def test_a_row_that_comes_twice_is_not_added() -> None:
    """Pages that shift bring it again; under its own name it is the same row."""
    rows = [row("a", ONE, opens=1), row("a", ONE, opens=1), row("b", ONE, opens=2)]
    (merged,) = merge_renamed_rows(rows, report())
    assert merged.statistics == {"opens": 3}


def test_rows_of_one_name_that_differ_are_left_to_be_refused() -> None:
    """Nothing says which of them is right."""
    rows = [row("a", ONE, opens=1), row("a", ONE, opens=2)]
    assert merge_renamed_rows(rows, report()) == rows


def test_the_newest_name_is_that_of_the_last_day_with_a_number() -> None:
    """Whatever the order of results; it is the name on every day of the response."""
    old = [row("old", ONE, opens=5), row("old", TWO, opens=0)]
    new = [row("new", ONE, opens=0), row("new", TWO, opens=7)]
    for rows in (old + new, new + old):
        merged = merge_renamed_rows(rows, report())
        assert {(each.day, each.statistics["opens"]) for each in merged} == {(ONE, 5), (TWO, 7)}
        assert {each.groupings["flow_message_name"] for each in merged} == {"new"}


def test_a_rate_is_weighted_and_nothing_stays_nothing() -> None:
    """Null counts for nothing; a share of nothing is the one that is there."""
    rows = [
        row("a", None, delivered=3, open_rate=1.0, opens=None, text_message_roi=2.0),
        row("b", None, delivered=1, open_rate=0.0, opens=None, text_message_roi=0.0),
    ]
    (merged,) = merge_renamed_rows(rows, report())
    assert merged.statistics == {
        "delivered": 4,
        "open_rate": 0.75,
        "opens": None,
        "text_message_roi": 2.0,
    }


def test_no_channel_is_the_channel_unknown() -> None:
    """Both are one key of the table."""
    (merged,) = merge_renamed_rows(
        [row("a", ONE, None, opens=1), row("b", ONE, "unknown", opens=1)], report()
    )
    assert merged.statistics == {"opens": 2}
