"""Records: F30 to F34. Broken ones are quarantined, unusual ones are stored as received."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import product
from typing import Any, cast

import pyarrow.parquet as pq
import pytest

from klaviyo_assets.defs import assets
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    assert_sound_part,
    has_table,
    stored_ids,
)

EVENTS = "/api/events"
PROFILES = "/api/profiles"
ALL = 100_000


def read_quarantine(home: Home, stream: str) -> list[tuple[str, Any]]:
    """Return reason and record of everything that was quarantined, each record once."""
    folder = home.data_dir / "lake" / "_quarantine" / stream
    found: list[tuple[str, Any]] = []
    for path in sorted(folder.glob("*.parquet")):
        rows = pq.read_table(path).to_pylist()
        found += [(each["reason"], json.loads(each["record"])) for each in rows]
    return found


def notices(run: RunResult, stream: str) -> list[str]:
    """Return what a stream's metadata tells of fields and types."""
    return cast("list[str]", run.materializations[stream].get("klaviyo/notices", []))


def extras(home: Home, stream: str) -> dict[str, Mapping[str, Any]]:
    """Return what `extra` holds, by id, for the rows that have something."""
    rows = home.query(f"SELECT id, extra FROM klaviyo.{stream} WHERE extra IS NOT NULL")
    return {each: json.loads(text) for each, text in rows}


