"""The tables of Airbyte's connector `source-klaviyo`, as views of our relations.

Airbyte stores Klaviyo's objects unchanged: `type`, `id`, `attributes`, `relationships`, and the
cursor beside them. Here `attributes` is put together again from our columns, each at the path that
it was read from; what no column holds (`extra`) is left out. Names are those of release 3.0.2.
Reports are not among them: a row of Airbyte's covers another span of time.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from klaviyo_assets.model.column import (
    Column,
    ColumnType,
    FieldPath,
    Included,
    RelatedId,
    RelatedIds,
    SliceConstant,
)
from klaviyo_assets.model.stream import REVISION_COLUMN, Stream
from klaviyo_assets.model.view import MappedColumn, MappedSchema, MappedView
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.streams.campaigns import campaigns_before_october

JsonTree = dict[str, "str | JsonTree"]
"""An object: the SQL of each member's value, or the object that it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AirbyteTable:
    """A table: the stream it shows, the columns of its records, and those beside them.

    `beside`: our columns that Airbyte has at the top of a row. `named`: relationships whose object
    has a name too, and our column with it.
    """

    stream: str
    type: str
    cursor: str
    columns: tuple[Column, ...]
    beside: tuple[tuple[str, ColumnType], ...] = ()
    named: tuple[tuple[str, str], ...] = ()


def json_value(column: Column) -> str:
    """Return the SQL of a column's value as a member of a JSON object."""
    name = f's."{column.name}"'
    match column.type:
        case "json":
            return f"CAST({name} AS JSON)"
        case "timestamp":
            return iso_text(name)
        case "date":
            return f"CAST({name} AS VARCHAR)"
        case _:
            return name


def iso_text(moment: str) -> str:
    """Return the SQL of a time as ISO 8601 text in UTC, without a fraction where it has none."""
    text = f"strftime(timezone('UTC', {moment}), '%Y-%m-%dT%H:%M:%S.%f+00:00')"
    return f"replace({text}, '.000000+', '+')"


def place_value(tree: JsonTree, path: str, sql: str) -> None:
    """Put the SQL of a value at a dotted path of an object."""
    *parents, last = path.split(".")
    for each in parents:
        inner = tree.setdefault(each, {})
        if isinstance(inner, str):
            return
        tree = inner
    tree.setdefault(last, sql)


def json_object(tree: JsonTree) -> str:
    """Return the SQL of an object."""
    members = (
        f"'{name}', {value if isinstance(value, str) else json_object(value)}"
        for name, value in tree.items()
    )
    return f"json_object({', '.join(members)})"


def build_attributes(columns: Iterable[Column]) -> str:
    """Return the SQL of the object `attributes`."""
    tree: JsonTree = {}
    for column in columns:
        match column.source:
            case FieldPath(path, _):
                place_value(tree, path, json_value(column))
            case SliceConstant(name) if column != REVISION_COLUMN:
                place_value(tree, name, json_value(column))
            case _:
                pass
    return json_object(tree)


def build_relationships(columns: Iterable[Column], named: Mapping[str, str]) -> str:
    """Return the SQL of the object `relationships`, of ids, and of included objects whole.

    `named` has the columns with the names of what some of them relate to.
    """
    tree: JsonTree = {}
    for column in columns:
        name = f's."{column.name}"'
        match column.source:
            case RelatedId(relationship):
                kind = relationship.removesuffix("s")
                title = f", 'name', s.{named[relationship]}" if relationship in named else ""
                data = f"json_object('type', '{kind}', 'id', {name}{title})"
            case RelatedIds(relationship):
                kind = relationship.removesuffix("s")
                item = f"json_object('type', '{kind}', 'id', item)"
                data = f"list_transform({name}, lambda item: {item})"
            case Included(relationship):
                data = f"CAST({name} AS JSON)"
            case _:
                continue
        tree[relationship] = {"data": data}
    return json_object(tree)


