"""Runs a query that somebody else wrote: judged by DuckDB's own parser, then in a limited process.

The type of a statement does not suffice: since DuckDB 2.0 `WITH x AS (INSERT ...) FROM x` is a
SELECT, and table functions such as `read_parquet` and `query` read what no relation names. So the
parsed query is walked, and what is not known to be harmless is refused.

DuckDB's own limits do not hold for constants: `repeat('x', 4000000000)` takes 15 GiB and minutes
before a query of 512 MB and two seconds begins (2.0.0). So the query has a process, which the
system keeps from more memory and which its parent kills. It imports DuckDB and nothing else of
weight, and its environment has no setting and no key.
"""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import cast

import duckdb
import msgspec

from klaviyo_assets.errors import SettingError

_READING_STATEMENTS = {
    duckdb.StatementType.SELECT,
    duckdb.StatementType.EXPLAIN,
    # What PIVOT becomes.
    duckdb.StatementType.MULTI,
}

MAX_QUERY_CHARACTERS = 100_000

CATALOG = "klaviyo"
"""The name by which a query may qualify a relation: `klaviyo.events`, `klaviyo.main.events`."""

_HARMLESS_TYPES = frozenset(
    {
        "SELECT_NODE",
        "SET_OPERATION_NODE",
        "RECURSIVE_CTE_NODE",
        "CTE_NODE",
        "BASE_TABLE",
        "SUBQUERY",
        "JOIN",
        "TABLE_FUNCTION",
        "EXPRESSION_LIST",
        "EMPTY",
        "PIVOT",
        "SHOW_REF",
        "ORDER_MODIFIER",
        "LIMIT_MODIFIER",
        "LIMIT_PERCENT_MODIFIER",
        "DISTINCT_MODIFIER",
        "ORDER_DEFAULT",
        "ASCENDING",
        "DESCENDING",
    }
)
"""The types of a parsed query's parts, expressions aside. Any other is refused."""

_TABLE_FUNCTIONS = frozenset(
    {"range", "generate_series", "unnest", "json_each", "json_tree", "generate_subscripts"}
)
"""The table functions that compute and read nothing."""

_REFUSED_FUNCTIONS = frozenset(
    {
        # They tell of the process and its settings, paths above all.
        "current_setting",
        "getvariable",
        "getenv",
        "current_query",
        "current_query_id",
        "pg_get_viewdef",
        "pg_get_expr",
        "stats",
        # They write, run SQL in a text, or only wait.
        "write_log",
        "nextval",
        "setval",
        "setseed",
        "json_execute_serialized_sql",
        "json_serialize_plan",
        "sleep_ms",
        "pg_sleep",
    }
)

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def refuse_other_statements(text: str) -> None:
    """Refuse everything but one statement that reads.

    Raises:
        SettingError: it cannot be parsed, is several statements, or does something else.
    """
    try:
        statements = duckdb.extract_statements(text)
    except duckdb.Error as error:
        raise SettingError(f"DuckDB cannot read the query: {error}") from None
    if len(statements) != 1 or statements[0].type not in _READING_STATEMENTS:
        raise SettingError(
            "one query is wanted, such as SELECT, FROM or SHOW TABLES: the database is published "
            "anew by every sync, so what is written into it would be lost"
        )


def find_relations(text: str, relations: Collection[str]) -> frozenset[str]:
    """Return which of `relations` a query reads; refuse one that does anything else.

    Names count in any letter case. Functions that compute are allowed, and so are tables made of
    constants.

    Raises:
        SettingError: it is no single SELECT, or it names a table, table function or function that
            is not allowed.
    """
    if len(text) > MAX_QUERY_CHARACTERS:
        raise SettingError(f"the query is longer than {MAX_QUERY_CHARACTERS:,} characters")
    refuse_other_statements(text)
    with duckdb.connect(":memory:") as parser:
        found = parser.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
        internal = parser.execute("SELECT view_name FROM duckdb_views() WHERE internal").fetchall()
    parsed: dict[str, object] = json.loads(str(found[0][0]))
    if parsed.get("error"):
        raise SettingError(
            "one SELECT is wanted, whose columns are known before it runs: no EXPLAIN, and PIVOT "
            "only with the values listed (ON column IN (...))"
        )
    walk = _QueryWalk(relations, frozenset(str(name).lower() for (name,) in internal))
    walk.visit(parsed["statements"])
    return frozenset(walk.find_read_relations())


