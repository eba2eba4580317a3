"""What tests change in the account shows as it would in Klaviyo."""

import json
from datetime import timedelta
from urllib.parse import quote

from klaviyo_assets_tests.sandbox.conftest import NOON, StartSandbox
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient


def profile(client: SandboxClient, record_id: str) -> Document:
    """A profile's attributes with its subscriptions."""
    target = f"/api/profiles/{record_id}?additional-fields[profile]=subscriptions"
    return client.get_document(target)["data"]["attributes"]


def test_a_changed_profile_moves_its_updated(start_sandbox: StartSandbox) -> None:
    """New values show everywhere, other values stay, and `updated` is the sandbox's now."""
    client = start_sandbox(profiles=20)
    record_id = client.read_ids("/api/profiles")[4]
    before = profile(client, record_id)
    change = {"email": "new@example.com", "properties": {"age": 4}, "location": {"city": "Oslo"}}
    client.call_admin("POST", "/__mutate", {"profile": record_id, "set": change})
    after = profile(client, record_id)
    assert after["email"] == "new@example.com"
    assert after["properties"] == {**before["properties"], "age": 4}
    assert after["location"] == {**before["location"], "city": "Oslo"}
    assert after["updated"] == NOON.isoformat()
    assert client.read_ids("/api/profiles?filter=equals(email,'new@example.com')") == [record_id]
    listed = client.read_records("/api/profiles?sort=-updated&page[size]=1")[0]
    assert (listed["id"], listed["attributes"]["email"]) == (record_id, "new@example.com")


def test_a_merge_removes_the_source_and_moves_its_events(start_sandbox: StartSandbox) -> None:
    """A merge deletes the source, and its events belong to the target."""
    client = start_sandbox(profiles=5, events=200, future_events=0)
    source, target = client.read_ids("/api/profiles")[:2]
    theirs = client.read_ids(f"/api/events?filter=equals(profile_id,'{source}')")
    others = client.read_ids(f"/api/events?filter=equals(profile_id,'{target}')")
    client.call_admin("POST", "/__mutate", {"profile": source, "merge_into": target})
    assert client.request(f"/api/profiles/{source}").status == 404
    assert source not in client.read_ids("/api/profiles")
    found = client.read_ids(f"/api/events?filter=equals(profile_id,'{target}')")
    assert sorted(found) == sorted(theirs + others)
    assert theirs
    assert profile(client, target)["updated"] == NOON.isoformat()


def test_events_of_a_deleted_profile_stay_redacted(start_sandbox: StartSandbox) -> None:
    """A deleted person's events remain, without properties and without a profile."""
    client = start_sandbox(profiles=5, events=200, future_events=0)
    gone = client.read_ids("/api/profiles")[0]
    theirs = set(client.read_ids(f"/api/events?filter=equals(profile_id,'{gone}')"))
    client.call_admin("POST", "/__mutate", {"profile": gone, "delete": True})
    records = [each for each in client.read_records("/api/events") if each["id"] in theirs]
    assert len(records) == len(theirs) > 0
    for record in records:
        assert record["relationships"]["profile"]["data"] is None
        assert record["attributes"]["event_properties"] == {}
    assert not theirs & set(client.read_ids("/api/events?filter=has(profile)"))


def test_a_suppression_comes_and_goes(start_sandbox: StartSandbox) -> None:
    """A suppressed profile is found by the filter until its suppression is lifted."""
    client = start_sandbox(profiles=30)
    query = "filter=equals(subscriptions.email.marketing.suppression.reason,'HARD_BOUNCE')"
    before = client.read_ids(f"/api/profiles?{query}")
    free = next(k for k in client.read_ids("/api/profiles") if k not in before)
    new = {"reason": "HARD_BOUNCE", "timestamp": "2026-11-19T00:00:00+00:00"}
    client.call_admin("POST", "/__mutate", {"profile": free, "suppress": new})
    assert set(client.read_ids(f"/api/profiles?{query}")) == {*before, free}
    marketing = profile(client, free)["subscriptions"]["email"]["marketing"]
    assert marketing["suppression"] == [new]
    client.call_admin("POST", "/__mutate", {"profile": free, "lift_suppression": True})
    assert client.read_ids(f"/api/profiles?{query}") == before


