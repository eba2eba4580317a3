"""Reports: responses become rows without a guess, and rows become the table's columns."""

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.decode.reports import (
    ReportPage,
    ReportRow,
    ReportTableRow,
    parse_report_page,
    report_schema,
    rows_to_batch,
)
from klaviyo_assets.errors import BrokenBodyError, ContractError, MalformedPageError
from klaviyo_assets.model.report import ReportEndpoint, ReportPartition
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.streams.events import EVENTS
from klaviyo_assets.streams.reports import CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS, STATISTICS

Result = dict[str, Any]

DAY = date(2026, 10, 5)
FETCHED_AT = datetime(2026, 11, 1, 3, 30, tzinfo=UTC)
FLOW = {"flow_id": "F1", "flow_message_id": "M1", "send_channel": "email"}
CAMPAIGN = {"campaign_id": "C1", "campaign_message_id": "M1", "send_channel": "sms"}


def result(groupings: dict[str, Any], **statistics: object) -> Result:
    """Return one result of an answer."""
    return {"groupings": groupings, "statistics": statistics}


def body_of(*results: object, labels: list[str] | None = None, **members: object) -> bytes:
    """Return an answer in Klaviyo's shape."""
    attributes: dict[str, object] = {"results": list(results)}
    if labels is not None:
        attributes["date_times"] = labels
    whole = {"data": {"type": "report", "attributes": attributes}, "links": {"self": "x"}}
    return json.dumps(whole | members).encode()


def labels_of(*days: date) -> list[str]:
    """Return the labels of a daily series: local midnights with an offset that is not theirs."""
    return [f"{day}T00:00:00+00:00" for day in days]


def read(stream: Stream, body: bytes) -> ReportPage:
    """Return the page that a report stream's answer is read into."""
    assert isinstance(stream.source, ReportEndpoint)
    return parse_report_page(body, stream.source)


def stored(row: ReportRow, *, metric_id: str = "RES", day: date = DAY) -> ReportTableRow:
    """Return a row in its cell."""
    cell = ReportPartition(metric_id, day)
    return ReportTableRow(partition=cell, row=row, is_final=True, fetched_at=FETCHED_AT)


def rows_of(stream: Stream, *rows: ReportTableRow) -> list[dict[str, Any]]:
    """Return what the table holds of some rows."""
    return rows_to_batch(stream, rows).to_pylist()


def test_values_give_a_row_a_result() -> None:
    """Every row that Klaviyo sends is there, those of zeros included, and none has a day."""
    page = read(
        CAMPAIGN_VALUES_REPORTS,
        body_of(
            result(CAMPAIGN, opens=12, open_rate=0.5, text_message_roi=None),
            result(CAMPAIGN | {"campaign_message_id": "M2"}, opens=0),
        ),
    )
    assert page.rows == (
        ReportRow(
            day=None,
            groupings=CAMPAIGN,
            statistics={"opens": 12.0, "open_rate": 0.5, "text_message_roi": None},
        ),
        ReportRow(
            day=None,
            groupings=CAMPAIGN | {"campaign_message_id": "M2"},
            statistics={"opens": 0.0},
        ),
    )


def test_a_series_gives_a_row_a_day_zeros_and_nulls_included() -> None:
    """Averages over days come out right: what Klaviyo sends as 0 or null is not left out."""
    days = [DAY + timedelta(days=number) for number in range(4)]
    page = read(
        FLOW_SERIES_REPORTS,
        body_of(
            result(FLOW, opens=[1, 0, None, 0], opens_unique=[1, 0, 0, 2], open_rate=None),
            labels=labels_of(*days),
        ),
    )
    assert [(row.day, dict(row.statistics)) for row in page.rows] == [
        (days[0], {"opens": 1.0, "opens_unique": 1.0, "open_rate": None}),
        (days[1], {"opens": 0.0, "opens_unique": 0.0, "open_rate": None}),
        (days[2], {"opens": None, "opens_unique": 0.0, "open_rate": None}),
        (days[3], {"opens": 0.0, "opens_unique": 2.0, "open_rate": None}),
    ]
    assert all(row.groupings == FLOW for row in page.rows)


