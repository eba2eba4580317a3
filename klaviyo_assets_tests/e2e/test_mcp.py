"""`klaviyo-assets mcp`, asked by the official SDK's own client over standard input and output."""

import json
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import patch

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from klaviyo_assets.cli import mcp as mcp_verb
from klaviyo_assets.cli.mcp import LakeTools
from klaviyo_assets.model.privacy import personal_columns
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_cli import verb

if TYPE_CHECKING:
    from mcp import Client

SYNCED = ("profiles", "global_exclusions", "metrics", "events", "events_detailed", "campaigns")

SHORTEST_VALUE = 6
"""Characters of a value that is searched for; a shorter one may be anybody's."""

SHOWN_VALUES = 5
"""Of three people and three messages, at least."""

READ_ONLY = "one query is wanted"


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with people, their events, and campaigns with senders."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("mcp")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        assert home.sync(*SYNCED).success
        yield home


class Session:
    """A server in a process of its own, and the client that started it."""

    def __init__(self, portal: BlockingPortal, client: "Client") -> None:
        self.portal, self.client = portal, client

    def call(self, tool: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON of any shape
        """Return what a tool answers."""
        done = self.portal.call(partial(self.client.call_tool, tool, arguments))
        assert not done.is_error, done.content
        answer = cast("dict[str, Any]", done.structured_content)
        return answer["result"] if answer.keys() == {"result"} else answer

    def refuse(self, sql: str) -> str:
        """Return why a query is refused."""
        done = self.portal.call(partial(self.client.call_tool, "query", {"sql": sql}))
        text = "\n".join(getattr(each, "text", "") for each in done.content)
        assert done.is_error, text
        return text


@contextmanager
def open_session(home: Home, *options: str) -> Generator[Session]:
    """Start a server and connect to it. It has no key, and nowhere to write but its own streams."""
    # Importing it takes half a second, which each worker would spend on collecting.
    from mcp import Client, StdioServerParameters  # noqa: PLC0415

    variables = {k: v for k, v in home.variables.items() if k != "KLAVIYO_API_KEY"}
    server = StdioServerParameters(
        command=sys.executable,
        args=["-m", "klaviyo_assets", "mcp", *options],
        env={**variables, "PYTHONPATH": str(ROOT)},
        cwd=home.root,
    )
    with start_blocking_portal() as portal:
        client = cast("AbstractAsyncContextManager[Client]", Client(server))
        with portal.wrap_async_context_manager(client) as opened:
            yield Session(portal, opened)


@pytest.fixture(scope="module")
def session(home: Home) -> Iterator[Session]:
    """Give a server that hides personal data."""
    with open_session(home) as opened:
        yield opened


@pytest.fixture(scope="module")
def hurried(home: Home) -> Iterator[Session]:
    """Give a server with a second for a query, and little memory."""
    with open_session(home, "--max-seconds", "1", "--max-memory", "300") as opened:
        yield opened


def test_the_tools_say_what_there_is(home: Home, session: Session) -> None:
    """Tables with their rows, columns with their meaning, and how current each stream is."""
    listed = session.portal.call(session.client.list_tools).tools
    assert {each.name for each in listed} == {"tables", "describe", "query", "freshness"}
    assert all(each.annotations and each.annotations.read_only_hint for each in listed)
    tables = {each["name"]: each for each in session.call("tables")}
    assert tables.keys() >= {*SYNCED, "campaign_variations", "profile_merges"}
    assert tables["events"]["rows"] == home.row_count("events")
    assert tables["events"]["description"] == STREAMS["events"].description
    described = session.call("describe", table="events")
    columns = {each["name"]: each for each in described["columns"]}
    assert columns["datetime"]["type"] == "TIMESTAMP WITH TIME ZONE"
    assert "`datetime, else timestamp`" in columns["datetime"]["description"]
    assert described["key"] == ["id"]
    assert described["hidden_columns"] == ["event_properties", "attributions", "extra"]
    fresh = {each["stream"]: each for each in session.call("freshness")}
    assert fresh["events"]["freshness"] == "fresh"
    assert fresh["events"]["complete_up_to"].startswith("2026-")
    assert "events_detailed" not in fresh


def test_a_query_returns_typed_rows_and_says_when_it_is_cut(home: Home, session: Session) -> None:
    """Rows are those of DuckDB; what does not fit in the limits is left out, and that is said."""
    counted = home.query("SELECT metric_name, count(*) FROM events_detailed GROUP BY 1 ORDER BY 1")
    sql = "SELECT metric_name, count(*) AS n FROM klaviyo.events_detailed GROUP BY 1 ORDER BY 1"
    found = session.call("query", sql=sql)
    assert found["rows"] == [list(each) for each in counted]
    assert (found["columns"], found["types"]) == (["metric_name", "n"], ["VARCHAR", "BIGINT"])
    assert not found["is_cut"]
    cut = session.call("query", sql="FROM events", max_rows=3)
    assert (len(cut["rows"]), cut["is_cut"]) == (3, True)
    assert "there are more than 3 rows" in cut["note"]
    assert len(session.call("query", sql="FROM range(5000)", max_rows=9000)["rows"]) == 1000
    wide = session.call("query", sql="SELECT repeat('x', 9999) FROM range(500)", max_rows=500)
    assert len(wide["rows"]) == 19
    assert "200,000 characters" in wide["note"]
    assert session.call(
        "query",
        sql="SELECT DATE '2026-01-02' AS d, 'nan'::DOUBLE AS n, [1.5e0, NULL] AS l, 1.5 AS e",
    )["rows"] == [["2026-01-02", "nan", [1.5, None], "1.5"]]


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("CREATE TABLE mine AS FROM events", READ_ONLY),
        ("DROP VIEW events", READ_ONLY),
        ("COPY events TO 'mine.csv'", READ_ONLY),
        ("COPY (FROM events) TO 'mine.parquet'", READ_ONLY),
        ("EXPORT DATABASE 'mine'", READ_ONLY),
        ("ATTACH 'mine.duckdb'", READ_ONLY),
        ("INSTALL httpfs", READ_ONLY),
        ("LOAD httpfs", READ_ONLY),
        ("PRAGMA database_list", READ_ONLY),
        ("CALL pragma_version()", READ_ONLY),
        ("SET enable_external_access = true", READ_ONLY),
        ("USE published", READ_ONLY),
        ("FROM events; DROP VIEW events", READ_ONLY),
        ("SELECT 1; COPY (SELECT 1) TO 'mine.csv'", READ_ONLY),
        ("EXPLAIN ANALYZE FROM events", "no EXPLAIN"),
        # A SELECT, by its type.
        ("WITH x AS (INSERT INTO events VALUES (1) RETURNING *) FROM x", "INSERT_QUERY_NODE"),
        ("WITH x AS (DELETE FROM events RETURNING *) FROM x", "DELETE_QUERY_NODE"),
        ("FROM '/etc/passwd'", "there is no table"),
        ("FROM 'lake/profiles/*.parquet'", "there is no table"),
        ("FROM read_csv('/etc/passwd')", "read_csv is not allowed"),
        ("FROM read_text('/etc/passwd')", "read_text is not allowed"),
        ("FROM system.main.read_blob('/etc/passwd')", "read_blob is not allowed"),
        ("FROM read_parquet('{lake}/profiles/**/*.parquet')", "read_parquet is not allowed"),
        ("SELECT (SELECT max(email) FROM parquet_scan('{lake}/profiles/*'))", "is not allowed"),
        ("FROM glob('{lake}/*')", "glob is not allowed"),
        ("FROM query('FROM published.main.profiles')", "query is not allowed"),
        ("FROM query_table('profiles')", "query_table is not allowed"),
        ("FROM published.main.profiles", "there is no table"),
        ("FROM published.profiles", "there is no table"),
        ("FROM memory.main.profiles", "there is no table"),
        ("FROM information_schema.columns", "there is no table"),
        ("FROM duckdb_views()", "duckdb_views is not allowed"),
        ("FROM sqlite_master", "there is no table"),
        ("WITH sqlite_master AS (SELECT 1) FROM sqlite_master", "cannot be the name"),
        (
            """FROM '{lake}/x.parquet', (WITH "{lake}/x.parquet" AS (SELECT 1) SELECT 2)""",
            "cannot be the name",
        ),
        ("SHOW TABLES", "use the tools"),
        ("SELECT getenv('HOME')", "getenv is not allowed"),
        ("SELECT current_setting('allowed_directories')", "current_setting is not allowed"),
        ("SELECT sleep_ms(100000)", "sleep_ms is not allowed"),
        ("FROM arrow_scan(1, 2, 3)", "arrow_scan is not allowed"),
        ("SELEC 1", "DuckDB cannot read the query"),
        # What personal columns may be asked by.
        ("SELECT email FROM profiles", "--allow-personal"),
        ("SELECT p.email FROM profiles AS p", "email"),
        ("FROM profiles WHERE email LIKE 'a%'", "--allow-personal"),
        ("SELECT x.s.email FROM (SELECT profiles AS s FROM profiles) AS x", "email"),
        ("SELECT * REPLACE (upper(email) AS id) FROM profiles", "email"),
        ("SELECT event_properties FROM events", "--allow-personal"),
        ("SELECT extra FROM profiles", "--allow-personal"),
    ],
)
def test_nothing_is_written_and_nothing_else_is_read(
    home: Home, session: Session, sql: str, reason: str
) -> None:
    """Statements, files, functions and columns that are not offered are refused with the reason."""
    before = home.data_files()
    assert reason in session.refuse(sql.replace("{lake}", str(home.data_dir / "lake")))
    assert home.data_files() == before
    assert not list(home.root.rglob("mine*"))


