"""The verb `mcp`: a server of the Model Context Protocol over the lake, for language models.

It speaks over standard input and output, as desktop clients start it. Everything is read from the
lake's files; no request is sent to Klaviyo. Columns that may hold personal data are hidden, unless
the server was started with --allow-personal.

The official SDK is an extra (`pip install 'klaviyo-assets[mcp]'`), so that nobody installs two
dozen packages who does not ask for them.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from functools import cached_property, wraps
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from types import FunctionType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from klaviyo_assets import __version__
from klaviyo_assets.cli.lake_access import open_lake
from klaviyo_assets.errors import KlaviyoAssetsError, LakeError, SettingError
from klaviyo_assets.lake.health import read_health
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import HISTORY_SUFFIX
from klaviyo_assets.lake.published import (
    PublishedRelation,
    query_published,
    read_published_relations,
)
from klaviyo_assets.lake.read.query_process import QueryLimits, QueryResult
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.health import describe_freshness, judge_health
from klaviyo_assets.model.privacy import personal_columns
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import shown_streams
from klaviyo_assets.model.stream import (
    SYNC_STARTED_COLUMN,
    VALID_FROM_COLUMN,
    VALID_TO_COLUMN,
    Stream,
    ViewSource,
    relation_columns,
)
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import MERGE_RULES, STREAMS, VIEWS

HISTORY_COLUMNS = frozenset(
    each.name for each in (SYNC_STARTED_COLUMN, VALID_FROM_COLUMN, VALID_TO_COLUMN)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSummary:
    """A table: its name, what a row of it is, and its rows; None for a view, which has to count."""

    name: str
    description: str
    rows: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSummary:
    """A column: its name, its type in DuckDB, and what it means."""

    name: str
    type: str
    description: str


# Without slots: the MCP SDK takes those for default values, and shows no schema of the result.
@dataclass(frozen=True, kw_only=True)
class TableDescription:
    """A table with its columns, and the names of those that are hidden: personal data."""

    name: str
    description: str
    key: tuple[str, ...]
    columns: tuple[ColumnSummary, ...]
    hidden_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFreshness:
    """How far a stream is. Times are ISO 8601 in UTC.

    `freshness`: fresh, late or stale, by how often the stream is synced; `newest_day` is that of a
    report, which has no freshness of its own. `complete_up_to`: no older record is missing.
    `health` is green, yellow or red, by how its last run ended and by its age; `why` says it.
    """

    stream: str
    stored_at: str | None
    age_seconds: int | None
    freshness: str | None
    complete_up_to: str | None
    newest_day: str | None
    health: str | None
    why: str | None


class LakeTools:
    """The tools, over one lake."""

    def __init__(
        self, lake: Lake, settings: Settings, *, limits: QueryLimits, has_personal: bool
    ) -> None:
        """Take the lake. `has_personal`: columns with personal data can be seen."""
        self.lake, self.settings = lake, settings
        self.limits, self.has_personal = limits, has_personal

    def list_tables(self) -> list[TableSummary]:
        """Return the tables and views of the lake, in order."""
        relations = read_published_relations(self.lake)
        return [
            TableSummary(
                name=name, description=relations[name].description, rows=self._count_rows(name)
            )
            for name in self._visible_columns(relations)
        ]

    def _count_rows(self, name: str) -> int | None:
        stream = STREAMS.get(name)
        if stream is not None and isinstance(stream.source, ViewSource):
            return None
        try:
            state = self.lake.read_table_state(name)
        except LakeError:
            return None
        return state.rows if state is not None else None

    def describe_table(self, name: str) -> TableDescription:
        """Return the columns of a table, each with its meaning.

        Raises:
            SettingError: there is no such table.
        """
        relations = read_published_relations(self.lake)
        visible = self._visible_columns(relations)
        if name not in visible:
            near = get_close_matches(name, visible, n=3)
            hint = f": did you mean {' or '.join(near)}?" if near else ""
            raise SettingError(f"there is no table {name!a}{hint}")
        relation, shown = relations[name], set(visible[name])
        stream = STREAMS.get(name)
        return TableDescription(
            name=name,
            description=relation.description,
            key=stream.key if stream is not None else (),
            columns=tuple(
                ColumnSummary(name=each.name, type=each.type, description=each.description)
                for each in relation.columns
                if each.name in shown
            ),
            hidden_columns=tuple(each.name for each in relation.columns if each.name not in shown),
        )

    def run_query(self, sql: str, *, max_rows: int) -> QueryResult:
        """Return the first rows of a query, at most `max_rows` of them.

        Raises:
            SettingError: it is refused, fails, or reaches a limit.
        """
        limits = QueryLimits(
            max_rows=max(1, min(max_rows, self.limits.max_rows)),
            max_seconds=self.limits.max_seconds,
            max_memory_mb=self.limits.max_memory_mb,
        )
        columns = self._visible_columns(read_published_relations(self.lake))
        try:
            return query_published(self.lake, sql, columns=columns, limits=limits)
        except SettingError as refused:
            raise SettingError(refused.message + self._hint_at_hidden(refused.message)) from None

    def _hint_at_hidden(self, message: str) -> str:
        """Return why a column is not there, if DuckDB misses one that is hidden."""
        if self.has_personal:
            return ""
        hidden = {name for each in STREAMS.values() for name in personal_columns(each, STREAMS)}
        missing = [name for name in sorted(hidden) if f'column "{name}"' in message]
        if not missing:
            return ""
        return (
            f". The column {missing[0]} may hold personal data, and is hidden: whoever runs this "
            "server can start it with --allow-personal"
        )

    def list_freshness(self, *, now: datetime) -> list[StreamFreshness]:
        """Return how far each stored stream is, at `now` (UTC)."""
        return list(self._iterate_freshness(now))

    def _iterate_freshness(self, now: datetime) -> Iterator[StreamFreshness]:
        health = read_health(self.lake)
        for stream in STREAMS.values():
            if isinstance(stream.source, ViewSource):
                continue
            state = self.lake.read_table_state(stream.name)
            stored_at = self.lake.last_commit_time(stream.name)
            if state is None or stored_at is None:
                continue
            known = health.streams.get(stream.name)
            if known is not None and known.last_run.stored_at is not None:
                # A run that brought no rows made no commit.
                stored_at = known.last_run.stored_at
            color, why = judge_health(stream, known.last_run, now=now) if known else (None, None)
            age, cursor = now - stored_at, state.state.get("cursor")
            is_report = isinstance(stream.source, ReportEndpoint)
            yield StreamFreshness(
                stream=stream.name,
                stored_at=stored_at.astimezone(UTC).isoformat(timespec="seconds"),
                age_seconds=round(age.total_seconds()),
                freshness=None if is_report else describe_freshness(stream, age),
                complete_up_to=cursor if isinstance(cursor, str) and stream.cursor else None,
                newest_day=self._find_newest_day(stream) if is_report else None,
                health=color,
                why=why,
            )

    def _find_newest_day(self, stream: Stream) -> str | None:
        days = [each.day for each in self.lake.read_partition_states(stream.name)]
        return max(days).isoformat() if days else None

    @cached_property
    def _computed_relations(self) -> frozenset[str]:
        """Return the relations that are no stream's, and are made of columns that we declare."""
        made = build_relations(shown_streams(self.settings, STREAMS), MERGE_RULES)
        return frozenset(each.name for each in made)

    def _visible_columns(self, relations: dict[str, PublishedRelation]) -> dict[str, Sequence[str]]:
        """Return the columns that can be seen, by relation; a relation without any is left out.

        Without personal data, a column that no declaration knows is hidden too: another program
        added it, and so are tables that another program wrote.
        """
        found: dict[str, Sequence[str]] = {}
        for name, relation in relations.items():
            names = [each.name for each in relation.columns]
            if not self.has_personal:
                names = [each for each in names if self.is_harmless(name, each)]
            if names:
                found[name] = names
        return found

    def is_harmless(self, relation: str, column: str) -> bool:
        """Return whether a column of a relation is declared, and holds no personal data."""
        view = next((each for each in VIEWS if each.name == relation), None)
        if view is not None:
            return column in {each.name for each in view.columns if not each.is_personal}
        stream = STREAMS.get(relation.removesuffix(HISTORY_SUFFIX))
        if stream is None:
            return relation in self._computed_relations
        known = {each.name for each in relation_columns(stream, STREAMS)}
        if relation != stream.name:
            known |= HISTORY_COLUMNS
        return column in known - personal_columns(stream, STREAMS)