class _QueryWalk:
    """One pass through a parsed query: the tables that it names, and its common table names."""

    def __init__(self, relations: Collection[str], internal: frozenset[str]) -> None:
        self.by_name = {each.lower(): each for each in relations}
        self.internal = internal
        self.tables: list[str] = []
        self.cte_names: set[str] = set()

    def visit(self, part: object) -> None:
        """Look at a part of the query and at all below it.

        Raises:
            SettingError: as for `find_relations`.
        """
        waiting = [part]
        while waiting:
            one = waiting.pop()
            if isinstance(one, dict):
                node = cast("dict[str, object]", one)
                self._visit_node(node)
                waiting.extend(node.values())
            elif isinstance(one, list):
                waiting.extend(cast("list[object]", one))

    def _visit_node(self, node: Mapping[str, object]) -> None:
        kind = node.get("type")
        if isinstance(kind, str) and "class" not in node and "type_info" not in node:
            self._visit_source(kind, node)
        name = str(node.get("function_name", "")).lower()
        if name in _REFUSED_FUNCTIONS:
            raise SettingError(f"the function {name} is not allowed here")
        for entry in self._cte_entries(node):
            if _PLAIN_NAME.fullmatch(entry) is None or entry.lower() in self.internal:
                raise SettingError(f"{entry!r} cannot be the name of a common table expression")
            self.cte_names.add(entry.lower())

    @staticmethod
    def _cte_entries(node: Mapping[str, object]) -> Iterator[str]:
        ctes = node.get("cte_map")
        if isinstance(ctes, dict):
            entries = cast("dict[str, list[dict[str, object]]]", ctes).get("map", [])
            yield from (str(each["key"]) for each in entries)
        if "cte_name" in node:
            yield str(node["cte_name"])

    def _visit_source(self, kind: str, node: Mapping[str, object]) -> None:
        if kind not in _HARMLESS_TYPES and not kind.endswith("_TYPE_INFO"):
            raise SettingError(f"only SELECT is allowed here, and this query has a part {kind}")
        if kind == "BASE_TABLE":
            self._take_table(node)
        elif kind == "TABLE_FUNCTION":
            function = cast("dict[str, object]", node["function"])
            name = str(function.get("function_name", "")).lower()
            if name not in _TABLE_FUNCTIONS:
                raise SettingError(
                    f"the table function {name} is not allowed here: the tables are those that the "
                    "tool `tables` lists"
                )
        elif kind == "SHOW_REF" and node.get("query") is None:
            raise SettingError("use the tools `tables` and `describe` instead of SHOW")

    def _take_table(self, node: Mapping[str, object]) -> None:
        qualified = cast("dict[str, list[str]]", node.get("qualified_name") or {})
        path = [str(each).lower() for each in qualified.get("path", [])]
        *place, name = path or [str(node.get("table_name", "")).lower()]
        if place in ([], ["main"], [CATALOG], [CATALOG, "main"]):
            self.tables.append(name)
            if not place or name in self.by_name:
                return
        raise SettingError(f"there is no table {'.'.join(path)!r}: the tool `tables` lists them")

    def find_read_relations(self) -> Iterator[str]:
        """Yield the relations that the query names.

        Raises:
            SettingError: it names a table that is neither a relation nor one of its own.
        """
        for name in self.tables:
            if name in self.by_name:
                yield self.by_name[name]
            elif name not in self.cte_names:
                raise SettingError(f"there is no table {name!r}: the tool `tables` lists them")


