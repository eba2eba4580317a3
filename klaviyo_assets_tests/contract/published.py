"""Which of Klaviyo's published operations a stream asks."""

from klaviyo_assets.model.stream import Children, Collection, Detail, Stream
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets_tests.contract.facts import OPERATIONS, Operation

REQUESTING_STREAMS = [
    stream for stream in COLLECTIONS if isinstance(stream.source, Collection | Detail | Children)
]
"""The streams that make requests of their own: all but the joins."""


def published_operation(stream: Stream) -> Operation:
    """Return the facts of the operation that a stream asks; a path unknown to them is an error."""
    assert isinstance(stream.source, Collection | Detail | Children)
    return OPERATIONS[stream.source.path]
