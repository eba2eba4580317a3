"""`klaviyo-assets status` and `metrics`: what is stored, how old it is, how the last run ended."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with some streams stored, one skipped for its scope, and one that failed."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("status")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        assert home.sync("metrics", "events", "accounts").success
        scope = "Your API key is missing required scopes: lists:read"
        with account.inject_fault("error", match={"path": "/api/lists"}, status=403, detail=scope):
            assert home.sync("lists").success
        with account.inject_fault("error", match={"path": "/api/flows"}, status=400):
            assert not home.sync("flows").success
        yield home


def run(home: Home, *words: str, has_dagster_home: bool = True) -> int:
    """Run a verb with the home's settings and its DAGSTER_HOME; return the exit code."""
    with patch.dict(os.environ, home.variables):
        os.environ.pop("DAGSTER_HOME", None)
        if has_dagster_home:
            os.environ["DAGSTER_HOME"] = str(home.dagster_home)
        return main(words)


def read_json(home: Home, capsys: pytest.CaptureFixture[str], *words: str, **more: bool) -> Any:  # noqa: ANN401 - JSON of any shape
    """Run a verb with --json; return what it printed."""
    capsys.readouterr()
    assert run(home, *words, "--json", **more) == 0
    return json.loads(capsys.readouterr().out)


def test_status_has_rows_newest_record_cursor_age_and_last_run(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each stream that is on has a line; the newest record is the account's own."""
    found = read_json(home, capsys, "status")
    streams = {each["stream"]: each for each in found["streams"]}
    events = streams["events"]
    newest = max(filter(None, home.account.true_cursors("events").values()))
    assert events["rows"] == len(home.account.true_ids("events"))
    assert datetime.fromisoformat(events["newest_record"]) == newest
    # The account has an event of next year, which no cursor passes to.
    assert datetime.fromisoformat(events["cursor"]) < newest
    assert (events["freshness"], events["last_run"]) == ("fresh", "ok")
    assert 0 <= events["age_seconds"] < 3600
    assert (streams["flows"]["rows"], streams["flows"]["last_run"]) == (None, "failed")
    lists = streams["lists"]
    assert (lists["last_run"], lists["missing_scope"]) == ("skipped", "lists:read")
    assert (streams["segments"]["rows"], streams["segments"]["last_run"]) == (None, None)
    assert found["automation"]["off"] == []


def test_status_is_a_table_for_people(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The table has the data of the lines; without DAGSTER_HOME it shows the age of the commits."""
    assert run(home, "status") == 0
    lines = capsys.readouterr().out.splitlines()
    (skipped,) = [each for each in lines if each.startswith("lists ")]
    assert skipped.endswith("skipped: the key lacks lists:read")
    assert any(each.split() == ["segments", "never", "stored"] for each in lines)
    assert run(home, "status", has_dagster_home=False) == 0
    output = capsys.readouterr().out
    assert "last runs: not known without DAGSTER_HOME; ages go by the newest commit" in output


def test_metrics_have_names_integrations_and_events(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every metric is listed, with the events stored of it and whether reports take it."""
    found = read_json(home, capsys, "metrics")
    assert {each["id"] for each in found} == home.account.true_ids("metrics")
    counted = home.query("SELECT count(*) FROM events WHERE metric_id IS NOT NULL")[0][0]
    assert sum(each["events"] for each in found) == counted
    (order,) = [each for each in found if each["is_revenue"]]
    assert (order["name"], order["integration"]) == ("Placed Order", "Shopify")
    assert order["reports"] == {
        "campaign_values_reports": "not asked yet",
        "flow_series_reports": "not asked yet",
    }
    assert run(home, "metrics") == 0
    assert "Placed Order (revenue)" in capsys.readouterr().out


def test_a_metric_may_be_named_by_its_name(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A name means all that have it, in any letter case; an unknown one is refused."""
    found = read_json(home, capsys, "metrics")
    named = [each["id"] for each in found if each["name"] == "Placed Order"]
    assert len(named) == 2
    days = ("plan", "--start", "2026-09-01", "--end", "2026-09-20", "--metrics")
    assert run(home, *days, *named, "Opened Email") == 0
    by_id = capsys.readouterr()
    assert "3 metrics x 20 days" in by_id.out
    assert run(home, *days, "placed order", "Opened Email") == 0
    by_name = capsys.readouterr()
    assert by_name.out == by_id.out
    assert "2 metrics are named 'placed order', and all are meant" in by_name.err
    assert run(home, *days, "Placed Ordr") == 2
    refused = capsys.readouterr().err
    assert "the account has no metric 'Placed Ordr', by id or by name. Nearest:" in refused
    assert f"'{named[0]}' (Placed Order)" in refused


def test_a_first_sync_is_priced_by_what_is_known(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stored tables and --rows say how many records there are; the rest stays unknown."""
    found = read_json(home, capsys, "plan", "--first-sync", "--rows", "profiles=15000")
    prices = {each["stream"]: each for each in found["streams"]}
    assert prices["events"]["records"] == home.row_count("events")
    assert prices["profiles"]["requests"] == 150
    assert (prices["email_templates"]["requests"], prices["metrics"]["requests"]) == (None, 1)
    assert found["disk_bytes"] > 15_000 * 300
    added = read_json(home, capsys, "plan", "--streams", "reviews", "--rows", "reviews=1000")
    assert [each["stream"] for each in added["streams"]] == ["reviews"]
    assert run(home, "plan", "--streams", "reviews") == 0
    output = capsys.readouterr().out
    assert "a request for 100 records" in output
    assert "without 1 stream of unknown size" in output
    assert run(home, "plan", "--first-sync", "--rows", "profiles=many") == 2
    assert "a stream and a number are wanted" in capsys.readouterr().err


DAGSTER_IMPORTS = """
import sys
from klaviyo_assets.cli.command import main
code = main(["status", "--json"])
print(*sorted({"dagster", "pandas", "sqlalchemy"} & sys.modules.keys()), file=sys.stderr)
sys.exit(code)
"""


def test_status_without_a_dagster_home_imports_no_dagster(home: Home) -> None:
    """It took 2 s of CPU for nothing: what is known without Dagster's history is in the lake."""
    variables = {name: text for name, text in os.environ.items() if name != "DAGSTER_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", DAGSTER_IMPORTS],
        cwd=ROOT,
        env={**variables, **home.variables},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(done.stdout)["automation"]["source"].endswith("are not known")
    assert done.stderr.strip() == ""
