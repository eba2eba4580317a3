"""The views that readers query: the stored tables that each needs, and its SQL.

Klaviyo does not report profile merges. Only their effects are visible: the source profile vanishes,
the destination takes over identifiers that it lacked, and events change their owner. So there are
two kinds of evidence:

    an identifier of the vanished   belongs now to a profile that existed before the other was
                                    missed; two living profiles never share one, and a profile
                                    created later may be a deleted person who signed up again
    an event of the vanished        belongs to another profile since it was read again; only a
                                    history still has its former owner

A vanished profile whose identifiers point to two others was certainly merged into neither.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

import msgspec
import pyarrow as pa

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.delta.log import (
    CommitStamp,
    peek_snapshot,
    read_newest_stamp,
    read_snapshot,
)
from klaviyo_assets.lake.disk import remove_symlink
from klaviyo_assets.lake.layout import (
    DELETED_AT_COLUMN,
    HISTORY_SUFFIX,
    SYNCED_AT_COLUMN,
    table_folder,
)
from klaviyo_assets.lake.read.computed import (
    ComputedColumn,
    RatesRelation,
    RollupSql,
    UnnestRelation,
    ViewRelation,
    build_rates_relation,
    build_rollup,
    build_unnest_relation,
    build_view_relation,
    computed_columns,
    json_path,
    select_rates,
    select_rolled_up,
    select_unnested,
    select_view,
    select_with_computed,
    validity_columns,
)
from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    quote_identifier,
    quote_literal,
    select_table_files,
)
from klaviyo_assets.model.stream import (
    Detail,
    Join,
    ProfileMergeRule,
    RelationDescription,
    Stream,
    Unnest,
    describe_history,
    describe_stream,
)
from klaviyo_assets.model.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTable:
    """A table as it was when `stamp` was its newest commit."""

    stamp: CommitStamp
    version: int
    files: TableFiles

    def relative_paths(self, folder: Path) -> list[str]:
        """Return the paths of the files below the table's folder."""
        start = len(f"{folder}/")
        return [path[start:] for path in self.files.paths]


cached_tables: dict[Path, CachedTable] = {}
"""The table that was read last, by folder."""

TABLE_CACHE_FILE = "_tables.json"
"""The tables that the last publisher read: a new process opens only the logs that changed since."""


def load_current_table(root: Path, name: str) -> CachedTable | None:
    """Return a table at its newest version; None where there is no such table.

    Its log is opened only if its newest commit is another than when it was last read.

    Raises:
        CorruptFileError: the log cannot be read.
        LakeVersionError: a later version of this project wrote it, or another engine used a
            feature that we do not read.
    """
    folder = table_folder(root, name)
    stamp = read_newest_stamp(folder)
    if stamp is None:
        return None
    known = cached_tables.get(folder)
    if known is not None and known.stamp == stamp:
        return known
    found = peek_snapshot(folder, stamp)
    if found is None:
        stored = read_table_cache(root)
        for other, each in stored.items():
            cached_tables.setdefault(other, each)
        known = stored.get(folder)
        if known is not None and known.stamp == stamp:
            cached_tables[folder] = known
            return known
        found = read_snapshot(folder, name)
    if found is None:
        return None
    # Sorted: a log names them in another order than the writer that carried its snapshot on, and a
    # view whose text differs is built anew.
    paths = tuple(f"{folder}/{path}" for path in sorted(file.path for file in found.files))
    cached_tables[folder] = CachedTable(
        stamp=stamp, version=found.version, files=TableFiles(schema=found.schema, paths=paths)
    )
    return cached_tables[folder]


class StoredTable(msgspec.Struct, frozen=True):
    """A `CachedTable` as the file has it: the schema as Arrow writes it, paths below the table."""

    stamp: CommitStamp
    version: int
    schema: bytes
    paths: tuple[str, ...]


