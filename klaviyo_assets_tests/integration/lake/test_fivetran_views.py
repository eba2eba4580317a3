"""`publish --dbt`: the five sources of the dbt package fivetran/klaviyo, column by column."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.streams.fivetran_views import FIVETRAN_SOURCES, LEGACY_METRIC_NAMES
from klaviyo_assets_tests.integration.lake.lake_fixtures import open_lake
from klaviyo_assets_tests.integration.lake.stream_rows import RELATIONS, write_stream

SYNCED = datetime(2026, 9, 30, 12, tzinfo=UTC)
MERGED = SYNCED + timedelta(days=1)
NOON = datetime(2026, 9, 1, 12, tzinfo=UTC)

PACKAGE_COLUMNS = {
    "event": "_fivetran_deleted:BOOLEAN _fivetran_synced:TIMESTAMP _variation:VARCHAR "
    "campaign_id:VARCHAR datetime:TIMESTAMP flow_id:VARCHAR flow_message_id:VARCHAR id:VARCHAR "
    "metric_id:VARCHAR person_id:VARCHAR timestamp:TIMESTAMP type:VARCHAR uuid:VARCHAR "
    "property_attribution:VARCHAR property_value:DECIMAL(28,6)",
    "person": "_fivetran_deleted:BOOLEAN _fivetran_synced:TIMESTAMP address_1:VARCHAR "
    "address_2:VARCHAR city:VARCHAR country:VARCHAR created:TIMESTAMP email:VARCHAR "
    "first_name:VARCHAR id:VARCHAR last_name:VARCHAR latitude:DOUBLE longitude:DOUBLE "
    "organization:VARCHAR phone_number:VARCHAR region:VARCHAR timezone:VARCHAR title:VARCHAR "
    "updated:TIMESTAMP zip:VARCHAR last_event_date:TIMESTAMP",
    "campaign": "_fivetran_deleted:BOOLEAN _fivetran_synced:TIMESTAMP campaign_type:VARCHAR "
    "created:TIMESTAMP email_template_id:VARCHAR from_email:VARCHAR from_name:VARCHAR id:VARCHAR "
    "name:VARCHAR send_time:TIMESTAMP sent_at:TIMESTAMP status:VARCHAR status_id:VARCHAR "
    "status_label:VARCHAR subject:VARCHAR updated:TIMESTAMP archived:BOOLEAN scheduled:TIMESTAMP",
    "flow": "_fivetran_deleted:BOOLEAN _fivetran_synced:TIMESTAMP created:TIMESTAMP id:VARCHAR "
    "name:VARCHAR status:VARCHAR updated:TIMESTAMP archived:BOOLEAN trigger_type:VARCHAR",
    "metric": "_fivetran_deleted:BOOLEAN _fivetran_synced:TIMESTAMP created:TIMESTAMP id:VARCHAR "
    "integration_id:VARCHAR integration_category:VARCHAR integration_name:VARCHAR name:VARCHAR "
    "updated:TIMESTAMP",
}
"""What the package's macros (get_event_columns and its like) name, release 1.4.1."""


def attribution(parent: str, **related: str) -> dict[str, object]:
    """Return an attribution as Klaviyo includes it; `flow_message="m1"` relates it to one."""
    found = {"attributed-event": parent, **related}
    names = {name: name.replace("_", "-") for name in found}
    return {
        "type": "attribution",
        "id": f"of-{parent}",
        "relationships": {
            names[name]: {"data": {"type": names[name], "id": each}} for name, each in found.items()
        },
    }


def event(  # noqa: PLR0913 - a row, by name
    name: str,
    metric: str,
    *,
    days: float = 0,
    profile: str | None = "old",
    properties: dict[str, object] | None = None,
    credited: list[dict[str, object]] | None = None,
) -> dict[str, object]:
    """Return a row of events, `days` after noon of a day."""
    at = NOON + timedelta(days=days)
    return {
        "id": name,
        "timestamp": int(at.timestamp()),
        "datetime": at + timedelta(milliseconds=500),
        "uuid": f"uuid-{name}",
        "event_properties": json.dumps(properties or {}),
        "metric_id": metric,
        "profile_id": profile,
        "attributions": json.dumps(credited or []),
    }


