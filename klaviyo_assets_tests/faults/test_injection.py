"""F64 to F66 and F68: ids, names and fields that are more to files, SQL, URLs or pages."""

import json
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    assert_rows_match,
    days_between,
    report_metrics,
    run_partitions,
    set_metrics,
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import evaluate_sensor, metric_partitions
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home
from klaviyo_assets_tests.faults.assertions import assert_complete

ODD_IDS = (
    "../../etc/x",
    "/etc/x",
    "a/b",
    "..",
    ".",
    "CON",
    "%2e%2e",
    "%2e%2e%2fetc%2fx",
    "x" * 300,
    "a b?c#d&e=f",
    "a\\b",
    "O'Hara\"; DROP TABLE lists; --",
    "$(id)",
    "Ünïcödé-☃",
)
"""What an id could be if somebody wanted a file, a query or a path to go elsewhere."""

ODD_NAMES = (
    'x"; DROP TABLE profiles; --',
    "'; DELETE FROM klaviyo.profiles; --",
    "a.b",
    "with space",
    "$dollar",
    "quote'quote",
    '"quoted"',
    "{curly}",
    "First_Name",
    "FIRST_NAME",
    "first_name ",
    "",
)
"""What an attribute could be called."""

MARKUP = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "# heading\n\n| a | b |\n|---|---|",
    "![x](https://elsewhere.example/pixel.png)",
)
"""What a page would make something of, if it took it for markup."""

SAFE = re.compile(r"[A-Za-z0-9_.=~-]{1,255}")
"""Names that any file system takes, and that lead nowhere."""


def paths_below(folder: Path) -> set[str]:
    """Return all paths below a folder, relative to it."""
    return {str(each.relative_to(folder)) for each in folder.rglob("*")}


def check_paths(home: Home, before: Iterable[str]) -> None:
    """Assert that nothing was written outside the home, and that all names in the lake are safe."""
    outside = paths_below(home.root.parent) - set(before)
    own = tuple(f"{home.root.name}/{each}" for each in ("data", "state", "dagster-"))
    assert not [each for each in outside if not each.startswith(own)]
    named = {part for each in paths_below(home.data_dir) for part in each.split("/")}
    assert not [each for each in named if not SAFE.fullmatch(each)]
    assert ".." not in named
    assert not Path("/etc/x").exists()


def test_f64_odd_ids_of_records_ask_and_write_nowhere_else(home: Home) -> None:
    """Lists with odd ids are stored, and each one's count is requested at its own path."""
    before = paths_below(home.root.parent)
    for each in ODD_IDS:
        home.account.mutate(create="list", set={"id": each, "name": each})
    run = home.sync("lists", "lists_detailed")
    assert run.success, run.failures
    assert_complete(home, "lists")
    counts = dict(home.query("SELECT id, profile_count FROM klaviyo.lists_detailed"))
    assert counts.keys() == home.account.true_ids("lists") >= {*ODD_IDS}
    assert None not in counts.values()
    requested = [
        path for path in home.account.request_counts().elements() if path.startswith("/api/lists/")
    ]
    assert len(requested) == len(counts)
    # What stands between here and Klaviyo may take a segment of dots for a folder.
    assert not [path for path in requested if not path.rsplit("/", 1)[1].strip(".")]
    statuses = {each.status for each in home.account.sandbox.journal.requests()}
    assert statuses == {200}
    check_paths(home, before)


def test_f64_odd_partition_keys_are_partitions_like_any_other(open_home: StartHome) -> None:
    """Reports of metrics with odd ids are fetched into folders of their own, inside the lake."""
    home = report_home(open_home, NOW)
    before = paths_below(home.root.parent)
    for each in ODD_IDS:
        home.account.mutate(create="custom-metric", set={"id": each, "name": each})
    set_metrics(home, ODD_IDS)
    days = [date(2026, 10, 1)]
    done = run_partitions(home, FLOW_REPORT, (ODD_IDS[0], days[0], ODD_IDS[-1], days[-1]))
    assert done.run.success, done.run.failures
    assert {metric for metric, _ in done.partitions} == {*ODD_IDS}
    for each in ODD_IDS:
        assert_rows_match(home, FLOW_REPORT, each, days)
    rows = sum(len(stored_rows(home, FLOW_REPORT, each, days)) for each in ODD_IDS)
    assert rows > 0
    assert home.query(f"SELECT count(*) FROM klaviyo.{FLOW_REPORT}") == [(rows,)]
    folders = {each.name for each in (home.data_dir / "lake" / FLOW_REPORT).glob("metric=*")}
    assert len(folders) == len(ODD_IDS)
    check_paths(home, before)


