"""What the lake refuses: in words, in time, and with everything of before intact."""

import json
import os
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.errors import (
    CorruptFileError,
    LakeError,
    LakeVersionError,
    StorageError,
    WrongAccountError,
)
from klaviyo_assets.lake.delta.log import commit_file_path
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.parquet import write_quarantine
from klaviyo_assets_tests.forkserver import FORKSERVER
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    PROFILES,
    SCHEMA,
    TAGS,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    read_notes,
    replace_rows,
    utc_now,
)

NOBODY = 65534
"""A user without rights, for tests that run as root, whom no permission stops."""


def in_a_child(target: Callable[..., None], *args: object) -> str:
    """Run `target` in another process; return the error that it died of, as its type and text."""
    receiver, sender = FORKSERVER.Pipe(duplex=False)
    child = FORKSERVER.Process(target=send_error, args=(sender, target, args))
    child.start()
    sender.close()
    child.join(300)
    return str(receiver.recv())


def send_error(sender: Connection, target: Callable[..., None], args: tuple[object, ...]) -> None:
    """Call `target` and send what it raised, or nothing."""
    try:
        target(*args)
    except LakeError as error:
        sender.send(f"{type(error).__name__}: {error}")
    else:
        sender.send("")


@pytest.mark.parametrize("table", [PROFILES, TAGS], ids=lambda table: table.name)
def test_another_account_is_refused(lake: Lake, root: Path, table: LakeTable) -> None:
    """A second account is named, with the way out, for any table, before anything is written."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    before = sorted(root.rglob("*"))
    for attempt in (
        lambda: lake.prepare_for_sync("XyZ789"),
        lambda: lake.open_session(
            table, account="XyZ789", mode="replace", with_history=True, started_at=utc_now()
        ),
    ):
        with pytest.raises(WrongAccountError) as caught:
            attempt()
        for word in (ACCOUNT_ID, "XyZ789", "KLAVIYO_DATA_DIR", str(root)):
            assert word in str(caught.value)
    assert sorted(root.rglob("*")) == before


def test_a_later_lake_is_refused(lake: Lake, root: Path) -> None:
    """A table that a later release wrote is neither read nor written, and the versions named."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    path = commit_file_path(root / "lake/profiles", 0)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["commitInfo"]["klaviyo_assets"]["lake_version"] = 99
    path.write_text("\n".join(json.dumps(line, separators=(",", ":")) for line in lines))
    for attempt in (
        lambda: lake.read_table_state("profiles"),
        lambda: lake.prepare_for_sync(ACCOUNT_ID),
        lambda: merge_rows(lake, TAGS, []),
    ):
        with pytest.raises(LakeVersionError, match=r"layout 99; this one reads up to 1"):
            attempt()


