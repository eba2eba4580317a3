"""What events name exists; an order is credited to an email that its profile had before."""

from collections import Counter
from collections.abc import Iterator

import pytest

from klaviyo_assets.sandbox import serve
from klaviyo_assets_tests.sandbox.conftest import build_account
from klaviyo_assets_tests.sandbox.report_requests import SERIES_REPORT, report_rows
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient

MESSAGE_METRICS = {
    "Received Email",
    "Opened Email",
    "Clicked Email",
    "Bounced Email",
    "Marked Email as Spam",
    "Received SMS",
    "Clicked SMS",
    "Received Push",
}
CREDITED = {"Received Email", "Opened Email", "Clicked Email"}


class Shop:
    """Everything that events can name, by id."""

    def __init__(self, client: SandboxClient) -> None:
        store = client.sandbox.store
        self.metrics = {each.id: str(each.attributes["name"]) for each in store.metrics.records}
        self.owners = {
            **{each.id: str(each.links["campaign"][1]) for each in store.messages.records},
            **dict(flow_messages(client)),
        }
        self.flow_rows = [each["groupings"] for each in report_rows(client, SERIES_REPORT)]
        self.sent = {
            each.id for each in store.campaigns.records if each.attributes["status"] == "Sent"
        }
        self.flows = {each.id for each in store.flows.records}
        self.events: dict[str, Document] = {}
        self.attributions: dict[str, Document] = {}
        for page in client.read_pages("/api/events?page[size]=1000&include=attributions"):
            self.events |= {each["id"]: each for each in page["data"]}
            self.attributions |= {each["id"]: each for each in page["included"]}

    def metric(self, event: Document) -> str | None:
        """The name of an event's metric."""
        data = event["relationships"]["metric"]["data"]
        return None if data is None else self.metrics[data["id"]]


def flow_messages(client: SandboxClient) -> Iterator[tuple[str, str]]:
    """Each flow message with its flow."""
    collections = client.sandbox.store.collections
    messages, actions = collections["flow-message"], collections["flow-action"]
    for ordinal in messages.sorted_ordinals("id"):
        action = actions.ordinal_of(str(messages.links(ordinal)["flow-action"][1]))
        assert action is not None
        yield messages.id_of(ordinal), str(actions.links(action)["flow"][1])


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """All events of an account with campaigns and flows."""
    with serve(build_account(events=8_000, campaigns=60, flows=8, profiles=500)) as sandbox:
        client = SandboxClient(sandbox)
        yield Shop(client)
        client.close()


def test_every_message_that_an_event_names_exists(shop: Shop) -> None:
    """`$message`, `$flow` and the campaign are those of a message that was sent."""
    kinds = Counter[str]()
    for event in shop.events.values():
        properties = event["attributes"]["event_properties"]
        if shop.metric(event) not in MESSAGE_METRICS:
            assert "$message" not in properties
            continue
        owner = shop.owners[properties["$message"]]
        if "$flow" in properties:
            assert owner == properties["$flow"]
            assert owner in shop.flows
        else:
            assert properties["Campaign Name"]
            assert owner in shop.sent
        kinds["flow" if "$flow" in properties else "campaign"] += 1
    assert min(kinds["flow"], kinds["campaign"]) > 500


def test_every_attribution_agrees_with_the_event_that_earned_it(shop: Shop) -> None:
    """An order is credited to the message of an email that its own profile had before."""
    assert len(shop.attributions) > 300
    for attribution in shop.attributions.values():
        linked = {name: each["data"]["id"] for name, each in attribution["relationships"].items()}
        order, email = shop.events[linked["event"]], shop.events[linked["attributed-event"]]
        said = email["attributes"]["event_properties"]
        assert shop.metric(email) in CREDITED
        assert email["attributes"]["timestamp"] <= order["attributes"]["timestamp"]
        assert email["relationships"]["profile"] == {
            **order["relationships"]["profile"],
            "links": email["relationships"]["profile"]["links"],
        }
        message = linked.get("campaign-message") or linked["flow-message"]
        assert said["$message"] == message
        assert said.get("$flow") == linked.get("flow")
        assert shop.owners[message] == (linked.get("campaign") or linked["flow"])
    kinds = Counter("flow" in each["relationships"] for each in shop.attributions.values())
    assert min(kinds[True], kinds[False]) > 50


def test_the_flow_messages_of_reports_are_those_of_flows_and_events(shop: Shop) -> None:
    """A report names messages that a step of the flow sends, and that events name too."""
    assert len(shop.flow_rows) > 3
    for row in shop.flow_rows:
        assert shop.owners[row["flow_message_id"]] == row["flow_id"]
    named = {
        each["attributes"]["event_properties"].get("$message") for each in shop.events.values()
    }
    assert {row["flow_message_id"] for row in shop.flow_rows} <= named


def test_every_credited_order_has_its_attribution_included(shop: Shop) -> None:
    """Events and included attributions name each other."""
    named = {
        each["id"]: event
        for event, record in shop.events.items()
        for each in record["relationships"]["attributions"]["data"]
    }
    assert named == {
        each["id"]: each["relationships"]["event"]["data"]["id"]
        for each in shop.attributions.values()
    }
