"""The verb `sql`: one query over klaviyo.duckdb, printed as a table, CSV or JSON."""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import closing

import duckdb

from klaviyo_assets.cli.lake_access import open_stored_lake
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.errors import SettingError
from klaviyo_assets.lake.read.query_process import refuse_other_statements
from klaviyo_assets.settings import Settings

_FETCHED_ROWS = 10_000


def query(settings: Settings, *, sql: str, limit: int, as_csv: bool, as_json: bool) -> int:
    """Print the rows of a query; `-` reads it from standard input."""
    text = sys.stdin.read() if sql == "-" else sql
    with closing(open_stored_lake(settings).open_published_views()) as database:
        refuse_other_statements(text)
        try:
            found = database.execute(text)
            names = [each[0] for each in found.description or ()]
            if as_json:
                _print_json_rows(names, _iterate_rows(found))
            elif as_csv:
                writer = csv.writer(sys.stdout, lineterminator="\n")
                writer.writerow(names)
                writer.writerows(_iterate_rows(found))
            else:
                _print_rows(names, found, limit=limit)
        except duckdb.Error as error:
            raise SettingError(f"DuckDB refuses the query: {error}") from None
    return 0


def _iterate_rows(found: duckdb.DuckDBPyConnection) -> Iterator[tuple[object, ...]]:
    while rows := found.fetchmany(_FETCHED_ROWS):
        yield from rows


def _print_json_rows(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    """Print a list of objects, one a line, so that no more than some rows are in memory."""
    separator = "["
    for row in rows:
        members = dict(zip(names, row, strict=True))
        print(separator, json.dumps(members, ensure_ascii=False, default=str), sep="", end="")
        separator = ",\n"
    print("[]" if separator == "[" else "]")


def _print_rows(names: list[str], found: duckdb.DuckDBPyConnection, *, limit: int) -> None:
    rows = found.fetchmany(limit + 1)
    print_table(names, [[_format_cell(each) for each in row] for row in rows[:limit]])
    if len(rows) > limit:
        print(f"the first {limit:,} rows; --limit, --csv or --json for more", file=sys.stderr)


def _format_cell(value: object) -> str:
    return "NULL" if value is None else str(value)