@pytest.mark.parametrize(
    ("sql", "reason"),
    [
        ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL FROM t) SELECT count(*) FROM t", "second"),
        # Constants, which DuckDB's own limits do not hold for.
        ("SELECT repeat('x', 4000000000)", "memory"),
        ("SELECT len(range(100000000))", "second"),
        ("SELECT list(i) FROM range(1000000000) AS t(i)", "memory"),
        ("SELECT " + "(" * 5000 + "1" + ")" * 5000, "depth"),
    ],
)
def test_a_query_ends_at_its_limits(
    hurried: Session, session: Session, sql: str, reason: str
) -> None:
    """Endless recursion and huge results are ended, and the server goes on."""
    refused = hurried.refuse(sql)
    assert any(each in refused for each in (reason, "took longer", "memory"))
    assert hurried.call("tables")
    assert session.call("query", sql="SELECT 1 AS one")["rows"] == [[1]]


def personal_values(home: Home) -> set[str]:
    """Return the texts of people and senders in the lake that are long enough to search for."""
    found: set[str] = set()
    for name in ("profiles", "campaign_variations"):
        # A city's name is in time zones, too.
        known = personal_columns(STREAMS[name], STREAMS) - {"location_city"}
        columns = ", ".join(f'"{each}"' for each in sorted(known))
        rows = home.query(f"SELECT {columns} FROM {name}")
        found |= {each for row in rows for each in row if isinstance(each, str)}
    return {each for each in found if len(each) >= SHORTEST_VALUE and not each.startswith("{")}


