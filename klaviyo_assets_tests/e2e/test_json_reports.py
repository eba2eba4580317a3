"""`--json`: every verb that reports prints one JSON document on standard output, and no more."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets.cli.verbs import VERBS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

REPORTS_NOTHING = {
    "init": "asks questions and writes .env",
    "mcp": "speaks JSON-RPC on standard output",
    "completion": "prints a script for a shell",
}

NOBODY = "01KB5TJ8R4W8KTENDJT6KNBCPA"

REPORTS = {
    "doctor": (["doctor"], {"exit_code", "findings"}),
    "sync": (["sync", "tags"], {"success", "streams"}),
    "streams": (["streams"], {"name", "is_on"}),
    "status": (["status"], {"streams", "reports", "automation"}),
    "metrics": (["metrics"], {"id", "name"}),
    "plan": (["plan", "--first-sync"], {"streams"}),
    "revisions": (["revisions", "--offline"], {"revisions"}),
    "sql": (["sql", "SELECT 1 AS one"], {"one"}),
    "dashboard": (["dashboard"], {"page"}),
    "publish": (["publish"], {"database", "lake_root", "problems", "targets"}),
    "export": (["export", "copy.duckdb"], {"file", "bytes", "tables"}),
    "compare": (["compare", "other.duckdb"], {"is_complete", "streams"}),
    "verify": (["verify"], {"is_sound", "tables"}),
    "set-aside": (["set-aside", "tags", "--dry-run"], {"table", "found", "moved_to"}),
    "adopt": (["adopt"], {"account", "has_one_name", "notes"}),
    "erase": (["erase", NOBODY, "--dry-run"], {"profiles", "is_done", "rows"}),
}
"""A command line of each verb that reports, and keys of its document, or of the first of a list."""


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with a few tables, which these tests read."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("json")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        assert home.sync("accounts", "metrics", "profiles", "tags", "lists").success
        yield home


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with the table of another tool; what is written there does not stay."""
    with duckdb.connect(tmp_path / "other.duckdb") as opened:
        opened.execute("CREATE TABLE profiles (id VARCHAR, created TIMESTAMPTZ)")
    monkeypatch.chdir(tmp_path)
    yield
    # An erasure names exports that still hold a person.
    for each in tmp_path.glob("*.duckdb"):
        each.unlink()


def report(home: Home, capsys: pytest.CaptureFixture[str], *words: str) -> Any:  # noqa: ANN401 - JSON of any shape
    """Run a verb with --json, the home's settings and its key; return its document."""
    capsys.readouterr()
    with patch.dict(os.environ, home.variables):
        os.environ.pop("DAGSTER_HOME", None)
        code = main([*words, "--json"])
    output = capsys.readouterr()
    assert code == 0, output
    return json.loads(output.out)


def test_every_verb_reports_or_has_a_reason() -> None:
    """No verb is forgotten: each has `--json` and a line in the table, or a reason."""
    names = {each.name for each in VERBS}
    assert names == REPORTS.keys() | REPORTS_NOTHING.keys()
    has_json = {each.name for each in VERBS if "as_json" in {one.name for one in each.params}}
    assert has_json == REPORTS.keys()


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_one_document(
    home: Home, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """Standard output is JSON with the keys that the verb promises, and nothing beside it."""
    words, keys = REPORTS[name]
    found = report(home, capsys, *words)
    assert keys <= (found[0] if isinstance(found, list) else found).keys()


def test_publish_names_the_views_of_each_target(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """The document has the database, schema, views and rows of each tool."""
    words = ("publish", "--dbt", "shop.duckdb", "--airbyte", "raw.duckdb", "--schema", "mine")
    found = report(home, capsys, *words)
    assert found["database"] is None
    dbt, airbyte = found["targets"]
    assert (Path(dbt["database"]).name, dbt["schema"]) == ("shop.duckdb", "mine")
    rows = {each["name"]: each["rows"] for each in dbt["views"]}
    assert rows["person"] == home.row_count("profiles")
    assert {each["name"]: each["missing"] for each in dbt["views"]}["flow"] == ["flows"]
    assert Path(airbyte["database"]).name == "raw.duckdb"


def test_an_export_lists_its_tables(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The document has each table with its rows, and the file's size."""
    found = report(home, capsys, "export", "copy.duckdb", "--tables", "lists")
    assert found["tables"] == [{"name": "lists", "rows": home.row_count("lists")}]
    assert found["bytes"] == Path("copy.duckdb").stat().st_size


def test_what_changes_the_lake_reports_it(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`set-aside` says where the table is, `erase` what is left, both without a name of anybody."""
    found = report(home, capsys, "set-aside", "tags", "--yes")
    assert Path(found["moved_to"]).is_dir()
    assert report(home, capsys, "sync", "tags")["success"]
    assert report(home, capsys, "publish", "--dbt", "shop.duckdb", "--schema", "mine")
    (person, *_) = sorted(home.ids("profiles"))
    rows = report(home, capsys, "erase", person, "--dry-run")["rows"]
    assert rows["profiles"] == 1
    found = report(home, capsys, "erase", person, "--yes")
    assert (found["is_complete"], found["rows"]["profiles"]) == (True, 1)
    assert Path(found["receipt"]).is_file()
    assert person not in json.dumps(found)
    # The views in the user's database named files that are gone now.
    with duckdb.connect("shop.duckdb", read_only=True) as opened:
        shown = {id_ for (id_,) in opened.execute("SELECT id FROM mine.person").fetchall()}
    assert shown == set(home.ids("profiles")) - {person}