def read_table_cache(root: Path) -> dict[Path, CachedTable]:
    """Return the tables in the cache file, by folder; none where it is missing or damaged."""
    try:
        raw = (root / "lake" / TABLE_CACHE_FILE).read_bytes()
        known = msgspec.json.decode(raw, type=dict[str, StoredTable])
        return {
            folder: CachedTable(
                stamp=each.stamp,
                version=each.version,
                files=TableFiles(
                    schema=pa.ipc.read_schema(pa.py_buffer(each.schema)),
                    paths=tuple(f"{folder}/{path}" for path in each.paths),
                ),
            )
            for name, each in known.items()
            for folder in [table_folder(root, name)]
        }
    except (OSError, ValueError, LakeError, pa.ArrowException):
        # Only a cache: the next publisher writes it anew.
        return {}


def write_table_cache(root: Path, tables: Mapping[str, CachedTable]) -> None:
    """Store the tables for the next process; the caller holds the publisher's lock.

    Raises:
        OSError: the disk refused.
    """
    target = root / "lake" / TABLE_CACHE_FILE
    known = {
        name: StoredTable(
            each.stamp,
            each.version,
            each.files.schema.serialize().to_pybytes(),
            tuple(each.relative_paths(table_folder(root, name))),
        )
        for name, each in tables.items()
    }
    part_file = target.with_suffix(".part")
    remove_symlink(part_file)
    part_file.write_bytes(msgspec.json.encode(known))
    part_file.replace(target)


def stored_columns(root: Path, name: str) -> list[str] | None:
    """Return the names of a table's columns as they are now; None where there is no table.

    Raises:
        CorruptFileError, LakeVersionError: as for `load_current_table`.
    """
    found = load_current_table(root, name)
    return None if found is None else found.files.schema.names


def stored_tables(root: Path) -> Iterator[str]:
    """Yield the names of the tables in the lake, histories included, in order."""
    for folder in sorted((root / "lake").glob("*/_delta_log")):
        name = folder.parent.name
        with suppress(LakeError):
            table_folder(root, name)
            yield name


def load_current_tables(root: Path) -> tuple[dict[str, CachedTable], list[LakeError]]:
    """Return all readable tables, and an error for each of the others."""
    found: dict[str, CachedTable] = {}
    problems: list[LakeError] = []
    for name in stored_tables(root):
        try:
            one = load_current_table(root, name)
        except LakeError as problem:
            problems.append(problem)
        else:
            if one is not None:
                found[name] = one
    return found, problems


CREATED_COLUMN = "created"

PROFILE_MERGES_DESCRIPTION = RelationDescription(
    summary="One row per profile that vanished and what it was merged into, as far as stored rows "
    "show.",
    columns={
        "old_id": "Id of the profile that vanished.",
        "survivor_id": "Id of the profile that has its identifiers or events now.",
        "noticed_at": "When a complete read first missed the old one.",
        "evidence": "What shows it: identifiers that moved, events that changed their owner.",
    },
)
"""The description of each profile merge relation, and its columns in order."""

NO_PROFILE_MERGES = (
    "SELECT NULL::VARCHAR AS old_id, NULL::VARCHAR AS survivor_id, "
    "NULL::TIMESTAMP WITH TIME ZONE AS noticed_at, NULL::VARCHAR AS evidence WHERE false"
)


def select_profile_merges(rule: ProfileMergeRule, tables: Mapping[str, TableFiles]) -> str:
    """Return the SELECT of `old_id`, `survivor_id`, `noticed_at` (UTC) and `evidence`.

    A missing column or table gives no evidence; without any evidence the relation has no rows.
    """
    people, columns = select_table_files(tables[rule.people]), tables[rule.people].schema.names
    found = [NO_PROFILE_MERGES]
    if {DELETED_AT_COLUMN, CREATED_COLUMN} <= set(columns):
        found += [_select_by_identifier(each) for each in rule.identifiers if each in columns]
    if DELETED_AT_COLUMN in columns:
        found += _select_by_events(rule, tables)
    return (
        f"WITH people AS ({people}), found AS ({' UNION ALL '.join(found)}) "
        "SELECT old_id, survivor_id, min(noticed_at) AS noticed_at, "
        "string_agg(DISTINCT evidence, ', ' ORDER BY evidence) AS evidence "
        "FROM found GROUP BY old_id, survivor_id QUALIFY count(*) OVER (PARTITION BY old_id) = 1 "
        f"OR bool_or(evidence = {quote_literal(rule.events)})"
    )


