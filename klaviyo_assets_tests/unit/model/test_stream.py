"""A stream refuses nonsense and says what its requests are counted against."""

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import (
    SYNCED_COLUMN,
    TIER_L,
    TIER_M,
    TIER_XS,
    WHOLE_COLLECTION,
    AdditionalField,
    Collection,
    Cursor,
    Detail,
    Join,
    RateLimitBucket,
    Slice,
    Stream,
    describe_stream,
)

COUNT = AdditionalField(resource="thing", name="count", tier=TIER_XS)
GUESS = AdditionalField(resource="thing", name="guess", tier=TIER_M, is_optional=True)
PLAIN = AdditionalField(resource="thing", name="plain")

THINGS = Stream(
    name="things",
    description="One row per thing.",
    section="Things",
    source=Collection(path="/api/things", page_size=10),
    columns=(Column("name", "The name."), Column("updated", "When.", "timestamp")),
    tier=TIER_L,
    scopes=("things:read",),
    cursor=Cursor(column="updated", field="updated"),
)

COUNTED = replace(
    THINGS,
    name="things_counted",
    source=Detail(parent="things", path="/api/things/{id}", additional_fields=(COUNT,)),
    cursor=None,
)

JOINED = replace(
    THINGS,
    name="things_joined",
    source=Join(
        left="things", right="others", join_column="other_id", columns={"other_name": "name"}
    ),
    cursor=None,
)


def test_the_grain_is_said_first() -> None:
    """A stream that does not say what one row is cannot be declared."""
    with pytest.raises(ValueError, match=r"things: .*One row per"):
        replace(THINGS, description="Things.")


def test_a_column_is_there_once() -> None:
    """Two columns of one name cannot be declared."""
    with pytest.raises(ValueError, match=r"things: .*twice"):
        replace(THINGS, columns=(*THINGS.columns, Column("name", "Again.")))


def test_a_cursor_is_a_column() -> None:
    """A cursor that no column holds cannot be declared."""
    with pytest.raises(ValueError, match=r"things: .*'created' is not a column"):
        replace(THINGS, cursor=Cursor(column="created", field="created"))


def test_a_table_by_day_has_a_day() -> None:
    """Partitions by day need a cursor to take the day from."""
    with pytest.raises(ValueError, match=r"things: .*by day"):
        replace(THINGS, cursor=None, partitioning="day")


@pytest.mark.parametrize(
    "wrong",
    [
        {"cursor": Cursor(column="name", field="name", is_version=False)},
        {"partitioning": "day"},
        {"source": COUNTED.source, "cursor": None},
    ],
    ids=["a cursor that goes back", "by day", "a detail"],
)
def test_only_what_a_read_misses_for_sure_is_marked(wrong: dict[str, Any]) -> None:
    """A stream whose complete read could miss a record that is there cannot mark deleted ones."""
    assert replace(THINGS, has_soft_deletes=True).has_soft_deletes
    with pytest.raises(ValueError, match=r"things: .*deleted"):
        replace(THINGS, has_soft_deletes=True, **wrong)


def test_a_cursor_in_the_key_does_not_go_back() -> None:
    """A row that is known by its cursor too, as a membership is, can be missed for sure."""
    of_key = replace(
        THINGS,
        has_soft_deletes=True,
        key=("id", "name"),
        cursor=Cursor(column="name", field="name", is_version=False),
    )
    assert of_key.has_soft_deletes
    with pytest.raises(ValueError, match=r"things: an id scan"):
        replace(of_key, id_scan_cursor=of_key.cursor)


def test_a_history_is_of_columns_of_a_table_without_partitions() -> None:
    """What no column holds cannot be compared, and histories by day are not made for it."""
    assert replace(THINGS, history_columns=("name",)).history_columns == ("name",)
    for wrong in (
        {"history_columns": ("x",)},
        {"history_columns": ("name",), "partitioning": "day"},
    ):
        with pytest.raises(ValueError, match=r"things: history columns"):
            replace(THINGS, **wrong)