@pytest.mark.parametrize(
    "label",
    [
        "2026-03-08T00:00:00+00:00",
        "2026-03-08T00:00:00-08:00",
        "2026-03-08T00:00:00+13:00",
        "2026-03-08T00:00:00",
        "2026-03-08T01:00:00Z",
        "2026-03-08",
    ],
)
def test_a_label_names_a_local_day(label: str) -> None:
    """The date is taken as it is written: its offset means nothing, whatever it says."""
    page = read(FLOW_SERIES_REPORTS, body_of(result(FLOW, opens=[1]), labels=[label]))
    assert [row.day for row in page.rows] == [date(2026, 3, 8)]


@given(
    series=st.lists(
        st.lists(st.none() | st.integers(0, 3) | st.floats(0, 1), min_size=5, max_size=5),
        min_size=1,
        max_size=4,
    )
)
def test_every_value_of_a_series_lands_on_its_day(series: list[list[float | None]]) -> None:
    """Every value of the response is in the row of its day, message and name, and no other is."""
    days = [DAY + timedelta(days=number) for number in range(5)]
    results = [
        result(FLOW | {"flow_message_id": f"M{at}"}, opens=values, clicks=values[::-1])
        for at, values in enumerate(series)
    ]
    page = read(FLOW_SERIES_REPORTS, body_of(*results, labels=labels_of(*days)))
    found = {
        (row.groupings["flow_message_id"], row.day, name): value
        for row in page.rows
        for name, value in row.statistics.items()
    }
    assert found == {
        (f"M{at}", day, name): value
        for at, values in enumerate(series)
        for name, column in (("opens", values), ("clicks", values[::-1]))
        for day, value in zip(days, column, strict=True)
    }
    assert len(page.rows) == 5 * len(series)


@pytest.mark.parametrize("opens", [[1, 2], [1, 2, 3, 4], [], 7, {"0": 1}, "123"])
def test_f60_a_series_of_another_length_is_refused(opens: object) -> None:
    """Values that match no days are an error of shape, and no row is guessed."""
    days = [DAY + timedelta(days=number) for number in range(3)]
    body = body_of(result(FLOW, clicks=[1, 2, 3], opens=opens), labels=labels_of(*days))
    with pytest.raises(ContractError, match="shape"):
        read(FLOW_SERIES_REPORTS, body)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (body_of(result(FLOW, opens=[1])), "no date_times"),
        (body_of(), "no date_times"),
        (body_of(result(FLOW, opens=[1]), labels=[]), "1 value for 0 days"),
        (b'{"data": {"attributes": {"date_times": []}}, "links": {"self": "x"}}', "results"),
        (body_of().replace(b'"results": []', b'"results": null'), "results"),
        (body_of(result(FLOW, opens=[1]), labels=["yesterday"]), "no time"),
        (body_of(result(FLOW, opens=[1, 2]), labels=labels_of(DAY, DAY)), "two labels of one day"),
        (body_of("result", labels=[]), "shape"),
        (b'{"data": {"type": "r", "attributes": {}}, "links": {"self": "x"}}', "shape"),
        (b'{"data": [], "links": {"self": "x"}}', "shape"),
    ],
)
def test_another_shape_is_refused(body: bytes, message: str) -> None:
    """What has not the documented shape is not read at all, and the error says what is wrong."""
    with pytest.raises(MalformedPageError, match=message):
        read(FLOW_SERIES_REPORTS, body)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{",
        b"null",
        b"[]",
        b'{"links":' + b"[" * 5000,
        b"{}",
        b'{"data": {"type": "r", "attributes": {"results": []}}}',
        body_of(links={}),
        body_of(links={"next": None}),
        body_of(links={"self": "x", "next": 7}),
        body_of(errors=[{"detail": "timed out"}]),
    ],
)
def test_what_is_not_json_may_be_better_next_time(body: bytes) -> None:
    """A cut or foreign body is requested again, not taken for a report."""
    with pytest.raises(BrokenBodyError):
        read(FLOW_SERIES_REPORTS, body)


NAMELESS: dict[str, dict[str, object]] = {
    "no statistics": {"groupings": FLOW},
    "no groupings": {"statistics": {}},
    "no flow_id": result(FLOW | {"flow_id": None}),
    "no flow_message_id": result(FLOW | {"flow_message_id": ""}),
}
"""Results that belong to no message, by what is said of them."""


@pytest.mark.parametrize("message", NAMELESS)
def test_a_result_that_belongs_to_no_message_is_put_aside(message: str) -> None:
    """It is quarantined as received, with the reason; the results beside it are rows."""
    body = body_of(NAMELESS[message], result(FLOW, opens=[1]), labels=labels_of(DAY))
    page = read(FLOW_SERIES_REPORTS, body)
    assert [row.statistics for row in page.rows] == [{"opens": 1}]
    (aside,) = page.quarantined
    assert message in aside.reason
    assert json.loads(aside.record) == NAMELESS[message]


