"""A page for each stream, `docs/streams/<stream>.md`, made from its declaration.

`python -m klaviyo_assets_tests.contract.golden_streams` writes all of them anew.
"""

from collections.abc import Iterator
from pathlib import Path

from klaviyo_assets.model.column import ColumnType
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import section_group, upstream_streams
from klaviyo_assets.model.stream import (
    Children,
    Collection,
    Detail,
    Stream,
    column_origins,
    relation_columns,
)
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
    head = [f"| {name} | {value} |" for name, value in _facts(stream)]
    lines = [
        f"# {stream.name}",
        "",
        stream.description,
        "",
        *("| | |", "|---|---|", *head, ""),
        *("```sql", sample_query(stream), "```", ""),
        *("| column | type | in Klaviyo's answer | meaning |", "|---|---|---|---|"),
        *_column_rows(stream),
        "",
        "Generated from the declaration. [All streams](../streams.md)",
        "",
    ]
    return "\n".join(lines)


def _facts(stream: Stream) -> Iterator[tuple[str, str]]:
    how = f"`KLAVIYO_STREAMS=default,{stream.name}`" if stream.is_opt_in else "without a setting"
    group = section_group(stream)
    yield "on", how if group in STREAMS else f"{how}; group `{group}`"
    yield "key", ", ".join(f"`{name}`" for name in stream.key)
    yield "cursor", f"`{stream.cursor.column}`" if stream.cursor else "none"
    if stream.has_shapes:
        yield "revisions", f"all; records have another shape since {stream.shape}"
    if stream.since is not None or stream.until is not None:
        yield "revisions", f"{stream.since or 'oldest'} to {stream.until or 'newest'}"
    if stream.has_soft_deletes:
        yield "deleted records", f"stay, with the time in `{stream.deletion_column.name}`"
    if stream.history_columns:
        columns = ", ".join(f"`{name}`" for name in stream.history_columns)
        yield "history", f"`KLAVIYO_HISTORY` keeps a version of a row when it changed in {columns}"
    yield "scopes", ", ".join(f"`{scope}`" for scope in stream.scopes)
    for bucket in stream.rate_limit_buckets():
        tier = bucket.tier
        daily = f", {tier.daily} a day" if tier.daily else ""
        yield (
            "rate limit",
            f"`{bucket.name}`: {tier.name}, {tier.burst} a second, {tier.steady:,} a minute{daily}",
        )
    yield "requests of a second sync", second_sync(stream)


def second_sync(stream: Stream) -> str:
    """Return in words how many requests a sync makes that finds nothing or little new."""
    if stream.read_first:
        first = " and ".join(f"`{name}`" for name in stream.read_first)
        return f"those of {first}, unless the same run made them; {_own_requests(stream)}"
    return _own_requests(stream)


def _own_requests(stream: Stream) -> str:
    upstream = " and ".join(f"`{name}`" for name in upstream_streams(stream))
    which = f"records since the cursor `{stream.cursor.column}`" if stream.cursor else "all records"
    match stream.source:
        case Detail(version_column=None):
            return f"one for each row of {upstream}"
        case Detail(version_column=version):
            return f"one for each row of {upstream} whose `{version}` is another than before"
        case Children(parent_condition=condition):
            path, start = (
                (f"{condition[0]}.{condition[1]}", condition[2]) if condition else ("", "")
            )
            parents = f"{upstream} whose `{path}` begins with `{start}`" if path else upstream
            return f"for each row of {parents}, one for each page of {which}, at least one"
        case Collection(slices=slices, page_size=size):
            parts = f"{len(slices)}, as Klaviyo sends it in {len(slices)} parts"
            page = f"page of {size:,}" if size else "page"
            return f"{parts if slices[1:] else 'one'}; one more for each further {page}, of {which}"
        case ReportEndpoint() as report:
            return second_fetch(report)
        case _:
            return f"none: it is a view of {upstream}"


def second_fetch(report: ReportEndpoint) -> str:
    """Return in words how many requests a report makes for what is missing or still moves."""
    metrics = {"conversion": "each conversion metric and ", "event": "each metric and "}
    of = metrics.get(report.metric or "", "each ")
    if report.period == "month":
        return f"one for {of}month that is missing or still moves"
    count = "one" if len(report.parts) == 1 else f"{len(report.parts)}"
    return f"{count} for {of}{report.max_days} days in which a day is asked for"


def sample_query(stream: Stream) -> str:
    """Return a query that somebody could begin with."""
    table = f"FROM klaviyo.{stream.name}"
    gone = stream.deletion_column.name
    alive = f" WHERE {gone} IS NULL" if stream.has_soft_deletes else ""
    match stream.source:
        case ReportEndpoint(statistics=names, rates=rates):
            counted = next(name for name in names if name not in rates)
            return f"SELECT date, sum({counted}) {table} GROUP BY date ORDER BY date DESC;"
        case Children():
            parent = stream.columns[0].name
            return f"SELECT {parent}, count(*) {table}{alive} GROUP BY {parent} ORDER BY 2 DESC;"
        case _ if stream.cursor:
            return f"{table}{alive} ORDER BY {stream.cursor.column} DESC LIMIT 10;"
        case _:
            return f"{table}{alive} LIMIT 10;"


def _column_rows(stream: Stream) -> Iterator[str]:
    origins = column_origins(stream, STREAMS)
    for each in relation_columns(stream, STREAMS):
        origin = f"`{origins[each.name]}`" if each.name in origins else ""
        meaning = each.description.replace("|", "\\|")
        yield f"| `{each.name}` | {COLUMN_TYPES[each.type]} | {origin} | {meaning} |"


def expected_stream_files() -> dict[Path, str]:
    """Return every page by its place."""
    return {PAGES_FOLDER / f"{each.name}.md": stream_page(each) for each in STREAMS.values()}
