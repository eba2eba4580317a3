"""Which of Klaviyo's published operations a stream asks."""

from klaviyo_assets.model.stream import Children, Collection, Detail, Stream
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets_tests.contract.facts import FACTS, JULY, Operation

REQUESTING_STREAMS = [
    stream for stream in COLLECTIONS if isinstance(stream.source, Collection | Detail | Children)
]
"""The streams that make requests of their own: all but the joins."""


READS = [
    (stream.at_revision(revision), revision)
    for revision in FACTS
    for stream in REQUESTING_STREAMS
    if stream.is_offered_at(revision)
]
"""Each of them as each revision that offers it shows its records."""

READ_NAMES = [
    stream.name if revision == JULY else f"{stream.name} {revision}" for stream, revision in READS
]


def published_operation(stream: Stream, revision: str | None = None) -> Operation:
    """Return the facts of the operation that a stream asks; a path unknown to them is an error.

    `revision`: whose facts; without it the first that offers the stream.
    """
    assert isinstance(stream.source, Collection | Detail | Children)
    found = revision or next(each for each in FACTS if stream.is_offered_at(each))
    return FACTS[found].operations[stream.source.path]
