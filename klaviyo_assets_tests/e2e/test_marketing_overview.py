"""The asset of the marketing overview: from the schedule's job, on a lake of a sandbox account."""

import json
import re
import shlex
import webbrowser
from html import unescape
from pathlib import Path

import pytest

from klaviyo_assets.seams import use_clock
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGN_REPORT,
    FLOW_REPORT,
    add_metrics,
    report_metrics,
    run_partitions,
)
from klaviyo_assets_tests.e2e.run_log import Metadata
from klaviyo_assets_tests.e2e.test_cli import verb

SCHEDULE = "klaviyo_marketing_overview"
STREAMS = ("accounts", "metrics", "mapped_metrics", "campaigns", "flows", "events", "profiles")


def write_page(home: Home) -> tuple[str, Metadata]:
    """Run the schedule's job; return the page as text and the asset's metadata. No request goes."""
    home.account.clear_journal()
    with use_clock(lambda: home.account.now):
        run = home.run_schedule(SCHEDULE, home.account.now)
    assert run.success, run.failures
    assert not home.account.request_counts()
    metadata = run.materializations["marketing_overview"]
    path = Path(str(metadata["klaviyo/page"]))
    assert path == home.data_dir / "marketing_overview.html"
    command = shlex.split(str(metadata["klaviyo/open_page_with"]))
    assert command == ["klaviyo-assets", "dashboard", "--open", "--data-dir", str(home.data_dir)]
    return unescape(path.read_text(encoding="utf-8")), metadata


def test_the_page_tells_what_is_stored(home: Home) -> None:
    """Before any sync it says what to switch on; afterwards its numbers are those of SQL."""
    page, metadata = write_page(home)
    assert page.count('class="missing"') == metadata["klaviyo/sections_without_data"] == 10
    home.sync(*STREAMS)
    page, metadata = write_page(home)
    # Reports, members and usage are not there; the rest lives.
    assert metadata["klaviyo/sections_without_data"] == 3
    assert "klaviyo_reports_drain" in page
    metric = home.query("SELECT metric_id FROM mapped_metrics WHERE id = 'revenue'")[0][0]
    zone = metadata["klaviyo/account_timezone"]
    ((orders, revenue, credited),) = home.query(
        "SELECT count(*), sum(value), sum(value) FILTER (coalesce(attributed_campaign_id, "
        f"attributed_flow_id) IS NOT NULL) FROM events WHERE metric_id = '{metric}' AND "
        f"CAST(timezone('{zone}', datetime) AS DATE) < DATE '{home.account.now:%Y-%m-%d}'"
    )
    assert revenue
    assert abs(float(str(metadata["klaviyo/revenue"])) - revenue) < 0.01
    assert metadata["klaviyo/orders"] == orders
    share = float(str(metadata["klaviyo/revenue_from_messages_share"]))
    assert abs(share - credited / revenue) < 1e-4
    ((currency,),) = home.query("SELECT preferred_currency FROM accounts")
    assert f"{currency} {revenue:,.0f} in 90 days" in page
    assert f"{currency} {revenue:,.0f}" in str(metadata["klaviyo/overview"])
    assert_no_person(home, page)


def test_the_verb_writes_and_opens_the_page(
    home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`dashboard` writes the asset's page and says where it is; without a lake it says so."""
    opened: list[str] = []
    assert verb(home, "dashboard", "--open") == 1
    assert "nothing was synced into it yet" in capsys.readouterr().err
    home.sync("accounts", "profiles")
    path = home.data_dir / "marketing_overview.html"

    def open_first_page(url: str) -> bool:
        opened.append(url)
        return len(opened) == 1

    monkeypatch.setattr(webbrowser, "open", open_first_page)
    assert verb(home, "dashboard", "--open") == 0
    output = capsys.readouterr().out
    assert output.splitlines()[0] == str(path)
    assert "Where does the revenue come from? No data" in output
    assert opened == [path.as_uri()]
    assert verb(home, "dashboard", "--open") == 1
    assert (
        f"no browser can be opened on this machine; the page is {path}" in capsys.readouterr().err
    )
    path.unlink()
    assert verb(home, "dashboard", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert Path(found["page"]).is_file()
    assert len(opened) == 2
    assert found["headlines"]["revenue"] is None
    assert found["headlines"]["email_subscribers"] > 0


def test_reports_become_the_funnel(home: Home) -> None:
    """With a report of one of the two, the funnel has its sums."""
    home.sync("accounts", "metrics", "mapped_metrics")
    metric = report_metrics(home)[0]
    add_metrics(home, [metric])
    last = home.account.now.date()
    for report in (CAMPAIGN_REPORT, FLOW_REPORT):
        day = last.replace(day=max(1, last.day - 5))
        assert run_partitions(
            home, report, (metric, day, metric, last.replace(day=last.day - 1))
        ).run.success
    ((revenue_metric,),) = home.query("SELECT metric_id FROM mapped_metrics WHERE id = 'revenue'")
    assert revenue_metric == metric
    sent, opened = (
        sum(
            home.query(
                f"SELECT coalesce(sum({column}), 0) FROM {report} WHERE send_channel = 'email'"
            )[0][0]
            for report in (CAMPAIGN_REPORT, FLOW_REPORT)
        )
        for column in ("recipients", "opens_unique")
    )
    page, _ = write_page(home)
    assert sent
    assert f"Of 1,000 emails sent, {1000 * opened / sent:,.0f} were opened" in page


def assert_no_person(home: Home, page: str) -> None:
    """Assert that no address, number, name or id of a person is on the page."""
    people = home.query("SELECT id, email, phone_number, last_name FROM profiles")
    found = {
        text
        for row in people
        for text in row
        if text and re.search(rf"\b{re.escape(text)}\b", page)
    }
    assert found == set()
