"""The verb `mcp`: a server of the Model Context Protocol over the lake, for language models.

It speaks over standard input and output, as desktop clients start it, and sends no request to
Klaviyo. The official SDK is an extra (`pip install 'klaviyo-assets[mcp]'`), so that nobody installs
two dozen packages who does not ask for them.
"""

import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from datetime import UTC, datetime
from functools import wraps
from importlib import import_module
from importlib.util import find_spec
from threading import Lock
from types import FunctionType
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from klaviyo_assets import __version__
from klaviyo_assets.cli.lake_access import open_lake
from klaviyo_assets.cli.lake_tools import (
    LakeTools,
    StreamFreshness,
    TableDescription,
    TableSummary,
)
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake.read.query_process import QueryLimits, QueryResult
from klaviyo_assets.settings import Settings

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