@pytest.mark.parametrize(("sound", "broken"), [(0, 10), (300, 101)])
def test_many_results_without_a_message_fail_the_answer(sound: int, broken: int) -> None:
    """Ten of ten, or a hundred of a few hundreds: days would be stored with most rows missing."""
    results = [result(FLOW, opens=[1])] * sound + [NAMELESS["no flow_id"]] * broken
    with pytest.raises(MalformedPageError, match=f"{broken} results of {len(results)}"):
        read(FLOW_SERIES_REPORTS, body_of(*results, labels=labels_of(DAY)))


def test_an_answer_may_hold_nothing() -> None:
    """A response without results is valid."""
    assert read(FLOW_SERIES_REPORTS, body_of(labels=labels_of(DAY))).rows == ()
    assert read(CAMPAIGN_VALUES_REPORTS, body_of()).rows == ()
    assert not read(FLOW_SERIES_REPORTS, body_of(labels=labels_of(DAY))).is_empty
    assert read(FLOW_SERIES_REPORTS, body_of(labels=[])).is_empty


@pytest.mark.parametrize("nothing", [None, [], {}])
def test_where_the_next_page_is_is_told(nothing: object) -> None:
    """The link and the page cursor are read where they are, and nothing in any form is nothing."""
    links = {"self": "x", "next": "n"}
    page = read(CAMPAIGN_VALUES_REPORTS, body_of(links=links, meta={"page_cursor": "c"}))
    assert (page.next_link, page.page_cursor) == ("n", "c")
    links = {"self": "x", "next": None}
    last = read(CAMPAIGN_VALUES_REPORTS, body_of(links=links, meta=nothing))
    assert (last.next_link, last.page_cursor) == (None, None)


def test_values_of_other_types_are_kept_as_they_came() -> None:
    """A value of another type is converted where possible, else stored in `extra`."""
    page = read(
        CAMPAIGN_VALUES_REPORTS,
        body_of(
            {
                "id": "x",
                "groupings": CAMPAIGN | {"campaign_message_name": 7},
                "statistics": {"opens": "12", "clicks": "many", "bounced": True},
                "links": [],
            }
        ),
    )
    [row] = page.rows
    assert row.groupings["campaign_message_name"] == "7"
    assert row.statistics == {"opens": 12.0, "clicks": None, "bounced": None}
    [stored_rows] = rows_of(CAMPAIGN_VALUES_REPORTS, stored(row))
    assert json.loads(stored_rows["extra"]) == {
        "groupings.campaign_message_name": 7,
        "id": "x",
        "statistics.bounced": True,
        "statistics.clicks": "many",
        "statistics.opens": "12",
    }


def test_an_unreadable_value_of_a_day_is_kept_with_that_day() -> None:
    """A value that is no number may mean something: it is in `extra` of its own day alone."""
    body = body_of(result(FLOW, opens=[0, "n/a"]), labels=labels_of(DAY, DAY + timedelta(days=1)))
    before, row = read(FLOW_SERIES_REPORTS, body).rows
    assert before.extra == {}
    assert (row.day, dict(row.extra)) == (DAY + timedelta(days=1), {"statistics.opens": b'"n/a"'})


def test_numbers_without_bounds_do_no_harm() -> None:
    """Numbers beyond a double are read as far as they fit, and stored in `extra` as received."""
    huge = "1" * 80
    body = body_of(result(CAMPAIGN, opens=1, clicks=2)).replace(b'"opens": 1', b'"opens": 1e400')
    body = body.replace(b'"clicks": 2', f'"clicks": {huge}'.encode())
    [row] = read(CAMPAIGN_VALUES_REPORTS, body).rows
    assert row.statistics == {"opens": None, "clicks": float(huge)}
    assert row.extra == {"statistics.opens": b"1e400"}


@pytest.mark.parametrize("stream", [CAMPAIGN_VALUES_REPORTS, FLOW_SERIES_REPORTS])
def test_the_table_has_the_streams_columns(stream: Stream) -> None:
    """Columns as declared, then `extra` and `synced_at`."""
    schema = report_schema(stream)
    assert schema.names == [*(column.name for column in stream.columns), "extra", "synced_at"]
    assert {schema.field(name).type for name in STATISTICS} == {pa.float64()}
    assert schema.field("date").type == pa.date32()