def test_a_column_of_another_type_is_refused(lake: Lake) -> None:
    """A column whose type changed by hand or release is named, and nothing is written."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    schema = SCHEMA.set(2, pa.field("note", pa.int64()))
    table = LakeTable(name="profiles", schema=schema, key=("id",), cursor="updated")
    with pytest.raises(LakeVersionError, match="column note"):
        lake.open_session(
            table, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
        )


def test_a_damaged_log_is_named(lake: Lake, root: Path) -> None:
    """A commit that cannot be read is an error with its file, never an empty table."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    merge_rows(lake, PROFILES, [numbered_batch(5, 5)])
    path = commit_file_path(root / "lake/profiles", 1)
    path.write_text(path.read_text()[: path.stat().st_size // 2])
    with pytest.raises(CorruptFileError, match=r"_delta_log"):
        lake.read_table_state("profiles")


def write_below_size_limit(root: Path, size: int, mode: str) -> None:
    """Write rows that do not compress in a process that may not write files above `size` bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    noise = [f"{os.urandom(4000).hex()}" for _ in range(30)]
    rows = numbered_batch(0, 30, synced=5)
    rows = rows.set_column(2, "note", pa.array(noise))
    write = replace_rows if mode == "replace" else merge_rows
    write(open_lake(root), PROFILES, [rows], {"n": 2}, with_history=True)


# The rows take 120 kB, half of it at a time is no room for them either.
@pytest.mark.parametrize("mode", ["merge", "replace"])
@pytest.mark.parametrize("size", [0, 1000, 50_000])
def test_a_full_disk_leaves_the_table_as_it_was(
    lake: Lake, root: Path, size: int, mode: str
) -> None:
    """A disk that refuses bytes ends the sync in words; rows, state and files are as before.

    With room again, the next run goes through.
    """
    merge_rows(lake, PROFILES, [numbered_batch(0, 10, note="old")], {"n": 1})
    files = list_data_files(root, "profiles")
    text = in_a_child(write_below_size_limit, root, size, mode)
    assert text.startswith("StorageError: ")
    assert "size limit" in text
    assert "What was committed before is intact" in text
    state = lake.read_table_state("profiles")
    assert state is not None
    assert state.state == {"n": 1}
    assert set(read_notes(lake, "profiles").values()) == {"old"}
    merge_rows(lake, PROFILES, [numbered_batch(0, 30, note="new", synced=6)], {"n": 2})
    assert set(read_notes(lake, "profiles").values()) == {"new"}
    assert len(list_data_files(root, "profiles")) <= len(files) + 1


def commit_only(root: Path) -> None:
    """Stage rows freely, then commit in a process that may not write the commit itself."""
    lake = open_lake(root)
    with lake.open_session(
        PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
    ) as session:
        session.add(numbered_batch(0, 3, note="new", synced=5))
        session.stage_batches()
        session.table_writer.staging_writer.close()
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        session.commit({"padding": "x" * 5000})


def test_a_commit_that_does_not_fit_leaves_nothing(lake: Lake, root: Path) -> None:
    """If the disk is full at the very commit, the rows that were placed are taken back."""
    merge_rows(lake, PROFILES, [numbered_batch(100, 10)], {"n": 1})
    files = list_data_files(root, "profiles")
    text = in_a_child(commit_only, root)
    assert text.startswith("StorageError: ")
    assert list_data_files(root, "profiles") == files
    assert len(read_notes(lake, "profiles")) == 10


def as_nobody(root: Path) -> None:
    """Try to prepare and to write without the right to."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    lake = open_lake(root)
    lake.prepare_for_sync(ACCOUNT_ID)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_permission_is_refused_at_once(tmp_path: Path, exists: bool) -> None:  # noqa: FBT001
    """A read-only folder fails the preparation, which comes before the first request."""
    root = tmp_path / "data"
    if exists:
        merge_rows(open_lake(root), PROFILES, [numbered_batch(0, 5)])
    for folder in (tmp_path, *tmp_path.rglob("*/")):
        folder.chmod(0o555)
    # Pytest's own folders above are for one user alone.
    for folder in tmp_path.parents[:3]:
        folder.chmod(folder.stat().st_mode | 0o055)
    text = in_a_child(as_nobody, root)
    for folder in (tmp_path, *tmp_path.rglob("*/")):
        folder.chmod(0o755)
    assert text.startswith("StorageError: ")
    assert "may not write there; change its permissions or KLAVIYO_DATA_DIR" in text


def test_a_file_in_the_folders_place_is_refused(root: Path) -> None:
    """A file where the data folder should be is named."""
    root.write_text("not a folder")
    with pytest.raises(StorageError, match="choose another KLAVIYO_DATA_DIR"):
        open_lake(root).prepare_for_sync(ACCOUNT_ID)
    with pytest.raises(StorageError, match="choose another KLAVIYO_DATA_DIR"):
        merge_rows(open_lake(root), PROFILES, [numbered_batch(0, 5)])


def test_a_file_that_must_be_rewritten_and_is_damaged(lake: Lake, root: Path) -> None:
    """A merge that needs a damaged file says which one and how to rebuild; a refresh does that."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 1})
    (path,) = list_data_files(root, "profiles")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CorruptFileError) as caught:
        merge_rows(lake, PROFILES, [numbered_batch(5, 10)], {"n": 2})
    assert str(path) in str(caught.value)
    assert "full_refresh_overwrite" in str(caught.value)
    replace_rows(lake, PROFILES, [numbered_batch(0, 10)], {"n": 3})
    assert len(read_notes(lake, "profiles")) == 10


def test_a_data_folder_is_private(lake: Lake, root: Path) -> None:
    """New folders are for this user alone; a folder that was there keeps its mode."""
    root.mkdir(mode=0o755)
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    assert root.stat().st_mode & 0o777 == 0o755
    for folder in ("lake", "lake/profiles"):
        assert (root / folder).stat().st_mode & 0o077 == 0


def test_records_that_cannot_be_stored_are_kept(lake: Lake, root: Path) -> None:
    """Quarantined records lie on disk as they came, with the reason, even if the sync fails."""
    records = [("no id", b'{"type": "profile"}'), ("broken", b"\xff\x00{")]
    for _ in range(2):
        session = lake.open_session(
            PROFILES, account=ACCOUNT_ID, mode="merge", with_history=False, started_at=utc_now()
        )
        assert session.quarantine_records(iter(records)) == 2
        assert session.quarantine_records([]) == 0
        session.close()
    (path,) = (root / "lake/_quarantine/profiles").iterdir()
    found = pq.read_table(path).to_pylist()
    assert [(row["reason"], row["record"]) for row in found] == records


def publish_only(root: Path) -> None:
    """Publish in a process that may not write a database of any size."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
    open_lake(root).publish([])


def test_a_full_disk_leaves_the_database_as_it_was(lake: Lake, root: Path) -> None:
    """A database that does not fit on the disk is reported; the old one stays readable."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 10)])
    lake.publish([])
    merge_rows(lake, PROFILES, [numbered_batch(5, 10)])
    text = in_a_child(publish_only, root)
    assert text.startswith("StorageError: ")
    assert "klaviyo.duckdb" in text
    assert "size limit" in text
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(10,)]
    lake.publish([])
    assert query_database(root, "SELECT count(*) FROM k.profiles") == [(15,)]


@pytest.mark.parametrize("place", ["published", "quarantine"])
def test_a_symbolic_link_in_the_place_of_a_half_file(lake: Lake, root: Path, place: str) -> None:
    """What it names stays as it is, and the file that comes is one of our own."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 5)])
    link_target = root / "theirs.txt"
    link_target.write_text("theirs")
    write_quarantine(root, "profiles", [("unreadable", b"{}")])
    (made,) = root.glob("lake/_quarantine/profiles/*.parquet")
    if place == "published":
        made = root / "lake/_published.json"
    made.unlink(missing_ok=True)
    made.with_suffix(".part").symlink_to(link_target)
    write_quarantine(root, "profiles", [("unreadable", b"{}")])
    lake.publish([])
    assert link_target.read_text() == "theirs"
    assert made.is_file()
    assert not made.is_symlink()
