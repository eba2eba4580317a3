"""The file as other programs open it: every relation in DuckDB 1.4, 1.5 and ours, with comments."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from deltalake import DeltaTable

from klaviyo_assets.model.stream import Collection, describe_stream
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, DEFAULT_STREAMS, STREAMS, VIEWS
from klaviyo_assets_tests.duckdb_releases import (
    LIBRARY_RELEASES,
    query_with_release,
    run_cli,
)
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    report_metrics,
    run_partitions,
)
from klaviyo_assets_tests.e2e.sandbox_account import NOON, open_sandbox_account
from klaviyo_assets_tests.package_releases import install_package

RELEASES = (*LIBRARY_RELEASES, duckdb.__version__)

POLARS = "polars==1.31.0"
"""The newest one that comes as a single package."""

READ_BY_POLARS = """
import sys
import polars
print(*sorted(polars.read_delta(sys.argv[1]).get_column("id")))
"""

ALL_NAMES = "SELECT table_name FROM information_schema.tables ORDER BY table_name"
"""What `SHOW TABLES` shows where the file is the database in use."""


@pytest.fixture(scope="module")
def home_with_all_relations(
    dagster_template: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Home]:
    """Give a home with every kind of relation: histories, details, joins, merges, reports."""
    with open_sandbox_account(timezone="UTC") as account:
        home = Home(
            account=account, root=tmp_path_factory.mktemp("home"), dagster_template=dagster_template
        )
        home.settings |= {"KLAVIYO_TIMEZONE": "UTC"}
        assert home.sync().success
        read = [each.name for each in DEFAULT_COLLECTIONS if isinstance(each.source, Collection)]
        assert home.sync(*read, config={"sync_mode": "full_refresh_append"}).success
        metric = report_metrics(home)[0]
        add_metrics(home, [metric])
        day: date = NOON.date().replace(day=1)
        for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
            assert run_partitions(home, stream, (metric, day)).run.success
        yield home


def relations(home: Home) -> list[str]:
    """Return the names of all relations, by our own DuckDB."""
    return [name for (name,) in home.query(ALL_NAMES)]


def test_every_kind_of_relation_is_there(home_with_all_relations: Home) -> None:
    """The file has what the tests below read: a relation a stream, histories, and merges."""
    names = set(relations(home_with_all_relations))
    assert names >= {*DEFAULT_STREAMS, "profile_merges", "events_history", "lists_history"}
    assert names >= {"campaign_rates", "flow_rates", *(each.name for each in VIEWS)}


def read_relations(home: Home, release: str) -> list[list[list[object]]]:
    """Return the number of rows of each relation, and the first rows, as a release reads them."""
    names = relations(home)
    counts = [f'SELECT count(*) FROM "{name}"' for name in names]
    rows = [f'SELECT * FROM "{name}" ORDER BY ALL LIMIT 5' for name in names]
    return query_with_release(release, home.data_dir / "klaviyo.duckdb", *counts, *rows)


def test_every_relation_is_read_by_other_releases(home_with_all_relations: Home) -> None:
    """Each relation has the same rows, column by column, whatever DuckDB opens the file."""
    ours = read_relations(home_with_all_relations, duckdb.__version__)
    for release in LIBRARY_RELEASES:
        assert read_relations(home_with_all_relations, release) == ours, release


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("alias", ["klaviyo", "k"])
def test_the_first_things_an_analyst_types_work(
    home_with_all_relations: Home, release: str, alias: str
) -> None:
    """`SHOW TABLES` lists everything; a bare name and one with the alias are the relation."""
    names, bare, qualified = query_with_release(
        release,
        home_with_all_relations.data_dir / "klaviyo.duckdb",
        "SHOW TABLES",
        "FROM events ORDER BY id LIMIT 3",
        f"FROM {alias}.events ORDER BY id LIMIT 3",
        name=alias,
    )
    assert [name for (name,) in names] == relations(home_with_all_relations)
    assert bare == qualified
    assert len(bare) == 3


def test_the_command_line_client_shows_them(home_with_all_relations: Home) -> None:
    """The client that pip gives opens the file by its path and answers the same three."""
    path = home_with_all_relations.data_dir / "klaviyo.duckdb"
    assert run_cli(path, "SHOW TABLES").split() == ["name", *relations(home_with_all_relations)]
    for name in ("events", "klaviyo.events"):
        printed = run_cli(path, f"FROM {name} ORDER BY id LIMIT 3").splitlines()
        assert printed[0].startswith("id,timestamp,datetime,")
        assert len(printed) == 4


@pytest.mark.parametrize("release", RELEASES)
def test_every_relation_and_column_says_what_it_holds(
    home_with_all_relations: Home, release: str
) -> None:
    """No view and no column is without a comment, and a stream's are the words of its asset."""
    views, columns = query_with_release(
        release,
        home_with_all_relations.data_dir / "klaviyo.duckdb",
        "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal ORDER BY view_name",
        "SELECT table_name, column_name, comment FROM duckdb_columns() WHERE NOT internal",
    )
    assert [name for name, _ in views] == relations(home_with_all_relations)
    assert [name for name, comment in views if not comment] == []
    assert [(table, column) for table, column, comment in columns if not comment] == []
    comments = {str(name): comment for name, comment in views}
    assert {name: comments[name] for name in DEFAULT_STREAMS} == {
        name: stream.description for name, stream in DEFAULT_STREAMS.items()
    }
    words = {(table, column): comment for table, column, comment in columns}
    for stream in DEFAULT_STREAMS.values():
        for column, description in describe_stream(stream, STREAMS).columns.items():
            assert words[stream.name, column] == description


def test_pandas_reads_the_lake(home_with_all_relations: Home) -> None:
    """A table is a Delta table to pandas, and its files are Parquet, with the same rows."""
    folder = home_with_all_relations.data_dir / "lake" / "profiles"
    frame = DeltaTable(str(folder)).to_pandas()
    assert sorted(frame["id"]) == sorted(home_with_all_relations.ids("profiles"))
    (file,) = DeltaTable(str(folder)).file_uris()
    assert sorted(pd.read_parquet(file)["id"]) == sorted(frame["id"])


def test_polars_reads_the_lake(home_with_all_relations: Home) -> None:
    """Polars reads a table by day, as Delta, whole."""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            READ_BY_POLARS,
            str(home_with_all_relations.data_dir / "lake" / "events"),
        ],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(install_package(POLARS))},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted(home_with_all_relations.ids("events"))