def test_f64_odd_ids_in_answers_are_only_values(open_home: StartHome) -> None:
    """Messages and campaigns of reports with odd ids are rows, and name no file or filter."""
    home = report_home(open_home, NOW)
    before = paths_below(home.root.parent)
    metric = report_metrics(home)[0]
    sends = home.account.sandbox.service.report_endpoints.sends
    for place, message in enumerate(sends.campaign_messages):
        odd = f"{ODD_IDS[place % len(ODD_IDS)]}{place}"
        message.groupings.update(campaign_message_id=odd, campaign_id=f"c{odd}")
    days = days_between(date(2026, 9, 20), date(2026, 10, 20))
    done = run_partitions(home, CAMPAIGN_REPORT, (metric, days[0], metric, days[-1]))
    assert done.run.success, done.run.failures
    assert assert_rows_match(home, CAMPAIGN_REPORT, metric, days)
    named = {message for _, message, _ in stored_rows(home, CAMPAIGN_REPORT, metric, days)}
    assert len([each for each in named if not each.isalnum()]) > 5
    check_paths(home, before)


def test_f64_an_id_that_dagster_takes_for_no_key_stops_nothing(home: Home) -> None:
    """A metric id that cannot be a partition key is stored and reported; the others become keys."""
    odd = {"a|b", "a...b", "two\nlines", "tab\there"}
    for each in odd:
        home.account.mutate(create="metric", set={"id": each, "name": "Odd"})
    run = home.sync("metrics", "lists")
    assert run.success, run.failures
    assert_complete(home, "metrics", "lists")
    assert "cannot be the key of a partition" in run.warnings
    for _ in ("run", "sensor"):
        assert set(metric_partitions(home)) == home.account.true_ids("metrics") - odd
        home.reset_dagster_home()
        evaluate_sensor(home, "klaviyo_conversion_metrics")


def test_f65_names_with_sql_in_them_are_text(home: Home) -> None:
    """Names of lists and people that are SQL come out as they went in; every table is whole."""
    names = dict(zip(sorted(home.account.attributes("list")), ODD_NAMES, strict=False))
    for each, name in names.items():
        home.account.mutate(list=each, set={"name": name})
    people = dict(zip(sorted(home.account.true_ids("profiles")), ODD_NAMES, strict=False))
    for person, name in people.items():
        home.account.mutate(profile=person, set={"last_name": name})
    streams = ("events", "global_exclusions", "lists", "profiles", "segments")
    assert home.sync(*streams, "lists_detailed").success
    assert_complete(home, *streams)
    assert dict(home.query("SELECT id, name FROM klaviyo.lists")) == names | {
        each: home.account.attributes("list")[each]["name"]
        for each in home.account.true_ids("lists") - names.keys()
    }
    stored = dict(home.query("SELECT id, last_name FROM klaviyo.profiles"))
    assert {each: stored[each] for each in people} == people


def test_f65_fields_with_odd_names_make_no_column_and_clash_alike(home: Home) -> None:
    """Unknown attributes, however called, are in `extra`, each run alike; columns are as before."""
    odd: Mapping[str, object] = {
        **{name: f"odd {place}" for place, name in enumerate(ODD_NAMES)},
        "id": "not the id",
        "ID": "neither",
        "extra": "no extra",
        "synced_at": "never",
        "Name": "no name",
    }
    changed = sorted(home.account.attributes("flow"))[:3]
    for each in changed:
        home.account.mutate(flow=each, set={**odd})
    assert home.sync("flows").success
    assert_complete(home, "flows")
    columns = home.query("DESCRIBE klaviyo.flows")
    first = home.query("SELECT id, name, extra FROM klaviyo.flows ORDER BY id")
    stored_extras = {each: json.loads(extra) for each, _, extra in first if each in changed}
    for each in changed:
        # A name in quotes is quoted once more: quotes stand around the parts of a path.
        assert stored_extras[each].pop(json.dumps('"quoted"')) == odd['"quoted"']
        assert stored_extras[each].items() >= {(k, v) for k, v in odd.items() if k != '"quoted"'}
    assert {name for _, name, _ in first} == {
        each["name"] for each in home.account.attributes("flow").values()
    }
    assert home.sync("flows", config={"sync_mode": "full_refresh_overwrite"}).success
    assert_complete(home, "flows")
    assert home.query("SELECT id, name, extra FROM klaviyo.flows ORDER BY id") == first
    assert home.query("DESCRIBE klaviyo.flows") == columns


def metadata_events(home: Home, *streams: str) -> Iterable[tuple[Mapping[str, Any], str]]:
    """Yield metadata and description of every materialization and observation of the streams."""
    with open_instance(home.dagster_home) as instance:
        for stream in streams:
            for record in (
                *instance.fetch_materializations(asset_key(stream), limit=50).records,
                *instance.fetch_observations(asset_key(stream), limit=50).records,
            ):
                seen: Any = record.asset_materialization or record.event_log_entry.asset_observation
                yield seen.metadata, seen.description or ""


PLAIN = (
    dg.TextMetadataValue,
    dg.IntMetadataValue,
    dg.FloatMetadataValue,
    dg.BoolMetadataValue,
    dg.JsonMetadataValue,
    dg.TableMetadataValue,
    dg.TableSchemaMetadataValue,
    dg.TimestampMetadataValue,
)
"""Kinds of metadata that a page shows letter by letter."""


