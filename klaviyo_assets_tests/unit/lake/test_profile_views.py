"""Who can be sent what, and the twenty columns of profiles that most questions need."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from klaviyo_assets.lake.read.computed import build_view_relation
from klaviyo_assets.lake.read.views import build_select
from klaviyo_assets.model.column import Column
from klaviyo_assets.model.view import View
from klaviyo_assets.streams.profile_views import CAN_RECEIVE, PROFILES_CORE
from klaviyo_assets_tests.unit.lake.stored_tables import Row, query_view, store_table

NOW = datetime(2026, 11, 2, 3, 30, tzinfo=UTC)
LONG_AGO = NOW - timedelta(days=3000)

EMAIL, SMS = "subscriptions_email_marketing_", "subscriptions_sms_marketing_"
PUSH, WHATSAPP = "subscriptions_mobile_push_marketing_", "subscriptions_whatsapp_marketing_"
FLAGS: Row = {
    f"{EMAIL}can_receive_email_marketing": True,
    f"{SMS}can_receive_sms_marketing": True,
    f"{PUSH}can_receive_push_marketing": True,
    f"{WHATSAPP}can_receive": True,
}
REACHABLE: Row = {"id": "reachable", "email": "a@b.example", "phone_number": "+1", **FLAGS}
"""A profile beside the one that a test is about: so every column is known to be stored."""


def suppressions(*reasons: str) -> str:
    """Return global suppressions, as the JSON column has them."""
    return json.dumps([{"reason": each, "timestamp": NOW.isoformat()} for each in reasons])


def answer(folder: Path, channel: str, **values: object) -> tuple[object, ...]:
    """Return whether a profile like the reachable one but for `values` can be reached, and why."""
    row = {**REACHABLE, **values, "id": "it"}
    tables = {"profiles": store_table(folder, "profiles", [REACHABLE, row])}
    (found,) = query_view(
        CAN_RECEIVE,
        tables,
        f"SELECT can_receive, reason FROM it WHERE profile_id = 'it' AND channel = '{channel}'",
    )
    return found


@pytest.mark.parametrize(
    ("channel", "values", "expected"),
    [
        ("email", {}, (True, None)),
        # Email needs no subscription: what counts is that nothing suppresses it.
        ("email", {f"{EMAIL}consent": "NEVER_SUBSCRIBED"}, (True, None)),
        (
            "email",
            {
                f"{EMAIL}can_receive_email_marketing": False,
                f"{EMAIL}consent": "UNSUBSCRIBED",
                f"{EMAIL}suppression": suppressions("USER_SUPPRESSED", "HARD_BOUNCE"),
            },
            (False, "suppressed: HARD_BOUNCE, USER_SUPPRESSED"),
        ),
        (
            "email",
            {f"{EMAIL}can_receive_email_marketing": False, f"{EMAIL}consent": "UNSUBSCRIBED"},
            (False, "unsubscribed"),
        ),
        (
            "email",
            {f"{EMAIL}can_receive_email_marketing": False, f"{EMAIL}suppression": "[]"},
            (False, "Klaviyo says no"),
        ),
        ("email", {f"{EMAIL}can_receive_email_marketing": None}, (None, "Klaviyo does not say")),
        ("email", {"email": None}, (False, "no email address")),
        ("sms", {}, (True, None)),
        ("sms", {"phone_number": None}, (False, "no phone number")),
        (
            "sms",
            {f"{SMS}can_receive_sms_marketing": False, f"{SMS}consent": "NEVER_SUBSCRIBED"},
            (False, "never subscribed"),
        ),
        (
            "sms",
            {f"{SMS}can_receive_sms_marketing": None},
            (False, "never subscribed: no consent on record"),
        ),
        # Whoever left can be told apart from who never came, with an address or without.
        (
            "sms",
            {
                f"{SMS}can_receive_sms_marketing": False,
                f"{SMS}consent": "unsubscribed",
                "phone_number": None,
            },
            (False, "unsubscribed"),
        ),
        ("mobile_push", {"email": None, "phone_number": None}, (True, None)),
        (
            "mobile_push",
            {f"{PUSH}can_receive_push_marketing": None},
            (False, "never subscribed: no consent on record"),
        ),
        ("whatsapp", {"phone_number": None, f"{WHATSAPP}phone_number": "+2"}, (True, None)),
        (
            "whatsapp",
            {
                f"{WHATSAPP}can_receive": False,
                f"{WHATSAPP}consent": "SUBSCRIBED",
                f"{WHATSAPP}valid_until": LONG_AGO,
            },
            (False, "consent ran out"),
        ),
    ],
)
def test_a_closed_channel_has_its_reason(
    tmp_path: Path, channel: str, values: Row, expected: tuple[object, ...]
) -> None:
    """The flag is Klaviyo's; of several reasons the one is named that a new consent cannot undo."""
    assert answer(tmp_path, channel, **values) == expected


