"""A page for each stream, `docs/streams/<stream>.md`, made from its declaration.

`python -m klaviyo_assets_tests.contract.golden_streams` writes all of them anew.
"""

from collections.abc import Iterator
from pathlib import Path

from klaviyo_assets.defs.metadata import caveats, sample_query, stream_facts
from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.selection import section_group
from klaviyo_assets.model.stream import Stream, column_origins, relation_columns
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.checkout import ROOT

PAGES_FOLDER = ROOT / "docs" / "streams"

COLUMN_TYPES: dict[ColumnType, str] = {
    "string": "VARCHAR",
    "integer": "BIGINT",
    "number": "DOUBLE",
    "boolean": "BOOLEAN",
    "timestamp": "TIMESTAMPTZ",
    "date": "DATE",
    "json": "JSON text",
    "ids": "VARCHAR[]",
}
"""The type of a column in klaviyo.duckdb; JSON text is VARCHAR."""


def stream_page(stream: Stream) -> str:
    """Return the text of a stream's page."""
    told = [f"* {each}" for each in caveats(stream)]
    head = [f"| {name} | {value} |" for name, value in _facts(stream)]
    lines = [
        f"# {stream.name}",
        "",
        stream.description,
        "",
        *("| | |", "|---|---|", *head, ""),
        *("```sql", sample_query(stream), "```", ""),
        *([*told, ""] if told else []),
        *("| column | type | in Klaviyo's answer | meaning |", "|---|---|---|---|"),
        *_column_rows(stream),
        "",
        "Generated from the declaration. [All streams](../streams.md)",
        "",
    ]
    return "\n".join(lines)


def _facts(stream: Stream) -> Iterator[tuple[str, str]]:
    how = f"`KLAVIYO_STREAMS=default,{stream.name}`" if stream.is_opt_in else "without a setting"
    section = section_group(stream)
    yield "on", how if section in STREAMS else f"{how}; group `{section}`"
    yield from stream_facts(stream, STREAMS)


def _column_rows(stream: Stream) -> Iterator[str]:
    origins = column_origins(stream, STREAMS)
    for each in relation_columns(stream, STREAMS):
        origin = f"`{origins[each.name]}`" if each.name in origins else ""
        meaning = each.description.replace("|", "\\|")
        yield f"| `{each.name}` | {COLUMN_TYPES[each.type]} | {origin} | {meaning} |"


def expected_stream_files() -> dict[Path, str]:
    """Return every page by its place."""
    return {PAGES_FOLDER / f"{each.name}.md": stream_page(each) for each in STREAMS.values()}
