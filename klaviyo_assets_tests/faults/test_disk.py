"""F46 to F49: full disks, missing or unsuitable folders and files, and locks.

Each ends in a sentence, and each sentence's way out is gone here to its end.
"""

import ctypes
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from klaviyo_assets.lake.read import database
from klaviyo_assets.seams import CrashPoint, set_crash_hook
from klaviyo_assets_tests.crash_hooks import run_at_crash_point
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.processes import SyncTask, build_sync_task, run_task_and_exit
from klaviyo_assets_tests.e2e.run_log import read_run
from klaviyo_assets_tests.e2e.test_cli import verb
from klaviyo_assets_tests.faults.assertions import assert_complete, assert_sound_part, stored_ids
from klaviyo_assets_tests.forkserver import FORKSERVER

FULL: dict[str, tuple[CrashPoint, str]] = {
    "in a part": ("before writing a row group", "size limit"),
    "in the commit": ("before a table commit", "size limit"),
    "in the database": ("before building the database", "size limit"),
    "in the rate budget": ("before reserving a request", "rate limit store"),
}
"""From where to the next point the disk has no room, and a word of the failure."""


@pytest.fixture
def home(home: Home) -> Home:
    """Give a home that reads the last days again, because some events of an account come late."""
    home.settings["KLAVIYO_LOOKBACK_DAYS"] = "7"
    return home


def limit_files_after(point: CrashPoint) -> None:
    """Let no file grow beyond 100 bytes between this crash point and the next one.

    The kernel signals each write that it refuses: there the limit ends as well, so that Dagster
    can store what happened.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def lift(*_: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

    def limit(reached: CrashPoint) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100 if reached == point else hard, hard))

    signal.signal(signal.SIGXFSZ, lift)
    set_crash_hook(limit)


def run_without_room(task: SyncTask, point: CrashPoint) -> None:
    """Be a process that syncs with no room for what is written after a crash point."""
    limit_files_after(point)
    run_task_and_exit(task)


@pytest.mark.parametrize("where", FULL)
def test_f46_a_full_disk_is_reported_and_the_next_run_recovers(home: Home, where: str) -> None:
    """Without room there the stream fails and says why; the old table stays whole.

    With room again the next run completes. The kernel refuses the bytes, in a process of its own.
    """
    assert home.sync("events").success
    before = stored_ids(home, "events")
    home.account.advance_clock(days=2)
    point, word = FULL[where]
    orders = build_sync_task(home, "events")
    process = FORKSERVER.Process(target=run_without_room, args=(orders, point))
    process.start()
    process.join(300)
    assert process.exitcode == 1
    assert word in failure_of_last_run(home, "events")
    assert_sound_part(home, "events")
    assert set(before) <= set(stored_ids(home, "events"))
    assert len(home.ids("events")) >= len(before)
    assert home.sync("events").success
    assert_complete(home, "events")


def failure_of_last_run(home: Home, stream: str) -> str:
    """Return what ended a stream in the newest run."""
    with open_instance(home.dagster_home) as instance:
        run_id = instance.get_runs(limit=1)[0].run_id
        return read_run(instance, run_id, success=False).failures[stream]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_f46_a_full_disk_says_so(home: Home, number: int) -> None:
    """The sentence for a disk without space names the folder, the reason and what to do."""

    def fill_disk() -> None:
        raise OSError(number, os.strerror(number))

    with run_at_crash_point("before moving a file", fill_disk):
        failed = home.sync("events").failures["events"]
    assert str(home.data_dir) in failed
    assert "the disk" in failed
    assert "free some space and run again" in failed
    assert "What was committed before is intact" in failed
    assert home.sync("events").success
    assert_complete(home, "events")


def live_unprivileged(orders: SyncTask) -> None:
    """Carry out the orders without the capabilities by which root passes over permissions."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, none) == 0
    run_task_and_exit(orders)


