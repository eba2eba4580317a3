"""`publish --airbyte`: Airbyte's tables and columns, with Klaviyo's objects put together again."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.streams import STREAMS
from klaviyo_assets.streams.airbyte_views import AIRBYTE_TABLES
from klaviyo_assets_tests.integration.lake.lake_fixtures import open_lake
from klaviyo_assets_tests.integration.lake.stream_rows import RELATIONS, write_stream

NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)
LATER = datetime(2026, 9, 1, 12, 0, 0, 250_000, tzinfo=UTC)

CURSORS = {
    "campaigns": "updated_at",
    "campaigns_detailed": "updated_at",
    "email_templates": "updated",
    "events": "datetime",
    "events_detailed": "datetime",
    "flows": "updated",
    "global_exclusions": "updated",
    "lists": "updated",
    "lists_detailed": "updated",
    "metrics": "updated",
    "profiles": "updated",
    "segments": "updated",
}
"""Airbyte's streams with ids, and the column that each has beside the object."""

AROUND = {
    *("id", "type", "attributes", "relationships", "links", "_airbyte_raw_id"),
    *("_airbyte_extracted_at", "_airbyte_meta", "_airbyte_generation_id"),
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a database with the views of a lake with one event, metric, campaign and profile."""
    root: Path = tmp_path_factory.mktemp("airbyte")
    lake = open_lake(root / "data")
    event = {
        "id": "e1",
        "timestamp": int(NOON.timestamp()),
        "datetime": NOON,
        "uuid": "u1",
        "event_properties": '{"$value": 5, "Items": ["a"]}',
        "metric_id": "m1",
        "profile_id": "p1",
        "attributions": '[{"type": "attribution", "id": "a1"}]',
    }
    write_stream(lake, "events", [event], synced_at=LATER)
    metric = {"id": "m1", "name": "Placed Order", "created": NOON, "updated": NOON}
    write_stream(lake, "metrics", [metric], synced_at=LATER)
    profile = {
        "id": "p1",
        "email": "a@example.com",
        "created": NOON,
        "updated": LATER,
        "location_city": "Boston",
        "location_latitude": 42.5,
        "properties": '{"plan": "gold"}',
    }
    write_stream(lake, "profiles", [profile], synced_at=LATER)
    campaign = {
        "id": "c1",
        "name": "One",
        "status": "Sent",
        "archived": False,
        "channel": "email",
        "api_revision": "2026-07-15",
        "created_at": NOON,
        "updated_at": LATER,
        "audiences_included": ["L1"],
        "tag_ids": ["t1", "t2"],
        "campaign_message_ids": ["cm1"],
        "campaign_messages": '[{"type": "campaign-message", "id": "cm1"}]',
    }
    write_stream(lake, "campaigns", [campaign], synced_at=LATER)
    lake.publish_to_target(root / "shop.duckdb", AIRBYTE_TABLES, RELATIONS)
    with duckdb.connect(root / "shop.duckdb", read_only=True) as opened:
        opened.execute("SET TimeZone = 'Pacific/Auckland'")
        yield opened


def read_object(target: duckdb.DuckDBPyConnection, table: str, column: str) -> dict[str, object]:
    """Return a JSON column of the only row of a table."""
    ((text,),) = target.execute(f"SELECT {column} FROM airbyte.{table}").fetchall()
    return json.loads(text)


@pytest.mark.parametrize(("table", "cursor"), CURSORS.items())
def test_a_table_has_the_columns_of_airbyte(
    target: duckdb.DuckDBPyConnection, table: str, cursor: str
) -> None:
    """Every stream with ids is there, as Airbyte's destinations write it, whether synced or not."""
    described = target.execute(f"DESCRIBE airbyte.{table}").fetchall()
    kinds = {name: kind for name, kind, *_ in described}
    assert AROUND | {cursor} <= set(kinds)
    assert kinds["attributes"] == kinds["relationships"] == "JSON"
    assert kinds[cursor] == "TIMESTAMP WITH TIME ZONE"


def test_every_stream_of_airbyte_with_ids_is_there() -> None:
    """No table is missing, and none is a name that we do not have."""
    assert {view.name for view in AIRBYTE_TABLES.views} == set(CURSORS) <= set(STREAMS)


def test_attributes_are_klaviyos_object(target: duckdb.DuckDBPyConnection) -> None:
    """Nested where Klaviyo nests, times as its texts in UTC, JSON as it was; no column of ours."""
    assert read_object(target, "events", "attributes") == {
        "timestamp": int(NOON.timestamp()),
        "datetime": "2026-09-01T12:00:00+00:00",
        "uuid": "u1",
        "event_properties": {"$value": 5, "Items": ["a"]},
    }
    profile = read_object(target, "profiles", "attributes")
    location = profile["location"]
    assert isinstance(location, dict)
    assert (profile["email"], location["city"], location["latitude"]) == (
        *("a@example.com", "Boston"),
        42.5,
    )
    assert (profile["updated"], profile["properties"]) == (
        "2026-09-01T12:00:00.250000+00:00",
        {"plan": "gold"},
    )
    campaign = read_object(target, "campaigns", "attributes")
    assert campaign["audiences"] == {"included": ["L1"], "excluded": None}
    assert campaign["channel"] == "email"
    assert "api_revision" not in campaign


def test_relationships_have_ids_and_what_is_included(target: duckdb.DuckDBPyConnection) -> None:
    """To one, to many and whole objects; the detailed events name the metric."""
    related = read_object(target, "events", "relationships")
    assert related == {
        "metric": {"data": {"type": "metric", "id": "m1"}},
        "profile": {"data": {"type": "profile", "id": "p1"}},
        "attributions": {"data": [{"type": "attribution", "id": "a1"}]},
    }
    detailed = read_object(target, "events_detailed", "relationships")
    assert detailed["metric"] == {"data": {"type": "metric", "id": "m1", "name": "Placed Order"}}
    tags = read_object(target, "campaigns", "relationships")["tags"]
    assert tags == {"data": [{"type": "tag", "id": "t1"}, {"type": "tag", "id": "t2"}]}


def test_a_row_says_what_it_is_and_when_it_was_read(target: duckdb.DuckDBPyConnection) -> None:
    """Type, cursor and time of extraction, whatever the session's zone."""
    found = target.execute(
        "SELECT id, type, epoch_ms(datetime), epoch_ms(_airbyte_extracted_at) FROM airbyte.events"
    ).fetchall()
    times = tuple(int(each.timestamp() * 1000) for each in (NOON, LATER))
    assert found == [("e1", "event", *times)]
