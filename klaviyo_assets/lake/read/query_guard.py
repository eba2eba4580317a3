"""Judges a query that somebody else wrote, by DuckDB's own parser, before it runs.

The type of a statement does not suffice: since DuckDB 2.0 `WITH x AS (INSERT ...) FROM x` is a
SELECT, and table functions such as `read_parquet` and `query` read what no relation names. So the
parsed query is walked, and what is not known to be harmless is refused.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import cast

import duckdb

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
