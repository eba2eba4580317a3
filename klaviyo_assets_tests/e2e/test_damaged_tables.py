"""Tables damaged from outside: which streams fail, which do not, and each advised repair.

Each way out is the one that the failure itself advises.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from klaviyo_assets.lake.disk import StagingFolder
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    FLOW_REPORT,
    assert_rows_match,
    days_between,
    report_metrics,
    run_partitions,
)
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

REFRESH = {"sync_mode": "full_refresh_overwrite"}
APPEND = {"sync_mode": "incremental_append"}


def truncate_newest_commit(log: Path) -> None:
    """Leave half of the newest commit."""
    newest = max(log.glob("*.json"))
    newest.write_text(newest.read_text()[: newest.stat().st_size // 2])


def empty(log: Path) -> None:
    """Leave no byte of the newest commit, as a power cut does where a file system reorders."""
    max(log.glob("*.json")).write_bytes(b"")


def scribble(log: Path) -> None:
    """Write something else over the first commit."""
    min(log.glob("*.json")).write_bytes(b"\x00\xff" * 500)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "cut": truncate_newest_commit,
    "empty": empty,
    "scribbled": scribble,
}


def log_of(home: Home, table: str) -> Path:
    """Return the folder of a table's log."""
    return home.data_dir / "lake" / table / "_delta_log"


def aside(home: Home) -> list[str]:
    """Return the tables that were set aside, without their times."""
    return sorted(
        each.name.rpartition("-")[0] for each in (home.data_dir / "lake/_damaged").iterdir()
    )


def test_a_view_of_a_lost_file_is_no_success(home: Home) -> None:
    """events_detailed fails when the file of metrics is missing, and names both tables."""
    assert home.sync("events", "metrics", "events_detailed").success
    for file in (home.data_dir / "lake" / "metrics").glob("*.parquet"):
        file.unlink()
    run = home.sync("events", "events_detailed")
    assert "made of events and metrics" in run.failures["events_detailed"]
    assert "events" in run.materializations
    assert home.row_count("events") == len(home.account.true_ids("events"))


@pytest.mark.parametrize(
    ("stream", "damage"),
    [("events", "cut"), ("lists", "empty"), ("lists_detailed", "scribbled"), ("events", "empty")],
)
def test_a_damaged_log_is_read_anew_by_the_advised_refresh(
    home: Home, stream: str, damage: str
) -> None:
    """The failure names the log and a sync mode; one run in that mode restores the table.

    What was there is kept aside, and the sync after it is as any other.
    """
    parents = ["lists"] if stream == "lists_detailed" else []
    assert home.sync(*parents, stream).success
    DAMAGES[damage](log_of(home, stream))
    files = {path.name for path in (home.data_dir / "lake" / stream).rglob("*.parquet")}
    failed = home.sync(stream).failures[stream]
    assert "_delta_log" in failed
    assert "full_refresh_overwrite" in failed
    refresh = home.sync(stream, config=REFRESH)
    assert refresh.success, refresh.failures
    assert f"the table {stream} could not be read and was set aside" in refresh.warnings
    assert aside(home) == [stream]
    assert files <= {path.name for path in (home.data_dir / "lake/_damaged").rglob("*.parquet")}
    after = home.sync(stream)
    assert after.success
    assert after.warnings == ""
    truth = home.account.true_ids(stream.removesuffix("_detailed"))
    assert sorted(home.ids(stream)) == sorted(truth)
    assert verb(home, "verify") == 0


def test_an_incremental_sync_sets_nothing_aside(home: Home) -> None:
    """Only who requested a full refresh reads everything again: that may cost hours."""
    assert home.sync("events").success
    truncate_newest_commit(log_of(home, "events"))
    before = home.data_files()
    assert not home.sync("events").success
    assert {path for path in home.data_files() if "events" in path} == {
        path for path in before if "events" in path
    }


def test_a_damaged_history_is_put_away_by_the_advised_command(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A history that cannot be read stops its stream, and begins anew after `set-aside`."""
    assert home.sync("profiles", config=APPEND).success
    truncate_newest_commit(log_of(home, "profiles_history"))
    home.account.advance_clock(days=1)
    failed = home.sync("profiles", config=APPEND).failures["profiles"]
    assert "klaviyo-assets set-aside profiles_history" in failed
    assert verb(home, "set-aside", "profiles_history") == 0
    assert "begins a new history" in capsys.readouterr().out
    assert aside(home) == ["profiles_history"]
    again = home.sync("profiles", config=APPEND)
    assert again.success, again.failures
    assert sorted(home.ids("profiles")) == sorted(home.account.true_ids("profiles"))
    assert "profiles_history" in home.relation_names()


def test_a_refresh_that_appends_sets_a_damaged_history_aside(home: Home) -> None:
    """`full_refresh_append` needs nothing of the history either: it begins a new one."""
    assert home.sync("profiles", config=APPEND).success
    truncate_newest_commit(log_of(home, "profiles_history"))
    run = home.sync("profiles", config={"sync_mode": "full_refresh_append"})
    assert run.success, run.failures
    assert aside(home) == ["profiles_history"]
    assert sorted(home.ids("profiles_history")) == sorted(home.account.true_ids("profiles"))


def test_a_table_that_is_being_written_is_not_put_away(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """`set-aside` leaves a table alone while a run writes it, and ends with 1."""
    assert home.sync("lists").success
    staging = StagingFolder(home.data_dir / "lake" / "lists" / "_staging")
    try:
        assert verb(home, "set-aside", "lists") == 1
    finally:
        staging.close()
    assert "a run is writing this table" in capsys.readouterr().err
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))
    assert verb(home, "set-aside", "lists") == 0
    assert home.relation_names() == set()


@pytest.mark.parametrize("name", ["nothing", "../lake/lists", "_damaged", ""])
def test_what_is_no_table_is_not_put_away(
    home: Home, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """`set-aside` moves tables and nothing else; a name of none ends with 1 and says so."""
    assert home.sync("lists").success
    before = home.data_files()
    assert verb(home, "set-aside", name) == 1
    assert "table" in capsys.readouterr().err
    assert home.data_files() == before


@pytest.mark.parametrize("part", ["log", "file"])
def test_a_damaged_report_is_fetched_anew_after_the_advised_command(
    open_home: StartHome, part: str
) -> None:
    """A report that cannot be read fails naming `set-aside`; after it, a backfill restores it."""
    home = report_home(open_home, NOW)
    metric = report_metrics(home)[0]
    days = days_between(date(2026, 10, 10), date(2026, 10, 20))
    cells = (metric, days[0], metric, days[-1])
    assert run_partitions(home, FLOW_REPORT, cells).run.success
    rows = assert_rows_match(home, FLOW_REPORT, metric, days)
    if part == "log":
        truncate_newest_commit(log_of(home, FLOW_REPORT))
    else:
        (stored,) = (home.data_dir / "lake" / FLOW_REPORT).glob("metric=*/month=*/*.parquet")
        stored.write_bytes(b"")
    assert (
        f"klaviyo-assets set-aside {FLOW_REPORT}"
        in run_partitions(home, FLOW_REPORT, cells).run.failures[FLOW_REPORT]
    )
    assert verb(home, "set-aside", FLOW_REPORT) == 0
    again = run_partitions(home, FLOW_REPORT, cells)
    assert again.run.success, again.run.failures
    assert assert_rows_match(home, FLOW_REPORT, metric, days) == rows
    assert verb(home, "verify") == 0