EVENTS = [
    event("open", "opened", properties={"$message": "m1", "Campaign Name": "One"}),
    event("variation", "opened", properties={"$message": "v2", "Campaign Name": "Two"}),
    event("legacy", "opened", properties={"$message": "c1", "Campaign Name": "One"}),
    event("unknown", "opened", properties={"$message": "gone", "Campaign Name": "Gone"}),
    event(
        "flow open",
        "opened",
        days=1,
        properties={"$message": "fm1", "$flow": "f1", "$variation": "fv1", "Campaign Name": "x"},
    ),
    event("text", "text", properties={"$message": "m1"}),
    event(
        "inherits",
        "placed",
        days=2,
        properties={"$value": 1234.5},
        credited=[attribution("open", campaign="c1")],
    ),
    event(
        "last of two",
        "placed",
        days=2,
        properties={"$value": "-5"},
        credited=[attribution("flow open", flow="f1"), attribution("open", campaign="c1")],
    ),
    event(
        "parentless",
        "placed",
        days=2,
        properties={"$value": "$1,234.50"},
        credited=[attribution("not here", campaign="c1")],
    ),
    event(
        "parentless flow",
        "placed",
        days=2,
        properties={"$value": 0.00001},
        credited=[attribution("not here", flow="f1", flow_message="fm1")],
    ),
    event(
        "touchless parent", "placed", credited=[attribution("plain", flow="f1", flow_message="fm1")]
    ),
    event("plain", "no such metric", profile=None, properties={"$value": 1e300}),
]

CONTENT = {"subject": "Hello", "from_email": "shop@example.com", "from_label": "The Shop"}
JULY_MESSAGES = [
    {"type": "campaign-message", "id": "m0", "attributes": {"definition": {"channel": "sms"}}},
    {
        "type": "campaign-message",
        "id": "m1",
        "attributes": {"definition": {"channel": "email", "content": CONTENT}},
        "relationships": {"template": {"data": {"type": "template", "id": "t1"}}},
    },
]
OCTOBER_VARIATIONS = [
    {
        "type": "campaign-variation",
        "id": "v2",
        "attributes": {
            "definition": {"details": {"channel": "email", "template_id": "t2", **CONTENT}}
        },
    }
]


