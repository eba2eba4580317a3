"""`klaviyo-assets export`: one file with the rows themselves, for users without the lake."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

import duckdb
import pytest

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.duckdb_releases import LIBRARY_RELEASES, query_with_release
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import wait_until_idle
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.e2e.test_cli import verb

RELEASES = (*LIBRARY_RELEASES, duckdb.__version__)


@pytest.fixture(scope="module")
def home(dagster_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """Give a home with tables, a history, a detail, a join and merges; its lake stays."""
    with open_sandbox_account() as account:
        root = tmp_path_factory.mktemp("exported")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        assert home.sync().success
        assert home.sync("lists", config={"sync_mode": "full_refresh_append"}).success
        yield home


@contextmanager
def moved_away(path: Path) -> Generator[None]:
    """Let a file or folder be gone for the length of the block."""
    elsewhere = path.with_name(f"{path.name}.elsewhere")
    path.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(path)


def rows_and_words(home: Home) -> tuple[dict[str, int], list[tuple[object, ...]]]:
    """Return the rows of each relation of klaviyo.duckdb, and its columns with their comments."""
    names = [name for (name,) in home.query("SHOW TABLES")]
    columns = home.query(
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE database_name = 'klaviyo' ORDER BY ALL"
    )
    return {name: home.row_count(name) for name in names}, columns


@pytest.mark.parametrize("release", RELEASES)
def test_an_export_is_whole_without_the_lake(
    home: Home, capsys: pytest.CaptureFixture[str], release: str
) -> None:
    """All rows, types and comments are in one file, which any DuckDB opens without the lake."""
    rows, columns = rows_and_words(home)
    file = home.root / f"it's handed over to {release}.duckdb"
    assert verb(home, "export", str(file)) == 0
    output = capsys.readouterr()
    assert f"holds {len(rows)} tables, {sum(rows.values()):,} rows" in output.out
    assert {line.split()[0] for line in output.err.splitlines()} == set(rows)
    counts = [f'SELECT count(*) FROM "{name}"' for name in rows]
    words = (
        "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
        "WHERE database_name = 'x' ORDER BY ALL"
    )
    comments = "SELECT table_name, comment FROM duckdb_tables()"
    with moved_away(home.data_dir):
        found, tables, *counted = query_with_release(
            release, file, words, comments, *counts, name="x"
        )
    assert [tuple(each) for each in found] == columns
    assert [name for name, comment in tables if not comment] == []
    assert [count for ((count,),) in counted] == list(rows.values())
    assert list(file.parent.glob(".*.duckdb.*")) == []


def test_only_the_named_tables(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """`--tables` takes names, apart or with commas; a relation brings the columns of both sides."""
    file = home.root / "some.duckdb"
    assert (
        verb(home, "export", str(file), "--tables", "metrics,lists_history", "events_detailed") == 0
    )
    assert "holds 3 tables" in capsys.readouterr().out
    with duckdb.connect(file, read_only=True) as opened:
        names = [name for (name,) in opened.execute("SHOW TABLES").fetchall()]
        assert names == ["events_detailed", "lists_history", "metrics"]
        named = "SELECT count(metric_name) FROM events_detailed"
        assert opened.execute(named).fetchall()[0][0] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tables", "event"), "there is no table 'event': did you mean events"),
        (("--tables", "zzzz"), "there is no table 'zzzz': there are accounts, "),
        (("--tables", "x'; DROP TABLE events; --"), "there is no table"),
    ],
)
def test_an_unknown_table_ends_with_two(
    home: Home, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], message: str
) -> None:
    """An unknown table ends with 2 and the nearest names; nothing is written."""
    file = home.root / "none.duckdb"
    assert verb(home, "export", str(file), *words) == 2
    assert message in capsys.readouterr().err
    assert not file.exists()


def test_what_is_there_is_not_lost(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """The lake's own files, files of other kinds and folders stay; a database goes with --force."""
    theirs = home.root / "letter.duckdb"
    theirs.write_text("Dear shop, this is no database at all.")
    database = home.root / "mine.duckdb"
    with duckdb.connect(database) as mine:
        mine.execute("CREATE TABLE mine (n INTEGER)")
    link = home.root / "link.duckdb"
    link.symlink_to(home.data_dir / "klaviyo.duckdb")
    for path, options, message in (
        (home.data_dir / "klaviyo.duckdb", ("--force",), "the lake's own"),
        (link, ("--force",), "the lake's own"),
        (home.data_dir / "lake" / "x.duckdb", (), "the lake's own"),
        (theirs, ("--force",), "no DuckDB database"),
        (home.root, ("--force",), "is a folder"),
        (home.root / "no" / "x.duckdb", (), "is no folder"),
        (database, (), "--force replaces it"),
    ):
        assert verb(home, "export", str(path), *options) == 2
        assert message in capsys.readouterr().err
    assert theirs.read_text().startswith("Dear shop")
    assert verb(home, "export", str(database), "--force", "--tables", "lists") == 0
    with duckdb.connect(database, read_only=True) as opened:
        assert opened.execute("SHOW TABLES").fetchall() == [("lists",)]
    home.query("FROM lists")