def test_an_id_scan_is_by_a_column() -> None:
    """Ids are scanned by a column of a stream that marks deleted records, or not at all."""
    by_name = Cursor(column="name", field="name")
    assert replace(THINGS, has_soft_deletes=True, id_scan_cursor=by_name).id_scan_cursor == by_name
    with pytest.raises(ValueError, match=r"things: an id scan"):
        replace(THINGS, id_scan_cursor=by_name)
    with pytest.raises(ValueError, match=r"things: an id scan"):
        replace(THINGS, has_soft_deletes=True, id_scan_cursor=Cursor(column="x", field="x"))


def test_a_declaration_does_not_change() -> None:
    """Machines share the streams; none can change one, nor the constants of a slice."""
    with pytest.raises(FrozenInstanceError):
        THINGS.name = "others"  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError):
        WHOLE_COLLECTION.values["channel"] = "email"  # pyright: ignore[reportIndexIssue]


def test_a_collection_without_a_cursor_is_swept() -> None:
    """A collection whose changes cannot be requested is read whole; details and joins are not."""
    assert not THINGS.is_snapshot
    assert replace(THINGS, cursor=None).is_snapshot
    assert not COUNTED.is_snapshot
    assert not JOINED.is_snapshot


def test_a_collection_is_one_slice_by_default() -> None:
    """The plain collection is requested without a filter."""
    assert isinstance(THINGS.source, Collection)
    assert THINGS.source.slices == (Slice(name="*", filter=""),)


def test_a_request_is_counted_against_its_path() -> None:
    """Streams of one path have one budget, whatever their names."""
    twin = replace(THINGS, name="twins")
    assert (
        THINGS.rate_limit_buckets()
        == twin.rate_limit_buckets()
        == (RateLimitBucket("GET /api/things", TIER_L),)
    )


def test_a_lowered_limit_is_counted_as_well() -> None:
    """A field with a limit of its own adds a budget, named as the parameter; a plain one none."""
    source = Collection(path="/api/things", page_size=10, additional_fields=(PLAIN, GUESS))
    assert replace(THINGS, source=source).rate_limit_buckets() == (
        RateLimitBucket("GET /api/things", TIER_L),
        RateLimitBucket("additional-fields[thing]=guess", TIER_M),
    )


def test_a_field_left_out_costs_nothing() -> None:
    """What is not requested is not counted; leaving out another changes nothing."""
    source = Collection(path="/api/things", page_size=10, additional_fields=(GUESS,))
    stream = replace(THINGS, source=source)
    assert stream.rate_limit_buckets(excluded_fields=frozenset({"guess"})) == (
        RateLimitBucket("GET /api/things", TIER_L),
    )
    assert (
        stream.rate_limit_buckets(excluded_fields=frozenset({"plain"}))
        == stream.rate_limit_buckets()
    )


def test_a_detail_is_counted_against_its_template() -> None:
    """All records of a parent are requested from one budget, not one each."""
    assert COUNTED.rate_limit_buckets() == (
        RateLimitBucket("GET /api/things/{id}", TIER_L),
        RateLimitBucket("additional-fields[thing]=count", TIER_XS),
    )


def test_a_join_spends_nothing() -> None:
    """No request, no budget."""
    assert JOINED.rate_limit_buckets() == ()


def test_a_column_is_described_with_its_origin() -> None:
    """A description ends with the path in Klaviyo's response, or the relation joined."""
    streams = {"things": THINGS, "others": replace(THINGS, name="others")}
    joined = replace(JOINED, columns=(Column("other_name", "The other's name."),))
    found = describe_stream(joined, streams).columns
    assert found["name"] == "The name. `name`"
    assert found["other_name"] == "The other's name. `others.name`"
    assert found["synced_at"] == SYNCED_COLUMN.description
