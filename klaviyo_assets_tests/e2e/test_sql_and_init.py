"""`klaviyo-assets sql` and `init`, and verbs that ask before they remove something."""

import csv
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.e2e.test_command_line import COMMAND


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with lists and profiles, which stay."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("queried")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        assert home.sync("lists", "profiles").success
        yield home


def query(home: Home, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what `sql` prints."""
    capsys.readouterr()
    assert verb(home, "sql", *words) == 0
    return capsys.readouterr().out


def test_a_query_is_printed_in_three_forms(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """As a table with its first rows, as JSON and as CSV with all; NULL stays NULL."""
    names = dict(home.query("SELECT id, name FROM lists"))
    sql = "SELECT id, name, NULL AS nothing FROM klaviyo.lists ORDER BY id"
    found = json.loads(query(home, capsys, sql, "--json"))
    assert {each["id"]: each["name"] for each in found} == names
    assert [each["nothing"] for each in found] == [None] * len(names)
    rows = list(csv.DictReader(io.StringIO(query(home, capsys, sql, "--csv"))))
    assert {each["id"]: each["name"] or None for each in rows} == names
    assert json.loads(query(home, capsys, "FROM lists LIMIT 0", "--json")) == []
    assert verb(home, "sql", sql, "--limit", "2") == 0
    output = capsys.readouterr()
    assert len(output.out.splitlines()) == 3
    assert "the first 2 rows; --limit, --csv or --json for more" in output.err


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("DROP VIEW lists", "one query is wanted"),
        ("CREATE TABLE mine AS FROM lists", "one query is wanted"),
        ("COPY lists TO 'x.csv'", "one query is wanted"),
        ("FROM lists; FROM profiles", "one query is wanted"),
        ("INSTALL httpfs", "one query is wanted"),
        ("SELEC 1", "DuckDB cannot read the query"),
        ("FROM nothing", "nothing does not exist"),
        ("FROM read_text('/etc/hostname')", "disabled"),
        ("SET enable_external_access = true", "one query is wanted"),
    ],
)
def test_nothing_is_written_and_no_other_file_is_read(
    home: Home, capsys: pytest.CaptureFixture[str], sql: str, message: str
) -> None:
    """Statements that are no query, and files that are not the lake's, are refused with 2."""
    before = home.data_files()
    assert verb(home, "sql", sql) == 2
    assert message in capsys.readouterr().err
    assert home.data_files() == before


def run_in(folder: Path, home: Home, *words: str, answers: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, with answers on standard input and no key in the environment."""
    settings = {**home.variables, "PYTHONPATH": str(ROOT)}
    del settings["KLAVIYO_API_KEY"], settings["KLAVIYO_DATA_DIR"]
    return subprocess.run(
        [*COMMAND, *words],
        cwd=folder,
        env={**{k: v for k, v in os.environ.items() if k != "DAGSTER_HOME"}, **settings},
        input=answers,
        capture_output=True,
        check=False,
        text=True,
    )


def test_init_writes_what_a_first_sync_needs(home: Home, tmp_path: Path) -> None:
    """The key is tried and never shown; other lines of `.env` stay; only the owner may read it."""
    env_file = tmp_path / ".env"
    env_file.write_text("OTHER=mine\nKLAVIYO_DATA_DIR=old\n")
    done = run_in(tmp_path, home, "init", answers=f"{home.account.key}\nshop\n\n\n\n")
    assert done.returncode == 0, done.stderr
    (account,) = home.account.true_ids("accounts")
    assert f"the key is accepted: account {account}, America/New_York" in done.stdout
    assert home.account.key not in done.stdout + done.stderr
    assert env_file.read_text().splitlines() == [
        "OTHER=mine",
        f"KLAVIYO_API_KEY='{home.account.key}'",
        "KLAVIYO_DATA_DIR='shop'",
        "KLAVIYO_AUTOMATION='recommended'",
        "KLAVIYO_CONVERSION_METRIC_IDS='auto'",
        f"DAGSTER_HOME='{tmp_path}/.dagster'",
    ]
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert "telemetry: {enabled: false}" in (tmp_path / ".dagster" / "dagster.yaml").read_text()
    checked = run_in(tmp_path, home, "verify", answers="")
    assert "no lake in shop (KLAVIYO_DATA_DIR)" in checked.stderr


@pytest.mark.parametrize(
    ("code", "answers", "message"),
    [
        (1, "pk_nobody0123456\n", "does not know this key"),
        (2, "PubKey\n", "holds the public key"),
        (2, "{key}\n\nsometimes\n", "KLAVIYO_AUTOMATION='sometimes' cannot be used"),
    ],
)
def test_init_writes_nothing_that_cannot_be_used(
    home: Home, tmp_path: Path, code: int, answers: str, message: str
) -> None:
    """A key that Klaviyo refuses, or an invalid reply, leaves no file."""
    done = run_in(tmp_path, home, "init", answers=answers.format(key=home.account.key))
    assert done.returncode == code
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


def answer_on_terminal(home: Home, *words: str, answer: bytes) -> tuple[int, bytes]:
    """Run the command with a terminal as standard input; return its code and what it said."""
    ours, theirs = os.openpty()
    os.write(ours, answer)
    done = subprocess.run(
        [*COMMAND, *words],
        cwd=ROOT,
        env={**os.environ, **home.variables},
        stdin=theirs,
        capture_output=True,
        check=False,
    )
    os.close(theirs)
    os.close(ours)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("words", [("set-aside", "lists"), ("erase", "01KB5TJ8R4W8KTENDJT6KNBCPA")])
def test_what_removes_asks_on_a_terminal(home: Home, words: tuple[str, ...]) -> None:
    """Anything but yes leaves everything as it was, and ends with 1."""
    before = home.data_files()
    code, output = answer_on_terminal(home, *words, answer=b"\n")
    assert code == 1
    assert b"? [y/N]" in output or b"back. [y/N]" in output
    assert b"nothing was done" in output
    assert home.data_files() == before


def test_a_dry_run_says_what_would_go(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are counted, and nothing is touched."""
    before = home.data_files()
    person = min(home.account.true_ids("profiles"))
    assert verb(home, "erase", person, "--dry-run") == 0
    assert "profiles                            1 rows" in capsys.readouterr().out
    assert verb(home, "set-aside", "lists", "--dry-run") == 0
    assert "lists (5 rows) would be moved" in capsys.readouterr().out
    assert home.data_files() == before
