"""What was read from a page, before it becomes Arrow: both paths of decoding end here.

What belongs here: the value that passes between reading (`structs`, `survey`) and building
(`columns`). What does not: either of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec import Raw

from klaviyo_assets.tables.findings import Findings
from klaviyo_assets.tables.resources import Links, Relations
from klaviyo_assets.tables.tree import Path


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A record that cannot be stored, as it was sent, and why. `reason` holds no value of it."""

    reason: str
    record: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """The records of one page that can be stored, value by value; all lists are of one length.

    `values` has a list for every path of the tree: text for strings and times, numbers, booleans,
    lists of ids, `Raw` for JSON (empty where absent). `raws` are the records themselves, unless
    they were read fast; `records` counts those that came, the quarantined included. `is_list` tells
    whether they came as a list, `errors` what came beside them, `links` what the page says of
    itself.
    """

    ids: Sequence[str]
    values: Mapping[Path, Sequence[object]]
    relations: Relations
    records: int
    findings: Findings
    included: Raw
    links: Links
    errors: Raw
    is_list: bool
    is_fast: bool
    raws: Sequence[Raw] = ()
    quarantined: list[Quarantined] = field(default_factory=list[Quarantined])
