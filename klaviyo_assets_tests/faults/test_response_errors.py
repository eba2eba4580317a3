"""Refusals: F01 to F15. What Klaviyo refuses is waited for, skipped, or reported."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from math import ceil
from typing import Any, TypeVar

import pytest

from klaviyo_assets.api import retry
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY, PrivateApiKey
from klaviyo_assets.settings import DECLARED_SETTINGS, Setting, ValueFormat
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import fork_parallel_sync
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    assert_sound_part,
    has_table,
    stored_ids,
)
from klaviyo_assets_tests.faults.journal import request_pauses, response_statuses
from klaviyo_assets_tests.timing import takes_less_than

LISTS = "/api/lists"
EVENTS = "/api/events"
A_DAY_ALMOST = "73473"

PAGES = 4
"""Pages of lists in an account with 35 of them."""


Met = TypeVar("Met")


def backs_off_for(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let every back-off of ours be between half of so many seconds and all of them."""
    monkeypatch.setattr(retry, "INITIAL_BACKOFF_SECONDS", seconds)
    monkeypatch.setattr(retry, "MAX_BACKOFF_SECONDS", seconds)


def test_f01_a_single_429_is_waited_out(open_home: StartHome) -> None:
    """The second that Klaviyo demands is waited once; no record is lost, no request wasted."""
    home = open_home(lists=35)
    with home.account.inject_fault("throttle", match={"path": LISTS, "nth": 2}, retry_after="1"):
        run = home.sync("lists")
    assert run.success
    assert response_statuses(home, LISTS) == [200, 429, 200, 200, 200]
    assert request_pauses(home, LISTS)[1] >= 1
    assert run.metadata_number("lists", "rate_limited") == 1
    assert run.metadata_number("lists", "retries") == 1
    assert run.metadata_number("lists", "throttled_seconds") >= 1
    assert_complete(home, "lists")