_SYNC_COLUMNS = (
    MappedColumn(
        "_airbyte_raw_id",
        "VARCHAR",
        "md5(concat(s.id, epoch_us(s.synced_at)))",
        "Another one for each version of a row.",
    ),
    MappedColumn(
        "_airbyte_extracted_at", "TIMESTAMP WITH TIME ZONE", "s.synced_at", "Our synced_at."
    ),
    MappedColumn("_airbyte_meta", "JSON", "'{}'", "Always empty."),
    MappedColumn("_airbyte_generation_id", "BIGINT", "0", "Always 0."),
)
"""What Airbyte's destinations add to each row."""


def record_columns(table: AirbyteTable, columns: tuple[Column, ...]) -> Iterator[MappedColumn]:
    """Yield the columns of Klaviyo's object, and those that Airbyte has beside it."""
    yield MappedColumn("id", "VARCHAR", "s.id", "Klaviyo's id.")
    yield MappedColumn("type", "VARCHAR", f"'{table.type}'", "Kind of object.")
    yield MappedColumn(
        "attributes", "JSON", build_attributes(columns), "Attributes by Klaviyo's names."
    )
    yield MappedColumn(
        "relationships",
        "JSON",
        build_relationships(columns, dict(table.named)),
        "Ids of what it relates to; attributions and campaign messages whole.",
    )
    yield MappedColumn("links", "JSON", "NULL", "Not stored here.")
    yield MappedColumn(
        table.cursor, "TIMESTAMP WITH TIME ZONE", f's."{table.cursor}"', "Airbyte's cursor."
    )
    for name, kind in table.beside:
        shown = "BIGINT" if kind == "integer" else "JSON"
        yield MappedColumn(name, shown, f's."{name}"', f"Our column {name}.")


def build_airbyte_view(table: AirbyteTable, stream: Stream) -> MappedView:
    """Return the view of a table."""
    columns = tuple(each for each in table.columns if each.name not in dict(table.beside))
    inputs: Mapping[str, ColumnType] = {
        "id": "string",
        **{each.name: each.type for each in columns},
        **dict(table.beside),
        **{column: "string" for _, column in table.named},
        "synced_at": "timestamp",
    }
    return MappedView(
        name=table.stream,
        description=stream.description,
        inputs={table.stream: inputs},
        steps={},
        source=f'"{table.stream}" AS s',
        columns=(*record_columns(table, columns), *_SYNC_COLUMNS),
    )


JULY_CAMPAIGN_COLUMNS = campaigns_before_october().columns
"""As the revision that Airbyte asks for shows campaigns."""

_ESTIMATE: tuple[tuple[str, ColumnType], ...] = (
    ("estimated_recipient_count", "integer"),
    ("campaign_messages", "json"),
)
_COUNTED_LIST = (
    *STREAMS["lists"].columns,
    Column("profile_count", "How many profiles are on it.", "integer"),
)

AIRBYTE_TABLES = MappedSchema(
    tool="Airbyte's source-klaviyo",
    schema="airbyte",
    views=tuple(
        build_airbyte_view(each, STREAMS[each.stream])
        for each in (
            *(
                AirbyteTable(stream=name, type=kind, cursor=cursor, columns=STREAMS[name].columns)
                for name, kind, cursor in (
                    ("events", "event", "datetime"),
                    ("profiles", "profile", "updated"),
                    ("global_exclusions", "profile", "updated"),
                    ("metrics", "metric", "updated"),
                    ("flows", "flow", "updated"),
                    ("lists", "list", "updated"),
                    ("segments", "segment", "updated"),
                    ("email_templates", "template", "updated"),
                )
            ),
            AirbyteTable(
                stream="events_detailed",
                type="event",
                cursor="datetime",
                columns=STREAMS["events"].columns,
                named=(("metric", "metric_name"),),
            ),
            AirbyteTable(
                stream="lists_detailed", type="list", cursor="updated", columns=_COUNTED_LIST
            ),
            AirbyteTable(
                stream="campaigns",
                type="campaign",
                cursor="updated_at",
                columns=JULY_CAMPAIGN_COLUMNS,
            ),
            AirbyteTable(
                stream="campaigns_detailed",
                type="campaign",
                cursor="updated_at",
                columns=JULY_CAMPAIGN_COLUMNS,
                beside=_ESTIMATE,
            ),
        )
    ),
)
"""All tables of the connector but its two reports, by its names."""