@pytest.mark.skipif(sys.platform != "linux", reason="drops capabilities")
def test_f47_a_read_only_folder_fails_before_the_first_request(home: Home) -> None:
    """Without the right to write, the run fails before its first request; with it, it is green."""
    home.data_dir.mkdir(mode=0o555, parents=True)
    process = FORKSERVER.Process(target=live_unprivileged, args=(build_sync_task(home, "events"),))
    process.start()
    process.join(300)
    home.data_dir.chmod(0o755)
    assert process.exitcode == 1
    assert "this user may not write there" in failure_of_last_run(home, "events")
    assert home.account.request_counts().total() == 0
    assert home.sync("events").success
    assert_complete(home, "events")


@pytest.mark.parametrize("place", ["a file", "nowhere"])
def test_f47_a_folder_that_cannot_be_is_refused_in_words(home: Home, place: str) -> None:
    """A file instead of the folder, or a folder that cannot be created, fails at once by name."""
    blocker = home.root / "blocker"
    blocker.write_text("not a folder")
    home.other_data_dir = blocker if place == "a file" else Path("/proc/nowhere/data")
    failed = home.sync("events").failures["events"]
    assert "choose another KLAVIYO_DATA_DIR" in failed
    assert home.account.request_counts().total() == 0
    home.other_data_dir = None
    assert home.sync("events").success
    assert_complete(home, "events")


def empty(path: Path) -> None:
    """Leave no byte."""
    path.write_bytes(b"")


def flip(path: Path) -> None:
    """Change a byte in the midst of the rows."""
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [empty, flip])
def test_f48_a_damaged_part_is_named_and_rebuilt(
    home: Home, damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file is named by the sync that needs it and by `check`, never passed over.

    The refresh that both advise brings every row back.
    """
    assert home.sync("profiles").success
    (part,) = (home.data_dir / "lake" / "profiles").glob("*.parquet")
    damage(part)
    home.account.advance_clock(days=1)
    failed = home.sync("profiles").failures["profiles"]
    assert part.name in failed
    assert "full_refresh_overwrite" in failed
    assert verb(home, "verify") == 1
    assert part.name in capsys.readouterr().err
    assert home.sync("profiles", config={"sync_mode": "full_refresh_overwrite"}).success
    assert verb(home, "verify") == 0
    assert_complete(home, "profiles")


WRITER = """
import sys, duckdb
held = duckdb.connect(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""

PUBLISHER = """
import fcntl, sys
held = open(sys.argv[1], "a")
fcntl.flock(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def holding(program: str, path: Path) -> subprocess.Popen[str]:
    """Start a process that holds a file until its input ends; return once it does."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_f49_a_database_that_somebody_writes_to_keeps_nobody_out(home: Home) -> None:
    """klaviyo.duckdb opened for writing by another process blocks neither syncs nor readers.

    The database is built beside and renamed over, so the lock is on a file that has gone.
    """
    assert home.sync("events").success
    holder = holding(WRITER, home.data_dir / "klaviyo.duckdb")
    home.account.advance_clock(days=2)
    try:
        assert home.sync("events").success
        assert_complete(home, "events")
    finally:
        holder.communicate()


def test_f49_a_publisher_that_does_not_end_is_reported(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publishing lock held by another process is awaited within bounds, then reported.

    The rows are committed by then; the next run shows them.
    """
    monkeypatch.setattr(database, "PUBLISH_LOCK_TIMEOUT_SECONDS", 0.5)
    assert home.sync("lists").success
    holder = holding(PUBLISHER, home.data_dir / database.DATABASE_LOCK_FILE)
    try:
        failed = home.sync("events").failures["events"]
    finally:
        holder.communicate()
    assert database.DATABASE_LOCK_FILE in failed
    assert "is held by another process for over 0.5 s; wait for it to end" in failed
    assert_sound_part(home, "events")
    assert home.sync("events").success
    assert_complete(home, "events")
