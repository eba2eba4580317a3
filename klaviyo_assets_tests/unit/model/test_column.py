"""A column knows where its value lies."""

from klaviyo_assets.model.column import Column, FieldPath, RelatedId, attribute_column


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


def test_a_nested_attribute_is_text_unless_told() -> None:
    """Text is what most attributes are."""
    assert attribute_column("location.city", "City.").type == "string"
