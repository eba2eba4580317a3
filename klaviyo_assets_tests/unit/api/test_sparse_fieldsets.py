"""What is excluded is not requested, wherever Klaviyo lets us choose."""

import pytest

from klaviyo_assets.api.requests import sparse_fieldset
from klaviyo_assets.model.stream import Collection
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.published import published_operation


def fields(stream: str, *excluded: str) -> tuple[str, ...]:
    """Return the fields to ask a stream for."""
    return sparse_fieldset(STREAMS[stream], frozenset(excluded))


def test_without_exclusions_everything_is_requested() -> None:
    """Nothing excluded, or only `extra`: what is not published must go on coming."""
    assert fields("profiles") == fields("profiles", "extra") == ()


def test_only_what_is_excluded_is_left_out() -> None:
    """A parent stands for all below it, unless something below it is excluded."""
    requested = fields("profiles", "email", "location_ip")
    assert "email" not in requested
    assert "location" not in requested
    assert {"location.city", "location.zip", "subscriptions", "properties"} <= set(requested)
    assert "location.ip" not in requested


def test_a_path_that_another_column_reads_is_requested() -> None:
    """Excluding one of two columns of one path must not take the other one's values away."""
    requested = fields("global_exclusions", "suppressions", "email")
    assert "subscriptions" in requested


@pytest.mark.parametrize("stream", ["events", "campaigns", "flows", "lists", "segments"])
def test_relationships_are_never_put_at_risk(stream: str) -> None:
    """Where columns are read from relationships, all is requested and dropped before the disk."""
    names = [column.name for column in STREAMS[stream].columns]
    assert fields(stream, *names[:2]) == ()


def test_a_field_that_a_revision_does_not_list_is_never_named() -> None:
    """Where click tracking would have to be named, all is requested and dropped before the disk."""
    assert fields("profiles", "subscriptions_email_marketing_method") == ()


UNLISTED = {
    "assigner_configuration",
    "assigner_configuration.used",
    "assigner_configuration.unused_expired",
}
"""Fields of coupons that Klaviyo's reference pages show and its documents lack."""


@pytest.mark.parametrize(
    "stream",
    [each for each in STREAMS.values() if isinstance(each.source, Collection)],
    ids=lambda stream: stream.name,
)
def test_every_field_is_one_that_klaviyo_publishes(stream: object) -> None:
    """Whichever column is excluded, the names requested are attributes of the published record."""
    assert isinstance(stream, type(STREAMS["events"]))
    known = set(published_operation(stream).attributes)
    parents = {path[:end] for path in known for end, one in enumerate(path) if one == "."}
    for column in stream.columns:
        assert set(sparse_fieldset(stream, frozenset({column.name}))) <= known | parents | UNLISTED
