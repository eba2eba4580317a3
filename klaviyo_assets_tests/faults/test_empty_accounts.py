"""F55 and F56: accounts with nothing, or next to nothing, in them."""

from datetime import date

import dagster as dg
import duckdb
import pandas as pd
import pyarrow as pa

from klaviyo_assets.sandbox.account.config import ACCOUNT_SIZES
from klaviyo_assets.streams import DEFAULT_COLLECTIONS
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    run_partitions,
)
from klaviyo_assets_tests.faults.assertions import STREAM_PATHS, assert_complete

STREAMS = tuple(stream.name for stream in DEFAULT_COLLECTIONS)


def relation_columns(home: Home, stream: str) -> list[str]:
    """Return the columns of a relation."""
    return [name for (name,) in home.query(f"SELECT column_name FROM (DESCRIBE klaviyo.{stream})")]


def downstream(home: Home) -> dict[str, int]:
    """Materialize models that are made of the streams; return what they counted."""
    counted: dict[str, int] = {}

    @dg.asset(ins={"events": dg.AssetIn(asset_key("events_detailed"))})
    def per_metric(events: pd.DataFrame) -> None:
        counted["metrics"] = len(events.groupby("metric_name")["id"].nunique())

    @dg.asset(ins={"profiles": dg.AssetIn(asset_key("profiles"))})
    def people(profiles: pa.Table) -> None:
        counted["people"] = len(profiles.column("email").drop_null())

    @dg.asset(ins={"lists": dg.AssetIn(asset_key("lists_detailed"))})
    def audience(lists: duckdb.DuckDBPyRelation) -> None:
        counted["audience"] = int(lists.sum("coalesce(profile_count, 0)").fetchall()[0][0] or 0)

    defs = home.load_definitions()
    models = [per_metric, people, audience]

    def materialize(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [*(defs.assets or ()), *models],  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.assets(*models),
            instance=instance,
            resources=defs.resources,
            raise_on_error=False,
        )

    run = home.execute(materialize)
    assert run.success, run.failures
    return counted


def test_f55_an_empty_account_has_whole_tables(open_home: StartHome) -> None:
    """Every stream is a table without rows and with its columns, and what is made of them runs."""
    full, home = open_home(events=50, campaigns=3), open_home(**ACCOUNT_SIZES["empty"])
    assert full.sync().success
    run = home.sync()
    assert run.success
    assert run.warnings == ""
    assert_complete(home, *STREAM_PATHS)
    assert home.relation_names() == set(STREAMS)
    filled = {stream for stream in STREAM_PATHS if home.account.true_ids(stream)}
    assert filled >= {"accounts", "metrics"}
    assert filled.isdisjoint({"campaigns", "events", "lists", "profiles", "segments"})
    for stream in STREAMS:
        assert relation_columns(home, stream) == relation_columns(full, stream)
        assert (home.row_count(stream) > 0) is (stream in filled)
        assert run.materializations[stream]["dagster/row_count"] == home.row_count(stream)
        assert run.cursor(stream) is None
    assert downstream(home) == {"metrics": 0, "people": 0, "audience": 0}
    home.account.add_events({"datetime": home.account.now.isoformat(), "profile": None})
    home.account.advance_clock(hours=1)
    assert home.sync("events").success
    assert_complete(home, "events")


def test_f55_an_account_without_a_metric_has_no_report(open_home: StartHome) -> None:
    """Without a metric the metrics are an empty table, and there is no partition to fetch."""
    home = open_home(**ACCOUNT_SIZES["empty"])
    for metric in home.account.true_ids("metrics"):
        home.account.mutate(metric=metric, delete=True)
    assert home.sync("metrics", "events", "events_detailed").success
    assert_complete(home, "metrics", "events")
    assert home.row_count("metrics") == home.row_count("events_detailed") == 0
    with open_instance(home.dagster_home) as instance:
        assert instance.get_dynamic_partitions("klaviyo_conversion_metrics") == []
    add_metrics(home, ["XxXxXx"])
    home.settings["KLAVIYO_TIMEZONE"] = "America/New_York"
    for stream in (FLOW_REPORT, CAMPAIGN_REPORT):
        if stream == CAMPAIGN_REPORT:
            assert home.sync("campaigns").success
        done = run_partitions(home, stream, ("XxXxXx", date(2026, 9, 1)))
        assert "the account has no metric of this id" in done.run.failures[stream]
        assert done.materializations == ()


def test_f56_one_list_without_members_or_names(open_home: StartHome) -> None:
    """A list without members and records with null names are stored as they are."""
    home = open_home(
        **{**ACCOUNT_SIZES["empty"], "lists": 1, "segments": 1, "flows": 2, "profiles": 2}
    )
    (only,) = home.account.true_ids("lists")
    home.account.mutate(
        list=only, set={"name": None}, remove=sorted(home.account.list_member_ids(only))
    )
    for kind in ("segment", "flow"):
        for each in home.account.attributes(kind):
            home.account.mutate(**{kind: each}, set={"name": None})
    for person in home.account.true_ids("profiles"):
        home.account.mutate(profile=person, set={"first_name": None, "last_name": None})
    plain = ("lists", "segments", "flows", "profiles", "events", "metrics")
    assert home.sync(*plain, "lists_detailed", "events_detailed").success
    assert_complete(home, *plain)
    assert home.query("SELECT id, name, profile_count FROM klaviyo.lists_detailed") == [
        (only, None, 0)
    ]
    for stream in ("segments", "flows"):
        assert {name for (name,) in home.query(f"SELECT name FROM klaviyo.{stream}")} == {None}
    named = home.query("SELECT count(first_name), count(last_name), count(*) FROM klaviyo.profiles")
    assert named == [(0, 0, len(home.account.true_ids("profiles")))]
    assert downstream(home)["audience"] == 0
