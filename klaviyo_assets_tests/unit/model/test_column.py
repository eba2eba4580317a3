"""A column knows where its value lies."""

from klaviyo_assets.model.column import At, Column, RelatedId, attribute


def test_a_column_without_a_place_is_read_from_its_name() -> None:
    """The plain column costs no second word."""
    assert Column("name", "The name.").source == At("name")


def test_a_columns_own_place_counts() -> None:
    """A place that is given is the place that is read."""
    place = RelatedId("metric")
    assert Column("metric_id", "The metric.", place=place).source is place


def test_a_nested_attribute_is_named_by_its_path() -> None:
    """A dotted path becomes a name that SQL takes without quotes, and stays the place."""
    column = attribute("location.street.zip", "Postal code.", "integer")
    assert (column.name, column.type) == ("location_street_zip", "integer")
    assert column.source == At("location.street.zip")
    assert column.about == "Postal code."


def test_a_nested_attribute_is_text_unless_told() -> None:
    """Text is what most attributes are."""
    assert attribute("location.city", "City.").type == "string"
