"""Runs in processes of their own, which can be killed: what `kill -9` does to a sync.

What belongs here: starting, waiting for and killing them. What does not: judging what they left.
Two ways to start one: Dagster's own command, which takes seconds to come up, and a fork of a
process that has imported everything already, for tests that need many.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired

import dagster as dg

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs import assets
from klaviyo_assets.settings import read_settings
from klaviyo_assets.sync import pull
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, key_of
from klaviyo_assets_tests.e2e.instance import instance_of
from klaviyo_assets_tests.e2e.job import SOON, first_sync
from klaviyo_assets_tests.forks import FORKS


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a forked process is to do; `commit_bytes` makes a small sync commit often."""

    variables: Mapping[str, str]
    dagster: Path
    streams: Sequence[str]
    config: Mapping[str, str]
    commit_bytes: int


class Life:
    """A process on its way; a process of ours, never one that only has its name."""

    def __init__(self, process: BaseProcess | Popen[str]) -> None:
        self.process = process

    @property
    def pid(self) -> int:
        """Return its process id."""
        assert self.process.pid is not None
        return self.process.pid

    def ended(self, *, within: float) -> bool:
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
    def code(self) -> int | None:
        """Return its exit code: 0 for a green run, negative for the signal that ended it."""
        if isinstance(self.process, BaseProcess):
            return self.process.exitcode
        return self.process.returncode

    def kill(self) -> None:
        """End it at once, as `kill -9` does, and wait for that."""
        self.process.kill()
        assert self.ended(within=30)


def orders_of(
    home: Home, *streams: str, config: Mapping[str, str] | None = None, commit_bytes: int = 0
) -> Orders:
    """Return the orders to materialize streams in a home; 0 leaves commits their real size."""
    return Orders(
        variables=home.variables,
        dagster=home.dagster,
        streams=streams,
        config=config or {},
        commit_bytes=commit_bytes or pull.COMMIT_BYTES,
    )


def forked(
    home: Home, *streams: str, config: Mapping[str, str] | None = None, commit_bytes: int = 0
) -> Life:
    """Start a sync in a process that has everything imported; its exit code is 0 if green."""
    orders = orders_of(home, *streams, config=config, commit_bytes=commit_bytes)
    process = FORKS.Process(target=carry_out_and_exit, args=(orders,))
    process.start()
    return Life(process)


def side_by_side(home: Home, *streams: str) -> Life:
    """Start the job that gives each stream a process of its own, for these streams only."""
    orders = orders_of(home, *streams)
    process = FORKS.Process(target=work_off, args=(orders,))
    process.start()
    return Life(process)


def work_off(orders: Orders) -> None:
    """Be a run worker: start a process for each step and wait for them."""
    os.environ.update({**orders.variables, "DAGSTER_HOME": str(orders.dagster)})
    with instance_of(orders.dagster) as instance:
        done = dg.execute_job(
            dg.reconstructable(first_sync),
            instance=instance,
            asset_selection=[key_of(each) for each in orders.streams],
        )
    sys.exit(0 if done.success else 1)


def carry_out_and_exit(orders: Orders) -> None:
    """Be a process that does what is ordered and nothing else."""
    sys.exit(carry_out(orders))


def carry_out(orders: Orders) -> int:
    """Materialize what is ordered in this process; return 0 if the run is green."""
    os.environ.update(orders.variables)
    assets.RETRY = SOON
    pull.COMMIT_BYTES = orders.commit_bytes
    defs = build_defs(*read_settings(orders.variables))
    op = {"config": dict(orders.config)}
    with instance_of(orders.dagster) as instance:
        done = dg.materialize(
            list(defs.assets or ()),  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.assets(*map(key_of, orders.streams)),
            instance=instance,
            resources=defs.resources,
            run_config={"ops": {f"klaviyo__{each}": op for each in orders.streams}},
            raise_on_error=False,
        )
    return 0 if done.success else 1


def commanded(home: Home, *words: str) -> Life:
    """Start `dagster <words> -m klaviyo_assets.definitions` with the home's environment."""
    command = [sys.executable, "-m", "dagster", *words, "-m", "klaviyo_assets.definitions"]
    environment = {**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster)}
    return Life(
        subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=DEVNULL, stderr=DEVNULL, text=True
        )
    )
