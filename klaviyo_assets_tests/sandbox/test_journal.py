"""The journal records every request and every id, and never a key."""

from klaviyo_assets_tests.sandbox.conftest import StartSandbox


def test_every_request_is_written_down(start_sandbox: StartSandbox) -> None:
    """Requests are listed in order with path, query, status, bytes and number of records."""
    client = start_sandbox()
    client.request("/api/lists?page[size]=3")
    client.request("/api/nowhere?x=1")
    entries = client.call_admin("GET", "/__journal")["requests"]
    assert [entry["path"] for entry in entries] == ["/api/lists", "/api/nowhere"]
    assert [entry["status"] for entry in entries] == [200, 404]
    assert entries[0]["shown"] == 3
    assert entries[0]["bytes"] > 500
    assert "page" in entries[0]["query"]
    assert entries[1]["n"] > entries[0]["n"]


def test_no_key_is_stored(start_sandbox: StartSandbox) -> None:
    """The journal stores a key as its hash only."""
    client = start_sandbox()
    client.request("/api/lists")
    text = client.request("/__journal").body.decode()
    assert client.sandbox.key not in text
    assert client.sandbox.key[:12] not in text
    assert len(client.call_admin("GET", "/__journal")["requests"][0]["key"]) == 12


def test_shown_ids_are_the_ids_of_the_answers(start_sandbox: StartSandbox) -> None:
    """The ids of a path are those in its responses, repeats counted, until it is cleared."""
    client = start_sandbox()
    shown = client.read_ids("/api/events?page[size]=100&sort=datetime")
    client.get_document("/api/events?page[size]=5")
    found = client.call_admin("GET", "/__journal/ids?path=/api/events")
    assert found["ids"] == sorted(shown)
    assert found["repeated"] == 5
    client.call_admin("DELETE", "/__journal")
    assert client.call_admin("GET", "/__journal/ids?path=/api/events")["ids"] == []


def test_included_records_are_not_shown_ones(start_sandbox: StartSandbox) -> None:
    """Ids of included records are not counted as shown."""
    client = start_sandbox()
    page = client.get_document(
        "/api/campaigns?filter=equals(messages.channel,'email')&include=tags"
    )
    assert page["included"]
    found = client.call_admin("GET", "/__journal/ids?path=/api/campaigns")
    assert set(found["ids"]) == {record["id"] for record in page["data"]}


def test_admin_paths_are_not_in_the_journal(start_sandbox: StartSandbox) -> None:
    """Tests can look and change without leaving a trace, and need no key."""
    client = start_sandbox()
    for path in ("/__journal?summary=1", "/__clock", "/__truth/lists", "/__faults"):
        assert client.request(path, {"Authorization": None}).status == 200
    assert client.call_admin("GET", "/__journal")["requests"] == []
    assert client.request("/__nowhere").status == 404
    assert client.request("/__mutate", method="POST", body=b"[]").status == 400


def test_the_truth_can_be_bounded(start_sandbox: StartSandbox) -> None:
    """The truth of events for a window is that part of the whole."""
    client = start_sandbox()
    whole = client.read_truth("events")
    start_at, end = "2026-03-01T00:00:00+00:00", "2026-06-01T00:00:00+00:00"
    part = client.read_truth(f"events?start={start_at[:19]}Z&end={end[:19]}Z")
    assert part == {k: v for k, v in whole.items() if v and start_at <= v < end}
    assert part
