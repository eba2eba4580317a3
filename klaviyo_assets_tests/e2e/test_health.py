"""The health of streams: what each run's end writes, shows and posts."""

import json
import shlex
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import dagster as dg
import pytest

from klaviyo_assets.model.health import LakeHealth, RunOutcome, judge_health, take_outcome
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance

NOW = datetime(2026, 10, 1, 12, tzinfo=UTC)

HEALTH_KEY = dg.AssetKey(["klaviyo", "health"])

WRITE_INPUT = """
import os, pathlib, sys
line = sys.stdin.read() + " " + str("KLAVIYO_API_KEY" in os.environ)
pathlib.Path(sys.argv[1]).open("a").write(line + chr(10))
"""


@contextmanager
def open_webhook(status: int = 200) -> Generator[tuple[str, list[dict[str, Any]]]]:
    """Serve a webhook on loopback; give its address, and what was posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a post."""
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the signature is Python's
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/T0/B0/secret", posted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def read_file(home: Home) -> Any:  # noqa: ANN401 - JSON of any shape
    """Return the health as a program without this project reads it."""
    return json.loads((home.data_dir / "lake" / "_health.json").read_text())


def test_every_run_writes_it_and_posts_changes_of_color(home: Home, tmp_path: Path) -> None:
    """A failure turns a stream red and is posted once; the next success is posted as well."""
    heard = tmp_path / "heard"
    command = shlex.join([sys.executable, "-c", WRITE_INPUT, str(heard)])
    with open_webhook() as (url, posted), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLAVIYO_ALERT_WEBHOOK", url)
        patch.setenv("KLAVIYO_ALERT_COMMAND", command)
        assert home.sync("lists", "metrics").success
        assert posted == []
        assert read_file(home)["color"] == "green"
        for _ in range(2):
            with home.account.inject_fault("error", match={"path": "/api/lists"}, status=400):
                assert not home.sync("lists").success
        red = read_file(home)
        assert (red["color"], red["streams"]["lists"]["color"]) == ("red", "red")
        assert red["streams"]["metrics"]["color"] == "green"
        assert len(posted) == 1
        assert "lists is red (was green): its last run failed." in posted[0]["text"]
        assert home.sync("lists").success
    assert read_file(home)["color"] == "green"
    assert "lists is green (was red)" in posted[1]["text"]
    lines = heard.read_text().splitlines()
    assert [line.rpartition(" ")[2] for line in lines] == ["False", "False"]
    (change,) = json.loads(lines[0].rpartition(" ")[0])["changes"]
    assert (change["stream"], change["before"], change["after"]) == ("lists", "green", "red")
    texts = f"{posted} {heard.read_text()} {red}"
    assert home.account.key not in texts
    assert "secret" not in texts
    with open_instance(home.dagster_home) as instance:
        found = instance.fetch_materializations(HEALTH_KEY, limit=10).records
    colors = [
        each.asset_materialization.metadata["klaviyo/color"].value
        for each in found
        if each.asset_materialization is not None
    ]
    # Newest first. Two events of the first run: each of its streams was new.
    assert colors == ["green", "red", "red", "green", "green"]


def test_a_skipped_stream_is_yellow_and_a_broken_hook_fails_no_run(home: Home) -> None:
    """The sentence names the scope; a webhook that answers with 500, and no such command."""
    assert home.sync("metrics").success
    scope = "Your API key is missing required scopes: lists:read"
    with open_webhook(500) as (url, posted), pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLAVIYO_ALERT_WEBHOOK", url)
        patch.setenv("KLAVIYO_ALERT_COMMAND", "no-such-program --at-all")
        with home.account.inject_fault(
            "error", match={"path": "/api/lists"}, status=403, detail=scope
        ):
            done = home.sync("lists")
    assert done.success
    assert len(posted) == 1
    lists = read_file(home)["streams"]["lists"]
    assert lists["color"] == "yellow"
    assert "the key lacks the scope lists:read" in lists["sentence"]
    warned = done.warnings
    assert "KLAVIYO_ALERT_WEBHOOK: the alert was not delivered" in warned
    assert "KLAVIYO_ALERT_COMMAND: the alert was not delivered" in warned
    assert url not in warned


def test_streams_grow_old_while_others_run() -> None:
    """The end of any run judges the others again; windows are those of the freshness policies."""
    outcome = RunOutcome(outcome="ok", ended_at=NOW, stored_at=NOW, run_id="1")
    known, changes = take_outcome(LakeHealth(), "events", outcome, streams=STREAMS, now=NOW)
    assert [each.is_news for each in changes] == [False]
    for hours, color in ((2, "green"), (4, "yellow"), (27, "red")):
        later = NOW + timedelta(hours=hours)
        other = replace(outcome, ended_at=later, stored_at=later)
        after, _ = take_outcome(known, "lists", other, streams=STREAMS, now=later)
        assert after.streams["events"].color == color
        assert after.streams["lists"].color == "green"
    failed = replace(outcome, outcome="failed", stored_at=None, detail="Klaviyo said no.")
    after, (change,) = take_outcome(known, "events", failed, streams=STREAMS, now=NOW)
    assert change.describe() == ("events is red (was green): its last run failed. Klaviyo said no.")
    # When it was last complete is not forgotten.
    assert after.streams["events"].last_run.stored_at == NOW
    never = replace(outcome, stored_at=None)
    assert judge_health(STREAMS["lists"], never, now=NOW)[0] == "yellow"
    report = replace(outcome, judged="red", detail="Days are missing.")
    judged = judge_health(STREAMS["flow_series_reports"], report, now=NOW + timedelta(days=9))
    assert judged == ("red", "Days are missing.")
