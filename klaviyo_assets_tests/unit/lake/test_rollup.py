"""Campaigns as their messages tell them since 2026-10-15, and as they were stored before."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import msgspec
import pytest

from klaviyo_assets.lake.read.views import (
    build_relation,
    build_select,
    optional_tables,
    relation_column_names,
    relation_from_json,
    relation_to_json,
)
from klaviyo_assets.model.stream import relation_columns
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.unit.lake.stored_tables import Row, store_table

NOW = datetime(2026, 11, 2, 3, 30, tzinfo=UTC)
OCTOBER_ROW = {"id": "c", "api_revision": "2026-10-15", "synced_at": NOW, "updated_at": NOW}

NONE: list[str] = []


def message(name: str, **values: object) -> Row:
    """Return a message of the campaign, read when it was."""
    return {"id": name, "campaign_id": "c", "created": NOW, "synced_at": NOW, **values}


def variations(*channels: str | None) -> str:
    """Return variations as the JSON column of a message has them."""
    details = [{} if each is None else {"channel": each} for each in channels]
    return json.dumps([{"attributes": {"definition": {"details": each}}} for each in details])


def audiences(*groups: tuple[list[str] | None, list[str] | None]) -> str:
    """Return audiences, each with what it includes and excludes, as the JSON column has them."""
    definitions = [{"included": included, "excluded": excluded} for included, excluded in groups]
    return json.dumps([{"attributes": {"definition": each}} for each in definitions])


def campaign(
    folder: Path, columns: str, messages: list[Row], **values: object
) -> tuple[object, ...]:
    """Return some columns of a campaign with these messages; without any there is no table."""
    tables = {"campaigns": store_table(folder, "campaigns", [{**OCTOBER_ROW, **values}])}
    if messages:
        tables["campaign_messages"] = store_table(folder, "campaign_messages", messages)
    select_sql = build_select(build_relation(STREAMS["campaigns"], STREAMS), tables)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'America/Lima'")
        (row,) = connection.sql(f"SELECT {columns} FROM ({select_sql})").fetchall()
    return row


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["draft"], "Draft"),
        (["sent", "sent"], "Sent"),
        (["sent", "cancelled"], "Sent"),
        (["cancelled", "cancelled"], "Cancelled"),
        (["sent", "scheduled"], "Sending"),
        (["sending", "draft"], "Sending"),
        (["scheduled", "draft"], "Scheduled"),
        (["cancelled", "draft", "scheduled"], "Scheduled"),
        ([None], None),
    ],
)
def test_the_status_is_that_of_the_messages(
    tmp_path: Path, statuses: list[str | None], expected: str | None
) -> None:
    """Cancelled messages count only where there are no others."""
    messages = [message(str(at), status=each) for at, each in enumerate(statuses)]
    assert campaign(tmp_path, "status", messages) == (expected,)


def test_the_send_time_is_the_first_of_what_is_no_draft(tmp_path: Path) -> None:
    """Times of variations count too, in UTC where they name no zone."""
    early = (NOW - timedelta(days=2)).replace(tzinfo=None).isoformat()
    messages = [
        message("a", status="sent", send_options_send_time=NOW),
        message("b", status="sent", send_options_send_times=json.dumps({"v": early, "w": None})),
        message("c", status="draft", send_options_send_time=NOW - timedelta(days=9)),
    ]
    assert campaign(tmp_path, "send_time", messages) == (NOW - timedelta(days=2),)
    assert campaign(tmp_path, "send_time", messages[2:]) == (None,)


def test_a_row_of_july_keeps_its_nulls(tmp_path: Path) -> None:
    """A draft of July has no send time, whatever its messages say by now."""
    messages = [message("m", status="sent", send_options_send_time=NOW)]
    columns = "status, send_time, channel"
    old = {"status": "Draft", "channel": "email"}
    for revision in (None, "2026-07-15"):
        row = campaign(tmp_path, columns, messages, api_revision=revision, **old)
        assert row == ("Draft", None, "email")


def test_a_campaign_of_two_slices_has_both_channels(tmp_path: Path) -> None:
    """July lists it once for each channel; the messages name both."""
    told = [{"attributes": {"definition": {"channel": each}}} for each in ("sms", "email")]
    row = campaign(
        tmp_path,
        "channel, channels",
        [],
        api_revision=None,
        channel="sms",
        campaign_messages=json.dumps(told),
    )
    assert row == (None, ["email", "sms"])


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([variations("push")], ("mobile_push", ["mobile_push"])),
        ([variations("email", "email"), variations("email")], ("email", ["email"])),
        ([variations("sms", "whatsapp")], (None, ["sms", "whatsapp"])),
        ([variations(None), None], (None, None)),
    ],
)
def test_channels_are_those_of_the_variations(
    tmp_path: Path, found: list[str | None], expected: tuple[object, ...]
) -> None:
    """A campaign of one channel has it; of several it has the list."""
    messages = [message(str(at), campaign_variations=each) for at, each in enumerate(found)]
    assert campaign(tmp_path, "channel, channels", messages) == expected


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([(["b", "a"], ["x"])], (["b", "a"], ["x"])),
        ([(["b", "a"], ["x", "y"]), (["a", "c"], ["y"])], (["b", "a", "c"], ["y"])),
        ([(["a"], ["x"]), (["b"], None)], (["a", "b"], NONE)),
        ([(["a"], None)], (["a"], None)),
        ([(["a"], NONE)], (["a"], NONE)),
    ],
)
def test_audiences_are_included_by_any_and_excluded_by_all(
    tmp_path: Path,
    groups: list[tuple[list[str] | None, list[str] | None]],
    expected: tuple[object, ...],
) -> None:
    """Who is in one audience gets it; only what every audience leaves out is left out."""
    row = campaign(
        tmp_path,
        "audiences_included, audiences_excluded",
        [],
        campaign_audiences=audiences(*groups),
    )
    assert row == expected


@pytest.mark.parametrize(
    ("strategies", "expected"),
    [
        (["local_timezone"], ("static", True, False, NOW)),
        (["static"], ("static", False, None, NOW)),
        (["send_time_optimization"], ("smart_send_time", None, None, NOW)),
        (["throttled", "throttled"], ("throttled", None, None, None)),
        (["static", "throttled"], (None, None, None, None)),
        (["static", None], (None, None, None, None)),
    ],
)
def test_a_strategy_is_the_one_of_all_messages(
    tmp_path: Path, strategies: list[str | None], expected: tuple[object, ...]
) -> None:
    """Where messages differ there is no strategy of the campaign."""
    messages = [
        message(str(at), send_options_send_strategy=each, send_options_send_time=NOW)
        for at, each in enumerate(strategies)
    ]
    columns = (
        "send_strategy_method, send_strategy_options_is_local, "
        "send_strategy_options_send_past_recipients_immediately, send_strategy_datetime"
    )
    row = campaign(tmp_path, columns, messages, send_settings_send_passed_rltz_immediately=False)
    assert row == expected


def test_a_message_that_left_its_campaign_counts_no_more(tmp_path: Path) -> None:
    """A new one counts before the campaign names it; of a deleted campaign all count."""
    gone = message("gone", status="cancelled", deleted_at=NOW)
    left = message("left", status="draft")
    new = message("new", status="sent", synced_at=NOW + timedelta(hours=1))
    messages = [gone, left, new, message("kept", status="sent")]
    ids = ["kept", "gone"]
    assert campaign(tmp_path, "status", messages, campaign_message_ids=ids) == ("Sent",)
    row = campaign(
        tmp_path, "status", [gone], campaign_message_ids=ids, deleted_at=NOW + timedelta(days=1)
    )
    assert row == ("Cancelled",)


def test_tables_of_an_earlier_release_lack_what_is_new(tmp_path: Path) -> None:
    """A table without the columns of a later release is shown as it is; so is one without parts."""
    old = store_table(
        tmp_path, "campaigns", [{"id": "c", "status": "Sent"}], without="api_revision"
    )
    relation = build_relation(STREAMS["campaigns"], STREAMS)
    select_sql = build_select(relation, {"campaigns": old})
    with duckdb.connect() as connection:
        found = connection.sql(f"SELECT status, channels FROM ({select_sql})").fetchall()
    assert found == [("Sent", None)]
    assert optional_tables(relation) == ("campaign_messages",)
    text = msgspec.json.encode(relation_to_json(relation))
    assert relation_from_json(msgspec.json.decode(text)) == relation


@pytest.mark.parametrize("name", ["campaigns", "campaigns_detailed"])
def test_the_columns_are_those_that_are_described(tmp_path: Path, name: str) -> None:
    """Names, order and comments of the relation agree."""
    tables = {
        each: store_table(tmp_path, each, []) for each in ("campaigns", name, "campaign_messages")
    }
    relation = build_relation(STREAMS[name], STREAMS)
    select_sql = build_select(relation, tables)
    with duckdb.connect() as connection:
        described = [row[0] for row in connection.sql(f"DESCRIBE {select_sql}").fetchall()]
    assert described == relation_column_names(relation, tables)
    assert described == [each.name for each in relation_columns(STREAMS[name], STREAMS)]