def _select_by_identifier(column: str) -> str:
    name = quote_identifier(column)
    return (
        f"SELECT old.id, new.id, old.{DELETED_AT_COLUMN}, {quote_literal(column)} "
        f"FROM people AS old JOIN people AS new ON old.{name} = new.{name} "
        f"WHERE old.{DELETED_AT_COLUMN} IS NOT NULL AND new.{DELETED_AT_COLUMN} IS NULL AND "
        f"old.{name} <> '' "
        f"AND new.{CREATED_COLUMN} <= old.{SYNCED_AT_COLUMN}"
    )


def _select_by_events(rule: ProfileMergeRule, tables: Mapping[str, TableFiles]) -> Iterator[str]:
    history = rule.events + HISTORY_SUFFIX
    owner = quote_identifier(rule.owner)
    if rule.events not in tables or history not in tables:
        return
    if not all(rule.owner in tables[each].schema.names for each in (rule.events, history)):
        return
    now, then = select_table_files(tables[rule.events]), select_table_files(tables[history])
    yield (
        f"SELECT DISTINCT old.id, now.{owner}, old.{DELETED_AT_COLUMN}, "
        f"{quote_literal(rule.events)} "
        f"FROM people AS old JOIN (SELECT id, {owner} FROM ({then})) AS before "
        f"ON before.{owner} = old.id JOIN (SELECT id, {owner} FROM ({now})) AS now "
        f"ON now.id = before.id AND now.{owner} <> old.id WHERE old.{DELETED_AT_COLUMN} IS NOT NULL"
    )


