"""Declared attributes that no record has: a field that Klaviyo took away shows here.

What belongs here: telling "not sent" from "sent as null", which columns cannot. What does not:
whether the table had values there before.
"""

import msgspec
import pyarrow as pa
from msgspec import Raw, Struct

from klaviyo_assets.tables.layout import Layout


class _Record(Struct, gc=False):
    attributes: dict[str, Raw]


class _Page(Struct, gc=False):
    data: list[_Record]


_pages = msgspec.json.Decoder(_Page)


def missing_attributes(body: bytes, batch: pa.RecordBatch, layout: Layout) -> list[str]:
    """Return the declared members of `attributes` that no record of a page has, sorted.

    What lies deeper does not count: it differs from record to record by design, as the strategies
    of campaigns do. The page is read again only if all columns of a member are null throughout;
    nothing is returned for a page that holds broken records, or none.
    """
    silent = {path[0] for _, _, path in layout.attributes}
    for name, _, path in layout.attributes:
        if batch[name].null_count < batch.num_rows:
            silent.discard(path[0])
    if not silent or not batch.num_rows:
        return []
    try:
        records = _pages.decode(body).data
    except msgspec.ValidationError:
        return []
    return sorted(silent.difference(*(record.attributes for record in records)))
