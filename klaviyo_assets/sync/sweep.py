"""A sweep of ids: which records a stream still has, without reading them.

What belongs here: the stream of ids that a sweep reads. What does not: reading it (`pool`, `walk`)
and what follows for the table (`lake`).
"""

from dataclasses import replace

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.stream import Collection, Stream


def ids_of(stream: Stream) -> Stream:
    """Return the stream of a collection's ids alone, in the order that no change moves one in.

    Its one column is what it is ordered by, so that it can be read in windows side by side.

    Raises:
        SettingError: the stream has no such order.
    """
    order, source = stream.ids_by, stream.source
    if order is None or not isinstance(source, Collection):
        raise SettingError("sweep_ids: no order in which ids can be swept", stream=stream.name)
    return replace(
        stream,
        source=replace(source, include=(), additional_fields=()),
        cursor=order,
        columns=tuple(each for each in stream.columns if each.name == order.column),
        marks_deleted=False,
        ids_by=None,
    )
