"""Reports that fail: what fails for good costs three requests a day, what passes heals by itself.

Every request is counted where it arrives: in the sandbox's journal.
"""

from collections.abc import Mapping
from datetime import date

import pytest

from klaviyo_assets.sandbox import Key
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.report_runs import (
    CAMPAIGNS,
    FLOWS,
    PATHS,
    compare,
    days_between,
    fetch,
    metrics_of,
    requests,
    set_metrics,
    stored_rows,
)
from klaviyo_assets_tests.e2e.report_ticks import carry_out, schedule_tick, tick
from klaviyo_assets_tests.e2e.test_report_answers import answer
from klaviyo_assets_tests.e2e.test_report_plan import command
from klaviyo_assets_tests.e2e.test_reports import NOW, report_home

pytestmark = pytest.mark.usefixtures("impatient")

DRAIN = "klaviyo_reports_drain"
DAYS = days_between(date(2026, 11, 5), date(2026, 11, 9))
BOTH = pytest.mark.parametrize("stream", [FLOWS, CAMPAIGNS])

FOR_GOOD: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "400": ("error", {"status": 400, "detail": "Cannot be computed."}),
    "504": ("error", {"status": 504}),
    "cut": ("truncated_json", {}),
    "no answer": ("reset", {}),
    "no report": ("text_body", {"text": answer()}),
}
"""What may come back every time, in the sandbox's words."""

ROW = {"campaign_id": "C1", "campaign_message_id": "M1", "send_channel": "email"}
CONTRADICTION = answer(
    results=[{"groupings": ROW, "statistics": {"recipients": each}} for each in (1, 2)]
)
"""An answer that can be read, and not stored: two rows of one key and name."""


def small_home(start: StartHome) -> Home:
    """Return a home with five days of reports, of two metrics."""
    home = report_home(start, NOW)
    home.settings |= {
        "KLAVIYO_REPORT_START_DATE": str(DAYS[0]),
        "KLAVIYO_CONVERSION_METRIC_IDS": ",".join(metrics_of(home)[:2]),
    }
    set_metrics(home, metrics_of(home)[:2])
    return home


def posts(home: Home, stream: str, metric: str) -> int:
    """Return how many requests about a metric have arrived."""
    bodies = home.shop.bodies(PATHS[stream])
    return sum(body["data"]["attributes"]["conversion_metric_id"] == metric for body in bodies)


@pytest.mark.parametrize(
    ("stream", "kind"),
    [*((FLOWS, kind) for kind in FOR_GOOD), (CAMPAIGNS, "504"), (CAMPAIGNS, "two rows")],
)
def test_what_fails_for_good_costs_three_requests_a_day(
    start: StartHome, stream: str, kind: str
) -> None:
    """Launches by hand with Dagster's retries, a day of ticks, the daily schedule: three in all."""
    home = small_home(start)
    broken, good = metrics_of(home)[:2]
    two_rows = ("text_body", {"text": CONTRADICTION})
    fault, options = FOR_GOOD.get(kind, two_rows)
    match = {"path": PATHS[stream], "body": broken}
    with home.shop.faulty(fault, match=match, **options):
        for launch in ("tick", "tick", "hand", "tick", "daily", "tick", "hand", "tick"):
            launched = {
                "tick": tick(home, DRAIN).runs if launch == "tick" else (),
                "daily": schedule_tick(home, home.shop.now) if launch == "daily" else (),
                "hand": (),
            }
            for request in launched[launch]:
                if request.asset_selection == [home.key(stream)]:
                    carry_out(home, request)
            if launch == "hand":
                assert not fetch(home, stream, (broken, DAYS[0], broken, DAYS[-1])).run.success
            home.shop.move(hours=2, minutes=55)
        assert posts(home, stream, broken) == 3
        assert not stored_rows(home, stream, broken, DAYS)
        assert stored_rows(home, stream, good, DAYS)
        home.shop.move(hours=1)
        for _ in range(3):
            fetch(home, stream, (broken, DAYS[0], broken, DAYS[-1]))
        assert posts(home, stream, broken) in {4, 5, 6}
    home.shop.move(days=1)
    assert fetch(home, stream, (broken, DAYS[0], broken, DAYS[-1])).run.success
    assert compare(home, stream, broken, DAYS)


