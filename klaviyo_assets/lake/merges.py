"""Merges: which record a vanished one went into, as far as stored rows tell. SQL alone.

What belongs here: the evidence, and its SELECT. What does not: names of tables and columns (the
declaration brings them), and running it (`database`).

Klaviyo says of a merge nothing but its effects: the source vanishes, the destination takes over
identifiers that it had none of, and events change their owner. So it shows in two ways:

    an identifier of the vanished   is now that of one that was there before the other was missed;
                                    two living records never share one, and one made later may be
                                    a deleted person who signed up again
    an event of the vanished        belongs to another where it was read again; only a history
                                    still knows whose it was

A vanished record that points to two others by identifiers was merged into neither for sure.
"""

from collections.abc import Iterator, Mapping

from klaviyo_assets.lake.layout import DELETED_AT, HISTORY, SYNCED_AT
from klaviyo_assets.lake.sql import Shown, literal, quoted, select
from klaviyo_assets.model.descriptions import Description
from klaviyo_assets.model.stream import Merges

CREATED = "created"

MERGES_DESCRIPTION = Description(
    about="One row per profile that vanished and what it was merged into, as far as stored rows "
    "tell.",
    columns={
        "old_id": "Id of the profile that vanished.",
        "survivor_id": "Id of the profile that has its identifiers or events now.",
        "noticed_at": "When a complete read first missed the old one.",
        "evidence": "What tells of it: identifiers that moved, events that changed their owner.",
    },
)
"""What the relation of every map of merges holds; its columns in their order."""

NONE = (
    "SELECT NULL::VARCHAR AS old_id, NULL::VARCHAR AS survivor_id, "
    "NULL::TIMESTAMP WITH TIME ZONE AS noticed_at, NULL::VARCHAR AS evidence WHERE false"
)


def merges(known: Merges, tables: Mapping[str, Shown]) -> str:
    """Return the SELECT of `old_id`, `survivor_id`, `noticed_at` (UTC) and `evidence`.

    Columns and tables that are not there are no evidence; without any the relation has no rows.
    """
    people, columns = select(tables[known.people]), tables[known.people].schema.names
    found = [NONE]
    if {DELETED_AT, CREATED} <= set(columns):
        found += [_by_identifier(each) for each in known.identifiers if each in columns]
    if DELETED_AT in columns:
        found += _by_events(known, tables)
    return (
        f"WITH people AS ({people}), found AS ({' UNION ALL '.join(found)}) "
        "SELECT old_id, survivor_id, min(noticed_at) AS noticed_at, "
        "string_agg(DISTINCT evidence, ', ' ORDER BY evidence) AS evidence "
        "FROM found GROUP BY old_id, survivor_id QUALIFY count(*) OVER (PARTITION BY old_id) = 1 "
        f"OR bool_or(evidence = {literal(known.events)})"
    )


def _by_identifier(column: str) -> str:
    name = quoted(column)
    return (
        f"SELECT old.id, new.id, old.{DELETED_AT}, {literal(column)} "
        f"FROM people AS old JOIN people AS new ON old.{name} = new.{name} "
        f"WHERE old.{DELETED_AT} IS NOT NULL AND new.{DELETED_AT} IS NULL AND old.{name} <> '' "
        f"AND new.{CREATED} <= old.{SYNCED_AT}"
    )


def _by_events(known: Merges, tables: Mapping[str, Shown]) -> Iterator[str]:
    history = known.events + HISTORY
    owner = quoted(known.owner)
    if known.events not in tables or history not in tables:
        return
    if not all(known.owner in tables[each].schema.names for each in (known.events, history)):
        return
    now, then = select(tables[known.events]), select(tables[history])
    yield (
        f"SELECT DISTINCT old.id, now.{owner}, old.{DELETED_AT}, {literal(known.events)} "
        f"FROM people AS old JOIN (SELECT id, {owner} FROM ({then})) AS before "
        f"ON before.{owner} = old.id JOIN (SELECT id, {owner} FROM ({now})) AS now "
        f"ON now.id = before.id AND now.{owner} <> old.id WHERE old.{DELETED_AT} IS NOT NULL"
    )