def test_an_archived_campaign_moves_to_the_other_slice(start_sandbox: StartSandbox) -> None:
    """Archiving takes a campaign out of one slice into the other, with a new `updated_at`."""
    client = start_sandbox()
    channel = "filter=equals(messages.channel,'email')"
    moved = client.read_ids(f"/api/campaigns?{channel}")[0]
    client.call_admin("POST", "/__mutate", {"campaign": moved, "set": {"archived": True}})
    assert moved not in client.read_ids(f"/api/campaigns?{channel}")
    archived = client.read_records(
        f"/api/campaigns?{channel},equals(archived,true)&sort=-updated_at"
    )
    assert archived[0]["id"] == moved
    assert archived[0]["attributes"]["updated_at"] == "2026-11-20T12:00:00.000000+00:00"


def test_members_join_and_leave_without_moving_the_list(start_sandbox: StartSandbox) -> None:
    """Joining is dated now, leaving is silent, and the list's `updated` stays."""
    client = start_sandbox(profiles=80)
    group = client.read_ids("/api/lists")[0]
    before = client.get_document(f"/api/lists/{group}")["data"]["attributes"]["updated"]
    members = client.read_ids(f"/api/lists/{group}/profiles")
    joiner = next(k for k in client.read_ids("/api/profiles") if k not in members)
    change = {"list": group, "add": [joiner], "remove": [members[0]]}
    client.call_admin("POST", "/__mutate", change)
    now = client.read_records(f"/api/lists/{group}/profiles?sort=joined_group_at")
    assert {each["id"] for each in now} == {*members[1:], joiner}
    assert now[-1]["attributes"]["joined_group_at"] == NOON.isoformat()
    assert client.get_document(f"/api/lists/{group}")["data"]["attributes"]["updated"] == before


def test_records_can_be_created(start_sandbox: StartSandbox) -> None:
    """A new profile, list and template are listed with the values given."""
    client = start_sandbox(profiles=5)
    for kind, name in (("profile", "last_name"), ("list", "name"), ("template", "name")):
        change = {"create": kind, "set": {name: 'x"; DROP TABLE profiles; --'}}
        record_id = client.call_admin("POST", "/__mutate", change)["id"]
        found = {each["id"]: each["attributes"] for each in client.read_records(f"/api/{kind}s")}
        assert found[record_id][name] == 'x"; DROP TABLE profiles; --'
        assert found[record_id]["created"] == NOON.isoformat()


def test_nonsense_is_refused_and_changes_nothing(start_sandbox: StartSandbox) -> None:
    """A change of a record that does not exist, or without a verb, is a 400 of the admin side."""
    client = start_sandbox(profiles=5)
    before = client.read_truth("profiles")
    one = next(iter(before))
    for change in (
        b'{"profile": "nobody", "delete": true}',
        b'{"planet": "earth"}',
        b'{"profile": "%b"}' % one.encode(),
        b'{"profile": "%b", "merge_into": "%b"}' % (one.encode(), one.encode()),
        b"nonsense",
    ):
        assert client.request("/__mutate", method="POST", body=change).status == 400
    assert client.read_truth("profiles") == before


def test_ids_and_names_can_be_nasty(start_sandbox: StartSandbox) -> None:
    """Records with any id can be made and read back by their encoded id; metrics too."""
    client = start_sandbox(profiles=5)
    for nasty in ("../../etc/x", "a/b", "CON", "%2e%2e", "$custom:::SKU 1/2", "x" * 300):
        change = {"create": "list", "set": {"id": nasty, "name": "<script>alert(1)</script>"}}
        assert client.call_admin("POST", "/__mutate", change)["id"] == nasty
        assert nasty in client.read_ids("/api/lists")
        found = client.get_document(f"/api/lists/{quote(nasty, safe='')}")["data"]
        assert found["id"] == nasty
    change = {"create": "metric", "set": {"id": "../m", "name": "x"}}
    client.call_admin("POST", "/__mutate", change)
    client.call_admin("POST", "/__events", {"events": [{"metric": "../m"}]})
    newest = client.read_records("/api/events?filter=equals(metric_id,'../m')")
    assert [each["relationships"]["metric"]["data"]["id"] for each in newest] == ["../m"]


