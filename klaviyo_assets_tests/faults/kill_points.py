"""Runs that die at a chosen call of the product, in a process of their own."""

import os
import resource
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name
from typing import Literal

from klaviyo_assets.cli.command import main
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.processes import (
    ChildProcess,
    SyncTask,
    build_sync_task,
    run_task_and_exit,
)
from klaviyo_assets_tests.forkserver import FORKSERVER


@dataclass(frozen=True, slots=True, kw_only=True)
class KillPoint:
    """A call: `owner` as `module:Class` or `module`, the name, which of its calls, from 1."""

    owner: str
    name: str
    when: Literal["before", "inside", "after"]
    count: int = 1

    def install(self) -> None:
        """Have this process end at the moment."""
        owner = resolve_name(self.owner)
        real: Callable[..., object] = getattr(owner, self.name)
        left = self.count

        def called(*words: object, **named: object) -> object:
            nonlocal left
            left -= 1
            if left:
                return real(*words, **named)
            if self.when == "before":
                kill_self()
            if self.when == "inside":
                kill_on_next_write()
            result = real(*words, **named)
            kill_self()
            return result

        setattr(owner, self.name, called)


def kill_self() -> None:
    """End this process as `kill -9` does."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_on_next_write() -> None:
    """Have the kernel end this process in the midst of the next write to a file.

    A file may not pass 100 bytes, and Python's habit of ignoring the signal for that is undone.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def fork_killed_sync(
    home: Home,
    *streams: str,
    kill_point: KillPoint,
    config: Mapping[str, str] | None = None,
    commit_bytes: int = 0,
) -> ChildProcess:
    """Start a sync that dies at the moment; its exit code tells of the signal."""
    orders = build_sync_task(home, *streams, config=config, commit_bytes=commit_bytes)
    process = FORKSERVER.Process(target=run_task_until, args=(orders, kill_point))
    process.start()
    return ChildProcess(process)


def fork_killed_erasure(home: Home, *ids: str, kill_point: KillPoint) -> ChildProcess:
    """Start an erasure that dies at the moment."""
    process = FORKSERVER.Process(target=run_erasure_until, args=(home.variables, ids, kill_point))
    process.start()
    return ChildProcess(process)


def run_erasure_until(
    variables: Mapping[str, str], ids: Sequence[str], kill_point: KillPoint
) -> None:
    """Erase people until the moment."""
    os.environ.update(variables)
    kill_point.install()
    sys.exit(main(["erase", *ids]))


def run_task_until(task: SyncTask, kill_point: KillPoint) -> None:
    """Carry out the orders until the moment."""
    kill_point.install()
    run_task_and_exit(task)