def test_f66_markup_in_names_is_shown_as_text(home: Home) -> None:
    """No metadata is of a kind that renders markup, and no description repeats what was sent."""
    for kind in ("list", "flow", "template", "segment"):
        for each, name in zip(sorted(home.account.attributes(kind)), MARKUP, strict=False):
            home.account.mutate(**{kind: each}, set={"name": name})
    for each in sorted(home.account.attributes("flow"))[:2]:
        home.account.mutate(flow=each, set=dict.fromkeys(MARKUP, "x"))
    streams = ("lists", "flows", "email_templates", "segments", "lists_detailed")
    run = home.sync(*streams)
    assert run.success
    assert_complete(home, *streams[:-1])
    seen = list(metadata_events(home, *streams))
    assert len(seen) >= len(streams)
    shown = ""
    for metadata, description in seen:
        assert not [name for name, value in metadata.items() if not isinstance(value, PLAIN)]
        assert not any(each in description for each in MARKUP)
        schema = metadata["dagster/column_schema"].value
        assert not any(
            each in str(column.description) for each in MARKUP for column in schema.columns
        )
        shown += str(metadata.get("klaviyo/notices"))
    # The names are there, in JSON, which a page shows as it is.
    assert "<script>" in shown
    named = {name for (name,) in home.query("SELECT name FROM klaviyo.lists")}
    assert {*MARKUP} <= named


def test_f66_markup_in_a_metric_id_is_shown_as_text(open_home: StartHome) -> None:
    """An unknown metric whose id is markup is quoted, and so is markup in Klaviyo's refusal."""
    home = report_home(open_home, NOW)
    odd, day = MARKUP[0], date(2026, 10, 1)
    set_metrics(home, [odd])
    done = run_partitions(home, FLOW_REPORT, (odd, day))
    assert f"metric {odd!a}: the account has no metric" in done.run.failures[FLOW_REPORT]
    assert odd in Lake(home.data_dir, clock=lambda: home.account.now).read_metric_refusals(
        FLOW_REPORT
    )
    good = report_metrics(home)[0]
    set_metrics(home, [good])
    pointer = "/data/attributes/conversion_metric_id"
    match = {"path": "/api/flow-series-reports"}
    with home.account.inject_fault("error", match=match, status=400, detail=odd, pointer=pointer):
        assert run_partitions(home, FLOW_REPORT, (good, day)).run.success
    ((metadata, description),) = metadata_events(home, FLOW_REPORT)
    assert isinstance(metadata["klaviyo/refused_reason"], dg.TextMetadataValue)
    assert metadata["klaviyo/refused_reason"].value == odd
    assert odd not in description


def test_f66_markup_in_a_failure_of_a_report_is_shown_as_text(open_home: StartHome) -> None:
    """Klaviyo's words on a report that failed are plain metadata beside a sentence of ours."""
    home = report_home(open_home, NOW)
    match = {"path": "/api/flow-series-reports"}
    with home.account.inject_fault("error", match=match, status=400, detail=MARKUP[0]):
        assert not run_partitions(
            home, FLOW_REPORT, (report_metrics(home)[0], date(2026, 10, 1))
        ).run.success
    with open_instance(home.dagster_home) as instance:
        (record,) = instance.fetch_observations(home.asset_key(FLOW_REPORT), limit=5).records
    seen = record.event_log_entry.asset_observation
    assert seen is not None
    reason = seen.metadata["klaviyo/failed_reason"]
    assert isinstance(reason, dg.TextMetadataValue)
    assert MARKUP[0] in (reason.value or "")
    assert MARKUP[0] not in (seen.description or "")


def test_f68_properties_that_differ_in_case_are_both_kept(home: Home) -> None:
    """Of one person, of two, and of an event: every property is in the JSON column as sent."""
    odd: Mapping[str, object] = {"Name": "upper", "name": "lower", "a b": 1, "A B": 2, "a_b": 3}
    one, two, three = sorted(home.account.true_ids("profiles"))[:3]
    halves = [dict([pair]) for pair in odd.items()]
    wanted = {one: {**odd}, two: halves[0], three: halves[1]}
    for person, properties in wanted.items():
        home.account.mutate(profile=person, set={"properties": properties})
    (event,) = home.account.add_events(
        {"datetime": home.account.now.isoformat(), "properties": {**odd}}
    )
    assert home.sync("profiles", "events", "metrics", "events_detailed").success
    assert_complete(home, "profiles", "events")
    stored = dict(home.query("SELECT id, properties FROM klaviyo.profiles"))
    for person, properties in wanted.items():
        assert json.loads(stored[person]).items() >= properties.items()
    sent = "SELECT event_properties FROM klaviyo.events_detailed WHERE id = "
    assert json.loads(home.query(f"{sent}'{event}'")[0][0]).items() >= odd.items()
    for name, value in odd.items():
        (found,) = home.query(
            f"SELECT properties ->> '$.\"{name}\"' FROM klaviyo.profiles WHERE id = '{one}'"
        )
        assert found == (str(value),)
