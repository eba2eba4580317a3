"""Reports of forms and segments: days without a conversion metric, as the sandbox has them."""

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any, cast

import dagster as dg
import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.sandbox.facts.reporting import FORM_STATISTICS, SEGMENT_STATISTICS
from klaviyo_assets.settings import read_settings
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.report_ticks import RANGE_TAGS, evaluate_sensor
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_reports import NOW

FIRST, LAST = date(2026, 8, 1), date(2026, 9, 29)
SUBJECTS = {
    "form_series_reports": (("form_id", "form_version_id"), FORM_STATISTICS),
    "segment_series_reports": (("segment_id",), SEGMENT_STATISTICS),
}
each_report = pytest.mark.parametrize("stream", sorted(SUBJECTS))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """A home in which both reports are on, and nothing was fetched."""
    with open_sandbox_account(objects=20) as account:
        yield Home(
            account=account,
            root=tmp_path_factory.mktemp("counted"),
            dagster_template=dagster_template,
            settings={"KLAVIYO_STREAMS": ",".join(SUBJECTS)},
        )


def fetch(home: Home, stream: str, first: date, last: date) -> RunResult:
    """Run the days of a report from `first` to `last`."""
    defs = home.load_definitions()
    tags = {
        "dagster/asset_partition_range_start": first.isoformat(),
        "dagster/asset_partition_range_end": last.isoformat(),
    }

    def materialize(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
        return dg.materialize(
            list(defs.assets or ()),  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.assets(home.asset_key(stream)),
            instance=instance,
            resources=defs.resources,
            tags=tags,
            raise_on_error=False,
        )

    return home.execute(materialize)


def true_rows(home: Home, stream: str, days: list[date]) -> dict[tuple[str, ...], dict[str, Any]]:
    """Return what the sandbox counts, by day and key."""
    keys, _ = SUBJECTS[stream]
    service = home.account.sandbox.service
    kind = stream.removesuffix("s").replace("_", "-")
    with service.lock:
        rows = service.report_endpoints.list_true_rows(kind, "", days=days, now=service.clock.now())
    found = cast("list[dict[str, Any]]", rows)
    return {(row["date"], *(row[key] for key in keys)): row for row in found}


@each_report
def test_sixty_days_take_one_request_and_are_the_truth(home: Home, stream: str) -> None:
    """One request brings all days of all forms or segments; each day is stored by itself."""
    assert fetch(home, stream, FIRST, LAST).success
    path = f"/api/{stream.replace('_', '-')}"
    assert home.account.request_counts()[path] == 1
    days = [FIRST + timedelta(days=k) for k in range(60)]
    truth = true_rows(home, stream, days)
    keys, statistics = SUBJECTS[stream]
    columns = ("date", *keys, *statistics)
    rows = home.query(f"SELECT {', '.join(columns)} FROM {stream}")
    stored = {(str(row[0]), *row[1 : len(keys) + 1]): row[len(keys) + 1 :] for row in rows}
    assert len(rows) == len(stored)
    assert stored.keys() >= truth.keys()
    assert len(truth) > 15
    for key, values in stored.items():
        assert list(values) == [truth[key][name] if key in truth else 0 for name in statistics]
    with open_instance(home.dagster_home) as instance:
        done = instance.get_materialized_partitions(home.asset_key(stream))
    assert done == {day.isoformat() for day in days}
    # One day again: the others stay, and the key stays unique.
    assert fetch(home, stream, LAST, LAST).success
    assert home.query(f"SELECT {', '.join(columns)} FROM {stream} ORDER BY ALL") == sorted(rows)


@pytest.fixture
def started_home(open_home: StartHome) -> Home:
    """A home with every report on, in which accounts and metrics were read."""
    home = open_home(now=NOW, timezone="UTC", days=30, objects=5)
    home.settings |= {"KLAVIYO_STREAMS": "all", "KLAVIYO_REPORT_START_DATE": "2026-09-01"}
    assert home.sync("accounts", "metrics").success
    return home


def test_the_sensor_fetches_what_is_missing(started_home: Home) -> None:
    """It launches a run of each, over days alone, until all is there.

    What still moves is fetched again by the daily schedule where the sensor is off.
    """
    days = {"2026-09-01", "2026-11-09"}
    # Without the reports by metric: of more than three reports each has its turn.
    alone = ",".join(("accounts", "metrics", *SUBJECTS))
    launched = {
        key.path[-1]: {request.tags[name] for name in RANGE_TAGS}
        for request in evaluate_sensor(started_home, "klaviyo_reports_drain", streams=alone).runs
        for key in request.asset_selection or ()
    }
    assert {name: launched[name] for name in SUBJECTS} == dict.fromkeys(SUBJECTS, days)
    for stream in SUBJECTS:
        run = fetch(started_home, stream, date(2026, 9, 1), date(2026, 11, 9))
        assert run.success
    again = evaluate_sensor(started_home, "klaviyo_reports_drain", streams=alone)
    assert not {key.path[-1] for each in again.runs for key in each.asset_selection or ()} & set(
        SUBJECTS
    )


def test_segments_begin_in_june_2023() -> None:
    """An earlier first day of reports is that of the forms; segments have no earlier partition."""
    settings, refusals = read_settings(
        {"KLAVIYO_STREAMS": ",".join(SUBJECTS), "KLAVIYO_REPORT_START_DATE": "2022-01-01"}
    )
    assert not refusals
    graph = build_defs(settings).resolve_asset_graph()
    first: dict[str, str | None] = {}
    for name in SUBJECTS:
        days = graph.get(dg.AssetKey(["klaviyo", name])).partitions_def
        assert days is not None
        first[name] = days.get_first_partition_key()
    assert first == {
        "form_series_reports": "2022-01-01",
        "segment_series_reports": "2023-06-01",
    }
