"""A relation of array elements: each once, in order, with values of its parent and another row."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.lake.read.computed import UnnestRelation
from klaviyo_assets.lake.read.duckdb import TableFiles
from klaviyo_assets.lake.read.views import (
    build_relation,
    build_select,
    relation_column_names,
    relation_from_json,
    relation_to_json,
)
from klaviyo_assets.model.column import Column, FieldPath
from klaviyo_assets.model.selection import upstream_streams
from klaviyo_assets.model.stream import (
    Collection,
    ParentReference,
    Stream,
    Unnest,
    relation_columns,
)

MORNING = datetime(2026, 11, 1, 8, tzinfo=UTC)

BOXES = Stream(
    name="boxes",
    description="One row per box.",
    section="Boxes",
    source=Collection(path="/api/boxes", page_size=10),
    columns=(Column("packed", "When.", "timestamp"), Column("things", "What is in it.", "json")),
    tier=None,
    scopes=(),
)

THINGS = Stream(
    name="box_things",
    description="One row per box and thing.",
    section="Boxes",
    source=Unnest(
        parent="boxes",
        array="things",
        parent_columns={"box_id": "id"},
        reference=ParentReference(column="other_box_id", columns={"other_packed": "packed"}),
    ),
    key=("box_id", "position"),
    columns=(
        Column("box_id", "The box."),
        Column("position", "Place.", "integer"),
        Column("name", "The name."),
        Column("weight", "In kg.", "number"),
        Column("pieces", "How many.", "integer"),
        Column("is_new", "Whether it is.", "boolean"),
        Column("made", "When.", "timestamp"),
        Column("colours", "Which.", "ids"),
        Column("parts", "What else.", "json"),
        Column("other_box_id", "Where it was.", declared_source=FieldPath("from.a-box.id")),
        Column("other_packed", "When that was packed.", "timestamp"),
    ),
    tier=None,
    scopes=(),
)

WHOLE = {
    "name": "cup",
    "weight": 0.5,
    "pieces": 3,
    "is_new": True,
    "made": "2026-10-01T06:00:00+02:00",
    "colours": ["red", "blue"],
    "parts": {"a": [1]},
    "from": {"a-box": {"id": "2"}},
}


def write_boxes(
    folder: Path, rows: list[tuple[str, object]], *, key: str = ""
) -> dict[str, TableFiles]:
    """Return the table of boxes with these arrays; a text is stored as it is."""
    texts = [each if isinstance(each, str) else json.dumps(each) for _, each in rows]
    stamps = pa.array([MORNING] * len(rows), pa.timestamp("us", tz="UTC"))
    table = pa.table(
        {
            "id": [name for name, _ in rows],
            "packed": stamps,
            "things": [f'{{"{key}": {each}}}' if key else each for each in texts],
            "synced_at": stamps,
        }
    )
    pq.write_table(table, folder / "boxes.parquet")
    return {"boxes": TableFiles(schema=table.schema, paths=(str(folder / "boxes.parquet"),))}


def read_relation(
    tables: dict[str, TableFiles], stream: Stream = THINGS
) -> list[tuple[object, ...]]:
    """Return the rows of the relation by key."""
    relation = build_relation(stream, {"boxes": BOXES})
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(str(build_select(relation, tables))).order("box_id, position")
        assert found.columns == relation_column_names(relation, tables)
        return found.fetchall()


def test_an_element_has_its_values_and_its_parents(tmp_path: Path) -> None:
    """Every type is read, and the row that the element refers to adds its own."""
    [row] = read_relation(write_boxes(tmp_path, [("1", [WHOLE]), ("2", [])]))
    assert row[:7] == ("1", 1, "cup", 0.5, 3, True, datetime(2026, 10, 1, 4, tzinfo=UTC))
    assert row[7:] == (["red", "blue"], '{"a":[1]}', "2", MORNING, MORNING)


def test_elements_keep_their_order_and_lack_what_they_lack(tmp_path: Path) -> None:
    """Each element is a row, numbered from one; NULL is what is missing, null or odd."""
    odd: dict[str, object] = {
        "name": None,
        "weight": "heavy",
        "pieces": [],
        "is_new": 7,
        "made": "soon",
        "parts": None,
    }
    rows = read_relation(
        write_boxes(tmp_path, [("1", [{"name": "cup"}, odd]), ("2", [{"name": "pot"}])])
    )
    assert [row[:3] for row in rows] == [("1", 1, "cup"), ("1", 2, None), ("2", 1, "pot")]
    assert rows[1][3:5] == (None, None)
    assert (rows[1][6], rows[1][8:11]) == (None, (None, None, None))


@pytest.mark.parametrize("things", ["[]", "null", "{}", '"text"', "7"])
def test_what_is_no_array_has_no_rows(tmp_path: Path, things: str) -> None:
    """A row without an array, or with something else in its place, is left out."""
    assert read_relation(write_boxes(tmp_path, [("1", things)])) == []


def test_an_array_may_lie_inside_the_column(tmp_path: Path) -> None:
    """`column.key` is an array in an object, and a bare value is the element itself."""
    source = Unnest(parent="boxes", array="things.all-of them", parent_columns={"box_id": "id"})
    bare = replace(
        THINGS,
        source=source,
        columns=(*THINGS.columns[:2], Column("name", "It.", declared_source=FieldPath(""))),
    )
    tables = write_boxes(tmp_path, [("1", ["cup", "pot"])], key="all-of them")
    assert [row[:3] for row in read_relation(tables, bare)] == [("1", 1, "cup"), ("1", 2, "pot")]


def test_rows_leave_with_their_parent(tmp_path: Path) -> None:
    """Where rows of the parent are marked as deleted, so are those of its elements."""
    marking = {"boxes": replace(BOXES, has_soft_deletes=True)}
    assert [each.name for each in relation_columns(THINGS, marking)][-2:] == [
        "synced_at",
        "deleted_at",
    ]
    tables = write_boxes(tmp_path, [("1", [WHOLE])])
    gone = pa.field("deleted_at", pa.timestamp("us", tz="UTC"))
    marked = {"boxes": replace(tables["boxes"], schema=tables["boxes"].schema.append(gone))}
    assert [row[-2:] for row in read_relation(marked)] == [(MORNING, None)]
    names = relation_column_names(build_relation(THINGS, marking), marked)
    assert names == [each.name for each in relation_columns(THINGS, marking)]


def test_the_relation_is_known_again_and_needs_its_parent() -> None:
    """What one process published another reads back the same; without its table it is not there."""
    relation = build_relation(THINGS, {"boxes": BOXES})
    assert isinstance(relation, UnnestRelation)
    assert relation_from_json(relation_to_json(relation)) == relation
    assert build_select(relation, {}) is None
    assert upstream_streams(THINGS) == ("boxes",)
