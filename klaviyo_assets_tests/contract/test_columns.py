"""Every attribute that Klaviyo publishes has a column, and every column something to hold."""

import pytest

from klaviyo_assets.decode.decoder import PageDecoder
from klaviyo_assets.lake.layout import build_table
from klaviyo_assets.model.column import (
    Column,
    FieldPath,
    FirstIncludedId,
    Included,
    LatestOf,
    RelatedId,
    RelatedIds,
    SliceConstant,
)
from klaviyo_assets.model.stream import (
    PARENT_ID,
    REVISION_COLUMN,
    Children,
    Collection,
    Detail,
    Stream,
    ViewSource,
)
from klaviyo_assets.streams import COLLECTIONS, STREAMS
from klaviyo_assets_tests.contract.facts import OPERATIONS
from klaviyo_assets_tests.contract.published import (
    READ_NAMES,
    READS,
    REQUESTING_STREAMS,
    published_operation,
)

COLUMN_TYPES = {
    "text": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "time": "timestamp",
    "date": "date",
    "texts": "ids",
    "text or number": "number",
    "text or integer": "json",
    "object": "json",
    "objects": "json",
}

STORED = [stream for stream in COLLECTIONS if not isinstance(stream.source, ViewSource)]

UNLISTED_ATTRIBUTES = {
    ("coupons", "assigner_configuration"),
    ("profiles", "subscriptions.email.click_tracking"),
    ("global_exclusions", "subscriptions.email.click_tracking"),
}
"""Attributes that may come at every revision, and that the documents of the older one lack."""

DEFINITION = "definition"
"""The member that holds all attributes of a campaign's parts; columns are not named for it."""

FREE_FORM_IN_COLUMNS = {("metrics", "integration")}
"""Free-form objects whose usual fields are columns; `extra` holds what else comes."""

NOT_INCLUDED = {
    "metrics": {"flow-triggers"},
    "profiles": {"conversations", "push-tokens"},
    "global_exclusions": {"conversations", "push-tokens"},
}
"""Relationships that Klaviyo would include: metrics and profiles need no scope but their own."""

each_read = pytest.mark.parametrize(("stream", "revision"), READS, ids=READ_NAMES)
each_stream = pytest.mark.parametrize("stream", REQUESTING_STREAMS, ids=lambda stream: stream.name)


def included_relationships(stream: Stream) -> tuple[str, ...]:
    """Return what a stream includes."""
    return stream.source.include if isinstance(stream.source, Collection) else ()


def requested_attributes(stream: Stream, revision: str) -> dict[str, str]:
    """Return the published attributes that are requested.

    Additional fields come only where they are named, all others where no choice is made.
    """
    assert isinstance(stream.source, Collection | Detail | Children)
    chosen = () if isinstance(stream.source, Detail) else stream.source.fields
    requested = {extra.name for extra in stream.source.additional_fields}
    offered = {
        name
        for names in published_operation(stream, revision).additional_fields.values()
        for name in names
    }
    return {
        path: word
        for path, word in published_operation(stream, revision).attributes.items()
        if path.split(".")[0] not in offered - requested and (not chosen or path in chosen)
    }


def columns_of_records(stream: Stream, revision: str) -> list[Column]:
    """Return a stream's columns, and its parent's where both are told the same records."""
    if not isinstance(stream.source, Detail):
        return list(stream.columns)
    parent = STREAMS[stream.source.parent]
    same = published_operation(parent, revision).type == published_operation(stream, revision).type
    return [*(parent.columns if same else ()), *stream.columns]


def is_below(path: str, above: str) -> bool:
    """Tell whether a dotted path lies below another."""
    return path.startswith(f"{above}.")


@each_read
def test_every_published_attribute_has_a_place(stream: Stream, revision: str) -> None:
    """What is published lies in a column of its own, or inside one that holds JSON."""
    places = [
        (column.source.path, column.type)
        for column in columns_of_records(stream, revision)
        if isinstance(column.source, FieldPath)
    ]
    for path, word in requested_attributes(stream, revision).items():
        assert (
            path in stream.ignored_attributes
            or any(at == path for at, _ in places)
            or any(is_below(path, at) and kind == "json" for at, kind in places)
            or ((stream.name, path) in FREE_FORM_IN_COLUMNS and word == "object")
        ), path


@each_read
def test_every_attribute_column_is_published(stream: Stream, revision: str) -> None:
    """A column's path and type are published, or lie below an object that is free-form."""
    attributes = requested_attributes(stream, revision)
    for column in stream.columns:
        if not isinstance(column.source, FieldPath):
            continue
        path = column.source.path
        if path in attributes:
            assert column.type == COLUMN_TYPES[attributes[path]], column.name
        elif any(
            stream.name == name and is_below(path, above) for name, above in UNLISTED_ATTRIBUTES
        ):
            continue
        elif column.type == "json":
            assert any(is_below(each, path) for each in attributes), column.name
        else:
            above = [each for each in attributes if is_below(path, each)]
            assert [(stream.name, each) for each in above] == list(FREE_FORM_IN_COLUMNS)


@each_stream
def test_columns_are_named_by_their_path(stream: Stream) -> None:
    """A column's name is where Klaviyo puts the value, so that its reference explains it."""
    for column in stream.columns:
        match column.source:
            case FieldPath(path=path) if (stream.name, column.name) != (
                "global_exclusions",
                "suppressions",
            ):
                names = {path, path.removeprefix(f"{DEFINITION}.")}
                assert column.name in {name.replace(".", "_") for name in names}
            case RelatedId(relationship=name):
                assert column.name == f"{name.replace('-', '_')}_id"
            case RelatedIds(relationship=name):
                assert column.name == f"{name.removesuffix('s').replace('-', '_')}_ids"
            case _:
                pass


