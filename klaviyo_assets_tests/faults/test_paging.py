"""Paging: F24 to F29, F76, F84. The way from page to page, and what comes twice or moves on it."""

import json
import socket

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    assert_sound_part,
    has_table,
    stored_ids,
)
from klaviyo_assets_tests.faults.journal import response_statuses
from klaviyo_assets_tests.integration.api.scripted_server import (
    CERTIFICATE_PATH,
    ScriptedServer,
    ServerAction,
    run_server,
    send_response,
)

LISTS = "/api/lists"
PROFILES = "/api/profiles"


def open_stocked_home(open_home: StartHome) -> Home:
    """Return a home for an account with some pages of events, lists and profiles."""
    return open_home(lists=35, profiles=450, events=3_000, future_events=0)


@pytest.mark.parametrize(
    ("stream", "kind"),
    [("events", "same_next"), ("lists", "same_next"), ("lists", "cycle"), ("profiles", "cycle")],
)
def test_f24_paging_in_a_circle_ends(open_home: StartHome, stream: str, kind: str) -> None:
    """A next link to a page already read fails the stream after few requests, no row twice."""
    home = open_stocked_home(open_home)
    path = f"/api/{stream}"
    with home.account.inject_fault(kind, match={"path": path, "from": 2, "to": 2}):
        run = home.sync(stream)
    assert "Klaviyo's paging runs in a circle" in run.failures[stream]
    assert run.attempts[stream] == 1
    assert home.account.request_counts()[path] <= 6
    assert_sound_part(home, stream)
    assert home.sync(stream).success
    assert_complete(home, stream)


@pytest.mark.parametrize("stream", ["events", "lists", "profiles"])
def test_f25_a_next_link_to_another_host_is_not_followed(open_home: StartHome, stream: str) -> None:
    """The other host gets no request, not even a connection; the pages read before are stored."""
    home = open_stocked_home(open_home)
    path = f"/api/{stream}"
    with run_server(send_response()) as other:
        with home.account.inject_fault(
            "next_host", match={"path": path, "from": 2}, origin=other.url
        ):
            run = home.sync(stream)
        assert (other.connections, other.received) == (0, [])
    assert "the next link leaves the endpoint" in run.failures[stream]
    assert "was not followed" in run.failures[stream]
    assert run.attempts[stream] == 1
    assert_sound_part(home, stream)
    # Lists are read whole, and shown only whole.
    assert bool(stored_ids(home, stream)) == (stream != "lists")
    assert home.sync(stream).success
    assert_complete(home, stream)


def page_of(record: dict[str, object], next_link: str | None = None) -> ServerAction:
    """Answer with a page of one record."""
    page = {"data": [record], "links": {"self": "here", "next": next_link}}
    return send_response(200, json.dumps(page).encode())


def in_the_clear(line: socket.socket, server: ScriptedServer) -> None:
    """Answer with a page whose next link is on the same host and port, without TLS."""
    link = f"{server.url.replace('https:', 'http:')}{LISTS}?page%5Bcursor%5D=b"
    page_of({"type": "list", "id": "L1", "attributes": {"name": "One"}}, link)(line, server)