def write_rows(lake: Lake) -> None:
    """Write one small account: five events about messages, six conversions, a merge of three."""
    profiles = {
        "old": {"email": "a@example.com", "deleted_at": MERGED},
        "middle": {"email": "a@example.com", "phone_number": "+15550100", "deleted_at": None},
    }
    rows = [{"id": name, "created": NOON, "updated": NOON, **row} for name, row in profiles.items()]
    survivor = {
        "id": "survivor",
        "email": "b@example.com",
        "first_name": "Ada",
        "last_name": "Lovelace",
        "organization": "Analytical",
        "title": "Countess",
        "phone_number": "+15550100",
        **{f"location_{name}": name for name in ("address1", "address2", "city", "region")},
        **{f"location_{name}": name for name in ("country", "zip", "timezone")},
        "location_latitude": 42.5,
        "location_longitude": -71.25,
        "created": NOON,
        "updated": NOON + timedelta(hours=1),
        "last_event_date": NOON + timedelta(hours=2),
        "properties": '{"plan": "gold"}',
    }
    rows[1]["deleted_at"] = None
    write_stream(lake, "profiles", [*rows, survivor], synced_at=SYNCED)
    write_stream(lake, "events", EVENTS, synced_at=SYNCED)
    names = {"opened": "Opened Email", "text": "Received Text Message", "placed": "Placed Order"}
    write_stream(
        lake,
        "metrics",
        [
            {
                "id": name,
                "name": shown,
                "created": NOON,
                "updated": NOON,
                "integration": json.dumps(
                    {
                        "id": "7FtS4J",
                        "name": "Klaviyo",
                        "category": "Internal" if name == "text" else {"category": "Internal"},
                    }
                ),
            }
            for name, shown in names.items()
        ],
        synced_at=SYNCED,
    )
    campaign = {
        "archived": False,
        "created_at": NOON,
        "updated_at": NOON,
        "send_time": NOON + timedelta(hours=3),
        "scheduled_at": NOON + timedelta(hours=1),
    }
    write_stream(
        lake,
        "campaigns",
        [
            {
                **campaign,
                "id": "c1",
                "name": "One",
                "status": "Sent",
                "channel": "email",
                "api_revision": "2026-07-15",
                "campaign_message_ids": ["m0", "m1"],
                "campaign_messages": json.dumps(JULY_MESSAGES),
            },
            {**campaign, "id": "c2", "name": "Two", "api_revision": "2026-10-15"},
        ],
        synced_at=SYNCED,
    )
    write_stream(
        lake,
        "campaign_messages",
        [
            {
                "id": "m2",
                "campaign_id": "c2",
                "status": "draft",
                "created": NOON,
                "updated": NOON,
                "campaign_variation_ids": ["v2"],
                "campaign_variations": json.dumps(OCTOBER_VARIATIONS),
                "channels": ["email"],
            }
        ],
        synced_at=SYNCED,
    )
    flow = {"status": "live", "archived": True, "created": NOON, "updated": NOON}
    write_stream(
        lake,
        "flows",
        [{"id": "f1", "name": "Welcome", "trigger_type": "Added to List", **flow}],
        synced_at=SYNCED,
    )


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Give a lake with rows that are told apart."""
    made = open_lake(tmp_path_factory.mktemp("fivetran") / "data")
    write_rows(made)
    return made


@pytest.fixture(scope="module")
def target(lake: Lake) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a database with the five views, opened in a zone far from UTC."""
    file = lake.root.parent / "shop.duckdb"
    written = lake.publish_to_target(file, FIVETRAN_SOURCES, RELATIONS)
    assert {each.name: (each.rows, each.missing) for each in written} == {
        "event": (len(EVENTS), ()),
        "person": (3, ()),
        "campaign": (2, ()),
        "flow": (1, ()),
        "metric": (3, ()),
    }
    with duckdb.connect(file, read_only=True) as opened:
        opened.execute("SET TimeZone = 'Pacific/Auckland'")
        yield opened


def rows_by_id(
    target: duckdb.DuckDBPyConnection, view: str, *columns: str
) -> dict[str, tuple[Any, ...]]:
    """Return some columns of each row of a view, by its id."""
    shown = ", ".join(f'"{each}"' for each in columns)
    found = target.execute(f"SELECT id, {shown} FROM shop.klaviyo.{view}").fetchall()
    return {key: tuple(rest) for key, *rest in found}


@pytest.mark.parametrize("view", PACKAGE_COLUMNS)
def test_a_view_has_the_columns_that_the_package_selects(
    target: duckdb.DuckDBPyConnection, view: str
) -> None:
    """Names and types are the package's; each column and the view say what they hold."""
    found = target.execute(
        "SELECT column_name, data_type, comment FROM duckdb_columns() "
        "WHERE schema_name = 'klaviyo' AND table_name = $1",
        [view],
    ).fetchall()
    kinds = {f"{name}:{kind}" for name, kind, _ in found}
    assert set(PACKAGE_COLUMNS[view].split()) - kinds == set()
    assert [name for name, _, comment in found if not comment] == []
    rest = {name for name, _, _ in found} - {
        each.split(":")[0] for each in PACKAGE_COLUMNS[view].split()
    }
    assert rest == {"event": {"event_properties"}, "person": {"properties"}}.get(view, set())


def test_times_are_utc_without_a_zone(target: duckdb.DuckDBPyConnection) -> None:
    """The session's zone moves nothing: `timestamp` has whole seconds, `datetime` all of it."""
    noon, half = NOON.replace(tzinfo=None), timedelta(milliseconds=500)
    times = rows_by_id(target, "event", "timestamp", "datetime", "_fivetran_deleted", "uuid")
    assert times["open"] == (noon, noon + half, False, "uuid-open")
    assert times["flow open"][:2] == (noon + timedelta(days=1), noon + timedelta(days=1) + half)


