"""Loading in downstream code: the annotation of an input says what comes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa
import pytest

from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

INS = {"table": dg.AssetIn(key=asset_key("events_detailed"))}


@dg.asset(ins=INS)
def as_frame(table: pd.DataFrame) -> dg.MaterializeResult[Any]:
    """Take a DataFrame, and tell of it."""
    kinds = table.dtypes.astype(str)
    return report_result(table, len(table), table["id"].nunique(), kinds["datetime"])


@dg.asset(ins=INS)
def as_table(table: pa.Table) -> dg.MaterializeResult[Any]:
    """Take an Arrow table, and tell of it."""
    ids = len(set(table["id"].to_pylist()))
    return report_result(table, table.num_rows, ids, f"{table.schema.field('datetime').type}")


@dg.asset(ins=INS)
def as_relation(table: duckdb.DuckDBPyRelation) -> dg.MaterializeResult[Any]:
    """Take a DuckDB relation, go on querying it, and tell of it."""
    (rows, ids, kind) = table.aggregate(
        "count(*), count(DISTINCT id), any_value(typeof(datetime))"
    ).fetchall()[0]
    return report_result(table, rows, ids, kind)


@dg.asset(ins=INS)
def as_it_comes(table: Any) -> dg.MaterializeResult[Any]:  # noqa: ANN401 - this is the case
    """Take what comes without saying what, and tell of it."""
    return report_result(table, len(table), table["id"].nunique(), str(table["datetime"].dtype))


def report_result(table: object, rows: int, ids: int, kind: str) -> dg.MaterializeResult[Any]:
    """Return what came as metadata."""
    metadata = {"type": type(table).__name__, "rows": rows, "ids": ids, "datetime": kind}
    return dg.MaterializeResult(metadata=metadata)


def load(home: Home, downstream: dg.AssetsDefinition) -> RunResult:
    """Materialize one downstream asset beside the stored streams."""
    defs = home.load_definitions()
    wanted = [asset for asset in defs.assets or () if isinstance(asset, dg.AssetsDefinition)]
    resources = {**(defs.resources or {}), "io_manager": (defs.resources or {})["lake_io_manager"]}
    return home.execute(
        lambda instance: dg.materialize(
            [*wanted, downstream],
            selection=[downstream],
            instance=instance,
            resources=resources,
            raise_on_error=False,
        )
    )


CASES: dict[str, tuple[dg.AssetsDefinition, str, str]] = {
    "pandas": (as_frame, "DataFrame", "datetime64[us, UTC]"),
    "pyarrow": (as_table, "Table", "timestamp[us, tz=UTC]"),
    "duckdb": (as_relation, "DuckDBPyRelation", "TIMESTAMP WITH TIME ZONE"),
    "nothing": (as_it_comes, "DataFrame", "datetime64[us, UTC]"),
}


@pytest.fixture(scope="module")
def stored_home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with events and metrics, which nobody changes."""
    with open_sandbox_account() as account:
        home = Home(
            account=account, root=tmp_path_factory.mktemp("home"), dagster_template=dagster_template
        )
        home.sync("events", "metrics", "events_detailed")
        yield home


@pytest.mark.parametrize("case", CASES)
def test_an_input_comes_as_it_is_annotated(stored_home: Home, case: str) -> None:
    """A DataFrame, an Arrow table or a DuckDB relation, whole, with times in UTC."""
    asset, kind, datetime_type = CASES[case]
    run = load(stored_home, asset)
    rows = len(stored_home.account.true_ids("events"))
    assert run.success, run.failures
    shown = run.materializations[asset.key.path[-1]]
    assert shown["type"] == kind
    assert shown["rows"] == shown["ids"] == rows
    assert shown["datetime"] == datetime_type


def test_loading_what_was_never_read_says_what_to_do(home: Home) -> None:
    """An input whose table was never read fails with the asset to materialize."""
    run = load(home, as_frame)
    assert "materialize klaviyo/events_detailed first" in run.failures["as_frame"]