if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

INSTRUCTIONS = """\
The data of one Klaviyo account (email and SMS marketing), stored on this machine: campaigns, flows,
lists, segments, profiles, events, metrics and reports. Nothing here can change anything. Look at
`tables`, then at `describe` of those that fit, then `query` in DuckDB's SQL. Times are UTC; the
column `date` of reports is a day in the account's time zone. `events_detailed` has the names of
metrics. Columns that may hold personal data are hidden unless the operator allowed them; join
people by `profile_id`. `freshness` tells how current each stream is: say so where it matters."""

DEFAULT_QUERY_ROWS = 200


def serve(
    settings: Settings,
    *,
    allow_personal: bool,
    max_rows: int,
    max_seconds: float,
    max_memory: int,
) -> int:
    """Serve until the client closes standard input.

    Raises:
        SettingError: the SDK is not installed.
    """
    if find_spec("mcp") is None:
        raise SettingError(
            "the server needs the official MCP SDK, which is not installed: "
            "pip install 'klaviyo-assets[mcp]'"
        )
    limits = QueryLimits(max_rows=max_rows, max_seconds=max_seconds, max_memory_mb=max_memory)
    tools = LakeTools(open_lake(settings), settings, limits=limits, has_personal=allow_personal)
    server = build_server(tools)
    # Its messages are no text for people: the stream itself, without the search for keys in lines.
    with redirect_stdout(sys.__stdout__):
        server.run("stdio")
    return 0


