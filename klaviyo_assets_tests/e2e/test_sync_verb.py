"""`klaviyo-assets sync`: the assets' own syncs, from the command line."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from time import monotonic, sleep
from unittest.mock import patch

import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.processes import wait_until_idle
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home that these tests sync from the command line, one after another."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("synced")
        yield Home(account=account, root=root, dagster_template=dagster_template)


def sync(home: Home, *words: str, **more: str) -> int:
    """Run `sync` with the home's settings, key and DAGSTER_HOME; return the exit code."""
    with patch.dict(os.environ, {**home.variables, **more}):
        os.environ["DAGSTER_HOME"] = str(home.dagster_home)
        return main(["sync", *words])


def test_a_sync_is_that_of_the_assets(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`sync` prints a line a stream, without Dagster's log, and shares cursors with the assets."""
    assert sync(home, "events", "metrics") == 0
    output = capsys.readouterr()
    assert sorted(home.ids("events")) == sorted(home.account.true_ids("events"))
    # The account's clock is not this machine's, which each stream warns of; and a busy machine may
    # take so long that a stream is told of before it ends.
    lines = [line.split()[:2] for line in output.err.splitlines()]
    ends = [words for words in lines if words[0] != "warning:" and words[1] != "so"]
    assert ends == [["events", "ok"], ["metrics", "ok"]]
    warned = [line for line in output.err.splitlines() if line.startswith("warning:")]
    assert len(warned) == len(set(warned))
    assert output.out.startswith("2 streams stored: ")
    home.account.clear_journal()
    assert home.sync("events").success
    assert home.account.shown_record_counts("/api/events").total() < 50
    home.account.clear_journal()
    capsys.readouterr()
    assert sync(home, "events", "--json") == 0
    assert home.account.shown_record_counts("/api/events").total() < 50
    found = json.loads(capsys.readouterr().out)
    assert found["success"] is True
    assert [each["stream"] for each in found["streams"]] == ["events"]
    assert found["streams"][0]["rows"] == home.row_count("events")


@pytest.mark.parametrize(("streams", "says"), [("tags", False), ("tags,flow_series_reports", True)])
def test_a_sync_of_everything_says_how_reports_are_fetched(
    home: Home, capsys: pytest.CaptureFixture[str], streams: str, *, says: bool
) -> None:
    """Without names, the last line says what fetches the reports that are on, if any is."""
    capsys.readouterr()
    assert sync(home, KLAVIYO_STREAMS=streams) == 0
    output = capsys.readouterr().out
    assert ("sensor klaviyo_reports_drain" in output.splitlines()[-1]) == says


@pytest.mark.parametrize("blank", ["", " "])
def test_a_blank_dagster_home_is_none(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], blank: str
) -> None:
    """The stream is stored, and `status` says that no history is known."""
    for name, value in home.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", blank)
    assert main(["sync", "lists"]) == 0
    monkeypatch.setenv("DAGSTER_HOME", blank)
    assert main(["status"]) == 0
    assert "not known without DAGSTER_HOME" in capsys.readouterr().out


def test_a_dagster_home_that_is_no_folder_is_a_setting_error(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The variable and its value are named; nothing is requested, and no folder made."""
    missing = home.root / "missing"
    for name, value in home.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("DAGSTER_HOME", str(missing))
    home.account.clear_journal()
    assert main(["sync", "lists"]) == 2
    assert f"DAGSTER_HOME='{missing}' is no folder" in capsys.readouterr().err
    assert home.account.request_counts().total() == 0
    assert not missing.exists()


def test_one_failure_stops_no_other_stream(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The exit code is 1, the sentence names what failed; a missing scope is only a skip."""
    scope = "Your API key is missing required scopes: segments:read"
    with (
        home.account.inject_fault("error", match={"path": "/api/flows"}, status=400, detail="No."),
        home.account.inject_fault(
            "error", match={"path": "/api/segments"}, status=403, detail=scope
        ),
    ):
        assert sync(home, "flows", "lists", "segments") == 1
    output = capsys.readouterr()
    assert sorted(home.ids("lists")) == sorted(home.account.true_ids("lists"))
    assert "1 stream stored, 1 skipped, 1 failed" in output.out
    assert "segments: skipped: the key lacks the scope segments:read" in output.out
    assert "flows: GET /api/flows" in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["event"], {}, "there is no stream 'event': did you mean events"),
        (["flow_series_reports"], {}, "flow_series_reports is a report"),
        (["lists"], {"KLAVIYO_API_KEY": ""}, "KLAVIYO_API_KEY is empty"),
        (["campaign_messages"], {"KLAVIYO_REVISION": "2026-07-15"}, "only at revisions since"),
    ],
)
def test_what_cannot_be_synced_ends_with_two(
    home: Home,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    changes: dict[str, str],
    message: str,
) -> None:
    """An unknown stream or invalid setting ends with 2 before any request."""
    home.account.clear_journal()
    assert sync(home, *words, **changes) == 2
    assert message in capsys.readouterr().err
    assert home.account.request_counts().total() == 0


def test_ctrl_c_keeps_what_was_committed(home: Home) -> None:
    """A sync that waits for the rate limit ends at once with 130, and says that nothing is lost."""
    assert home.sync("lists").success
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "klaviyo_assets", "sync", "lists_detailed"],
        cwd=ROOT,
        env={
            **os.environ,
            **home.variables,
            "KLAVIYO_RATE_LIMIT_SCALE": "0.1",
            "DAGSTER_HOME": str(home.dagster_home),
        },
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    home.account.clear_journal()
    while not home.account.request_counts().total():
        assert process.poll() is None
        sleep(0.05)
    wait_until_idle(process.pid)
    process.send_signal(signal.SIGINT)
    sent = monotonic()
    _, output = process.communicate(timeout=300)
    assert process.returncode == 130
    # The rate limit would have let the last list through after three minutes.
    assert monotonic() - sent < 120
    assert output.splitlines()[-2:] == [
        "what was committed stays; the next sync goes on from there",
        "stopped by Ctrl-C",
    ]
    assert "Traceback" not in output
    with open_instance(home.dagster_home) as instance:
        (run,) = instance.get_runs(limit=1)
        assert run.is_finished
