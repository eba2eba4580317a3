"""A plan before spending: the number it announces is the number that is then made."""

import json
import re
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, date, datetime, timedelta
from io import StringIO
from subprocess import CompletedProcess

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    report_metrics,
    request_count,
    run_partitions,
)
from klaviyo_assets_tests.e2e.report_ticks import book_requests
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home


def command(home: Home, *words: str) -> CompletedProcess[str]:
    """Run the console command without a key; return its exit code and what it printed.

    In this process: that codes and words come out of one of its own is told in `test_cli.py`.
    """
    with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as complaints:
        code = verb(home, *words)
    return CompletedProcess(words, code, printed.getvalue(), complaints.getvalue())


def planned(home: Home, start: date, end: date, *metrics: str) -> dict[str, dict[str, str]]:
    """Return the plan's lines by report and name."""
    words = ["--metrics", *metrics] if metrics else []
    done = command(home, "plan", "--start", str(start), "--end", str(end), *words)
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, str]] = {}
    for line in done.stdout.splitlines():
        if not line.startswith(" "):
            found[line] = {}
        elif pair := re.fullmatch(r"  (.*?)  +(.*)", line):
            found[list(found)[-1]][pair[1]] = pair[2]
    return found


def number(line: str) -> int:
    """Return the number that a line begins with."""
    return int(line.split(maxsplit=1)[0].replace(",", ""))


def test_the_number_announced_is_the_number_made(open_home: StartHome) -> None:
    """For flows at once; for campaigns once a first metric has shown when messages were sent.

    The plan goes by this machine's clock, so the account does here.
    """
    now = datetime.now(UTC).replace(hour=12, microsecond=0)
    home = report_home(open_home, now)
    metrics = report_metrics(home)[:2]
    first, last = now.date() - timedelta(days=69), now.date() - timedelta(days=8)
    plan = planned(home, first, last, *metrics)
    assert plan[FLOW_REPORT]["partitions wanted"].startswith("124  (2 metrics x 62 days")
    assert number(plan[FLOW_REPORT]["requests"]) == 4
    run_partitions(home, FLOW_REPORT, (metrics[0], first, metrics[-1], last))
    assert request_count(home, FLOW_REPORT) == 4
    after = planned(home, first, last, *metrics)
    assert number(after[FLOW_REPORT]["already there"]) == 124
    assert number(after[FLOW_REPORT]["requests"]) == 0
    first = last - timedelta(days=14)
    most = number(planned(home, first, last, *metrics)[CAMPAIGN_REPORT]["requests"])
    run_partitions(home, CAMPAIGN_REPORT, (metrics[0], first, metrics[0], last))
    rest = planned(home, first, last, *metrics)[CAMPAIGN_REPORT]
    assert "at least" not in rest["requests"]
    home.account.clear_journal()
    run_partitions(home, CAMPAIGN_REPORT, (metrics[1], first, metrics[-1], last))
    assert request_count(home, CAMPAIGN_REPORT) == number(rest["requests"]) < most


def test_the_plan_knows_the_quota(open_home: StartHome) -> None:
    """What others booked today, the reserve and the pace are in it; nothing is sent."""
    home = report_home(open_home, NOW)
    home.settings |= {
        "KLAVIYO_RATE_LIMIT_SCALE": "1",
        "KLAVIYO_REPORT_RESERVE": "25",
        "KLAVIYO_CONVERSION_METRIC_IDS": ",".join(f"m{n}" for n in range(70)),
    }
    book_requests(home, {FLOW_REPORT: 150})
    plan = planned(home, date(2026, 7, 1), date(2026, 11, 9))[FLOW_REPORT]
    assert number(plan["requests"]) == 210
    assert number(plan["minutes at 2 a minute"]) == 105
    assert plan["days at 200 a day"].split() == ["2", "(50", "requests", "left", "now)"]
    assert home.account.request_counts().total() == 0


def test_metrics_are_those_of_the_settings(open_home: StartHome) -> None:
    """Without --metrics the plan is for the metrics that the sensor would fetch."""
    home = report_home(open_home, NOW)
    plan = planned(home, date(2026, 11, 1), date(2026, 11, 9))[FLOW_REPORT]
    assert plan["partitions wanted"].startswith(f"{home.row_count('metrics') * 9}  ")
    home.settings["KLAVIYO_CONVERSION_METRIC_IDS"] = "AbC123,auto"
    plan = planned(home, date(2026, 11, 1), date(2026, 11, 9))[FLOW_REPORT]
    assert plan["partitions wanted"].startswith("18  ")


def test_refused_metrics_are_told_and_not_counted(open_home: StartHome) -> None:
    """What Klaviyo has refused costs nothing more, and is listed with the day."""
    home = report_home(open_home, NOW)
    add_metrics(home, ["Nope99"])
    everything = {each for (each,) in home.query("SELECT id FROM klaviyo.metrics")}
    refused = min(everything - set(report_metrics(home)))
    add_metrics(home, [refused])
    run_partitions(home, FLOW_REPORT, (refused, date(2026, 11, 1)))
    done = command(
        home, "plan", "--start", "2026-11-01", "--end", "2026-11-09", "--metrics", refused
    )
    assert f"refused by Klaviyo: {refused} (2026-11-10)" in done.stdout
    status = command(home, "status")
    assert status.returncode == 0, status.stderr
    assert f"refused by Klaviyo: {refused} (2026-11-10)" in status.stdout
    assert "requests left" in status.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--start", "2026-11-01", "--end", "yesterday"], "no date"),
        (["--start", "2024-01-01", "--end", "2024-12-31"], "reports begin at 2026-01-01"),
        (["--start", "2026-11-09", "--end", "2026-11-01"], "no day from"),
        (["--start", "2026-11-01", "--end", "2026-11-09"], "materialize klaviyo/metrics first"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(
    open_home: StartHome, words: list[str], message: str
) -> None:
    """A bad option or range, or a lake without metrics, ends with 2 and a sentence."""
    home = open_home()
    home.settings["KLAVIYO_REPORT_START_DATE"] = "2026-01-01"
    done = command(home, "plan", *words)
    assert done.returncode == 2
    assert message in done.stderr
    assert json.dumps("Traceback") not in done.stderr