def build_server(tools: LakeTools) -> "MCPServer[None]":
    """Return the server; it runs one query at a time."""
    # Late: the SDK is an extra.
    module = import_module("mcp.server.mcpserver")
    server: MCPServer[None] = module.MCPServer(
        "klaviyo-assets",
        title="Klaviyo data",
        instructions=INSTRUCTIONS,
        version=__version__,
        log_level="WARNING",
    )
    hints = import_module("mcp").types.ToolAnnotations(
        read_only_hint=True, destructive_hint=False, open_world_hint=False
    )
    for tool in _build_tools(tools):
        server.add_tool(
            _raise_as_tool_errors(tool), title=tool.__name__.capitalize(), annotations=hints
        )
    return server


def _build_tools(tools: LakeTools) -> tuple[FunctionType, ...]:
    """Return the functions whose names, annotations and docstrings the client is shown."""
    one_query_at_a_time = Lock()

    def tables() -> list[TableSummary]:
        """List the tables and views: name, what a row is, number of rows (null: a view)."""
        return tools.list_tables()

    def describe(
        table: Annotated[str, Field(description="a name from `tables`")],
    ) -> TableDescription:
        """Describe a table: its key, and each column's type, meaning and source at Klaviyo."""
        return tools.describe_table(table)

    def query(
        sql: Annotated[str, Field(description="one SELECT, in DuckDB's dialect of SQL")],
        max_rows: Annotated[int, Field(description="how many rows to return at most")] = (
            DEFAULT_QUERY_ROWS
        ),
    ) -> QueryResult:
        """Run one SELECT over the tables, and return its first rows. Nothing can be written."""
        with one_query_at_a_time:
            return tools.run_query(sql, max_rows=max_rows)

    def freshness() -> list[StreamFreshness]:
        """Tell how current each stream is: when it was stored, and up to when it is complete."""
        return tools.list_freshness(now=datetime.now(tz=UTC))

    return (tables, describe, query, freshness)


def _raise_as_tool_errors(function: Callable[..., object]) -> Callable[..., object]:
    """Return the function, whose errors of ours are texts that the model reads."""
    tool_error: type[Exception] = import_module("mcp.server.mcpserver.exceptions").ToolError

    @wraps(function)
    def run(**arguments: object) -> object:
        try:
            return function(**arguments)
        except KlaviyoAssetsError as error:
            raise tool_error(str(error)) from None

    return run