def test_f25_a_next_link_to_plain_http_is_not_followed(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over TLS a next link without it is refused: the key never goes in the clear."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(CERTIFICATE_PATH))
    account = page_of({"type": "account", "id": "A1", "attributes": {"timezone": "UTC"}})
    with run_server(account, in_the_clear, is_tls=True) as server:
        run = home.sync("lists", base_url=server.url)
        # The account and the stream are read by one client, over one connection.
        assert (len(server.received), server.connections) == (2, 1)
    assert (
        "the next link leaves the endpoint ('http://localhost/api/lists')" in run.failures["lists"]
    )
    assert run.attempts["lists"] == 1
    assert not has_table(home, "lists")


def test_f26_a_redirect_is_not_followed(open_home: StartHome) -> None:
    """The host of a redirect gets no request; the error says that it was not followed.

    The other statuses are those of the client alone: integration/api/test_safety.py.
    """
    status = 307
    home = open_stocked_home(open_home)
    with run_server(send_response()) as other:
        match = {"path": LISTS, "from": 2}
        location = f"{other.url}{LISTS}"
        with home.account.inject_fault("redirect", match=match, location=location, status=status):
            run = home.sync("lists", "segments")
        assert (other.connections, other.received) == (0, [])
    assert list(run.failures) == ["lists"]
    assert "Redirects (here to 127.0.0.1) are not followed" in run.failures["lists"]
    assert response_statuses(home, LISTS) == [200, status]
    assert run.attempts["lists"] == 1
    assert_sound_part(home, "lists")
    assert_complete(home, "segments")
    assert home.sync("lists").success
    assert_complete(home, "lists")


@pytest.mark.parametrize("stream", ["events", "lists", "profiles"])
def test_f27_an_empty_page_is_not_the_end(open_home: StartHome, stream: str) -> None:
    """A page without records in the middle is passed, as long as it says what comes next."""
    home = open_stocked_home(open_home)
    path = f"/api/{stream}"
    with home.account.inject_fault("empty_page", match={"path": path, "nth": 2}):
        run = home.sync(stream)
    assert run.success
    assert run.metadata_number(stream, "retries") == 0
    assert run.metadata_number(stream, "records_read") == len(home.account.true_ids(stream))
    assert_complete(home, stream)


@pytest.mark.parametrize("stream", ["events", "lists", "profiles"])
def test_f28_a_record_on_two_pages_is_stored_once(open_home: StartHome, stream: str) -> None:
    """The last records of every page come once more on the next one; each is a row once."""
    home = open_stocked_home(open_home)
    path = f"/api/{stream}"
    with home.account.inject_fault("duplicates", match={"path": path, "from": 2}, count=3):
        run = home.sync(stream)
    assert run.success
    assert max(home.account.shown_record_counts(path).values()) == 2
    assert run.metadata_number(stream, "records_read") > len(home.account.true_ids(stream))
    assert_complete(home, stream)


def test_f28_a_record_that_moves_while_it_is_read_is_there_in_its_newest_version(
    open_home: StartHome,
) -> None:
    """A profile of the first page, and one of a page to come, change: both are there as changed."""
    home = open_stocked_home(open_home)
    moments = home.account.true_cursors("profiles")
    order = sorted(moments, key=lambda each: (moments[each] is not None, moments[each]))
    early, late = order[0], order[-1]
    changes = [{"profile": each, "set": {"first_name": "Moved"}} for each in (early, late)]
    with home.account.inject_fault("mutate", match={"path": PROFILES, "nth": 3}, mutations=changes):
        run = home.sync("profiles")
    assert run.success
    assert home.account.shown_record_counts(PROFILES)[early] == 2
    moved = home.query("SELECT id, updated FROM klaviyo.profiles WHERE first_name = 'Moved'")
    assert sorted(moved) == sorted((each, home.account.now) for each in (early, late))
    assert_complete(home, "profiles")


@pytest.mark.parametrize(
    ("stream", "factor"), [("events", 2), ("events", 0.5), ("lists", 0.5), ("profiles", 2)]
)
def test_f29_pages_of_another_length_are_read_as_they_come(
    open_home: StartHome, stream: str, factor: float
) -> None:
    """Twice as many records as were requested, or half as many, are all stored."""
    home = open_stocked_home(open_home)
    path = f"/api/{stream}"
    with home.account.inject_fault("page_factor", match={"path": path}, factor=factor):
        run = home.sync(stream)
    assert run.success
    sizes = {
        len(each.shown_ordinals)
        for each in home.account.sandbox.journal.requests()
        if each.path == path
    }
    page_size = {"events": 1000, "lists": 10, "profiles": 100}[stream]
    assert max(sizes) == page_size * factor
    assert_complete(home, stream)


@pytest.mark.parametrize(("stream", "kind"), [("profiles", "endless"), ("lists", "empty_page")])
def test_f84_paging_that_gets_nowhere_is_stopped(
    open_home: StartHome, stream: str, kind: str
) -> None:
    """Links that are new for ever, with the same records or none behind them, end in words."""
    home = open_home(lists=15, profiles=120, events=0)
    path = f"/api/{stream}"
    with home.account.inject_fault(kind, match={"path": path, "from": 2}):
        run = home.sync(stream)
    assert "Klaviyo's paging does not end: 3" in run.failures[stream]
    assert run.attempts[stream] == 1
    assert 300 <= home.account.request_counts()[path] <= 310
    assert_sound_part(home, stream)
    assert home.sync(stream).success
    assert_complete(home, stream)


@pytest.mark.parametrize("sort", ["-updated", "id"])
def test_f76_pages_out_of_order_are_read_whole(open_home: StartHome, sort: str) -> None:
    """Profiles come in another order than was requested, to several readers: none is lost."""
    home = open_home(profiles=3_000, events=0, latency_ms=120)
    with home.account.inject_fault("unsorted", match={"path": PROFILES}, sort=sort):
        run = home.sync("profiles")
    assert run.success
    assert "not in the requested order" in run.warnings
    assert_complete(home, "profiles")
    home.account.clear_journal()
    assert home.sync("profiles").success
    assert home.account.shown_record_counts(PROFILES).total() < 100


def test_f76_a_lost_cursor_among_pages_out_of_order_loses_nothing(open_home: StartHome) -> None:
    """Behind the greatest cursor seen there may be anything: reading starts from the beginning."""
    home = open_home(profiles=1_000, events=0)
    script = home.account.sandbox.faults
    lost = {"path": PROFILES, "nth": 4, "query": "cursor"}
    script.add([{"match": lost, "fault": {"kind": "invalid_cursor"}}])
    with home.account.inject_fault("unsorted", match={"path": PROFILES}, sort="-updated"):
        run = home.sync("profiles")
    assert run.success, run.failures
    assert 400 in response_statuses(home, PROFILES)
    assert_complete(home, "profiles")


def test_f76_nothing_is_claimed_of_pages_out_of_order_that_end_early(open_home: StartHome) -> None:
    """A reader that fails on the way claims nothing: the next run reads the window again."""
    home = open_home(profiles=1_000, events=0)
    script = home.account.sandbox.faults
    script.add(
        [{"match": {"path": PROFILES, "from": 5}, "fault": {"kind": "error", "status": 400}}]
    )
    with home.account.inject_fault("unsorted", match={"path": PROFILES}, sort="-updated"):
        run = home.sync("profiles")
    assert "profiles" in run.failures
    assert_sound_part(home, "profiles")
    assert home.sync("profiles").success
    assert_complete(home, "profiles")
