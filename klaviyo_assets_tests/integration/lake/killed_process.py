"""Child processes that write to a lake, and kill themselves at a crash point."""

from collections.abc import Callable
from pathlib import Path

from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.maintenance.erasure import erase_profiles
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.forkserver import FORKSERVER
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    EVENTS,
    PROFILES,
    merge_rows,
    numbered_batch,
    open_lake,
    replace_rows,
    utc_now,
)

NOTE_PREFIX = "note.of."
"""How the note of a row begins that a killed process brings."""

NEW_KEY_COUNT = 60
"""Keys that the killed sync brings; the first half was there before."""


def sync_rows(root: Path, mode: str, kill_at: KillAt | None) -> None:
    """Write rows of both generations to profiles and their history, publish and tidy up."""
    if kill_at is not None:
        kill_at.arm()
    lake = open_lake(root)
    write = replace_rows if mode == "replace" else merge_rows
    table = EVENTS if mode == "days" else PROFILES
    rows = [numbered_batch(NEW_KEY_COUNT // 2, NEW_KEY_COUNT, note="new", synced=1, days=0.1)]
    write(lake, table, rows, {"generation": 2}, with_history=True)
    lake.publish([PlainRelation(name=table.name)])
    lake.vacuum(table.name)


def merge_until_killed(
    root: Path, table: LakeTable, key: int, *, max_file_bytes: int, with_history: bool
) -> None:
    """Add one row; the kernel ends the process where a file grows beyond `max_file_bytes`."""
    KillAt("before a table commit", max_file_bytes=max_file_bytes).arm()
    rows = [numbered_batch(key, 1, note=f"{NOTE_PREFIX}{key}", synced=1, days=0.1)]
    merge_rows(open_lake(root), table, rows, {"generation": 2}, with_history=with_history)


def erase_two_profiles(root: Path, kill_at: KillAt) -> None:
    """Erase two profiles from profiles and events."""
    kill_at.arm()
    erase_profiles(
        root,
        [ProfileTable(table=EVENTS, id_column="id"), ProfileTable(table=PROFILES, id_column="id")],
        ["k0000003", "k0000040"],
        relations=[PlainRelation(name="profiles"), PlainRelation(name="events")],
        clock=utc_now,
    )


def run_in_child_process(target: Callable[..., None], *args: object, **named: object) -> int:
    """Run a function in another process to its end; return its exit code, -9 if it was killed."""
    child = FORKSERVER.Process(target=target, args=args, kwargs=named)
    child.start()
    child.join(300)
    assert child.exitcode is not None, "the child did not end within a minute"
    return child.exitcode