START_SECONDS = 20.0
"""What a process may take before and after the query, on a busy machine."""

MAX_VALUE_CHARACTERS = 10_000
MAX_RESULT_CHARACTERS = 200_000
"""A result is cut there: what reads it is a language model with a limited context."""

_PUBLISHED = "published"
"""The catalog of `klaviyo.duckdb` in the process; no query can name it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryLimits:
    """The most that a query may return and take.

    `max_memory_mb` limits DuckDB; the process may use three times as much.
    """

    max_rows: int
    max_seconds: float
    max_memory_mb: int


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryJob:
    """A query, what it may read, and its limits.

    `database` is the path of `klaviyo.duckdb`, `lake_folder` the folder of the files that its views
    name. `columns` are the columns that can be seen of each relation that the query names.
    """

    sql: str
    database: str
    lake_folder: str
    columns: Mapping[str, Sequence[str]]
    limits: QueryLimits


# Without slots: the MCP SDK takes those for default values, and shows no schema of the result.
@dataclass(frozen=True, kw_only=True)
class QueryResult:
    """The first rows of a query, as JSON values: texts, numbers, booleans, None, lists, objects.

    `is_cut`: there are more rows, or long texts were shortened; `note` says it in words.
    """

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[list[object]]
    is_cut: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResponse:
    """What the process answers: a result, or why there is none."""

    result: QueryResult | None = None
    error: str = ""


def run_query_process(job: QueryJob) -> QueryResult:
    """Run a query in a process of its own; return its first rows.

    Raises:
        SettingError: it is refused, fails, or reaches a limit. The text says what to do.
    """
    inherited = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    path = os.pathsep.join(filter(None, sys.path))
    with subprocess.Popen(  # noqa: S603 - our own module, by this interpreter
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**inherited, "PYTHONPATH": path},
    ) as process:
        try:
            raw, _ = process.communicate(
                msgspec.json.encode(job), timeout=job.limits.max_seconds + START_SECONDS
            )
        except subprocess.TimeoutExpired:
            process.kill()
            raise _time_error(job) from None
        except BaseException:
            process.kill()
            raise
    if process.returncode == -signal.SIGALRM:
        raise _time_error(job)
    if process.returncode != 0:
        raise _memory_error(job)
    return _read_response(raw)


def _time_error(job: QueryJob) -> SettingError:
    return SettingError(
        f"the query took longer than {job.limits.max_seconds:g} seconds and was ended: read fewer "
        "rows, such as a shorter period, or aggregate"
    )


def _memory_error(job: QueryJob) -> SettingError:
    return SettingError(
        f"the query needs more than {job.limits.max_memory_mb} MB of memory and was ended: read "
        "fewer columns or rows, or aggregate"
    )


def _read_response(raw: bytes) -> QueryResult:
    response = msgspec.json.decode(raw, type=QueryResponse)
    if response.result is None:
        raise SettingError(response.error)
    return response.result


def run_query(job: QueryJob) -> QueryResult:
    """Run a query in this process; return its first rows.

    Raises:
        SettingError: it is refused, or fails.
    """
    with duckdb.connect(":memory:", config=_build_config(job)) as opened:
        for statement in _build_setup(job):
            opened.execute(statement)
        try:
            found = opened.execute(job.sql)
            description = found.description or []
            rows = found.fetchmany(job.limits.max_rows + 1)
        except duckdb.InterruptException:
            raise _time_error(job) from None
        except (duckdb.OutOfMemoryException, MemoryError):
            raise _memory_error(job) from None
        except duckdb.Error as error:
            raise SettingError(f"DuckDB refuses the query: {error}") from None
    columns, types = [str(each[0]) for each in description], [str(each[1]) for each in description]
    return _cut_result(columns, types, rows, max_rows=job.limits.max_rows)


def _build_config(job: QueryJob) -> dict[str, str | bool | int | float | list[str]]:
    return {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "python_enable_replacements": False,
        "memory_limit": f"{job.limits.max_memory_mb}MB",
        # Nothing is written, not even what does not fit into memory.
        "temp_directory": "",
    }


def _build_setup(job: QueryJob) -> list[str]:
    """Return the statements before the query: views with the visible columns, then every lock."""
    views = [
        f"CREATE VIEW {CATALOG}.main.{_quote(name)} AS "
        f"SELECT {', '.join(map(_quote, columns))} "
        f"FROM {_PUBLISHED}.main.{_quote(name)}"
        for name, columns in job.columns.items()
    ]
    folder, database = (
        "'" + text.replace("'", "''") + "'" for text in (job.lake_folder, job.database)
    )
    return [
        f"ATTACH {database} AS {_PUBLISHED} (READ_ONLY)",
        f"ATTACH ':memory:' AS {CATALOG}",
        "SET TimeZone = 'UTC'",
        f"SET allowed_directories = [{folder}]",
        "SET enable_external_access = false",
        f"SET max_execution_time = {round(job.limits.max_seconds * 1000)}",
        "SET lock_configuration = true",
        *views,
        f"USE {CATALOG}",
    ]


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _cut_result(
    columns: Sequence[str],
    types: Sequence[str],
    found: Sequence[tuple[object, ...]],
    *,
    max_rows: int,
) -> QueryResult:
    """Return as many rows as fit in the limits, and a note on what was cut."""
    rows: list[list[object]] = []
    characters, notes = 0, list[str]()
    for row in found[:max_rows]:
        values = [_to_json_value(each) for each in row]
        characters += len(json.dumps(values))
        if characters > MAX_RESULT_CHARACTERS:
            notes.append(f"the result is longer than {MAX_RESULT_CHARACTERS:,} characters")
            break
        rows.append(values)
    if not notes and len(found) > max_rows:
        notes.append(f"there are more than {max_rows:,} rows")
    if notes:
        notes = [f"the first {len(rows):,} rows: {notes[0]}; aggregate, or select less"]
    if any(isinstance(each, str) and each.endswith(_CUT_MARK) for row in rows for each in row):
        notes.append(f"texts longer than {MAX_VALUE_CHARACTERS:,} characters are cut")
    return QueryResult(
        columns=tuple(columns),
        types=tuple(types),
        rows=rows,
        is_cut=bool(notes),
        note="; ".join(notes),
    )


_CUT_MARK = " ... (cut)"


def _to_json_value(value: object) -> object:
    """Return a value of a row as JSON has it; times as ISO 8601."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        # JSON has no NaN and no infinity.
        return value if value - value == 0 else str(value)
    if isinstance(value, list | tuple):
        return [_to_json_value(each) for each in cast("list[object]", value)]
    if isinstance(value, dict):
        members = cast("dict[object, object]", value).items()
        return {str(name): _to_json_value(each) for name, each in members}
    text = value.isoformat() if isinstance(value, datetime | date | time) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[:MAX_VALUE_CHARACTERS] + _CUT_MARK


def _limit_process(job: QueryJob) -> None:
    """Have the system end this process beyond three times the memory, or after the time.

    The time has a second more, in which DuckDB ends the query itself.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, job.limits.max_seconds + 1)
    with suppress(OSError, ValueError):
        most = 3 * job.limits.max_memory_mb * 1_000_000
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _main() -> None:
    job = msgspec.json.decode(sys.stdin.buffer.read(), type=QueryJob)
    _limit_process(job)
    try:
        response = QueryResponse(result=run_query(job))
    except SettingError as refused:
        response = QueryResponse(error=refused.message)
    sys.stdout.buffer.write(msgspec.json.encode(response))
    sys.stdout.flush()
    # Without the end of DuckDB: a query that reached a limit may still be busy.
    os._exit(0)


if __name__ == "__main__":
    _main()