def test_what_failed_is_remembered_and_told(start: StartHome) -> None:
    """The failure, the asset's page, status, the sensor and a fresh DAGSTER_HOME know it."""
    home = small_home(start)
    broken, good = metrics_of(home)[:2]
    wanted = (broken, DAYS[0], good, DAYS[-1])
    match = {"path": PATHS[FLOWS], "body": broken}
    with home.shop.faulty("error", match=match, status=400, detail="Cannot be computed."):
        for times in (1, 2, 3):
            done = fetch(home, FLOWS, wanted)
            said = done.run.failed[FLOWS]
            assert f"metric {broken!a}" in said
            assert "Cannot be computed" in said
            assert f"{times} request" in said
            assert "5 partitions of other metrics stored" in said
    assert "ask_refused: true" in said
    (shown,) = done.run.observed[FLOWS]
    assert shown["klaviyo/failed_metric"] == broken
    assert shown["klaviyo/failed_requests"] == 3
    assert "Cannot be computed" in str(shown["klaviyo/failed_reason"])
    assert shown["klaviyo/asked_again_at"] == "2026-11-11T11:50:00+00:00"
    home.move_in()
    set_metrics(home, [broken, good])
    again = fetch(home, FLOWS, wanted)
    assert posts(home, FLOWS, broken) == 3
    assert "Cannot be computed" in again.run.failed[FLOWS]
    assert again.run.attempts[FLOWS] == 1
    assert compare(home, FLOWS, good, DAYS)
    assert f"set aside: {broken}: 3 requests failed" in command(home, "status").stdout
    for request in tick(home, DRAIN).runs:
        assert carry_out(home, request).run.success
    assert f"metric {broken!a} is left alone until 2026-11-11 11:50" in tick(home, DRAIN).reason
    done = fetch(home, FLOWS, wanted, config={"ask_refused": True})
    assert done.run.success, done.run.failed
    assert compare(home, FLOWS, broken, DAYS)
    assert "set aside" not in command(home, "status").stdout


@BOTH
def test_what_passes_heals_in_the_same_run(start: StartHome, stream: str) -> None:
    """One failure is tried again at once, two by Dagster's retry; it is forgotten when answered."""
    home = small_home(start)
    metric = metrics_of(home)[0]
    wanted = (metric, DAYS[0], metric, DAYS[-1])
    for failures in (1, 2, 2, 2):
        home.shop.forget()
        match = {"path": PATHS[stream], "body": metric, "to": failures}
        with home.shop.faulty("error", match=match, status=503):
            done = fetch(home, stream, wanted)
        assert done.run.success, done.run.failed
        assert posts(home, stream, metric) >= failures + 1
        assert compare(home, stream, metric, DAYS)
        home.shop.move(minutes=5)


def test_what_passes_heals_by_the_sensor(start: StartHome) -> None:
    """A run of the sensor's tries twice; the third request is a run an hour later, not at once."""
    home = small_home(start)
    broken, good = metrics_of(home)[:2]
    match = {"path": PATHS[FLOWS], "body": broken, "to": 2}
    with home.shop.faulty("error", match=match, status=503):
        for _ in range(4):
            for request in tick(home, DRAIN).runs:
                carry_out(home, request)
            home.shop.move(minutes=10)
        assert posts(home, FLOWS, broken) == 2
        assert stored_rows(home, FLOWS, good, DAYS)
        home.shop.move(minutes=30)
        for request in tick(home, DRAIN).runs:
            assert carry_out(home, request).run.success
    assert posts(home, FLOWS, broken) == 3
    assert compare(home, FLOWS, broken, DAYS)


def test_an_order_to_ask_again_has_three_requests_of_its_own(start: StartHome) -> None:
    """`ask_refused` counts anew, the retry of its run does not; without it nothing is asked."""
    home = small_home(start)
    metric = metrics_of(home)[0]
    wanted = (metric, DAYS[0], metric, DAYS[-1])
    match = {"path": PATHS[FLOWS], "body": metric}
    with home.shop.faulty("error", match=match, status=500):
        for expected, config in ((3, None), (3, None), (6, {"ask_refused": True}), (6, None)):
            assert not fetch(home, FLOWS, wanted, config=config).run.success
            assert posts(home, FLOWS, metric) == expected


def test_a_report_that_the_key_may_not_read_is_not_asked_for_all_day(start: StartHome) -> None:
    """Each request would be of the day; the sensor says why it waits, the other report comes."""
    key = Key(
        value="pk_" + "a" * 40,
        scopes=frozenset({"accounts:read", "metrics:read", "campaigns:read"}),
    )
    home = report_home(start, NOW, keys=(key,))
    home.settings["KLAVIYO_REPORT_START_DATE"] = str(DAYS[0])
    for _ in range(3):
        found = tick(home, DRAIN)
        for request in found.runs:
            assert carry_out(home, request).run.success
    assert requests(home, FLOWS) == 1
    assert stored_rows(home, CAMPAIGNS, metrics_of(home)[0], DAYS)
    assert "the key may not read it" in tick(home, DRAIN).reason


def test_paging_without_end_is_ended(start: StartHome) -> None:
    """Links that are new each time while the rows stay: some pages, not the day's requests."""
    home = small_home(start)
    broken, good = metrics_of(home)[:2]
    match = {"path": PATHS[FLOWS], "body": broken}
    with home.shop.faulty("endless", match=match):
        for _ in range(4):
            done = fetch(home, FLOWS, (broken, DAYS[0], good, DAYS[-1]))
            assert not done.run.success
            assert "bring no row that was not there before" in done.run.failed[FLOWS]
    assert posts(home, FLOWS, broken) == 5
    assert compare(home, FLOWS, good, DAYS)
    assert not stored_rows(home, FLOWS, broken, DAYS)
