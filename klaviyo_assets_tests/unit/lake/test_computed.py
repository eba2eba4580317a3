"""Columns that only the relations of events have: their values, and NULL for what is not known."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.lake.read.duckdb import TableFiles
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

LATE = datetime(2026, 11, 2, 3, 30, tzinfo=UTC)


def write_table(folder: Path, name: str, rows: list[dict[str, object]]) -> TableFiles:
    """Return the table of a stream with these values; all others are NULL."""
    table = pa.Table.from_pylist(rows, schema=arrow_schema(STREAMS[name]))
    pq.write_table(table, folder / f"{name}.parquet")
    return TableFiles(schema=table.schema, paths=(str(folder / f"{name}.parquet"),))


def event_tables(folder: Path, *properties: object) -> dict[str, TableFiles]:
    """Return the tables that events_detailed needs, with one event for each of the properties."""
    events: list[dict[str, object]] = [
        {"id": f"{at:03}", "datetime": LATE, "metric_id": "m", "event_properties": json.dumps(each)}
        for at, each in enumerate(properties)
    ]
    metrics: list[dict[str, object]] = [{"id": "m", "name": "Opened Email"}]
    return {
        "events": write_table(folder, "events", events),
        "metrics": write_table(folder, "metrics", metrics),
    }


def query(name: str, columns: str, tables: dict[str, TableFiles]) -> list[tuple[object, ...]]:
    """Return some columns of a relation, by id."""
    select_sql = build_select(build_relation(STREAMS[name], STREAMS), tables)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return connection.sql(f"SELECT {columns} FROM ({select_sql}) ORDER BY id").fetchall()


@pytest.mark.parametrize("name", ["events", "events_detailed"])
@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"$value": 12.5, "$value_currency": "EUR"}, (12.5, "EUR")),
        ({"$value": "12.50", "$value_currency": None}, (12.5, None)),
        ({"$value": 3}, (3.0, None)),
        ({"$value": "a lot"}, (None, None)),
        ({"$value": [1]}, (None, None)),
        ({"value": 1}, (None, None)),
        ([], (None, None)),
        (None, (None, None)),
    ],
    ids=str,
)
def test_a_value_is_a_number_and_has_its_currency(
    tmp_path: Path, name: str, properties: object, expected: tuple[object, ...]
) -> None:
    """A number may come as text; what is no number is NULL."""
    tables = event_tables(tmp_path, properties)
    assert query(name, "value, value_currency", tables) == [expected]


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"machine_open": True}, True),
        ({"machine_open": False}, False),
        ({"Apple Privacy Open": True, "machine_open": False}, True),
        ({"Apple Privacy Open": "False"}, False),
        ({"Apple Privacy Open": None, "machine_open": "unknown"}, None),
        ({"Bot Click": True}, None),
        ({}, None),
    ],
    ids=str,
)
def test_an_open_is_a_machines_where_either_flag_says_so(
    tmp_path: Path, properties: object, expected: object
) -> None:
    """It is false where one flag says so and none the contrary, and NULL where none says either."""
    assert query("events", "is_machine_open", event_tables(tmp_path, properties)) == [(expected,)]


@pytest.mark.parametrize(
    ("zone", "expected"),
    [
        ("US/Eastern", date(2026, 11, 1)),
        ("Europe/Berlin", date(2026, 11, 2)),
        ("Moon/Crater", None),
        (None, None),
    ],
)
def test_a_day_is_the_accounts(tmp_path: Path, zone: str | None, expected: date | None) -> None:
    """An event's `date` is the day on the account's clock; an unknown zone gives none."""
    tables = event_tables(tmp_path, {})
    tables["accounts"] = write_table(tmp_path, "accounts", [{"id": "a", "timezone": zone}])
    assert query("events_detailed", "date, typeof(date)", tables) == [(expected, "DATE")]


def test_without_the_account_there_is_no_day(tmp_path: Path) -> None:
    """A key that may not read accounts has the relation all the same, and its day is NULL."""
    assert optional_tables(build_relation(STREAMS["events_detailed"], STREAMS)) == ("accounts",)
    tables = event_tables(tmp_path, {})
    assert query("events_detailed", "date, typeof(date)", tables) == [(None, "DATE")]


@pytest.mark.parametrize("name", ["events", "events_detailed"])
def test_a_relation_is_as_it_is_described(tmp_path: Path, name: str) -> None:
    """Names and their order are those of the declaration, and other processes read them back."""
    relation = build_relation(STREAMS[name], STREAMS)
    tables = event_tables(tmp_path, {})
    described = [each.name for each in relation_columns(STREAMS[name], STREAMS)]
    assert relation_column_names(relation, tables) == described
    with duckdb.connect() as connection:
        assert connection.sql(str(build_select(relation, tables))).columns == described
    assert relation_from_json(relation_to_json(relation)) == relation


def test_a_conversion_metric_has_its_name_also_where_it_is_a_custom_one(tmp_path: Path) -> None:
    """`metrics` goes first; the custom ones have names of their own, NULL while not stored."""
    reports: list[dict[str, object]] = [
        {"conversion_metric_id": each, "flow_id": each} for each in ("custom", "lost", "plain")
    ]
    tables = {
        "flow_series_reports": write_table(tmp_path, "flow_series_reports", reports),
        "metrics": write_table(tmp_path, "metrics", [{"id": "plain", "name": "Placed Order"}]),
    }
    relation = build_relation(STREAMS["flow_series_reports"], STREAMS)
    assert optional_tables(relation) == ("metrics", "custom_metrics")

    def names() -> dict[str, str | None]:
        with duckdb.connect() as connection:
            select_sql = build_select(relation, tables)
            wanted = f"SELECT conversion_metric_id, conversion_metric_name FROM ({select_sql})"
            return dict(connection.sql(wanted).fetchall())

    assert names() == {"plain": "Placed Order", "custom": None, "lost": None}
    custom: list[dict[str, object]] = [
        {"id": "custom", "name": "First Order"},
        {"id": "plain", "name": "Another"},
    ]
    tables["custom_metrics"] = write_table(tmp_path, "custom_metrics", custom)
    assert names() == {"plain": "Placed Order", "custom": "First Order", "lost": None}
    del tables["metrics"]
    assert names()["custom"] == "First Order"