def read_everything(session: Session) -> str:
    """Return rows of every table with all their columns, as the client gets them."""
    names = [each["name"] for each in session.call("tables")]
    texts = (f"SELECT CAST(t AS VARCHAR) FROM (FROM {name} LIMIT 3) AS t" for name in names)
    found = session.call("query", sql=" UNION ALL ".join(texts), max_rows=1000)
    assert not found["is_cut"], found["note"]
    return json.dumps(found["rows"], ensure_ascii=False)


def test_personal_data_is_hidden_unless_it_is_allowed(home: Home, session: Session) -> None:
    """`SELECT *` of every table has no value of a personal column; --allow-personal shows them."""
    values = personal_values(home)
    assert len(values) > 100
    text = read_everything(session)
    assert [each for each in values if each in text] == []
    with open_session(home, "--allow-personal") as opened:
        seen = read_everything(opened)
        assert opened.call("describe", table="profiles")["hidden_columns"] == []
    assert sum(each in seen for each in values) > SHOWN_VALUES


def test_a_table_of_another_program_is_hidden(home: Home) -> None:
    """What no declaration knows may hold anything."""
    tools = LakeTools(*cast("Any", (None, None)), limits=cast("Any", None), has_personal=False)
    with patch.object(LakeTools, "_computed_relations", frozenset({"profile_merges"})):
        assert not tools.is_harmless("somebody_elses", "id")
        assert not tools.is_harmless("profiles", "added_by_hand")
        assert not tools.is_harmless("profiles_history", "email")
        assert tools.is_harmless("profiles_history", "sync_started_at")
        assert tools.is_harmless("profile_merges", "old_id")
    assert home.row_count("profiles")


def test_no_request_is_sent_to_klaviyo(home: Home, session: Session) -> None:
    """Whatever is asked, Klaviyo hears nothing."""
    before = home.account.request_counts()
    for tool in ("tables", "freshness"):
        session.call(tool)
    session.call("describe", table="profiles")
    session.call("query", sql="SELECT count(*) FROM profiles")
    assert home.account.request_counts() == before


def test_without_the_sdk_the_verb_says_what_to_install(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base package does not bring it along."""
    with patch.object(mcp_verb, "find_spec", return_value=None):
        assert verb(home, "mcp") == 2
    assert "pip install 'klaviyo-assets[mcp]'" in capsys.readouterr().err


def test_the_documented_configuration_starts_it(home: Home) -> None:
    """The snippet of docs/mcp.md is JSON, and its command is one that this project installs."""
    page = (ROOT / "docs" / "mcp.md").read_text(encoding="utf-8")
    snippet = page.partition("```json\n")[2].partition("```")[0]
    (server,) = json.loads(snippet)["mcpServers"].values()
    assert Path(server["command"]).name == "klaviyo-assets"
    done = subprocess.run(
        [Path(sys.executable).with_name("klaviyo-assets"), *server["args"]],
        env={**server["env"], "KLAVIYO_DATA_DIR": str(home.data_dir), "PATH": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