def test_a_type_is_the_name_that_the_package_counts(target: duckdb.DuckDBPyConnection) -> None:
    """The metric's name; a renamed one has its former name, and its new one in `metric`."""
    types = rows_by_id(target, "event", "type", "metric_id")
    assert types["open"] == ("Opened Email", "opened")
    assert types["text"] == ("Received SMS", "text")
    assert types["plain"] == (None, "no such metric")
    assert rows_by_id(target, "metric", "name")["text"] == ("Received Text Message",)
    assert len(LEGACY_METRIC_NAMES) == 5


def test_a_person_is_the_survivor_of_merges(target: duckdb.DuckDBPyConnection) -> None:
    """The event of a merged profile is the survivor's, and counts as changed since the merge."""
    persons = rows_by_id(target, "event", "person_id", "_fivetran_synced")
    assert persons["open"] == ("middle", MERGED.replace(tzinfo=None))
    assert persons["plain"] == (None, SYNCED.replace(tzinfo=None))


def test_a_second_merge_is_followed(lake: Lake) -> None:
    """Where the survivor was merged too, the event is the last one's, and stays there once."""
    other = open_lake(lake.root.parent / "merged twice")
    write_rows(other)
    again = {"id": "middle", "created": NOON, "updated": NOON + timedelta(days=2)}
    gone = {**again, "phone_number": "+15550100", "deleted_at": MERGED + timedelta(days=1)}
    write_stream(other, "profiles", [gone], synced_at=SYNCED)
    keeps_email = {"id": "survivor", "email": "a@example.com", "phone_number": "+15550100"}
    both = {**keeps_email, "created": NOON, "updated": NOON + timedelta(days=2)}
    write_stream(other, "profiles", [both], synced_at=SYNCED)
    file = other.root.parent / "twice.duckdb"
    other.publish_to_target(file, FIVETRAN_SOURCES, RELATIONS)
    with duckdb.connect(file, read_only=True) as opened:
        found = opened.execute("SELECT id, person_id FROM klaviyo.event").fetchall()
    assert {person for _, person in found} == {"survivor", None}
    assert len(found) == len(EVENTS)


def test_an_event_about_a_message_names_campaign_or_flow(
    target: duckdb.DuckDBPyConnection,
) -> None:
    """Ids of messages, variations and campaigns lead to the campaign; a flow's event has none."""
    columns = ("campaign_id", "flow_id", "flow_message_id", "_variation")
    touches = rows_by_id(target, "event", *columns)
    assert touches["open"] == ("c1", None, None, None)
    assert touches["variation"] == ("c2", None, None, None)
    assert touches["legacy"] == ("c1", None, None, None)
    assert touches["unknown"] == ("gone", None, None, None)
    assert touches["flow open"] == (None, "f1", "fm1", "fv1")
    assert touches["text"] == (None, None, None, None)


def test_a_conversion_carries_its_last_attribution(target: duckdb.DuckDBPyConnection) -> None:
    """It inherits from a stored touch; without one, campaign or flow is the attribution's own."""
    columns = ("property_attribution", "campaign_id", "flow_id", "flow_message_id")
    credited = rows_by_id(target, "event", *columns)
    parents = {
        name: json.loads(row[0])["relationships"]["attributed-event"]["data"]["id"]
        for name, row in credited.items()
        if row[0] is not None
    }
    assert parents == {
        "inherits": "open",
        "last of two": "flow open",
        "parentless": "not here",
        "parentless flow": "not here",
        "touchless parent": "plain",
    }
    assert credited["inherits"][1:] == (None, None, None)
    assert credited["last of two"][1:] == (None, None, None)
    assert credited["parentless"][1:] == ("c1", None, None)
    assert credited["parentless flow"][1:] == (None, "f1", "fm1")
    assert credited["touchless parent"][1:] == (None, "f1", "fm1")