def test_a_row_is_stored_under_its_cell() -> None:
    """Day and metric come from the partition, the rest from the response and its fetch time."""
    row = ReportRow(
        day=None,
        groupings=CAMPAIGN | {"campaign_message_name": "Sale", "tag_id": "T"},
        statistics={"opens": 12.0, "new_rate": 0.25, "new_nothing": None},
    )
    [stored_rows] = rows_of(CAMPAIGN_VALUES_REPORTS, stored(row))
    assert {name: value for name, value in stored_rows.items() if value is not None} == {
        "date": DAY,
        "conversion_metric_id": "RES",
        "campaign_id": "C1",
        "campaign_message_id": "M1",
        "send_channel": "sms",
        "campaign_message_name": "Sale",
        "opens": 12.0,
        "is_final": True,
        "fetched_at": FETCHED_AT,
        "extra": '{"groupings.tag_id":"T","statistics.new_rate":0.25}',
        "synced_at": FETCHED_AT,
    }
    assert rows_to_batch(CAMPAIGN_VALUES_REPORTS, ()).schema == report_schema(
        CAMPAIGN_VALUES_REPORTS
    )


def test_no_grouping_can_take_the_place_of_our_own_columns() -> None:
    """A grouping or statistic named like one of our columns is stored in `extra`."""
    ours = {"date": "1999-01-01", "conversion_metric_id": "X", "synced_at": "Y", "extra": "Z"}
    row = ReportRow(day=None, groupings=CAMPAIGN | ours, statistics={"is_final": 0.0, "date": 1.0})
    [stored_rows] = rows_of(CAMPAIGN_VALUES_REPORTS, stored(row))
    assert (stored_rows["date"], stored_rows["conversion_metric_id"], stored_rows["is_final"]) == (
        DAY,
        "RES",
        True,
    )
    assert json.loads(stored_rows["extra"]) == {
        **{f"groupings.{name}": value for name, value in ours.items()},
        "statistics.is_final": 0.0,
        "statistics.date": 1.0,
    }


@pytest.mark.parametrize("channel", [None, ""])
def test_a_missing_channel_is_unknown(channel: str | None) -> None:
    """The channel is part of the key, which is never null nor empty."""
    row = ReportRow(day=None, groupings=CAMPAIGN | {"send_channel": channel}, statistics={})
    [stored_rows] = rows_of(CAMPAIGN_VALUES_REPORTS, stored(row))
    assert stored_rows["send_channel"] == "unknown"


def test_text_that_no_table_takes_is_made_storable() -> None:
    """NUL, at which other programs end a text, and halves of characters are replaced."""
    row = ReportRow(day=None, groupings=CAMPAIGN | {"campaign_message_name": "a\0b"}, statistics={})
    [stored_rows] = rows_of(CAMPAIGN_VALUES_REPORTS, stored(row, metric_id="\ud800x\0"))
    assert stored_rows["campaign_message_name"] == "a\ufffdb"
    assert stored_rows["conversion_metric_id"] == "?x\ufffd"
    half = body_of(result(CAMPAIGN | {"campaign_message_name": "\ud83d"}))
    [read_back] = read(CAMPAIGN_VALUES_REPORTS, half).rows
    assert read_back.groupings["campaign_message_name"] == "\ufffd"


def test_a_row_that_comes_twice_is_there_once() -> None:
    """Pages that shift between two requests repeat a row; the key stays unique."""
    row = ReportRow(day=None, groupings=CAMPAIGN, statistics={"opens": 1.0})
    other = ReportRow(day=None, groupings=CAMPAIGN, statistics={"opens": 2.0})
    found = rows_of(
        CAMPAIGN_VALUES_REPORTS,
        stored(row),
        stored(row),
        stored(other, day=DAY + timedelta(days=1)),
        stored(other, metric_id="OTHER"),
    )
    assert [each["opens"] for each in found] == [1.0, 2.0, 2.0]
    with pytest.raises(MalformedPageError, match="two rows for one message"):
        rows_of(CAMPAIGN_VALUES_REPORTS, stored(row), stored(other))


def test_a_collection_is_no_report() -> None:
    """The two kinds of stream are not taken for each other."""
    with pytest.raises(TypeError, match="is no report"):
        rows_to_batch(EVENTS, ())
