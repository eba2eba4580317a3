"""A first sync of everything: relations, keys, columns and metadata as the contract has them."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from klaviyo_assets.model.stream import ViewSource
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, DEFAULT_STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import NOON, open_sandbox_account

STREAMS = [stream.name for stream in DEFAULT_COLLECTIONS]
BY_ID = [stream.name for stream in DEFAULT_COLLECTIONS if stream.key == ("id",)]
CURSORS = {
    **{each.name: each.cursor.column for each in DEFAULT_COLLECTIONS if each.cursor is not None},
    "events_detailed": "datetime",
}
LIKE = {"events_detailed": "events", "campaigns_detailed": "campaigns", "lists_detailed": "lists"}
"""Relations with the rows of another."""

DUCKDB_TYPES = {
    "string": "VARCHAR",
    "json text": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
    "list<string>": "VARCHAR[]",
}

PROMISED = {
    "events": "metric_id profile_id event_properties attributions attributed_campaign_id "
    "attributed_campaign_message_id attributed_flow_id attributed_flow_message_id "
    "attributed_event_id value value_currency is_machine_open",
    "events_detailed": "value date attributed_event_id metric_name metric_integration_name",
    "campaigns": "tag_ids channel campaign_messages status send_time channels",
    "campaigns_detailed": "channel campaign_messages estimated_recipient_count",
    "lists_detailed": "name profile_count",
    "profiles": "location_city properties predictive_analytics_historic_clv "
    "subscriptions_email_marketing_consent",
    "global_exclusions": "email suppressions suppressed_at",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class First:
    """A home after its first sync of everything, and the run that made it."""

    home: Home
    run: RunResult


@pytest.fixture(scope="module")
def first_sync(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[First]:
    """Give one first sync for all tests of this module."""
    with open_sandbox_account() as account:
        # Too young to become a mark: what arrives late by seconds would be lost behind it.
        young = (NOON - timedelta(minutes=2)).isoformat()
        account.add_events({"datetime": young})
        account.mutate(profile=min(account.true_ids("profiles")), set={"updated": young})
        home = Home(
            account=account, root=tmp_path_factory.mktemp("home"), dagster_template=dagster_template
        )
        yield First(home=home, run=home.sync())


def schema_of(first_sync: First, stream: str) -> list[tuple[str, str]]:
    """Return names and DuckDB types of a relation's columns, in their order."""
    return [
        (name, kind)
        for name, kind in first_sync.home.query(
            "SELECT column_name, data_type FROM information_schema.columns "
            f"WHERE table_schema = 'main' AND table_name = '{stream}' "
            "ORDER BY ordinal_position"
        )
    ]


def test_every_stream_is_materialized(first_sync: First) -> None:
    """One run brings every collection stream, each as a relation of its name, and nothing else."""
    assert first_sync.run.success
    assert sorted(first_sync.run.materializations) == sorted(STREAMS)
    assert first_sync.home.relation_names() == set(STREAMS)


@pytest.mark.parametrize("stream", BY_ID)
def test_a_relation_holds_exactly_what_klaviyo_has(first_sync: First, stream: str) -> None:
    """The ids of a relation are those of the account's own count, each once."""
    held = first_sync.home.ids(stream)
    assert len(held) > 0
    assert sorted(held) == sorted(first_sync.home.account.true_ids(LIKE.get(stream, stream)))


@pytest.mark.parametrize(("stream", "column"), CURSORS.items())
def test_a_cursor_is_never_null(first_sync: First, stream: str, column: str) -> None:
    """In streams with a cursor no row lacks it; every row has the time of its sync."""
    rows = first_sync.home.query(
        f"SELECT count(*) FROM klaviyo.{stream} WHERE {column} IS NULL OR synced_at IS NULL"
    )
    assert rows == [(0,)]


@pytest.mark.parametrize("stream", STREAMS)
def test_columns_are_those_that_dagster_shows(first_sync: First, stream: str) -> None:
    """A relation's columns have the names, order and types of `dagster/column_schema`."""
    shown = first_sync.run.materializations[stream]["dagster/column_schema"]
    assert isinstance(shown, dg.TableSchema)
    declared = [(column.name, DUCKDB_TYPES[column.type]) for column in shown.columns]
    assert schema_of(first_sync, stream) == declared
    assert all(column.description for column in shown.columns)
    assert declared[0] == ("event_id" if stream == "event_attributions" else "id", "VARCHAR")


@pytest.mark.parametrize(("stream", "names"), PROMISED.items())
def test_the_promised_columns_are_there(first_sync: First, stream: str, names: str) -> None:
    """Every column that the contract names is in its relation."""
    assert set(names.split()) <= {name for name, _ in schema_of(first_sync, stream)}


@pytest.mark.parametrize("stream", STREAMS)
def test_metadata_has_every_promised_key(first_sync: First, stream: str) -> None:
    """A materialization carries every promised key, with the numbers of the sync and the table."""
    shown = first_sync.run.materializations[stream]
    assert shown["klaviyo/sync_mode"] == "incremental_deduped"
    assert shown["dagster/table_name"] == f"klaviyo.{stream}"
    assert shown["dagster/row_count"] == first_sync.home.row_count(stream)
    assert shown.get("klaviyo/cursor_field") == CURSORS.get(stream)
    read = (
        0
        if isinstance(DEFAULT_STREAMS[stream].source, ViewSource)
        else first_sync.home.row_count(stream)
    )
    assert shown["klaviyo/records_read"] == shown["klaviyo/rows_written"] == read
    assert shown["klaviyo/retries"] == 0
    assert shown["klaviyo/throttled_seconds"] == 0


