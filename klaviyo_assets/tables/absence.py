"""Declared attributes that no record has: a field that Klaviyo took away shows here.

What belongs here: telling "not sent" from "sent as null", which columns cannot. What does not:
whether the table had values there before.
"""

import msgspec
from msgspec import Raw, Struct

from klaviyo_assets.tables.layout import Layout


class _Record(Struct, gc=False):
    attributes: dict[str, Raw]


class _Page(Struct, gc=False):
    data: list[_Record]


_pages = msgspec.json.Decoder(_Page)


def missing_attributes(body: bytes, layout: Layout) -> list[str]:
    """Return the declared members of `attributes` that no record of a page has, sorted.

    What lies deeper does not count: it differs from record to record by design, as the strategies
    of campaigns do. Nothing is missing from a page with broken records, or from a single record
    that was asked for alone: that may be made up for a 404.
    """
    try:
        records = _pages.decode(body).data
    except msgspec.ValidationError:
        return []
    declared = {path[0] for _, _, path in layout.attributes}
    return sorted(declared.difference(*(each.attributes for each in records)))