@each_read
def test_relationship_columns_are_published_and_brought(stream: Stream, revision: str) -> None:
    """A to-many relationship has ids only when it is included; a to-one is read as one."""
    relationships = published_operation(stream, revision).relationships
    for column in stream.columns:
        match column.source:
            case RelatedId(relationship=name):
                assert relationships[name].startswith("one "), column.name
                assert column.type == "string"
            case RelatedIds(relationship=name):
                assert relationships[name].startswith("many "), column.name
                assert name in included_relationships(stream)
                assert column.type == "ids"
            case Included(relationship=name):
                assert relationships[name].startswith("many "), column.name
                assert name in included_relationships(stream)
                assert column.type == "json"
            case _:
                pass


@each_read
def test_ids_found_in_included_records_are_published(stream: Stream, revision: str) -> None:
    """What an included record relates to is a to-one relationship that its type has."""
    facts = published_operation(stream, revision)
    for column in stream.columns:
        if isinstance(column.source, FirstIncludedId):
            kind = facts.relationships[column.source.relationship].split(" ")[1]
            assert column.source.relationship in included_relationships(stream)
            assert facts.included[kind][column.source.related_name].startswith("one ")
            assert column.type == "string"


@each_read
def test_every_relationship_has_a_column_or_a_reason(stream: Stream, revision: str) -> None:
    """A relationship that no column holds is one that was left out knowingly.

    Where the attributes are chosen, the rest of the record belongs to another stream.
    """
    assert isinstance(stream.source, Collection | Detail | Children)
    if isinstance(stream.source, Detail) or stream.source.fields:
        return
    held = {
        column.source.relationship
        for column in stream.columns
        if isinstance(column.source, RelatedId | RelatedIds | Included)
    }
    facts = published_operation(stream, revision)
    held |= {
        name
        for name in facts.relationships
        for column in stream.columns
        if column.source == PARENT_ID and column.name == f"{name.replace('-', '_')}_id"
    }
    # The ids of a to-many relationship come only with an include.
    readable = {
        name
        for name, word in facts.relationships.items()
        if word.startswith("one ") or name in facts.include
    }
    assert readable - held == NOT_INCLUDED.get(stream.name, set())


@each_stream
def test_nothing_is_included_for_nothing(stream: Stream) -> None:
    """Each include fills a column."""
    held = {
        column.source.relationship
        for column in stream.columns
        if isinstance(column.source, RelatedId | RelatedIds | Included)
    }
    assert set(included_relationships(stream)) <= held


@each_read
def test_a_cursor_column_holds_what_is_filtered_by(stream: Stream, revision: str) -> None:
    """The high-water mark is taken from the value that the filter compares."""
    sources = {column.name: column.source for column in stream.columns}
    if stream.cursor is None:
        return
    match sources[stream.cursor.column]:
        case FieldPath(path=path):
            assert path == stream.cursor.field
        case LatestOf(path=path, timestamp_member=item):
            assert f"{path}.{item}" == stream.cursor.field
            assert requested_attributes(stream, revision)[path] == "objects"
        case other:
            pytest.fail(f"a cursor cannot be read from {other}")


def test_an_event_without_datetime_takes_its_timestamp() -> None:
    """The cursor of events is never empty: whole seconds stand in for the text."""
    sources = {column.name: column.source for column in STREAMS["events"].columns}
    assert sources["datetime"] == FieldPath("datetime", epoch_seconds_path="timestamp")
    assert OPERATIONS["/api/events"].attributes["timestamp"] == "integer"


@each_read
def test_what_a_slice_must_bring_it_brings(stream: Stream, revision: str) -> None:
    """A column that is read from the slice has a value in every slice."""
    assert stream.shape <= revision
    slices = stream.source.slices if isinstance(stream.source, Collection) else ()
    for column in stream.columns:
        if column == REVISION_COLUMN:
            assert {each.values[column.name] for each in slices} == {stream.shape}
        elif isinstance(column.source, SliceConstant) and column.source != PARENT_ID:
            values = [each.values[column.source.name] for each in slices]
            assert all(value in each.filter for value, each in zip(values, slices, strict=True))


def test_exclusions_are_the_profile_without_its_predictions() -> None:
    """Every column of a profile that costs no lower limit is in global_exclusions too."""
    profile = [
        column
        for column in STREAMS["profiles"].columns
        if not column.name.startswith("predictive_analytics_")
    ]
    exclusions = list(STREAMS["global_exclusions"].columns)
    assert exclusions[: len(profile)] == profile
    assert [column.name for column in exclusions[len(profile) :]] == [
        "suppressions",
        "suppressed_at",
    ]


@pytest.mark.parametrize("stream", STORED, ids=lambda stream: stream.name)
def test_a_batch_has_its_tables_own_schema(stream: Stream) -> None:
    """A decoded page goes into the lake as it is; under another schema each costs a copy."""
    schema = PageDecoder(stream).schema
    assert build_table(stream, schema).schema.equals(schema, check_metadata=True)


def test_an_attribution_has_a_column_for_all_it_relates_to() -> None:
    """Each published relationship of an attribution is a column of `event_attributions`."""
    paths = {
        column.source.path
        for column in STREAMS["event_attributions"].columns
        if isinstance(column.source, FieldPath) and "." in column.source.path
    }
    published = OPERATIONS["/api/events"].included["attribution"]
    # The credited event is the one whose row has the attribution.
    assert paths == {f"relationships.{name}.data.id" for name in published.keys() - {"event"}}
