"""A first sync that is killed again and again, and what every kill costs.

`python -m klaviyo_assets_tests.e2e.kills` is the long form: 200,000 events by Dagster's own
command, killed twenty times at random moments. The test suite has the short form.
"""

import argparse
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home
from klaviyo_assets_tests.e2e.processes import ChildProcess, start_dagster_command
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

EVENTS_PATH = "/api/events"
UNSETTLED_PERIOD = timedelta(minutes=5)
"""What is younger than this is read again by every sync, as the mark stays behind it."""


@dataclass(slots=True, kw_only=True)
class KillCost:
    """What the kills cost so far, in records.

    `max_uncommitted` is the most that one process had been shown and left uncommitted.
    `records_requested_again` were stored and requested again all the same: they share the second
    at which an open window goes on, or had not settled.
    """

    process_count: int = 0
    records_shown: int = 0
    max_uncommitted: int = 0
    records_requested_again: int = 0
    problems: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """Return it in a sentence."""
        return (
            f"{self.process_count} processes: {self.records_shown:,} records shown, at most "
            f"{self.max_uncommitted:,} of a process uncommitted, "
            f"{self.records_requested_again:,} requested again though they were stored"
        )


@dataclass(slots=True, kw_only=True)
class KilledSync:
    """One home whose first sync of events is killed; `start_process` starts a run.

    `moments` are those of all its events: the account's clock stands still.
    """

    home: Home
    start_process: Callable[[], ChildProcess]
    rng: random.Random
    cost: KillCost = field(default_factory=KillCost)
    cursors: Mapping[str, datetime | None] = field(init=False)

    def __post_init__(self) -> None:
        """Ask the account for its events, once."""
        self.cursors = self.home.account.true_cursors("events")

    def kill_once(self, *, pages: int) -> bool:
        """Let one run live until it has requested up to so many pages; tell if it was killed."""
        stored, edges = self.stored_ids(), self.window_ends()
        child, enough = self.start_process(), self.rng.randint(1, pages)
        while self.home.account.request_counts()[EVENTS_PATH] < enough and not child.has_ended(
            within=0.005
        ):
            pass
        was_killed = not child.has_ended(within=self.rng.uniform(0, 0.1))
        child.kill()
        self.check_process(stored, edges)
        return was_killed

    def finish(self) -> int | None:
        """Let a run live to its end; return its exit code."""
        stored, edges = self.stored_ids(), self.window_ends()
        child = self.start_process()
        assert child.has_ended(within=600)
        self.check_process(stored, edges)
        return child.exit_code

    def stored_ids(self) -> set[str]:
        """Return what is committed; notes what is there twice."""
        if not (self.home.data_dir / "lake" / "events" / "_delta_log").exists():
            return set()
        ids = self.home.lake_ids("events")
        if len(ids) != len(set(ids)):
            self.cost.problems.append(f"{len(ids) - len(set(ids))} rows are there twice")
        return {each for each in ids if each is not None}

    def window_ends(self) -> set[datetime]:
        """Return the seconds at which reading goes on: the ends of the windows read so far."""
        lake = Lake(self.home.data_dir, clock=lambda: self.home.account.now)
        state = lake.read_table_state("events")
        if state is None:
            return set()
        slices = cast("dict[str, dict[str, list[list[str | None]]]]", state.state["slices"])
        ends = [end for each in slices.values() for _, end in each["windows"] if end]
        return {datetime.fromisoformat(end) for end in ends}

    def check_process(self, stored: set[str], window_ends: set[datetime]) -> None:
        """Take in what a life has shown and left.

        `stored_ids` and `window_ends` are from before it.
        """
        shown = self.home.account.shown_record_counts(EVENTS_PATH)
        horizon = self.home.account.now - UNSETTLED_PERIOD
        vain = set(shown) & stored
        wrong = [
            k for k in vain if (at := self.cursors[k]) and at <= horizon and at not in window_ends
        ]
        if wrong:
            self.cost.problems.append(
                f"{len(wrong)} stored records of closed windows requested again"
            )
        stored_after = self.stored_ids()
        if not stored <= stored_after:
            self.cost.problems.append(f"{len(stored - stored_after)} stored rows are gone")
        self.cost.process_count += 1
        self.cost.records_shown += shown.total()
        self.cost.max_uncommitted = max(self.cost.max_uncommitted, len(set(shown) - stored_after))
        self.cost.records_requested_again += len(vain)
        self.home.account.clear_journal()


def main() -> int:
    """Run the long form; exit code 1 if anything is lost, doubled or requested in vain."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--pages", type=int, default=60, help="the most that a process requests")
    options.add_argument("--seed", type=int, default=random.randrange(10**6))
    wanted = options.parse_args()
    sys.stdout.write(f"seed {wanted.seed}\n")
    with (
        TemporaryDirectory() as folder,
        open_sandbox_account(events=wanted.events, days=60) as account,
    ):
        dagster_template = Path(folder, "blank")
        dagster_template.mkdir()
        create_dagster_home(dagster_template, ROOT / "deploy" / "dagster.yaml")
        home = Home(account=account, root=Path(folder, "home"), dagster_template=dagster_template)
        words = ("asset", "materialize", "--select", "klaviyo/events")
        killing = KilledSync(
            home=home,
            start_process=lambda: start_dagster_command(home, *words),
            rng=random.Random(wanted.seed),
        )
        kills = 0
        while kills < wanted.kills and killing.kill_once(pages=wanted.pages):
            kills += 1
            sys.stdout.write(f"kill {kills}: {len(killing.stored_ids()):,} events stored\n")
        code = killing.finish()
        lost = account.true_ids("events") ^ set(home.ids("events"))
        sys.stdout.write(f"{killing.cost}\nlast exit code {code}, {len(lost)} lost or invented\n")
        sys.stdout.writelines(f"{each}\n" for each in killing.cost.problems)
        return int(bool(killing.cost.problems or lost or code))


if __name__ == "__main__":
    sys.exit(main())
