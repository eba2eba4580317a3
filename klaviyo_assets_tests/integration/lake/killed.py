"""A child process that kills itself with SIGKILL at a chosen moment.

What belongs here: choosing the moment. A profile function sees every call; nothing of the product
is replaced. What does not: what must hold afterwards (`test_kills`).
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from klaviyo_assets.lake import PeopleTable, Plain, Table, erase, writing
from klaviyo_assets_tests.forks import FORKS
from klaviyo_assets_tests.integration.lake.ground import (
    EVENTS,
    PROFILES,
    lake_at,
    merge,
    now,
    numbered,
    replace,
)

NOTE = "note.of."
"""How the note of a row begins that a killed process brings."""

NEW = 60
"""Keys that the killed sync brings; the first half was there before."""

Moment = tuple[str, str, int]
"""Event of `sys.setprofile`, name of the function, and which of its calls, from 1."""


def die_at(moment: Moment) -> None:
    """Arrange for this process to be killed at the moment."""
    kind, name, left = moment

    def watch(frame: FrameType, event: str, arg: object) -> None:
        nonlocal left
        if event != kind:
            return
        called = frame.f_code.co_name if event == "call" else getattr(arg, "__name__", "")
        if called == name:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(watch)


def sync(root: Path, mode: str, moment: Moment | None) -> None:
    """Write rows of both generations to profiles and their history, publish and tidy up."""
    if moment is not None:
        die_at(moment)
    lake = lake_at(root)
    write = replace if mode == "replace" else merge
    table = EVENTS if mode == "days" else PROFILES
    rows = [numbered(NEW // 2, NEW, note="new", synced=1, days=0.1)]
    write(lake, table, rows, {"generation": 2}, with_history=True)
    lake.publish([Plain(name=table.name)])
    lake.maintain(table.name)


def merge_and_die(root: Path, table: Table, key: int, *, room: int, with_history: bool) -> None:
    """Add one row; be ended by the kernel where the commit's file grows beyond `room` bytes."""
    real = writing.commit

    def commit(*words: object) -> int:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        return real(*words)  # pyright: ignore[reportArgumentType]

    writing.commit = commit
    rows = [numbered(key, 1, note=f"{NOTE}{key}", synced=1, days=0.1)]
    merge(lake_at(root), table, rows, {"generation": 2}, with_history=with_history)


def erase_two(root: Path, moment: Moment) -> None:
    """Erase two profiles from profiles and events."""
    die_at(moment)
    erase(
        root,
        [PeopleTable(table=EVENTS, column="id"), PeopleTable(table=PROFILES, column="id")],
        ["k0000003", "k0000040"],
        relations=[Plain(name="profiles"), Plain(name="events")],
        clock=now,
    )


def run(target: Callable[..., None], *args: object, **named: object) -> int:
    """Run a function in another process to its end; return its exit code, -9 if it was killed."""
    child = FORKS.Process(target=target, args=args, kwargs=named)
    child.start()
    child.join(60)
    assert child.exitcode is not None, "the child did not end within a minute"
    return child.exitcode
