"""Checks of every stream: each green where all is well, and not where something is wrong."""

from datetime import timedelta

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable, Schema, write_deltalake

from klaviyo_assets.defs.checks import materialization_check_names, row_check_names
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY, PrivateApiKey
from klaviyo_assets.seams import use_clock
from klaviyo_assets.streams import DEFAULT_REPORTS, DEFAULT_STREAMS, STREAMS
from klaviyo_assets_tests.e2e.check_runs import run_checks
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import NOON


def deep(home: Home, *streams: str) -> RunResult:
    """Run the checks of the rows of some streams."""
    keys = {
        dg.AssetCheckKey(asset_key(stream), name)
        for stream in streams
        for name in row_check_names(STREAMS[stream])
    }
    return run_checks(home, keys)


def test_every_stream_has_its_checks_and_all_are_green(home: Home) -> None:
    """After a first sync each check of each stream has been made, and none has found anything."""
    streams = list(DEFAULT_STREAMS.values())
    run, rows = home.sync(), deep(home, *(each.name for each in streams))
    assert rows.success, rows.failures
    found = {**run.check_results, **rows.check_results}
    assert found.keys() == {
        (stream.name, name)
        for stream in streams
        for name in (*materialization_check_names(stream), *row_check_names(stream))
    }
    never_read = {stream.name for stream in DEFAULT_REPORTS}
    colours = {key: each.colour for key, each in found.items()}
    assert {each for key, each in colours.items() if key[0] not in never_read} == {"green"}, colours
    assert {each for key, each in colours.items() if key[0] in never_read} == {"yellow"}


def test_a_new_field_is_named(home: Home) -> None:
    """A field that no column holds turns the check yellow with its name, and lies in `extra`."""
    match = {"path": "/api/lists"}
    with home.account.inject_fault("new_field", match=match, field="colour_of_list", value="blue"):
        run = home.sync("lists")
    verdict = run.check_results["lists", "columns_as_declared"]
    assert verdict.colour == "yellow"
    assert "colour_of_list" in verdict.description
    assert "extra" in verdict.description
    assert home.query("SELECT count(*) FROM klaviyo.lists WHERE extra LIKE '%blue%'") == [(1,)]
    assert home.sync("lists").check_results["lists", "columns_as_declared"].colour == "green"


def test_a_column_of_somebody_else_is_named(home: Home) -> None:
    """A column that another program added turns the check yellow with its name."""
    home.sync("events")
    table = DeltaTable(str(home.data_dir / "lake" / "events"))
    table.alter.add_columns(Schema.from_arrow(pa.schema([("mood", pa.string())])).fields)
    verdict = home.sync("events").check_results["events", "columns_as_declared"]
    assert (verdict.colour, "mood" in verdict.description) == ("yellow", True)


def test_a_sharp_fall_of_rows_is_red(home: Home) -> None:
    """A table that lost most of its rows since the materialization before says both numbers.

    Only where no guard came first: here a start date cuts the table off.
    """
    assert home.sync("events").check_results["events", "row_count_holds"].colour == "green"
    before, start = home.row_count("events"), f"{NOON:%Y-%m-%d}"
    run = home.sync("events", config={"sync_mode": "full_refresh_overwrite"}, start_date=start)
    verdict, rows = run.check_results["events", "row_count_holds"], home.row_count("events")
    assert verdict.colour == "red"
    assert (verdict.metadata["klaviyo/rows_before"], verdict.metadata["klaviyo/rows"]) == (
        before,
        rows,
    )


def test_a_fall_that_was_confirmed_is_green(home: Home) -> None:
    """A sharp fall is refused before it is stored; once confirmed, no check complains of it."""
    assert home.sync("metrics").success
    before = home.row_count("metrics")
    for each in sorted(home.account.true_ids("metrics"))[3:]:
        home.account.mutate(metric=each, delete=True)
    assert "confirm_shrink: true" in home.sync("metrics").failures["metrics"]
    assert home.row_count("metrics") == before
    confirmed = home.sync("metrics", config={"confirm_shrink": True})
    assert confirmed.check_results["metrics", "row_count_holds"].colour == "green"
    assert home.row_count("metrics") == 3


def test_a_cursor_past_this_machines_clock_is_red(home: Home) -> None:
    """A cursor far ahead of this machine's clock is red: one of the two clocks is wrong."""
    assert home.sync("events").check_results["events", "cursor_not_in_future"].colour == "green"
    home.account.add_events({"datetime": (NOON - timedelta(minutes=10)).isoformat()})
    with use_clock(lambda: NOON - timedelta(days=10)):
        verdict = home.sync("events").check_results["events", "cursor_not_in_future"]
    assert verdict.colour == "red"
    assert "Set the clock right" in verdict.description


def test_a_key_that_is_there_twice_is_red(home: Home) -> None:
    """What another program wrote a second time is found by reading every key, in views as well."""
    home.sync("events", "metrics", "events_detailed")
    table = DeltaTable(str(home.data_dir / "lake" / "events"))
    write_deltalake(table, table.to_pyarrow_table().slice(0, 3), mode="append")
    run = deep(home, "events", "events_detailed")
    for stream in ("events", "events_detailed"):
        verdict = run.check_results[stream, "key_is_unique"]
        assert (verdict.colour, verdict.metadata["klaviyo/duplicate_keys"]) == ("red", 3)
        assert "full_refresh_overwrite" in verdict.description


def test_a_null_where_none_may_be_is_red(home: Home) -> None:
    """Rows that another program wrote without a key are counted by the log's statistics."""
    home.sync("lists")
    table = DeltaTable(str(home.data_dir / "lake" / "lists"))
    rows = table.to_pyarrow_table().slice(0, 2)
    place = rows.schema.get_field_index("id")
    write_deltalake(
        table, rows.set_column(place, "id", pa.array([None, None], pa.string())), mode="append"
    )
    verdict = deep(home, "lists").check_results["lists", "key_and_cursor_not_null"]
    assert (verdict.colour, verdict.metadata["klaviyo/null_id"]) == ("red", 2)


def test_a_stream_without_its_scope_is_not_judged(open_home: StartHome) -> None:
    """Where nothing was materialized the checks say which scope is wanted; the run stays green."""
    home = open_home(keys=(PrivateApiKey(value=DEFAULT_KEY, scopes=frozenset({"accounts:read"})),))
    run = home.sync("flows")
    assert run.success
    for name in materialization_check_names(STREAMS["flows"]):
        verdict = run.check_results["flows", name]
        assert (verdict.colour, "flows:read" in verdict.description) == ("yellow", True)


def test_every_asset_says_how_fresh_it_should_be(home: Home) -> None:
    """Each stream has a freshness policy, so that the UI shows which one was not synced.

    A report has a check of its newest days: a policy would look at whatever was fetched last.
    """
    graph = home.load_definitions(streams="all").resolve_asset_graph()
    for name, stream in STREAMS.items():
        if stream.since is not None:
            continue
        is_report = isinstance(stream.source, ReportEndpoint)
        assert (graph.get(asset_key(name)).freshness_policy is None) == is_report
        newest = dg.AssetCheckKey(asset_key(name), "newest_days_are_there")
        assert (newest in graph.asset_check_keys) == is_report
