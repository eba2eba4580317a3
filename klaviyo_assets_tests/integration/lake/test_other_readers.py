"""Readers elsewhere: another user of this machine, or where the lake is mounted elsewhere."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.duckdb_releases import LIBRARY_RELEASES, query_with_release
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    EVENTS,
    PROFILES,
    TAGS,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    utc_now,
)

RELEASES = (*LIBRARY_RELEASES, duckdb.__version__)
NOBODY = 65534

READ = """
import os, sys
import duckdb
from deltalake import DeltaTable

def read(root):
    with duckdb.connect(f"{root}/klaviyo.duckdb", read_only=True) as connection:
        for name in ("events", "profiles"):
            yield connection.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
    yield DeltaTable(f"{root}/lake/events").to_pyarrow_table().num_rows
    try:
        os.listdir(f"{root}/lake/events/_staging")
    except PermissionError:
        yield "private"

# Once as ourselves: the other user may not be let at Python's modules.
list(read(sys.argv[1]))
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(65534)
print(*read(sys.argv[1]))
"""


@pytest.fixture
def open_root() -> Iterator[Path]:
    """Give a data folder below folders that anybody may enter, under a umask that keeps all out."""
    before = os.umask(0o077)
    try:
        with TemporaryDirectory() as folder:
            Path(folder).chmod(0o755)
            yield Path(folder) / "data"
    finally:
        os.umask(before)


def read_as_nobody(root: Path, *, group: int) -> subprocess.CompletedProcess[str]:
    """Read the lake as another user of that group, by DuckDB and by Delta."""
    return subprocess.run(
        [sys.executable, "-c", READ, str(root), str(group)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def write_some(root: Path, mode: str, *, first: int = 0) -> None:
    """Write and publish ten events and ten profiles more with that setting."""
    lake = Lake(root, clock=utc_now, folder_mode=mode)
    merge_rows(lake, EVENTS, [numbered_batch(first, 10, days=1)])
    merge_rows(lake, PROFILES, [numbered_batch(first, 10)])
    lake.publish([])


def modes(folder: Path) -> set[tuple[str, int]]:
    """Return the modes of what readers need below a folder."""
    paths = [each for each in folder.rglob("*") if not {"_staging", "_readers"} & set(each.parts)]
    return {
        ("folder" if each.is_dir() else "file", stat.S_IMODE(each.stat().st_mode))
        for each in paths
        if each.name not in {"_published.json", "_tables.json"}
    }


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(
    ("mode", "group", "is_let_in"),
    [("755", NOBODY, True), ("750", 0, True), ("750", NOBODY, False), ("", NOBODY, False)],
)
def test_another_user_reads_what_the_setting_allows(
    open_root: Path, mode: str, group: int, *, is_let_in: bool
) -> None:
    """DuckDB and Delta read all of it, new partitions included; what is staged stays private."""
    write_some(open_root, mode)
    write_some(open_root, mode, first=10)
    done = read_as_nobody(open_root, group=group)
    if is_let_in:
        assert done.stdout.split() == ["20", "20", "20", "private"], done.stderr
    else:
        assert done.returncode != 0
        assert "ermission" in done.stderr


def test_files_follow_their_folders(open_root: Path) -> None:
    """750 makes files 640, for what was there before too, and 700 closes all of it again."""
    write_some(open_root, "")
    assert modes(open_root / "lake" / "events") <= {("folder", 0o700), ("file", 0o600)}
    for mode, of_folder, of_file in (("750", 0o750, 0o640), ("700", 0o700, 0o600)):
        write_some(open_root, mode, first=int(mode))
        assert modes(open_root / "lake" / "events") == {("folder", of_folder), ("file", of_file)}
        assert stat.S_IMODE((open_root / "lake").stat().st_mode) == of_folder
        assert stat.S_IMODE((open_root / "klaviyo.duckdb").stat().st_mode) == of_file


def test_the_setting_alone_is_news(open_root: Path) -> None:
    """A publisher without new rows gives what is there its mode; without the setting, none."""
    write_some(open_root, "")
    Lake(open_root, clock=utc_now, folder_mode="755").publish([])
    opened = modes(open_root / "lake" / "events")
    assert opened == {("folder", 0o755), ("file", 0o644)}
    assert stat.S_IMODE(open_root.stat().st_mode) == 0o755
    assert stat.S_IMODE((open_root / "klaviyo.duckdb").stat().st_mode) == 0o644
    open_lake(open_root).publish([])
    assert modes(open_root / "lake" / "events") == opened


def test_new_files_of_an_open_table_can_be_read_before_they_are_published(open_root: Path) -> None:
    """Who reads the Delta log at once finds the files that a commit names."""
    write_some(open_root, "755")
    merge_rows(
        Lake(open_root, clock=utc_now, folder_mode="755"), EVENTS, [numbered_batch(50, 10, days=1)]
    )
    assert modes(open_root / "lake" / "events") - {("file", 0o600)} == {
        ("folder", 0o755),
        ("file", 0o644),
    }
    data = list((open_root / "lake" / "events").rglob("part-*.parquet"))
    assert {stat.S_IMODE(each.stat().st_mode) for each in data} == {0o644}


@pytest.mark.parametrize("release", RELEASES)
def test_a_database_for_another_mount_is_read_there(
    lake: Lake, root: Path, tmp_path: Path, release: str
) -> None:
    """Its views name the files where readers have them, in later syncs too, until it is undone."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    lake.publish([])
    there = tmp_path / "mounted elsewhere, it's"
    for count, options in ((5, {"lake_root": str(there / "lake")}), (8, {})):
        merge_rows(lake, PROFILES, [numbered_batch(0, count)])
        merge_rows(lake, TAGS, [])
        lake.publish([], **options)
        shutil.copytree(root, there)
        root.rename(root.with_name("gone"))
        for alias in ("klaviyo", "k"):
            (found,) = query_with_release(
                release, there / "klaviyo.duckdb", f"SELECT count(*) FROM {alias}.profiles",
                name=alias,
            )  # fmt: skip
            assert found == [[count]]
        root.with_name("gone").rename(root)
        shutil.rmtree(there)
    lake.check_integrity()
    lake.publish([], lake_root="")
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(8,)]
