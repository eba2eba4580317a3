"""The schema of a stream's table."""

from dataclasses import replace

import pyarrow as pa
import pytest

from klaviyo_assets.decode.schema import arrow_schema
from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import TIER_M, Detail, Stream, ViewSource
from klaviyo_assets.streams import COLLECTIONS
from klaviyo_assets_tests.unit.decode.samples import build_stream

EVERY_TYPE = build_stream(
    Column("text", "Text."),
    Column("count", "Count.", "integer"),
    Column("share", "Share.", "number"),
    Column("is_on", "Switch.", "boolean"),
    Column("at", "Moment.", "timestamp"),
    Column("on", "Day.", "date"),
    Column("free", "Anything.", "json"),
    Column("tags", "Ids.", "ids"),
)


def detail(version: str | None) -> Stream:
    """Return a stream that asks once per parent."""
    return Stream(
        name="things_detailed",
        description="One row per thing.",
        section="Things",
        source=Detail(parent="things", path="/api/things/{id}", version_column=version),
        columns=(Column("weight", "Weight.", "number"),),
        tier=TIER_M,
        scopes=(),
    )


def test_every_column_type_has_its_arrow_type() -> None:
    """The key comes first, then the columns in order, then what every table has."""
    assert arrow_schema(EVERY_TYPE) == pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("text", pa.string()),
            pa.field("count", pa.int64()),
            pa.field("share", pa.float64()),
            pa.field("is_on", pa.bool_()),
            pa.field("at", pa.timestamp("us", tz="UTC")),
            pa.field("on", pa.date32()),
            pa.field("free", pa.string()),
            pa.field("tags", pa.list_(pa.string())),
            pa.field("extra", pa.string()),
            pa.field("synced_at", pa.timestamp("us", tz="UTC")),
        ]
    )


def test_excluded_columns_are_left_out() -> None:
    """A setting can take a column away; the order of the others stays."""
    names = arrow_schema(EVERY_TYPE, exclude=frozenset({"share", "at"})).names
    assert names == ["id", "text", "count", "is_on", "on", "free", "tags", "extra", "synced_at"]


def test_a_detail_says_which_version_of_its_parent_it_belongs_to() -> None:
    """`parent_version` follows the key, and is there only where the parent has a version."""
    versioned = arrow_schema(detail("updated"))
    assert versioned.names == ["id", "parent_version", "weight", "extra", "synced_at"]
    assert versioned.field("parent_version").type == pa.timestamp("us", tz="UTC")
    assert "parent_version" not in arrow_schema(detail(None)).names


def test_a_stream_that_marks_deleted_records_has_a_moment_for_it() -> None:
    """`deleted_at` comes last, and only where the stream marks."""
    marking = replace(EVERY_TYPE, has_soft_deletes=True)
    assert arrow_schema(marking).names == [*arrow_schema(EVERY_TYPE).names, "deleted_at"]
    assert arrow_schema(marking).field("deleted_at").type == pa.timestamp("us", tz="UTC")


def test_a_join_has_no_table() -> None:
    """A relation made of two tables is refused: its rows are stored nowhere."""
    for stream in COLLECTIONS:
        if isinstance(stream.source, ViewSource):
            with pytest.raises(TypeError, match=stream.name):
                arrow_schema(stream)


@pytest.mark.parametrize("name", ["id", "extra", "synced_at", "deleted_at", "parent_version"])
def test_our_own_names_are_taken(name: str) -> None:
    """A declared column cannot shadow one that every table has."""
    with pytest.raises(ValueError, match="things"):
        arrow_schema(build_stream(Column(name, "Mine.")))