def test_a_suppressed_list_shuts_no_channel(tmp_path: Path) -> None:
    """A suppression of a list is named, while other lists are still open."""
    lists = json.dumps([{"list_id": "L1", "reason": "USER_SUPPRESSED", "timestamp": ""}])
    row = {**REACHABLE, f"{EMAIL}list_suppressions": lists}
    tables = {"profiles": store_table(tmp_path, "profiles", [row])}
    columns = "channel, can_receive, suppressed_list_ids"
    rows = query_view(CAN_RECEIVE, tables, f"SELECT {columns} FROM it ORDER BY channel LIMIT 2")
    assert rows == [("email", True, ["L1"]), ("mobile_push", True, None)]


def test_what_a_setting_leaves_out_is_no_reason(tmp_path: Path) -> None:
    """Without any address or flag in the table, nobody is told to have none."""
    row = {**REACHABLE, "email": None, f"{SMS}can_receive_sms_marketing": None}
    tables = {"profiles": store_table(tmp_path, "profiles", [row], without="phone_number")}
    rows = query_view(CAN_RECEIVE, tables, "SELECT channel, can_receive, reason FROM it")
    assert sorted(rows) == [
        ("email", True, None),
        ("mobile_push", True, None),
        ("sms", None, "flag not stored"),
        ("whatsapp", True, None),
    ]


def test_both_views_show_who_exists_and_agree(tmp_path: Path) -> None:
    """Deleted profiles are in neither; the flags of twenty columns are those with a reason."""
    rows = [
        {**REACHABLE, "predictive_analytics_historic_clv": 12.5},
        {**REACHABLE, "id": "gone", "deleted_at": NOW},
        {**REACHABLE, "id": "silent", "email": None, f"{SMS}can_receive_sms_marketing": None},
    ]
    tables = {"profiles": store_table(tmp_path, "profiles", rows)}
    core = query_view(
        PROFILES_CORE,
        tables,
        "SELECT id, can_receive_email, can_receive_sms, can_receive_mobile_push, revenue FROM it "
        "ORDER BY id",
    )
    assert core == [("reachable", True, True, True, 12.5), ("silent", False, False, True, None)]
    pivoted = query_view(
        CAN_RECEIVE,
        tables,
        "SELECT profile_id, "
        + ", ".join(
            f"bool_or(can_receive) FILTER (channel = '{each}')"
            for each in ("email", "sms", "mobile_push")
        )
        + " FROM it GROUP BY 1 ORDER BY 1",
    )
    assert pivoted == [row[:-1] for row in core]


@pytest.mark.parametrize("view", [CAN_RECEIVE, PROFILES_CORE], ids=lambda view: view.name)
def test_columns_are_the_declared_ones(tmp_path: Path, view: View) -> None:
    """Names and their order are those that carry comments; without profiles there is no view."""
    tables = {"profiles": store_table(tmp_path, "profiles", [REACHABLE])}
    described = query_view(view, tables, "DESCRIBE it")
    assert [name for name, *_ in described] == [each.name for each in view.columns]
    assert build_select(build_view_relation(view), {}) is None


def test_there_are_twenty_of_them() -> None:
    """More would be profiles itself."""
    assert len(PROFILES_CORE.columns) == 20


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"description": "Profiles."}, "must start with the grain"),
        ({"columns": (Column("id", "It."), Column("id", "It."))}, "declared twice"),
        ({"tables": (*CAN_RECEIVE.tables, *CAN_RECEIVE.tables)}, "declared twice"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(
    values: dict[str, object], message: str
) -> None:
    """The grain is said, and no column or table is there twice."""
    whole = {"name": "it", "description": "One row per it.", "tables": (), "columns": (), "sql": ""}
    with pytest.raises(ValueError, match=message):
        View(**{**whole, **values})  # pyright: ignore[reportArgumentType]