BROKEN = {
    "no_id": "the record has no id",
    "null_id": "the record's id is null",
    "null_attributes": "the record's attributes are not an object but null",
    "string_record": "the record is not an object but string",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_f30_broken_records_are_quarantined_and_counted(home: Home, kind: str) -> None:
    """Sound records around broken ones are stored; the broken lie in quarantine as they came."""
    moments = home.account.true_cursors(stream := "events")
    match = {"path": EVENTS, "nth": 1}
    with home.account.inject_fault(kind, match=match, at=[0, 7, 450]):
        run = home.sync(stream)
    assert run.success
    assert run.metadata_number(stream, "quarantined") == 3
    aside = read_quarantine(home, stream)
    assert [reason for reason, _ in aside] == [BROKEN[kind]] * 3
    order = sorted(moments, key=lambda each: str(moments[each]))
    stored = set(home.ids(stream))
    broken = {each for each in order if each not in stored}
    assert len(broken) == 3
    assert order[0] in broken or moments[order[0]] == moments[order[1]]
    assert order[-1] in stored
    assert_complete(home, stream, quarantined=broken)
    if kind == "null_attributes":
        assert {record["id"] for _, record in aside} == broken


@pytest.mark.parametrize("kind", ["no_id", "null_attributes"])
def test_f30_too_many_broken_records_fail_the_stream(home: Home, kind: str) -> None:
    """Above 100 broken records and 1 % the stream is red; the sound records are stored.

    The next run asks for the windows of the broken ones again, though the mark lies beyond them.
    """
    with home.account.inject_fault(kind, match={"path": EVENTS}, count=120):
        run = home.sync("events", "lists")
    assert list(run.failures) == ["events"]
    assert "120 of 895 records cannot be stored, more than 100 and" in run.failures["events"]
    assert "_quarantine/events" in run.failures["events"]
    assert run.attempts["events"] == 1
    assert len(read_quarantine(home, "events")) == 120
    assert len(stored_ids(home, "events")) == 895 - 120
    assert_sound_part(home, "events")
    assert_complete(home, "lists")
    assert home.sync("events").success
    assert_complete(home, "events")


def test_f30_a_full_refresh_with_many_broken_records_replaces_nothing(home: Home) -> None:
    """A table that is there is not replaced by one with a hundred holes."""
    assert home.sync("events").success
    with home.account.inject_fault("no_id", match={"path": EVENTS}, count=120):
        run = home.sync("events", config={"sync_mode": "full_refresh_overwrite"})
    assert "120 of 895 records cannot be stored" in run.failures["events"]
    assert_complete(home, "events")


def test_f30_two_broken_of_an_hours_records_do_not_stop_the_stream(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of twenty-two are quarantined, run after run, while all others come and the mark goes on.

    Once Klaviyo sends them whole they are stored, though the mark is beyond them by then.
    """
    assert home.sync("events").success
    newest = home.account.now
    # The first ones of the page were read before: those of the last minutes before the mark.
    with home.account.inject_fault("null_attributes", match={"path": EVENTS}, at=[10, 11]):
        for _ in range(2):
            home.account.advance_clock(hours=1)
            moments = [home.account.now - timedelta(seconds=3000 - each) for each in range(22)]
            newest = max(moments)
            home.account.add_events(*({"datetime": each.isoformat()} for each in moments))
            run = home.sync("events")
            assert run.success
            assert run.metadata_number("events", "quarantined") == 2
            assert "2 of " in run.warnings
            assert "the record's attributes are not an object but null" in run.warnings
            assert "later runs request them again" in run.warnings
            assert datetime.fromisoformat(str(run.cursor("events"))) >= newest
    missing = home.account.true_ids("events") - set(stored_ids(home, "events"))
    assert missing == {record["id"] for _, record in read_quarantine(home, "events")}
    assert len(missing) == 2
    soon = assets.utc_now() + timedelta(hours=2)
    monkeypatch.setattr(assets, "utc_now", lambda: soon)
    home.account.clear_journal()
    assert home.sync("events").success
    assert stored_ids(home, "events") == sorted(home.account.true_ids("events"))
    # One request for the window and what is new, which touch.
    assert home.account.request_counts()[EVENTS] == 1
    monkeypatch.setattr(assets, "utc_now", lambda: soon + timedelta(days=1))
    # Of the last minutes alone, not the window that is whole now.
    assert home.sync("events").metadata_number("events", "records_read") < 10


def test_f31_a_new_attribute_is_kept_as_json(home: Home) -> None:
    """What no column holds is in `extra` for every record, and the metadata names the field."""
    novelty = {"since": 2027, "tags": ["a", None]}
    with home.account.inject_fault("new_field", match={"path": PROFILES}, count=ALL, value=novelty):
        run = home.sync("profiles")
    assert run.success
    assert notices(run, "profiles") == ["brand_new_field: object without a column, kept in `extra`"]
    stored_extras = extras(home, "profiles")
    assert stored_extras.keys() == home.account.true_ids("profiles")
    assert all(each["brand_new_field"] == novelty for each in stored_extras.values())
    assert_complete(home, "profiles")


def test_f31_a_new_relationship_is_kept_as_json(home: Home) -> None:
    """A relationship that no column holds is in `extra`, and the metadata names it."""
    with home.account.inject_fault("new_relationship", match={"path": EVENTS}, at=[0, 5]):
        run = home.sync("events")
    assert run.success
    assert "relationships.novelty: object without a column, kept in `extra`" in notices(
        run, "events"
    )
    stored_extras = list(extras(home, "events").values())
    assert len(stored_extras) == 2
    for each in stored_extras:
        assert each["relationships.novelty"] == {"type": "novelty", "id": "N1"}
    assert_complete(home, "events")


def test_f31_a_new_value_is_a_value(home: Home) -> None:
    """A word that Klaviyo's list of values does not have is stored in its column."""
    with home.account.inject_fault("new_value", match={"path": "/api/flows"}):
        run = home.sync("flows")
    assert run.success
    assert ("Teleported",) in home.query("SELECT status FROM klaviyo.flows")
    assert_complete(home, "flows")


TYPES: dict[str, tuple[str, str, object, object, str]] = {
    "text for an integer": ("events", "timestamp", "soon", None, "string"),
    "object for an integer": ("events", "timestamp", {"was": 1}, None, "object"),
    "list for a time": ("profiles", "last_event_date", ["a"], None, "array"),
    "number for text": ("profiles", "first_name", 12.50, "12.5", "number"),
    "object for text": ("profiles", "first_name", {"was": "x"}, None, "object"),
    "text for an object": ("profiles", "location", "Rome", None, "string"),
}


@pytest.mark.parametrize("case", TYPES)
def test_f32_a_value_of_another_type_is_kept(home: Home, case: str) -> None:
    """The column is NULL or text, the value is in `extra`, and the metadata counts both."""
    stream, field, value, stored, was = TYPES[case]
    match = {"path": f"/api/{stream}", "nth": 1}
    with home.account.inject_fault("type_change", match=match, field=field, value=value, at=3):
        run = home.sync(stream)
    assert run.success
    assert run.metadata_number(stream, "quarantined") == 0
    ((changed, stored_extras),) = extras(home, stream).items()
    assert stored_extras == {field: value}
    field_notices = [each for each in notices(run, stream) if each.startswith(field)]
    assert len(field_notices) == 1
    assert was in field_notices[0]
    assert "kept in `extra`" in field_notices[0]
    column = "location_city" if field == "location" else field
    found = home.query(f"SELECT {column} FROM klaviyo.{stream} WHERE id = '{changed}'")
    assert found == [(stored,)]
    assert_complete(home, stream)


ODD = [
    "huge_integer",
    "overflow",
    "nan_text",
    "deep_nesting",
    "huge_string",
    "nul_character",
    "lone_surrogate",
]


@pytest.mark.parametrize("kind", ODD)
def test_f33_strange_values_are_kept_as_valid_json(home: Home, kind: str) -> None:
    """In free-form properties each is stored as JSON that DuckDB reads, and no record is lost."""
    with home.account.inject_fault(kind, match={"path": EVENTS, "nth": 1}, at=[2, 3]):
        run = home.sync("events")
    assert run.success
    assert run.metadata_number("events", "quarantined") == 0
    odd = home.query(
        "SELECT count(*), bool_and(json_valid(event_properties)) FROM klaviyo.events "
        "WHERE json_exists(event_properties, '$.odd')"
    )
    assert odd == [(2, True)]
    assert_complete(home, "events")


def test_f33_strange_values_anywhere_lose_no_record(open_home: StartHome) -> None:
    """In a text, in a time and in a new field each leaves a row that can be read; a page each."""
    fields = ("first_name", "created", "brand_new_field")
    home = open_home(profiles=100 * len(ODD) * len(fields), events=0)
    with ExitStack() as stack:
        for page, (kind, field) in enumerate(product(ODD, fields), 1):
            match = {"path": PROFILES, "nth": page}
            stack.enter_context(home.account.inject_fault(kind, match=match, field=field, at=2))
        run = home.sync("profiles")
        script = home.account.sandbox.faults
        assert [rule.hit_count for rule in script.rules] == [1] * len(ODD) * len(fields)
    assert run.success
    assert run.metadata_number("profiles", "quarantined") == 0
    assert run.metadata_number("profiles", "retries") == 0
    stored_extras = [set(each) for each in extras(home, "profiles").values()]
    assert stored_extras.count({"brand_new_field"}) == len(ODD)
    assert_complete(home, "profiles")


LENIENT = ["nan_literal", "infinity_literal", "stray_byte", "bare_control"]


@pytest.mark.parametrize("kind", LENIENT)
def test_f33_what_json_readers_take_is_taken(home: Home, kind: str) -> None:
    """What is not JSON to the letter is stored as valid JSON, with a notice, and requested once."""
    with home.account.inject_fault(kind, match={"path": EVENTS}, at=[2, 3]):
        run = home.sync("events")
    assert run.success
    assert (
        run.metadata_number("events", "retries")
        == run.metadata_number("events", "quarantined")
        == 0
    )
    (field_notices,) = notices(run, "events")
    assert field_notices.startswith("number: " if "literal" in kind else "text: ")
    odd = home.query(
        "SELECT event_properties->>'$.odd' FROM klaviyo.events "
        "WHERE json_valid(event_properties) AND json_exists(event_properties, '$.odd')"
    )
    changed = {"stray_byte": "before\ufffdafter", "bare_control": "before\nafter"}
    assert odd == [(changed.get(kind),)] * 2
    assert_complete(home, "events")


def test_f34_an_attribute_that_is_no_longer_sent_is_null(home: Home) -> None:
    """The column is NULL in every row, and the metadata names the missing attribute."""
    assert home.sync("lists").success
    match = {"path": PROFILES}
    with home.account.inject_fault("removed_field", match=match, field="title", count=ALL):
        run = home.sync("profiles")
    assert run.success
    assert notices(run, "profiles") == ["title: declared, but no record of the page has it"]
    assert home.query("SELECT count(title) FROM klaviyo.profiles") == [(0,)]
    assert not has_table(home, "events")
    assert_complete(home, "profiles")
