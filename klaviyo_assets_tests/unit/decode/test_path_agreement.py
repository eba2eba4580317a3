"""What must hold for any page: both paths agree, nothing is lost, and the same comes out again."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from klaviyo_assets.decode.batch import BatchBuilder
from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.decode.fallback import parse_page_by_record
from klaviyo_assets.decode.schema import build_page_layout
from klaviyo_assets.model.column import (
    Column,
    FieldPath,
    Included,
    RelatedId,
    RelatedIds,
    attribute_column,
)
from klaviyo_assets.model.stream import WHOLE_COLLECTION
from klaviyo_assets_tests.unit.decode.samples import (
    SYNCED_AT,
    Record,
    build_record,
    build_stream,
    page_body,
    page_rows,
    resource_identifier,
    with_relationships,
)

THINGS = build_stream(
    Column("text", "Text."),
    Column("count", "Count.", "integer"),
    Column("share", "Share.", "number"),
    Column("is_on", "Switch.", "boolean"),
    Column("at", "Moment.", "timestamp", FieldPath("at", epoch_seconds_path="count")),
    Column("on", "Day.", "date"),
    Column("free", "Anything.", "json"),
    Column("tags", "Tags.", "ids"),
    attribute_column("place.city", "City."),
    attribute_column("place.geo.lat", "Latitude.", "number"),
    Column("owner_id", "Owner.", declared_source=RelatedId("owner")),
    Column("part_ids", "Parts.", "ids", RelatedIds("parts")),
    Column("parts", "Parts.", "json", Included("parts")),
)

# NUL is replaced in columns, on purpose and tested elsewhere; half surrogates cannot be encoded.
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
# Headers of webhooks are removed, and hypothesis takes words from the code that does it.
TEXT = st.text(CHARACTERS, max_size=12).filter(lambda each: "headers" not in each)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(10**25), max_value=10**25)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS,
    lambda each: st.lists(each, max_size=3) | st.dictionaries(TEXT, each, max_size=3),
    max_leaves=6,
)
MOMENTS = st.datetimes().map(lambda each: f"{each.isoformat()}+00:00")
PLACES = st.fixed_dictionaries(
    {}, optional={"city": TEXT | JSON, "geo": JSON, "floor": JSON, "a.b": JSON}
)
ATTRIBUTES = st.fixed_dictionaries(
    {},
    optional={
        "text": TEXT | JSON,
        "count": st.integers() | JSON,
        "share": st.floats(allow_nan=False, allow_infinity=False) | JSON,
        "is_on": st.booleans() | JSON,
        "at": MOMENTS | JSON,
        "on": st.dates().map(str) | JSON,
        "free": JSON,
        "tags": st.lists(TEXT) | JSON,
        "place": PLACES | JSON,
        "news": JSON,
        'odd "name"': JSON,
    },
)
IDENTIFIERS = st.builds(
    resource_identifier, st.sampled_from(["part", "user"]), st.text("abc", min_size=1)
)
LINKAGE = st.none() | IDENTIFIERS | st.lists(IDENTIFIERS, max_size=3)


def one_record(attributes: Record, id_: str | None, links: Record) -> Record:
    """Return a record of these parts."""
    return with_relationships(build_record("x", **attributes) | {"id": id_}, **links)


RECORDS = st.builds(
    one_record,
    ATTRIBUTES,
    TEXT | st.none(),
    st.fixed_dictionaries({}, optional={"owner": LINKAGE, "parts": LINKAGE, "friends": LINKAGE}),
)
PAGES = st.lists(RECORDS, max_size=4)


def members(page: list[Record]) -> bytes:
    """Return a page of the records, with one of the parts included."""
    return page_body(*page, included=[resource_identifier("part", "a") | {"attributes": {"n": 1}}])


@given(PAGES)
def test_both_paths_agree(page: list[Record]) -> None:
    """A page read at once, by what was learned, is what it is read record by record."""
    body = members(page)
    decoder = PageDecoder(THINGS)
    decoder.decode(body, synced_at=SYNCED_AT)
    learned = decoder.decode(body, synced_at=SYNCED_AT)
    layout = build_page_layout(THINGS, exclude=frozenset())
    slow = parse_page_by_record(body, layout.field_tree, THINGS.name)
    assert learned.batch.equals(BatchBuilder(layout, slow, WHOLE_COLLECTION).build(SYNCED_AT))
    assert learned.notices == slow.issues.notices()
    # Where the word `headers` stands in a page, one of the two writes the record's JSON anew.
    quarantines = (learned.quarantined, slow.quarantined)
    learned_records, slow_records = (
        [(each.reason, json.loads(each.record)) for each in quarantine]
        for quarantine in quarantines
    )
    assert learned_records == slow_records
    assert learned.record_count == len(page)
    learned.batch.validate(full=True)


def read(extra: str | None) -> dict[str, Any]:
    """Return `extra` as a dictionary; a key that is there twice is an error."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs)
        return dict(pairs)

    return json.loads(extra, object_pairs_hook=once) if extra is not None else {}


def double(value: object) -> object:
    """Return a whole number as the nearest double, which is what a number column holds."""
    return float(value) if isinstance(value, int) and abs(value) < 1e308 else value


@given(PAGES)
def test_nothing_is_lost(page: list[Record]) -> None:
    """Every attribute that is not null is in its column as sent, or in `extra` as sent."""
    found = PageDecoder(THINGS).decode(members(page), synced_at=SYNCED_AT)
    stored = [one for one in page if one["id"]]
    assert len(found.quarantined) == len(page) - len(stored)
    for one, row in zip(stored, found.batch.to_pylist(), strict=True):
        extra = read(row["extra"])
        for name in ("text", "count", "share", "is_on", "tags"):
            value = one["attributes"].get(name)
            assert name in extra or row[name] == (double(value) if name == "share" else value)
            assert extra.get(name, value) == value
        for name in ("news", 'odd "name"'):
            assert extra.get(name) == one["attributes"].get(name)
        for name in ("at", "on"):
            value = one["attributes"].get(name)
            assert value is None or row[name] is not None or extra[name] == value
        place = one["attributes"].get("place")
        if isinstance(place, dict):
            assert extra.get("place.floor") == place.get("floor")
            assert extra.get("place.a.b") == place.get("a.b")
        else:
            assert extra.get("place") == place


@given(JSON)
def test_free_form_values_come_back(value: object) -> None:
    """JSON text is read back as the value that was sent; JSON null is NULL."""
    page = PageDecoder(THINGS).decode(page_body(build_record("a", free=value)), synced_at=SYNCED_AT)
    text = page_rows(page)[0]["free"]
    assert (text and json.loads(text)) == value
    assert (text is None) == (value is None)