VIEW_SCHEMA = "main"
"""The schema of all relations. One called like the file would clash with it: `FROM klaviyo.events`
is ambiguous in every DuckDB where both the file and a schema are called klaviyo."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainRelation:
    """A table as it is stored, and what is computed from its rows and from another table's."""

    name: str
    computed: tuple[ComputedColumn, ...] = ()
    rollup: RollupSql | None = None
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return (self.name,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DetailRelation:
    """All columns of `parent`, and `columns` of the stored table with its own name, by key.

    `rollup` is that of the parent.
    """

    name: str
    parent: str
    key: tuple[str, ...]
    columns: tuple[str, ...]
    rollup: RollupSql | None = None
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return (self.parent, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinRelation:
    """All of `left`, and `columns` of `right` (new name, old name), where `on` is its id.

    `left_computed` is computed from rows of `left`, and `computed` from the joined ones.
    """

    name: str
    left: str
    right: str
    on: str
    columns: tuple[tuple[str, str], ...]
    left_computed: tuple[ComputedColumn, ...] = ()
    computed: tuple[ComputedColumn, ...] = ()
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return (self.left, self.right)


Relation = (
    PlainRelation
    | DetailRelation
    | JoinRelation
    | UnnestRelation
    | RatesRelation
    | ViewRelation
    | ProfileMergeRule
)
"""Every kind of relation; the set is closed."""


def build_relation(stream: Stream, streams: Mapping[str, Stream]) -> Relation:
    """Return the relation of a stream; `streams` must contain the streams that it needs, by name.

    Raises:
        LakeError: it needs a stream that is not there.
    """
    match stream.source:
        case Detail(parent=parent):
            columns = tuple(column.name for column in stream.columns)
            relation: Relation = DetailRelation(
                name=stream.name,
                parent=parent,
                key=stream.key,
                columns=columns,
                rollup=build_rollup(streams[parent], streams) if parent in streams else None,
            )
        case Join(left=left, right=right, join_column=on, columns=columns):
            relation = JoinRelation(
                name=stream.name,
                left=left,
                right=right,
                on=on,
                columns=tuple(columns.items()),
                left_computed=computed_columns(streams[left]) if left in streams else (),
                computed=computed_columns(stream),
            )
        case Unnest() as source:
            relation = build_unnest_relation(stream, source)
        case _:
            relation = PlainRelation(
                name=stream.name,
                computed=computed_columns(stream),
                rollup=build_rollup(stream, streams),
            )
    for table in relation.required_tables:
        if table not in streams:
            raise LakeError(f"made of {table}, which is no stream", stream=stream.name)
    return replace(relation, description=describe_stream(stream, streams))


def build_relations(
    streams: Mapping[str, Stream], derived: Sequence[ProfileMergeRule | View]
) -> list[Relation]:
    """Return the relations of all streams, of rates, of dated histories, and the derived ones.

    Raises:
        LakeError: one needs a stream that is not there.
    """
    rates = filter(None, map(build_rates_relation, streams.values()))
    histories = (
        PlainRelation(
            name=each.name + HISTORY_SUFFIX,
            computed=validity_columns(each, streams),
            description=describe_history(each.name, describe_stream(each, streams)),
        )
        for each in streams.values()
        if each.history_columns
    )
    return [
        *(build_relation(each, streams) for each in streams.values()),
        *rates,
        *histories,
        *(build_view_relation(each) if isinstance(each, View) else each for each in derived),
    ]


def add_plain_relations(
    names: Mapping[str, object], relations: Sequence[Relation]
) -> list[Relation]:
    """Return the given relations, and a plain one for every other table.

    A history gets its stream's description.
    """
    named = {relation.name: relation for relation in relations}
    others = [
        PlainRelation(name=name, description=describe_table(name, named))
        for name in names
        if name not in named
    ]
    return [*relations, *others]


def describe_table(name: str, relations: Mapping[str, Relation]) -> RelationDescription:
    """Return the description of a table without a relation: a history, or a foreign table."""
    stream = name.removesuffix(HISTORY_SUFFIX)
    newest = relations.get(stream)
    if stream == name or newest is None or isinstance(newest, ProfileMergeRule):
        return RelationDescription()
    return describe_history(stream, newest.description)


def build_select(relation: Relation, tables: Mapping[str, TableFiles]) -> str | None:
    """Return the SELECT of a relation; None where a table that it needs does not exist."""
    if any(table not in tables for table in relation.required_tables):
        return None
    match relation:
        case PlainRelation(name=name, computed=computed, rollup=rollup):
            rolled_up = select_rolled_up(tables[name], rollup, tables)
            return select_with_computed(rolled_up, computed, tables)
        case ProfileMergeRule():
            return select_profile_merges(relation, tables)
        case UnnestRelation():
            return select_unnested(relation, tables)
        case RatesRelation():
            return select_rates(relation, tables)
        case ViewRelation():
            return select_view(relation, tables)
        case DetailRelation() | JoinRelation():
            return _select_joined(relation, tables)


def _select_joined(
    relation: DetailRelation | JoinRelation, tables: Mapping[str, TableFiles]
) -> str:
    match relation:
        case DetailRelation(name=name, parent=parent, key=key):
            added = [
                f"r.{quote_identifier(column)}" for column in added_column_names(relation, tables)
            ]
            on = " AND ".join(
                f"l.{quote_identifier(column)} = r.{quote_identifier(column)}" for column in key
            )
            right = select_table_files(tables[name])
            left = select_rolled_up(tables[parent], relation.rollup, tables)
            computed: tuple[ComputedColumn, ...] = ()
        case JoinRelation(left=first, right=second, on=column, columns=pairs):
            added = [
                f"{right_column_expression(there)} AS {quote_identifier(here)}"
                for here, there in pairs
            ]
            on = f"l.{quote_identifier(column)} = r.{quote_identifier('id')}"
            right = select_table_files(tables[second])
            left = select_table_files(tables[first])
            left = select_with_computed(left, relation.left_computed, tables)
            computed = relation.computed
    shown = ", ".join(["l.*", *added])
    joined = f"SELECT {shown} FROM ({left}) AS l LEFT JOIN ({right}) AS r ON {on}"
    return select_with_computed(joined, computed, tables)


def optional_tables(relation: Relation) -> tuple[str, ...]:
    """Return the tables that a relation can do without."""
    match relation:
        case ProfileMergeRule(events=events):
            return (events, events + HISTORY_SUFFIX)
        case ViewRelation():
            return relation.optional_sources
        case PlainRelation(computed=columns, rollup=rollup):
            tables = [name for each in columns for name in each.tables]
            return (*tables, *([rollup.table] if rollup is not None else []))
        case JoinRelation(computed=columns):
            return tuple(name for each in columns for name in each.tables)
        case DetailRelation(rollup=rollup):
            return (rollup.table,) if rollup is not None else ()
        case _:
            return ()


def added_column_names(
    relation: DetailRelation | JoinRelation, tables: Mapping[str, TableFiles]
) -> list[str]:
    """Return the names of the columns that a relation adds to those of its first table."""
    if isinstance(relation, JoinRelation):
        return [
            *(each.name for each in relation.left_computed),
            *(here for here, _ in relation.columns),
            *(each.name for each in relation.computed),
        ]
    have = tables[relation.parent].schema.names
    there = tables[relation.name].schema.names
    return [column for column in relation.columns if column in there and column not in have]


def relation_column_names(relation: Relation, tables: Mapping[str, TableFiles]) -> list[str]:
    """Return the names of a relation's columns; the tables that it needs must exist."""
    match relation:
        case PlainRelation(name=name, computed=computed):
            return [
                *tables[name].schema.names,
                *_rolled_up_names(relation, tables[name]),
                *(each.name for each in computed),
            ]
        case ProfileMergeRule():
            return list(PROFILE_MERGES_DESCRIPTION.columns)
        case UnnestRelation():
            return relation.column_names(tables)
        case RatesRelation():
            return relation.column_names()
        case ViewRelation():
            return list(relation.description.columns)
        case DetailRelation() | JoinRelation():
            first = tables[relation.required_tables[0]]
            return [
                *first.schema.names,
                *_rolled_up_names(relation, first),
                *added_column_names(relation, tables),
            ]


def _rolled_up_names(
    relation: PlainRelation | DetailRelation | JoinRelation, stored: TableFiles
) -> list[str]:
    rollup = None if isinstance(relation, JoinRelation) else relation.rollup
    return [] if rollup is None else rollup.added_columns(stored.schema.names)


def right_column_expression(path: str) -> str:
    """Return the SQL of a column of the right table, or of a text inside one of its JSON columns.

    `name` is a column; `integration.name` is the text `name` in the JSON column `integration`.
    """
    column, *keys = path.split(".")
    value = f"r.{quote_identifier(column)}"
    return f"json_extract_string({value}, {json_path(keys)})" if keys else value


def build_create_statements(
    relation: Relation,
    tables: Mapping[str, TableFiles],
    *,
    catalog: str,
    kind: Literal["VIEW", "TABLE"],
) -> tuple[str, ...] | None:
    """Return the statements that create a view or table, and comment on it and its columns.

    None where a table that it needs does not exist. `catalog` is the database that is written; a
    view's own text does not contain it.
    """
    select_sql = build_select(relation, tables)
    if select_sql is None:
        return None
    full = qualify_name(catalog, relation.name)
    known = (
        PROFILE_MERGES_DESCRIPTION
        if isinstance(relation, ProfileMergeRule)
        else relation.description
    )
    about = [f"COMMENT ON {kind} {full} IS {quote_literal(known.summary)}"] if known.summary else []
    columns = (
        f"COMMENT ON COLUMN {full}.{quote_identifier(name)} IS {quote_literal(known.columns[name])}"
        for name in relation_column_names(relation, tables)
        if name in known.columns
    )
    return (f"CREATE {kind} {full} AS {select_sql}", *about, *columns)


def build_drop_view(name: str, *, catalog: str) -> str:
    """Return the statement that removes a view."""
    return f"DROP VIEW {qualify_name(catalog, name)}"


def qualify_name(catalog: str, name: str) -> str:
    """Return the full name of a relation in a database."""
    return f"{quote_identifier(catalog)}.{quote_identifier(VIEW_SCHEMA)}.{quote_identifier(name)}"


def relation_to_json(relation: Relation) -> dict[str, object]:
    """Return the relation without its description as a JSON object, for a later process to read."""
    names = [each.name for each in fields(relation) if each.name != "description"]
    return {name: getattr(relation, name) for name in names}


def relation_from_json(values: Mapping[str, object]) -> Relation:
    """Return the relation that `relation_to_json` wrote; a plain one where none fits."""
    kinds = (
        DetailRelation,
        JoinRelation,
        UnnestRelation,
        RatesRelation,
        ViewRelation,
        ProfileMergeRule,
        PlainRelation,
    )
    for kind in kinds:
        with suppress(msgspec.ValidationError):
            return msgspec.convert(values, kind)
    return PlainRelation(name=str(values.get("name")))