def test_f02_a_storm_of_429s_is_waited_out(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty refusals cost fifty waits: none is retried at once, none more often than needed."""
    backs_off_for(monkeypatch, 0.1)
    home = open_home(lists=35)
    with home.account.inject_fault(
        "throttle", match={"path": LISTS, "from": 2, "to": 51}, retry_after="0"
    ):
        run = home.sync("lists")
    assert run.success
    assert run.attempts["lists"] == 1
    assert response_statuses(home, LISTS) == [200, *[429] * 50, 200, 200, 200]
    assert min(request_pauses(home, LISTS)[1:51]) >= 0.05
    assert_complete(home, "lists")


def test_f03_a_days_quota_fails_at_once_and_keeps_what_was_read(open_home: StartHome) -> None:
    """A wait of most of a day fails at once, naming its end; the next run reads the rest."""
    home = open_home(events=6_000, future_events=0)
    match = {"path": EVENTS, "from": 4}
    with home.account.inject_fault("throttle", match=match, retry_after=A_DAY_ALMOST):
        run = home.sync("events")
    assert run.attempts["events"] == 1
    assert "429" in run.failures["events"]
    assert f"Klaviyo asks to wait {A_DAY_ALMOST} s" in run.failures["events"]
    assert "run it after 20" in run.failures["events"]
    # Side by side, each of the windows may meet the refusal once.
    assert 1 <= response_statuses(home, EVENTS).count(429) <= 4
    assert_sound_part(home, "events")
    stored = stored_ids(home, "events")
    assert stored
    assert home.sync("events").success
    assert set(stored) <= set(stored_ids(home, "events"))
    assert_complete(home, "events")


def test_f04_a_retry_after_that_says_nothing_is_backed_off(
    open_home: StartHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without whole seconds our own back-off decides; it is never no wait at all.

    Each text is met by a page of its own, twice.
    """
    backs_off_for(monkeypatch, 0.2)
    texts = (None, "", "-3", "http-date", "soon", "1.5")
    home = open_home(lists=65)
    with ExitStack() as stack:
        for text, match in twice_each(texts):
            fault = home.account.inject_fault("throttle", match=match, retry_after=text)
            stack.enter_context(fault)
        run = home.sync("lists")
    assert run.success
    assert response_statuses(home, LISTS) == [200, *[429, 429, 200] * len(texts)]
    pauses = request_pauses(home, LISTS)
    for text, match in twice_each(texts):
        assert min(pauses[match["from"] - 1 : match["to"]]) >= 0.1, text
    waited = run.metadata_number("lists", "throttled_seconds")
    assert 0.2 <= waited / len(texts) <= 0.4
    assert_complete(home, "lists")


def twice_each(faults: Sequence[Met]) -> Iterator[tuple[Met, dict[str, Any]]]:
    """Yield each fault with what matches two requests for a page of lists of its own."""
    for place, each in enumerate(faults):
        yield each, {"path": LISTS, "from": 2 + 3 * place, "to": 3 + 3 * place}


@pytest.mark.takes(20)
def test_f05_all_streams_at_once_keep_the_true_windows(open_home: StartHome) -> None:
    """A process a stream under Klaviyo's own limits: no 429, no wait beyond the tightest."""
    assert takes_less_than(3, lambda: wasted_seconds(open_home))


def wasted_seconds(open_home: StartHome) -> float:
    """Sync streams side by side; return how much longer than its rate limit one of them took."""
    streams = ("events", "flows", "lists", "profiles")
    home = open_home(rate_limit_scale=1.0, flows=600)
    home.settings["KLAVIYO_RATE_LIMIT_SCALE"] = "1"
    child = fork_parallel_sync(home, *streams)
    assert child.has_ended(within=300)
    assert child.exit_code == 0
    request_count = home.account.request_counts()["/api/flows"]
    least = ceil(request_count / 3) - 1
    assert least >= 3
    took = sum(request_pauses(home, "/api/flows"))
    assert least - 1 <= took
    assert home.account.sandbox.journal.summary()["throttled"] == 0
    assert_complete(home, *streams)
    # Three a second, and a quarter of a second more for each three: the margin of the ledger.
    return took - 1.25 * least


@pytest.mark.usefixtures("fast_retries")
def test_f06_two_server_errors_are_retried(open_home: StartHome) -> None:
    """Two failures in a row are retried, and only they are requested again; on each of 5 pages."""
    statuses = (500, 502, 503, 504, 524)
    home = open_home(lists=55)
    with ExitStack() as stack:
        for status, match in twice_each(statuses):
            stack.enter_context(home.account.inject_fault("error", match=match, status=status))
        run = home.sync("lists")
    assert run.success
    met = [code for status in statuses for code in (status, status, 200)]
    assert response_statuses(home, LISTS) == [200, *met]
    assert run.metadata_number("lists", "retries") == 2 * len(statuses)
    assert run.attempts["lists"] == 1
    assert_complete(home, "lists")


@pytest.mark.usefixtures("fast_retries")
def test_f07_a_path_that_fails_for_ever_fails_its_stream_alone(home: Home) -> None:
    """Tries are bounded, the text says what came back, and every other stream is complete."""
    others = ("events", "lists", "profiles", "segments")
    with home.account.inject_fault("error", match={"path": "/api/flows"}, status=500):
        run = home.sync("flows", *others)
    assert list(run.failures) == ["flows"]
    assert "GET /api/flows" in run.failures["flows"]
    assert "500" in run.failures["flows"]
    assert "Given up after 6 tries" in run.failures["flows"]
    # Two slices, six tries each, once more by Dagster.
    assert home.account.request_counts()["/api/flows"] <= 2 * 2 * 6
    assert not has_table(home, "flows")
    assert_complete(home, *others)
    assert home.sync("flows").success
    assert_complete(home, "flows")


@pytest.mark.usefixtures("fast_retries")
def test_f08_a_proxys_page_is_no_missing_scope(open_home: StartHome) -> None:
    """A 403 that is HTML is requested again; nothing is skipped."""
    home = open_home(lists=35)
    with home.account.inject_fault("challenge", match={"path": LISTS, "from": 1, "to": 2}):
        run = home.sync("lists")
    assert run.success
    assert response_statuses(home, LISTS) == [403, 403, *[200] * PAGES]
    assert "lists" in run.materializations
    assert "scope" not in run.warnings
    assert_complete(home, "lists")


@pytest.mark.usefixtures("fast_retries")
def test_f09_a_refused_key_costs_a_request_a_stream_at_most(home: Home) -> None:
    """A key that Klaviyo does not know fails each stream, with what to do; a good one reads all."""
    streams = ("events", "lists", "profiles")
    wrong = "pk_ffffffffffffffffffffffffffffffffff"
    run = home.sync(*streams, api_key=wrong)
    assert set(run.failures) == set(streams)
    assert home.account.request_counts().total() <= len(streams)
    for stream in streams:
        assert "401" in run.failures[stream]
        assert "set KLAVIYO_API_KEY to a live private key" in run.failures[stream]
        assert wrong not in run.failures[stream]
        assert run.attempts[stream] == 1
        assert not has_table(home, stream)
    assert home.sync(*streams).success
    assert_complete(home, *streams)


def test_f10_a_key_revoked_on_the_way_costs_nothing_that_was_read(open_home: StartHome) -> None:
    """What came before a 401 is stored, and another key of the account reads the rest."""
    fresh = "pk_eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"
    home = open_home(
        events=6_000,
        future_events=0,
        keys=(PrivateApiKey(value=DEFAULT_KEY), PrivateApiKey(value=fresh)),
    )
    with home.account.inject_fault("error", match={"path": EVENTS, "from": 4}, status=401):
        run = home.sync("events")
    assert "401" in run.failures["events"]
    assert "set KLAVIYO_API_KEY to a live private key" in run.failures["events"]
    assert run.attempts["events"] == 1
    assert_sound_part(home, "events")
    stored, request_count = stored_ids(home, "events"), home.account.request_counts()[EVENTS]
    assert stored
    assert home.sync("events", api_key=fresh).success
    assert_complete(home, "events")
    again = home.account.shown_record_counts(EVENTS)
    assert sum(again[each] > 1 for each in stored) <= len(stored) / 10
    assert home.account.request_counts()[EVENTS] - request_count <= 6


def test_f11_a_missing_scope_skips_the_stream(open_home: StartHome) -> None:
    """A stream that the key may not read is named with its scope; a key with it reads it later."""
    scopes = frozenset({"accounts:read", "lists:read", "segments:read"})
    home = open_home(
        keys=(
            PrivateApiKey(value=DEFAULT_KEY, scopes=scopes),
            PrivateApiKey(value="pk_" + "d" * 34),
        )
    )
    run = home.sync("flows", "lists", "segments")
    assert run.success
    assert "flows is skipped: the key lacks the scope flows:read" in run.warnings
    assert run.observations["flows"][0]["klaviyo/missing_scope"] == "flows:read"
    assert "flows" not in run.materializations
    assert home.account.request_counts()["/api/flows"] <= 2
    assert_complete(home, "lists", "segments")
    assert home.sync("flows", api_key="pk_" + "d" * 34).success
    assert_complete(home, "flows")


@pytest.mark.usefixtures("fast_retries")
@pytest.mark.parametrize(
    ("status", "detail"), [(404, "No valid revisions found"), (410, "The revision was retired.")]
)
def test_f12_an_endpoint_without_the_revision_names_its_setting(
    home: Home, status: int, detail: str
) -> None:
    """A path that the revision lacks costs one request; the error names the revision's setting."""
    match = {"path": LISTS}
    with home.account.inject_fault("error", match=match, status=status, detail=detail):
        run = home.sync("lists", "segments")
    assert list(run.failures) == ["lists"]
    assert str(status) in run.failures["lists"]
    assert "set KLAVIYO_REVISION to a live one" in run.failures["lists"]
    assert response_statuses(home, LISTS) == [status]
    assert run.attempts["lists"] == 1
    assert_complete(home, "segments")
    assert home.sync("lists").success
    assert_complete(home, "lists")


def test_f12_a_retired_revision_is_no_silent_drift(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A retired revision fails the stream instead of bringing records of another shape."""
    # As a version of ours that was left behind, which knows this one.
    any_revision = Setting(ValueFormat("a revision", str), "")
    monkeypatch.setitem(DECLARED_SETTINGS, "revision", any_revision)
    run = home.sync("lists", revision="2023-02-22")
    assert "410" in run.failures["lists"]
    assert "set KLAVIYO_REVISION to a live one" in run.failures["lists"]
    assert not has_table(home, "lists")
    assert home.sync("lists").success
    assert_complete(home, "lists")


def test_f13_a_parent_deleted_meanwhile_is_skipped_and_counted(home: Home) -> None:
    """A list that goes between its listing and its count is left out, and the metadata says so."""
    home.sync("lists")
    gone = home.account.mutate(list=min(home.ids("lists")), delete=True)
    run = home.sync("lists_detailed")
    assert run.success
    assert run.metadata_number("lists_detailed", "vanished") == 1
    assert response_statuses(home, f"{LISTS}/{gone}") == [404]
    assert stored_ids(home, "lists_detailed") == sorted(home.account.true_ids("lists"))
    assert home.sync("lists", "lists_detailed").success
    for stream in ("lists", "lists_detailed"):
        assert sorted(home.live_ids(stream)) == sorted(home.account.true_ids("lists"))
        assert set(home.deletion_times(stream)) == {gone}


@pytest.mark.parametrize("stream", ["events", "lists"])
def test_f14_a_lost_paging_cursor_starts_the_slice_again(open_home: StartHome, stream: str) -> None:
    """A paging cursor that has expired costs the slice a new start, and no row is there twice."""
    home = open_home(events=6_000, future_events=0, lists=35)
    path = f"/api/{stream}"
    with home.account.inject_fault("invalid_cursor", match={"path": path, "nth": 3}):
        run = home.sync(stream)
    assert run.success
    assert run.attempts[stream] == 1
    assert response_statuses(home, path).count(400) == 1
    assert_complete(home, stream)


@pytest.mark.parametrize("stream", ["events", "lists"])
def test_f14_a_paging_cursor_lost_twice_fails(open_home: StartHome, stream: str) -> None:
    """A slice is started again once; then it fails, with what it read before, in few requests."""
    home = open_home(events=6_000, future_events=0, lists=35)
    path = f"/api/{stream}"
    match = {"path": path, "query": "page%5Bcursor%5D"}
    with home.account.inject_fault("invalid_cursor", match=match):
        run = home.sync(stream)
    assert "The paging cursor is lost" in run.failures[stream]
    assert run.attempts[stream] == 1
    # Events are read in up to four windows side by side.
    assert 2 <= response_statuses(home, path).count(400) <= {"events": 8, "lists": 2}[stream]
    assert_sound_part(home, stream)
    assert home.sync(stream).success
    assert_complete(home, stream)


def test_f15_a_refused_filter_is_requested_once(home: Home) -> None:
    """A 400 is Klaviyo's last word: one request, one attempt, its own text."""
    match = {"path": EVENTS}
    with home.account.inject_fault(
        "error", match=match, status=400, detail="Invalid filter provided."
    ):
        run = home.sync("events")
    assert response_statuses(home, EVENTS) == [400]
    assert run.attempts["events"] == 1
    assert "Invalid filter provided" in run.failures["events"]
    assert not has_table(home, "events")
    assert home.sync("events").success
    assert_complete(home, "events")
