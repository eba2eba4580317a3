"""klaviyo.duckdb beside programs that open it for writing, as tools do, and are killed there."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from klaviyo_assets.errors import LakeError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.duckdb_releases import (
    LIBRARY_RELEASES,
    query_with_release,
    release_environment,
)
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    PROFILES,
    TAGS,
    merge_rows,
    numbered_batch,
    query_database,
)

RELEASES = (*LIBRARY_RELEASES, duckdb.__version__)

TOOL = """
import sys, duckdb
with duckdb.connect(sys.argv[1]) as connection:
    for line in sys.stdin:
        connection.execute(line)
        print("done", flush=True)
"""

WRITES = "CREATE OR REPLACE VIEW profiles AS SELECT 'stale' AS id; CREATE TABLE tags (a INTEGER)"
"""What a tool might do: hide a relation of ours, and take the name of one that comes later."""


class Tool:
    """Another program, with some release of DuckDB, that has the database open for writing."""

    def __init__(self, release: str, path: Path) -> None:
        """Start it."""
        self.process = subprocess.Popen(
            [sys.executable, "-c", TOOL, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=release_environment(release),
        )

    def execute(self, sql: str) -> None:
        """Let it execute a line, and wait until it did."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(sql + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def kill(self) -> None:
        """End it as the system ends a program that may clean nothing up; safe to call twice."""
        self.process.kill()
        self.process.wait(timeout=300)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


@pytest.fixture(params=RELEASES)
def tool(request: pytest.FixtureRequest, lake: Lake, root: Path) -> Iterator[Tool]:
    """Give a program that has written into a published database and is at work still."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    started = Tool(request.param, root / "klaviyo.duckdb")
    started.execute(WRITES)
    assert (root / "klaviyo.duckdb.wal").exists()
    yield started
    started.kill()


def rows_by_everyone(root: Path) -> list[object]:
    """Return what every release of DuckDB reads of the relations that are there."""
    queries = ("SHOW TABLES", "SELECT count(*), min(id) FROM profiles")
    path = root / "klaviyo.duckdb"
    found = [query_with_release(release, path, *queries) for release in RELEASES]
    assert all(each == found[0] for each in found)
    return list(found[0])


@pytest.mark.parametrize("has_news", [True, False])
def test_a_killed_writer_leaves_nothing_behind(
    lake: Lake, root: Path, tool: Tool, *, has_news: bool
) -> None:
    """After the next publisher, with news or without, every reader sees what was published."""
    tool.kill()
    if has_news:
        merge_rows(lake, TAGS, [numbered_batch(0, 3)])
    assert lake.publish([]) == ()
    assert not list(root.glob("klaviyo.duckdb.wal*"))
    names = [["profiles"], ["tags"]] if has_news else [["profiles"]]
    assert rows_by_everyone(root) == [names, [[5, "k0000000"]]]


def test_a_writer_that_goes_on_after_a_swap_is_put_right_by_the_next(
    lake: Lake, root: Path, tool: Tool
) -> None:
    """Its old file's log comes back under the name of the new one's; the next publisher sees it."""
    merge_rows(lake, TAGS, [numbered_batch(0, 3)])
    lake.publish([])
    tool.execute("CHECKPOINT")
    tool.execute("INSERT INTO tags VALUES (1)")
    assert (root / "klaviyo.duckdb.wal").exists()
    tool.kill()
    lake.publish([])
    assert rows_by_everyone(root) == [[["profiles"], ["tags"]], [[5, "k0000000"]]]


def test_a_check_finds_what_a_killed_writer_left(lake: Lake, root: Path, tool: Tool) -> None:
    """The file is named, and what to do; after a publisher there is nothing to find."""
    tool.kill()
    with pytest.raises(LakeError, match=r"klaviyo.duckdb.wal lies beside .*klaviyo-assets publish"):
        lake.check_integrity()
    lake.publish([])
    lake.check_integrity()
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(5,)]


@pytest.mark.parametrize("by", ["garbage", "moved", "another"])
def test_a_check_finds_a_database_that_does_not_show_the_lake(
    lake: Lake, root: Path, by: str
) -> None:
    """A file that is no database, and views without files, are reported with the remedy."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    lake.check_integrity()
    path = root / "klaviyo.duckdb"
    match by:
        case "garbage":
            path.write_bytes(b"garbage" * 4096)
        case "moved":
            root.rename(root.with_name("moved"))
            lake = Lake(root.with_name("moved"), clock=lake.clock)
        case _:
            with duckdb.connect(path) as connection:
                connection.execute("CREATE VIEW a AS SELECT 1; CREATE VIEW b AS FROM a")
                connection.execute("DROP VIEW a")
    with pytest.raises(LakeError, match="klaviyo-assets publish"):
        lake.check_integrity()
    lake.publish([])
    lake.check_integrity()
