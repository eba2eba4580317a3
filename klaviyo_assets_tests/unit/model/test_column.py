"""A column knows where its value lies."""

import pytest

from klaviyo_assets.model.column import (
    Column,
    ColumnSource,
    FieldPath,
    FirstIncludedId,
    Included,
    LatestOf,
    RelatedId,
    RelatedIds,
    SliceConstant,
    attribute_column,
    source_path,
)


def test_a_column_without_a_place_is_read_from_its_name() -> None:
    """The plain column costs no second word."""
    assert Column("name", "The name.").source == FieldPath("name")


def test_a_columns_own_place_counts() -> None:
    """A place that is given is the place that is read."""
    place = RelatedId("metric")
    assert Column("metric_id", "The metric.", declared_source=place).source is place


def test_a_nested_attribute_is_named_by_its_path() -> None:
    """A dotted path becomes a name that SQL takes without quotes, and stays the place."""
    column = attribute_column("location.street.zip", "Postal code.", "integer")
    assert (column.name, column.type) == ("location_street_zip", "integer")
    assert column.source == FieldPath("location.street.zip")
    assert column.description == "Postal code."


def test_a_nested_attribute_is_text_by_default() -> None:
    """Text is what most attributes are."""
    assert attribute_column("location.city", "City.").type == "string"


@pytest.mark.parametrize(
    ("source", "path"),
    [
        (None, "name"),
        (FieldPath("location.city"), "location.city"),
        (FieldPath("datetime", epoch_seconds_path="timestamp"), "datetime, else timestamp"),
        (RelatedId("metric"), "relationships.metric.data.id"),
        (RelatedIds("tags"), "relationships.tags.data[].id"),
        (Included("attributions"), "included[]"),
        (FirstIncludedId("attributions", "flow"), "included[0].relationships.flow.data.id"),
        (LatestOf("suppression", "timestamp"), "suppression[].timestamp"),
        (SliceConstant("parent"), ""),
        (
            SliceConstant("channel", "campaign-messages", "definition.channel"),
            "included[0].attributes.definition.channel",
        ),
    ],
    ids=str,
)
def test_a_column_says_where_its_value_lies(source: ColumnSource | None, path: str) -> None:
    """The path is what a user types to find the value in Klaviyo's response."""
    assert source_path(Column("name", "The name.", declared_source=source)) == path