def test_a_profile_can_bring_its_groups(start_sandbox: StartSandbox) -> None:
    """Included lists and segments of a profile are those that have it as a member."""
    client = start_sandbox(profiles=40)
    one = client.read_ids("/api/profiles")[3]
    document = client.get_document(f"/api/profiles/{one}?include=lists,segments")
    for kind in ("list", "segment"):
        linked = {each["id"] for each in document["data"]["relationships"][f"{kind}s"]["data"]}
        groups = client.read_ids(f"/api/{kind}s")
        wanted = {
            each for each in groups if one in client.read_ids(f"/api/{kind}s/{each}/profiles")
        }
        assert linked == wanted
        assert {each["id"] for each in document["included"] if each["type"] == kind} == wanted


def test_flows_hang_on_their_triggers(client: SandboxClient) -> None:
    """Metrics and lists include the flows that they trigger on request."""
    for path in ("/api/metrics?include=flow-triggers", "/api/lists?include=flow-triggers"):
        page = client.get_document(path)
        linked = [
            flow["id"]
            for each in page["data"]
            for flow in each["relationships"]["flow-triggers"]["data"]
        ]
        assert linked
        assert {each["id"] for each in page["included"]} == set(linked)


def test_hidden_events_are_counted_unless_they_are_deleted(
    start_sandbox: StartSandbox,
) -> None:
    """Hidden events leave the pages but not the aggregates; deleted ones leave both."""
    client = start_sandbox(profiles=5, events=300, days=20, future_events=0)
    metric = client.sandbox.store.metrics.id_of(5)
    pages = f"/api/events?filter=equals(metric_id,'{metric}')"
    everything = client.read_ids(pages)
    bounds = {"start": "2026-01-01T00:00:00Z", "end": NOON.isoformat()}
    attributes = {
        "metric_id": metric,
        "measurements": ["count"],
        "filter": [
            f"greater-or-equal(datetime,{bounds['start']})",
            f"less-than(datetime,{NOON:%FT%TZ})",
        ],
    }
    body = json.dumps({"data": {"type": "metric-aggregate", "attributes": attributes}}).encode()

    def count_events() -> float:
        kind = {"Content-Type": "application/vnd.api+json"}
        found = client.request("/api/metric-aggregates", kind, method="POST", body=body).json
        return sum(found["data"]["attributes"]["data"][0]["measurements"]["count"])

    client.call_admin("POST", "/__mutate", {"hide_events": {**bounds, "metric": metric}})
    assert (client.read_ids(pages), count_events()) == ([], len(everything))
    assert client.read_ids("/api/events")
    client.call_admin("POST", "/__mutate", {"show_events": True})
    client.call_admin(
        "POST", "/__mutate", {"hide_events": {**bounds, "every": 2, "counted": False}}
    )
    left = client.read_ids(pages)
    assert 0 < len(left) < len(everything)
    assert count_events() == len(left)
    client.call_admin("POST", "/__mutate", {"show_events": True})
    assert (client.read_ids(pages), count_events()) == (everything, len(everything))


def test_an_event_that_gets_another_time(start_sandbox: StartSandbox) -> None:
    """A written event moves with its id."""
    client = start_sandbox(events=50, future_events=0)
    change = {"datetime": f"{NOON - timedelta(days=2):%FT%TZ}"}
    (event,) = client.call_admin("POST", "/__events", {"events": [change]})["ids"]
    later = NOON - timedelta(hours=1)
    client.call_admin("POST", "/__mutate", {"redate_event": event, "datetime": f"{later:%FT%TZ}"})
    found = client.get_document(f"/api/events/{event}")["data"]["attributes"]
    assert found["datetime"].startswith(f"{later:%F}")
    assert client.read_ids("/api/events").count(event) == 1