def test_a_value_is_a_plain_decimal(target: duckdb.DuckDBPyConnection) -> None:
    """The package strips all but digits and dots: no sign, exponent or text reaches it."""
    values = rows_by_id(target, "event", "property_value", "event_properties")
    assert values["inherits"][0] == Decimal("1234.5")
    assert values["parentless flow"][0] == Decimal("0.00001")
    assert [values[name][0] for name in ("last of two", "parentless", "plain", "open")] == [
        None
    ] * 4
    assert json.loads(values["inherits"][1]) == {"$value": 1234.5}
    texts = target.execute(
        "SELECT CAST(property_value AS VARCHAR) FROM shop.klaviyo.event "
        "WHERE property_value IS NOT NULL"
    ).fetchall()
    assert all(set(text) <= set("0123456789.") for (text,) in texts)


def test_a_person_is_a_profile(target: duckdb.DuckDBPyConnection) -> None:
    """Every column has the profile's value; a merged profile is marked as deleted."""
    noon = NOON.replace(tzinfo=None)
    names = "email first_name last_name organization title phone_number address_1 address_2 city"
    columns = [*names.split(), "region", "country", "zip", "timezone", "latitude", "longitude"]
    persons = rows_by_id(target, "person", *columns, "properties")
    assert persons["survivor"] == (
        *("b@example.com", "Ada", "Lovelace", "Analytical", "Countess", "+15550100"),
        *("address1", "address2", "city", "region", "country", "zip", "timezone"),
        *(42.5, -71.25, '{"plan": "gold"}'),
    )
    times = ("created", "updated", "last_event_date", "_fivetran_deleted", "_fivetran_synced")
    dated = rows_by_id(target, "person", *times)
    assert dated["survivor"] == (
        *(noon, noon + timedelta(hours=1), noon + timedelta(hours=2)),
        *(False, SYNCED.replace(tzinfo=None)),
    )
    assert dated["old"][3:] == (True, MERGED.replace(tzinfo=None))


def test_a_campaign_has_subject_and_sender(target: duckdb.DuckDBPyConnection) -> None:
    """Of the first email, at both revisions; `sent_at` is there once it is sent."""
    noon = NOON.replace(tzinfo=None)
    content = ("name", "campaign_type", "subject", "from_email", "from_name", "email_template_id")
    campaigns = rows_by_id(target, "campaign", *content)
    sender = ("Hello", "shop@example.com", "The Shop")
    assert campaigns["c1"] == ("One", "email", *sender, "t1")
    assert campaigns["c2"] == ("Two", "email", *sender, "t2")
    state = ("status", "status_label", "status_id", "archived", "_fivetran_deleted", "sent_at")
    states = rows_by_id(target, "campaign", *state)
    assert states["c1"] == ("sent", "Sent", None, False, False, noon + timedelta(hours=3))
    assert states["c2"] == ("draft", "Draft", None, False, False, None)
    times = rows_by_id(target, "campaign", "created", "updated", "scheduled", "send_time")
    assert times["c1"] == (
        *(noon, noon, noon + timedelta(hours=1)),
        noon + timedelta(hours=3),
    )


def test_flows_and_metrics(target: duckdb.DuckDBPyConnection) -> None:
    """They are as stored; an integration's category may be a text or an object."""
    noon = NOON.replace(tzinfo=None)
    state = ("name", "status", "archived", "trigger_type", "created", "updated")
    flows = rows_by_id(target, "flow", *state, "_fivetran_deleted")
    assert flows == {"f1": ("Welcome", "live", True, "Added to List", noon, noon, False)}
    names = ("name", "integration_id", "integration_name", "integration_category", "created")
    metrics = rows_by_id(target, "metric", *names, "updated", "_fivetran_deleted")
    assert metrics["placed"] == (
        *("Placed Order", "7FtS4J", "Klaviyo", "Internal", noon, noon, False),
    )
    assert metrics["text"][3] == "Internal"
