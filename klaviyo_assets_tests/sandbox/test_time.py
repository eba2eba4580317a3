"""The clock moves only on request, and the account moves with it."""

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from klaviyo_assets.sandbox.clock import SandboxClock
from klaviyo_assets_tests.sandbox.conftest import NOON, StartSandbox
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

DAY = 86_400


def test_answers_carry_the_sandbox_time(start_sandbox: StartSandbox) -> None:
    """The Date header is the sandbox's time, before and after the clock is moved."""
    client = start_sandbox()
    assert parsedate_to_datetime(client.request("/api/tags").headers["date"]) == NOON
    client.call_admin("POST", "/__clock", {"advance_seconds": 3 * DAY})
    assert parsedate_to_datetime(client.request("/api/tags").headers["date"]) == NOON + timedelta(
        days=3
    )
    client.call_admin("POST", "/__clock", {"now": "2027-01-01T00:00:00Z"})
    moved = parsedate_to_datetime(client.request("/api/nowhere").headers["date"])
    assert moved == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_running_clock_follows_real_time() -> None:
    """A clock that is not frozen goes on by itself; a frozen one stays."""
    running, frozen = SandboxClock(1000.0), SandboxClock(1000.0, frozen=True)
    first = running.now()
    while running.now() == first:
        pass
    assert running.now() > first >= 1000.0
    assert frozen.now() == 1000.0


def test_more_events_happen_as_the_clock_advances(start_sandbox: StartSandbox) -> None:
    """Ten days later there are ten days' worth of new events, and the old ones are unchanged."""
    client = start_sandbox(events=3650, days=365, future_events=0)
    before = client.read_truth("events")
    client.call_admin("POST", "/__clock", {"advance_seconds": 10 * DAY})
    after = client.read_truth("events")
    assert 90 <= len(after) - len(before) <= 105
    assert {k: v for k, v in after.items() if k in before} == before
    assert set(client.read_ids("/api/events?page[size]=1000&sort=datetime")) == set(after)


def test_late_events_appear_behind_the_reader(start_sandbox: StartSandbox) -> None:
    """Some events become visible up to six, a few up to seventeen days after their time."""
    client = start_sandbox(events=20_000, days=20, future_events=0)
    seen = set(client.read_truth("events"))
    client.call_admin("POST", "/__clock", {"advance_seconds": 18 * DAY})
    late = [
        at
        for k, at in client.read_truth("events").items()
        if k not in seen and at and at < iso(NOON)
    ]
    assert len(late) > 20
    ages = sorted((NOON - datetime.fromisoformat(at)).days for at in late)
    assert ages[0] == 0
    assert ages[-1] >= 7
    assert len([age for age in ages if age >= 7]) < len(late) / 2


def iso(at: datetime) -> str:
    """The time as events write it."""
    return at.isoformat()


def test_a_few_events_are_dated_ahead(client: SandboxClient) -> None:
    """Events 300 days ahead are listed at once, as senders with wrong clocks make them."""
    ahead = client.read_ids("/api/events?filter=greater-than(datetime,2026-11-21T00:00:00Z)")
    assert len(ahead) == 3


def test_many_events_share_a_second(client: SandboxClient) -> None:
    """Times repeat, as a send to many makes them."""
    times = list(client.read_truth("events").values())
    assert len(set(times)) < len(times) * 0.7


def test_people_sign_up_as_the_clock_advances(start_sandbox: StartSandbox) -> None:
    """A month later there are new profiles, each created within that month."""
    client = start_sandbox(profiles=365, days=365)
    before = client.read_truth("profiles")
    client.call_admin("POST", "/__clock", {"advance_seconds": 30 * DAY})
    query = f"filter=greater-than(created,{NOON:%Y-%m-%dT%H:%M:%SZ})"
    born = client.read_ids(f"/api/profiles?{query}&page[size]=100")
    assert len(born) == 30
    assert set(client.read_truth("profiles")) == set(before) | set(born)


def test_a_written_event_can_wait(start_sandbox: StartSandbox) -> None:
    """An event can be written to become visible later than its own time."""
    client = start_sandbox(events=10)
    later = NOON + timedelta(days=2)
    change = {
        "datetime": "2026-11-19T00:00:00Z",
        "visible_at": iso(later),
        "properties": {"$value": 3},
    }
    (record_id,) = client.call_admin("POST", "/__events", {"events": [change]})["ids"]
    assert record_id not in client.read_ids("/api/events")
    assert client.request(f"/api/events/{record_id}").status == 404
    client.call_admin("POST", "/__clock", {"advance_seconds": 2 * DAY})
    assert record_id in client.read_ids("/api/events")
    found = client.get_document(f"/api/events/{record_id}")["data"]["attributes"]
    assert found["event_properties"] == {"$value": 3}
    assert found["datetime"] == "2026-11-19T00:00:00+00:00"


def test_people_change_as_the_clock_advances(start_sandbox: StartSandbox) -> None:
    """A month later some profiles are newer, and an incremental read finds just them."""
    client = start_sandbox(profiles=365, days=365)
    before = client.read_truth("profiles")
    client.call_admin("POST", "/__clock", {"advance_seconds": 30 * DAY})
    query = f"sort=updated&filter=greater-than(updated,{NOON:%Y-%m-%dT%H:%M:%SZ})&page[size]=10"
    changed = client.read_ids(f"/api/profiles?{query}")
    after = client.read_truth("profiles")
    assert set(changed) == {each for each, at in after.items() if before.get(each) != at}
    assert len(set(changed) & set(before)) > 50