def test_without_a_lake_there_is_nothing_to_export(
    open_home: StartHome, capsys: pytest.CaptureFixture[str]
) -> None:
    """An empty folder ends with 1 and a line; a table that was never read too."""
    home = open_home()
    file = home.root / "none.duckdb"
    assert verb(home, "export", str(file)) == 1
    assert "there is nothing to export" in capsys.readouterr().err
    assert home.sync("metrics").success
    assert verb(home, "export", str(file), "--tables", "events") == 1
    assert "events: was never read" in capsys.readouterr().err
    assert not file.exists()


def test_an_export_that_fails_leaves_what_was_there(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged table is named, the old export stays, and nothing is left beside it."""
    file = home.root / "kept.duckdb"
    assert verb(home, "export", str(file), "--tables", "lists") == 0
    before = file.read_bytes()
    (stored,) = (home.data_dir / "lake" / "profiles").glob("*.parquet")
    with moved_away(stored):
        assert verb(home, "export", str(file), "--force") == 1
    assert "Traceback" not in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [each.name for each in home.root.iterdir() if each.name.startswith(".")] == []


def fill_up(pipe: int) -> int:
    """Write into a pipe until it takes no more; return how many bytes it took."""
    taken = 0
    os.set_blocking(pipe, False)
    with suppress(BlockingIOError):
        while True:
            taken += os.write(pipe, b"\n" * 4096)
    os.set_blocking(pipe, True)
    return taken


def interrupt_export(home: Home, file: Path, by: signal.Signals) -> tuple[int, str]:
    """End an export by a signal while it writes; return its exit code and what it said.

    Its standard error is a pipe that is full, so that it waits at its first line, however slow
    this process is to send the signal. What a shell starts in the background ignores Ctrl-C, and so
    would what this starts: the signal is listened to while the process begins.
    """
    before_this = signal.signal(signal.SIGINT, signal.default_int_handler)
    reading, writing = os.pipe()
    before = fill_up(writing)
    process = subprocess.Popen(
        [sys.executable, "-m", "klaviyo_assets", "export", str(file)],
        cwd=ROOT,
        env={**os.environ, **home.variables},
        stderr=writing,
    )
    signal.signal(signal.SIGINT, before_this)
    os.close(writing)
    while not file.with_name(f".{file.name}.part").exists() and process.poll() is None:
        sleep(0.001)
    # At its first line; a signal in the midst of a statement may come too late.
    wait_until_idle(process.pid)
    process.send_signal(by)
    with os.fdopen(reading, encoding="utf-8") as lines:
        output = lines.read()
    return process.wait(timeout=300), output[before:]


def test_ctrl_c_ends_an_export_with_130(home: Home) -> None:
    """It says so in a line, and takes away what it had written."""
    file = home.root / "stopped.duckdb"
    code, output = interrupt_export(home, file, signal.SIGINT)
    assert code == 130, output
    assert output.splitlines()[-1] == "stopped by Ctrl-C"
    assert "Traceback" not in output
    assert [each.name for each in home.root.iterdir() if "stopped" in each.name] == []


def test_a_killed_export_is_no_file_and_in_nobodys_way(home: Home) -> None:
    """Killed half-way, it leaves no file under the name; the next one writes it."""
    file = home.root / "killed.duckdb"
    interrupt_export(home, file, signal.SIGKILL)
    assert (home.root / ".killed.duckdb.part").exists()
    assert not file.exists()
    assert verb(home, "export", str(file), "--tables", "lists") == 0
    assert [each.name for each in home.root.iterdir() if each.name.startswith(".")] == []
    with duckdb.connect(file, read_only=True) as opened:
        assert opened.execute("SELECT count(*) FROM lists").fetchall() == [
            (home.row_count("lists"),)
        ]
