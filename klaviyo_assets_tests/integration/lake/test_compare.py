"""`klaviyo-assets compare`: ids by month beside another tool's tables, whatever it calls them."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.integration.lake.lake_fixtures import open_lake
from klaviyo_assets_tests.integration.lake.stream_rows import write_stream

MARCH, APRIL = datetime(2026, 3, 31, 23, 30, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a working folder whose lake has three events and one profile."""
    monkeypatch.chdir(tmp_path)
    lake = open_lake(tmp_path / "data")
    events = [("e1", MARCH), ("e2", MARCH), ("e3", APRIL)]
    rows = [{"id": name, "datetime": at} for name, at in events]
    write_stream(lake, "events", rows, synced_at=APRIL)
    person = {"id": "p1", "created": MARCH, "updated": APRIL}
    write_stream(lake, "profiles", [person], synced_at=APRIL)
    return tmp_path


def make_other(statements: str) -> None:
    """Make the other tool's database, other.duckdb."""
    with duckdb.connect("other.duckdb") as opened:
        opened.execute(statements)


def compare_as_json(
    capsys: pytest.CaptureFixture[str], *words: str, code: int
) -> dict[str, object]:
    """Return the months of each stream by `compare --json`: here, there, only here, only there."""
    capsys.readouterr()
    assert main(["compare", *words, "--json"]) == code
    printed = json.loads(capsys.readouterr().out)
    assert printed["is_complete"] is (code == 0)
    names = ("month", "here", "there", "only_here", "only_there")
    return {
        each["stream"]: [tuple(month[name] for name in names) for month in each["months"]]
        for each in printed["streams"]
    }


AIRBYTE = """
CREATE SCHEMA raw;
CREATE TABLE raw.events AS SELECT * FROM (VALUES ('e1', '2026-03-31T23:30:00+00:00'),
    ('e1', '2026-03-31T23:30:00+00:00'), ('e3', '2026-04-01T00:00:00+00:00')) AS t(id, datetime);
CREATE TABLE raw.profiles AS
    SELECT 'p1' AS id, CAST('{"created": "2026-03-31T23:30:00+00:00"}' AS JSON) AS attributes;
"""

FIVETRAN = """
CREATE SCHEMA klaviyo;
CREATE TABLE klaviyo.EVENT AS SELECT 'old' AS id, TIMESTAMP '2025-01-31 23:59:59' AS timestamp
    UNION ALL SELECT 'e3', TIMESTAMP '2026-04-01 00:00:00';
CREATE TABLE klaviyo.person AS SELECT 'p1' AS id, TIMESTAMP '2026-03-31' AS created;
"""

PARQUET = f"""
COPY (SELECT 'e1' AS id, {int(MARCH.timestamp())} AS timestamp) TO 'theirs/events/day=1/a.parquet';
COPY (SELECT 'p1' AS id, {{'created': '2026-03-31T23:30:00Z'}} AS attributes)
    TO 'theirs/profiles.parquet';
"""


def test_airbyte(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Texts and JSON date their rows; a row that is there twice is one id; ours may have more."""
    del folder
    make_other(AIRBYTE)
    assert compare_as_json(capsys, "other.duckdb", "--schema", "raw", code=0) == {
        "events": [("2026-03", 2, 1, 1, 0), ("2026-04", 1, 1, 0, 0)],
        "profiles": [("2026-03", 1, 1, 0, 0)],
    }


def test_fivetran(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its names are singular, its times naive; what only it has is incomplete here, and code 1."""
    del folder
    make_other(FIVETRAN)
    assert compare_as_json(capsys, "other.duckdb", "--schema", "klaviyo", code=1) == {
        "events": [("2025-01", 0, 1, 0, 1), ("2026-03", 2, 0, 2, 0), ("2026-04", 1, 1, 0, 0)],
        "profiles": [("2026-03", 1, 1, 0, 0)],
    }
    assert main(["compare", "other.duckdb", "--schema", "klaviyo"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:6] == [
        "events and klaviyo.EVENT: 1 on both sides, 2 only here, 1 only there; 1 of 3 months alike",
        "month    here  there  only here  only there",
        "2025-01     0      1          0           1",
        "2026-03     2      0          2           0",
        "all         3      2          2           1",
        "only there, for example: old",
    ]
    assert "profiles and klaviyo.person: the same 1 id in every month" in lines
    assert lines[-1] == "incomplete: the lake lacks ids of events"


def test_a_folder_of_parquet_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table is a file, or a folder with files below; times may be structs or whole seconds."""
    for place in ("theirs/events/day=1", "theirs/empty"):
        (folder / place).mkdir(parents=True)
    make_other(PARQUET)
    assert compare_as_json(capsys, "theirs", code=0) == {
        "events": [("2026-03", 2, 1, 1, 0), ("2026-04", 1, 0, 1, 0)],
        "profiles": [("2026-03", 1, 1, 0, 0)],
    }


def test_a_row_without_a_time_is_of_no_month(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is counted all the same; where we have the id too, our month counts."""
    del folder
    make_other("CREATE TABLE events AS SELECT unnest(['e1', 'x']) AS id")
    assert compare_as_json(capsys, "other.duckdb", code=1) == {
        "events": [("2026-03", 2, 1, 1, 0), ("2026-04", 1, 0, 1, 0), ("unknown", 0, 1, 0, 1)]
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("nothing.duckdb",), 2, "there is no "),
        (("other.duckdb", "--schema", "no such"), 2, "in schema no such there are none"),
        (("other.duckdb",), 2, "in schema main there are unrelated"),
        (("text.duckdb",), 1, "cannot be opened: it is no DuckDB database"),
        (("theirs",), 2, "there are none"),
    ],
)
def test_a_place_without_tables_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], words: Sequence[str], code: int, message: str
) -> None:
    """The message says what is there instead."""
    make_other("CREATE TABLE unrelated AS SELECT 1 AS id")
    (folder / "text.duckdb").write_text("a diary", encoding="utf-8")
    (folder / "theirs").mkdir()
    assert main(["compare", *words]) == code
    assert message in capsys.readouterr().err
