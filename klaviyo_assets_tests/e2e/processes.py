"""Runs in processes of their own, which can be killed: what `kill -9` does to a sync."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from time import sleep

import dagster as dg

from klaviyo_assets.cli.command import main
from klaviyo_assets.definitions import build_defs
from klaviyo_assets.settings import read_settings
from klaviyo_assets.sync import sync_run
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.first_sync_job import build_first_sync_job, retry_at_once
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.materialize import materialize
from klaviyo_assets_tests.forkserver import FORKSERVER, describe_server, share_server


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncTask:
    """What a forked process is to do; `commit_bytes` makes a small sync commit often.

    With `kill_at` it kills itself there.
    """

    variables: Mapping[str, str]
    dagster_home: Path
    streams: Sequence[str]
    config: Mapping[str, str]
    commit_bytes: int
    kill_at: KillAt | None = None


class ChildProcess:
    """A process on its way; a process of ours, never one that only has its name."""

    def __init__(self, process: BaseProcess | Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def has_ended(self, *, within: float) -> bool:
        """Wait up to so many seconds for its end; tell whether it has come."""
        if isinstance(self.process, BaseProcess):
            self.process.join(within)
            return self.process.exitcode is not None
        try:
            self.process.wait(within)
        except TimeoutExpired:
            return False
        return True

    @property
    def exit_code(self) -> int | None:
        """Return its exit code: 0 for a green run, negative for the signal that ended it."""
        if isinstance(self.process, BaseProcess):
            return self.process.exitcode
        return self.process.returncode

    def kill(self) -> None:
        """End it at once, as `kill -9` does, and wait for that."""
        self.process.kill()
        assert self.has_ended(within=300)


def build_sync_task(
    home: Home, *streams: str, config: Mapping[str, str] | None = None, commit_bytes: int = 0
) -> SyncTask:
    """Return the orders to materialize streams in a home; 0 leaves commits their real size."""
    return SyncTask(
        variables=home.variables,
        dagster_home=home.dagster_home,
        streams=streams,
        config=config or {},
        commit_bytes=commit_bytes or sync_run.COMMIT_BYTES,
    )


def fork_sync(
    home: Home,
    *streams: str,
    config: Mapping[str, str] | None = None,
    commit_bytes: int = 0,
    kill_at: KillAt | None = None,
) -> ChildProcess:
    """Start a sync in a process that has everything imported; its exit code is 0 if green."""
    orders = replace(
        build_sync_task(home, *streams, config=config, commit_bytes=commit_bytes), kill_at=kill_at
    )
    process = FORKSERVER.Process(target=run_task_and_exit, args=(orders,))
    process.start()
    return ChildProcess(process)


def fork_erasure(home: Home, *ids: str, kill_at: KillAt) -> ChildProcess:
    """Start an erasure of profiles that kills itself."""
    process = FORKSERVER.Process(target=run_erasure, args=(home.variables, ids, kill_at))
    process.start()
    return ChildProcess(process)


def run_erasure(variables: Mapping[str, str], ids: Sequence[str], kill_at: KillAt) -> None:
    """Be a process that erases profiles until it kills itself."""
    os.environ.update(variables)
    kill_at.arm()
    sys.exit(main(["erase", *ids]))


def fork_parallel_sync(home: Home, *streams: str, has_own_server: bool = False) -> ChildProcess:
    """Start the job that gives each stream a process of its own, for these streams only.

    With `has_own_server` the run worker starts what its processes are forked from, as in
    production: that imports everything once more.
    """
    orders = build_sync_task(home, *streams)
    server = {} if has_own_server else describe_server()
    process = FORKSERVER.Process(target=run_parallel_sync, args=(orders, server))
    process.start()
    return ChildProcess(process)


def run_parallel_sync(task: SyncTask, server: Mapping[str, object]) -> None:
    """Be a run worker: start a process for each stream and wait for them.

    Without the checks that are steps of their own: each would have a process, too.
    """
    variables = {**task.variables, "DAGSTER_HOME": str(task.dagster_home)}
    os.environ.update(variables)
    if server:
        share_server(server)
    keys = frozenset(map(asset_key, task.streams))
    defs = build_defs(*read_settings(task.variables))
    checks = [
        each.check_keys
        for each in defs.assets or ()
        if isinstance(each, dg.AssetsDefinition) and keys.issuperset(each.keys)
    ]
    job = dg.build_reconstructable_job(
        build_first_sync_job.__module__,
        build_first_sync_job.__name__,
        # They are stored with the run: not the key, where the environment passes it on.
        (variables if server else {},),
        reconstructor_working_directory=str(ROOT),
    ).get_subset(
        asset_selection=keys, asset_check_selection=frozenset[dg.AssetCheckKey]().union(*checks)
    )
    with open_instance(task.dagster_home) as instance:
        done = dg.execute_job(job, instance=instance)
    sys.exit(0 if done.success else 1)


def run_task_and_exit(task: SyncTask) -> None:
    """Be a process that does what is ordered and nothing else."""
    if task.kill_at is not None:
        task.kill_at.arm()
    sys.exit(run_task(task))


def run_task(task: SyncTask) -> int:
    """Materialize what is ordered in this process; return 0 if the run is green."""
    os.environ.update(task.variables)
    retry_at_once()
    sync_run.COMMIT_BYTES = task.commit_bytes
    defs = build_defs(*read_settings(task.variables))
    op = {"config": dict(task.config)}
    with open_instance(task.dagster_home) as instance:
        done = materialize(
            defs,
            [*map(asset_key, task.streams)],
            instance=instance,
            run_config={"ops": {f"klaviyo__{each}": op for each in task.streams}},
        )
    return 0 if done.success else 1


def wait_until_idle(pid: int) -> None:
    """Wait until a process waits: for half a second it used no CPU, and no thread wanted any."""
    if not Path("/proc/self/stat").exists():
        sleep(2)
        return
    idle_looks, before = 0, -1.0
    while idle_looks < 5:
        sleep(0.1)
        states, now = thread_states(pid), cpu_seconds(pid)
        idle_looks = idle_looks + 1 if states <= {"S"} and now == before else 0
        before = now


def read_stat(path: Path) -> list[str]:
    """Return the fields of a `stat` file in /proc, from the state on."""
    return path.read_text("ascii", errors="replace").rpartition(")")[2].split()


def thread_states(pid: int) -> set[str]:
    """Return the states of a process's threads: `R` wants a CPU, `S` waits for something else."""
    states: set[str] = set()
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        with suppress(OSError):
            states.add(read_stat(path)[0])
    return states


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    user, system = read_stat(Path(f"/proc/{pid}/stat"))[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def start_dagster_command(home: Home, *words: str) -> ChildProcess:
    """Start `dagster <words> -m klaviyo_assets.definitions` with the home's environment."""
    command = [sys.executable, "-m", "dagster", *words, "-m", "klaviyo_assets.definitions"]
    environment = {**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)}
    return ChildProcess(
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=DEVNULL, stderr=DEVNULL, text=True
        )
    )