@pytest.mark.parametrize(("stream", "column"), CURSORS.items())
def test_the_high_water_mark_is_the_newest_cursor_that_has_settled(
    first_sync: First, stream: str, column: str
) -> None:
    """The high-water mark is the greatest stored cursor older than five minutes, in UTC."""
    greatest = first_sync.home.query(
        f"SELECT max({column}) FROM klaviyo.{stream} "
        f"WHERE {column} <= TIMESTAMPTZ '{NOON.isoformat()}' - INTERVAL 5 MINUTE"
    )
    assert first_sync.run.cursor(stream) == greatest[0][0].isoformat()


def test_streams_without_a_cursor_column_have_no_cursor(first_sync: First) -> None:
    """A stream that is read whole each time shows neither mark nor cursor field."""
    for stream in set(STREAMS) - set(CURSORS):
        assert "klaviyo/cursor" not in first_sync.run.materializations[stream]
        assert "klaviyo/cursor_field" not in first_sync.run.materializations[stream]


def test_events_are_stored_with_what_came_along(first_sync: First) -> None:
    """An event's properties are stored as JSON, its relations as ids, its times in UTC."""
    rows = first_sync.home.query(
        "SELECT epoch(datetime)::BIGINT = timestamp, json_valid(event_properties), "
        "metric_id IS NULL OR metric_id IN (SELECT id FROM klaviyo.metrics), "
        "profile_id IS NULL OR profile_id IN (SELECT id FROM klaviyo.profiles) "
        "FROM klaviyo.events"
    )
    assert set(rows) == {(True, True, True, True)}
    credited = first_sync.home.query(
        "SELECT attributions, attributed_campaign_id, attributed_flow_id FROM klaviyo.events "
        "WHERE attributions <> '[]'"
    )
    assert credited
    for listed, campaign, flow in credited:
        related = json.loads(listed)[0]["relationships"]
        assert campaign == ((related.get("campaign") or {}).get("data") or {}).get("id")
        assert flow == ((related.get("flow") or {}).get("data") or {}).get("id")


def test_events_have_columns_for_common_properties(first_sync: First) -> None:
    """A value, its currency and the flag of machines are as the event's properties have them."""
    rows = first_sync.home.query(
        "SELECT value, value_currency, is_machine_open, event_properties, "
        "date = CAST(timezone((SELECT timezone FROM klaviyo.accounts), datetime) AS DATE) "
        "FROM klaviyo.events_detailed"
    )
    for value, currency, is_machine, text, is_the_accounts_day in rows:
        sent: dict[str, Any] = json.loads(text)
        given = sent.get("$value")
        assert value == (None if given is None else float(given))
        assert currency == sent.get("$value_currency")
        flag = sent.get("machine_open")
        assert is_machine == (flag if isinstance(flag, bool) else None)
        assert is_the_accounts_day
    assert {is_machine for _, _, is_machine, _, _ in rows} == {True, False, None}


def test_every_attribution_is_a_row(first_sync: First) -> None:
    """`event_attributions` has what the JSON of `events` has, in its order, and the other event."""
    listed = first_sync.home.query(
        "SELECT id, datetime, metric_id, attributions FROM klaviyo.events "
        "WHERE attributions <> '[]'"
    )
    every = first_sync.home.query("SELECT id, datetime, metric_id FROM klaviyo.events")
    events = {event: (moment, metric) for event, moment, metric in every}
    names = ("campaign", "campaign-message", "flow", "flow-message", "attributed-event")
    expected = list[tuple[Any, ...]]()
    for event, moment, metric, text in listed:
        for place, each in enumerate(json.loads(text), start=1):
            linked: dict[str, dict[str, dict[str, str]]] = each["relationships"]
            found = [linked[name]["data"]["id"] if name in linked else None for name in names]
            other = events.get(found[-1], (None, None))
            expected.append((event, place, each["id"], moment, metric, *found, *other))
    rows = first_sync.home.query(
        "SELECT event_id, position, attribution_id, event_datetime, event_metric_id, campaign_id, "
        "campaign_message_id, flow_id, flow_message_id, attributed_event_id, "
        "attributed_event_datetime, attributed_event_metric_id FROM klaviyo.event_attributions"
    )
    assert len(rows) == len(expected) > 0
    assert set(rows) == set(expected)


def test_events_detailed_names_the_metric(first_sync: First) -> None:
    """`events_detailed` adds the metric's name and integration as `metrics` has them."""
    metrics = first_sync.home.account.attributes("metric")
    rows = first_sync.home.query(
        "SELECT DISTINCT metric_id, metric_name, metric_integration_name "
        "FROM klaviyo.events_detailed WHERE metric_id IS NOT NULL"
    )
    assert len(rows) > 3
    for metric, name, integration in rows:
        assert name == metrics[metric]["name"]
        assert integration == (metrics[metric]["integration"] or {}).get("name")


def test_campaigns_of_every_channel_and_state_are_there(first_sync: First) -> None:
    """Email, SMS and push campaigns are stored, archived ones too, with their messages whole."""
    found = set(first_sync.home.query("SELECT channel, archived FROM klaviyo.campaigns"))
    assert {channel for channel, _ in found} == {"email", "sms", "mobile_push"}
    assert {archived for _, archived in found} == {True, False}
    (messages,) = first_sync.home.query(
        "SELECT campaign_message_ids, campaign_messages FROM klaviyo.campaigns "
        "WHERE len(campaign_message_ids) > 0 LIMIT 1"
    )
    assert [each["id"] for each in json.loads(messages[1])] == messages[0]
