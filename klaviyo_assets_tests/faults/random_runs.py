"""Runs with random faults and random kills, repeatable by their seed, each checked to the last id.

`python -m klaviyo_assets_tests.faults.random_runs --seeds 200` is the long form; the test suite has
the short one. One seed is one account and one installation: some runs of some streams, of which up
to two are killed, while one request in twenty meets a fault, some answers come in another order or
dated ahead, events change their day, and time goes by between the runs; then, in some, a full
refresh beside a run, a run that lives, and one for what was quarantined.
"""

import argparse
import random
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import cast

from klaviyo_assets.api import client as http_client
from klaviyo_assets.api import retry
from klaviyo_assets.model import window
from klaviyo_assets.sandbox.faults.rules import (
    LENIENT_JSON_KINDS,
    OVERSIZED_KINDS,
    RECOVERABLE_KINDS,
)
from klaviyo_assets.sandbox.json_types import Json
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home
from klaviyo_assets_tests.e2e.processes import (
    ChildProcess,
    SyncTask,
    build_sync_task,
    run_task_and_exit,
)
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.faults.assertions import STREAM_PATHS, assert_complete, stored_ids
from klaviyo_assets_tests.forkserver import FORKSERVER

FAULT_RATE = 0.05
OTHER_STREAMS = tuple(sorted(STREAM_PATHS.keys() - {"events", "global_exclusions"}))
"""Without the one whose records the sandbox lets sign up with suppressions older than themselves:
no cursor finds those."""

BROKEN_RECORD_KINDS = ("no_id", "null_attributes")
FAULT_KINDS = (*RECOVERABLE_KINDS, *LENIENT_JSON_KINDS, *OVERSIZED_KINDS, *BROKEN_RECORD_KINDS)
"""What may happen to a request: broken answers and records, no JSON to the letter, weight.

A broken record is put aside by a green run, and comes with a later one.
"""

FALSE_RESPONSES: tuple[dict[str, object], ...] = (
    {"kind": "unsorted", "sort": "-datetime"},
    {"kind": "date", "seconds": 3_600},
    {"kind": "date", "seconds": 60 * 86_400},
)
"""What answers of events may claim untruly: an order, and a time in their `Date` header."""

MAX_KILLS = 2
OVERLAP_RATE = 0.3
"""Share of seeds in which a full refresh and a run live at the same time."""

MAX_ATTEMPTS = 3
"""Lives that the last run may take: six faults in a row on one request end one, and rightly."""

FULL_REFRESH = {"sync_mode": "full_refresh_overwrite"}

COMMIT_BYTES = 2**18
"""A few hundred events, so that a small sync has several commits to be killed between."""


@dataclass(slots=True, kw_only=True)
class SeedResult:
    """What became of a seed, in numbers; `problem` is what a check found, empty if nothing."""

    seed: int
    streams: tuple[str, ...]
    kills: int = 0
    faults: int = 0
    false_responses: int = 0
    overlaps: int = 0
    """Full refreshes beside which another run lived."""
    moves: int = 0
    """Times that an event changed its day."""
    requests: int = 0
    compared: int = 0
    lost: int = 0
    doubled: int = 0
    problem: str = ""

    @property
    def is_good(self) -> bool:
        """Tell whether nothing is wrong."""
        return not (self.lost or self.doubled or self.problem)

    def __str__(self) -> str:
        """Return it in a line."""
        return (
            f"seed {self.seed}: {self.kills} kills, {self.faults} faults, "
            f"{self.false_responses} of them false responses, {self.overlaps} overlaps, "
            f"{self.moves} moves, {self.requests:,} requests, "
            f"{self.compared:,} ids compared, {self.lost} lost, {self.doubled} doubled"
            f"{'; ' + self.problem if self.problem else ''} ({', '.join(self.streams)})"
        )


@dataclass(slots=True, kw_only=True)
class SeedRun:
    """One seed at work in its home."""

    home: Home
    rng: random.Random
    outcome: SeedResult
    moved_event_id: str = ""
    """An event that changes its day, once it was written."""

    def run(self) -> None:
        """Run, kill and go on until a run has lived to its end; then compare."""
        for _ in range(self.rng.randint(0, MAX_KILLS)):
            self.inject_false_responses()
            self.outcome.kills += self.kill_at_random(self.start_run())
            assert_sound_part_without_cursors(
                self.home, self.outcome.streams, moved_event_id=self.moved_event_id
            )
            self.advance_time()
        if self.rng.random() < OVERLAP_RATE:
            self.run_overlapping_refresh()
            self.advance_time()
        self.inject_false_responses()
        codes: list[int | None] = []
        while 0 not in codes and len(codes) < MAX_ATTEMPTS:
            child = self.start_run()
            assert child.has_ended(within=300), "a run did not end"
            codes.append(child.exit_code)
        assert 0 in codes, f"the last run failed {MAX_ATTEMPTS} times"
        if any((self.home.data_dir / "lake" / "_quarantine").rglob("*.parquet")):
            self.home.account.sandbox.faults.clear()
            child = self.start_run()
            assert child.has_ended(within=300), "the run for what was put aside did not end"
            assert child.exit_code == 0, "the run for what was put aside failed"

    def inject_false_responses(self) -> None:
        """Have some of the next answers of events lie."""
        for false_response in self.rng.sample(
            FALSE_RESPONSES, self.rng.randint(0, len(FALSE_RESPONSES))
        ):
            match: dict[str, object] = {
                "path": STREAM_PATHS["events"],
                "nth": self.rng.randint(1, 6),
            }
            script = [{"match": match, "fault": false_response}]
            self.home.account.sandbox.faults.add(cast("Json", script))

    def run_overlapping_refresh(self) -> None:
        """Let a full refresh of events and a run of all streams live at the same time.

        The refresh may be the later of the two, and then goes on from what the other stored.
        """
        self.outcome.overlaps += 1
        refresh = self.start_run("events", config=FULL_REFRESH)
        refresh.has_ended(within=self.rng.uniform(0, 0.5))
        run = self.start_run()
        assert run.has_ended(within=300), "a run did not end"
        assert refresh.has_ended(within=300), "a refresh did not end"
        assert_sound_part_without_cursors(
            self.home, self.outcome.streams, moved_event_id=self.moved_event_id
        )

    def start_run(self, *streams: str, config: Mapping[str, str] | None = None) -> ChildProcess:
        """Start a run of these streams, or of all that the seed has."""
        wanted = streams or self.outcome.streams
        orders = build_sync_task(self.home, *wanted, config=config, commit_bytes=COMMIT_BYTES)
        process = FORKSERVER.Process(
            target=run_task_with_short_waits, args=(orders, self.home.account.now)
        )
        process.start()
        return ChildProcess(process)

    def kill_at_random(self, process: ChildProcess) -> bool:
        """Kill a run somewhere; tell if it was still alive."""
        seen = len(self.home.account.sandbox.journal.requests())
        enough = seen + self.rng.randint(1, 8)
        while len(self.home.account.sandbox.journal.requests()) < enough and not process.has_ended(
            within=0.003
        ):
            pass
        was_alive = not process.has_ended(within=self.rng.uniform(0, 0.15))
        process.kill()
        return was_alive

    def advance_time(self) -> None:
        """Let up to two days go by in the account, with their events and people, and a new list.

        An event that was written before may come back with the day of now.
        """
        self.home.account.advance_clock(hours=self.rng.uniform(0, 48))
        now = self.home.account.now.isoformat()
        if self.moved_event_id:
            self.home.account.mutate(redate_event=self.moved_event_id, datetime=now)
            self.outcome.moves += 1
        elif self.rng.random() < 0.5:
            (self.moved_event_id,) = self.home.account.add_events({"datetime": now})
        if self.rng.random() < 0.5:
            self.home.account.mutate(create="list", set={"name": f"list {self.rng.random()}"})

    def compare_ids(self) -> None:
        """Compare every stream's ids with the account's, and count what the journal has."""
        for stream in self.outcome.streams:
            truth, stored = (
                self.home.account.true_ids(stream),
                Counter(stored_ids(self.home, stream)),
            )
            self.outcome.compared += len(truth)
            self.outcome.lost += len(truth - stored.keys())
            self.outcome.doubled += stored.total() - len(stored)
        entries = self.home.account.sandbox.journal.requests()
        self.outcome.requests = len(entries)
        met = Counter(each.fault for each in entries if each.fault is not None)
        self.outcome.faults = met.total()
        self.outcome.false_responses = sum(
            met[kind] for kind in {str(each["kind"]) for each in FALSE_RESPONSES}
        )


def assert_sound_part_without_cursors(
    home: Home, streams: Sequence[str], *, moved_event_id: str = ""
) -> None:
    """Assert that what a killed run left is sound; Dagster may not have heard of its cursor.

    `moved_event_id` is an event that may lie on two days until the end of the run that brings the
    second.
    """
    for stream in streams:
        stored = [each for each in stored_ids(home, stream) if each != moved_event_id]
        assert len(stored) == len(set(stored)), stream
        assert set(stored) <= home.account.true_ids(stream), stream


def run_task_with_short_waits(task: SyncTask, now: datetime) -> None:
    """Carry out the orders with short waits between tries, and between runs for broken records.

    This machine's clock stands at `now`, UTC.
    """
    http_client.utc_now = lambda: now
    retry.INITIAL_BACKOFF_SECONDS, retry.MAX_BACKOFF_SECONDS = 0.01, 0.02
    window.FIRST_QUARANTINE_RETRY_WAIT = timedelta(0)
    run_task_and_exit(task)


def run_seed(seed: int, folder: Path, dagster_template: Path) -> SeedResult:
    """Return what becomes of a seed in a fresh home below `folder`."""
    chance = random.Random(seed)
    streams = ("events", *chance.sample(OTHER_STREAMS, chance.randint(1, 3)))
    outcome = SeedResult(seed=seed, streams=streams)
    events = chance.choice([0, 1500, 4000])
    with open_sandbox_account(seed=seed, events=events, gzip=chance.random() < 0.5) as account:
        # Some events of an account come days late.
        settings = {"KLAVIYO_LOOKBACK_DAYS": "7"}
        home = Home(
            account=account,
            root=folder / f"seed-{seed}",
            dagster_template=dagster_template,
            settings=settings,
        )
        account.sandbox.faults.add(
            {"random": {"seed": seed, "rate": FAULT_RATE, "kinds": list(FAULT_KINDS)}}
        )
        dice = SeedRun(home=home, rng=chance, outcome=outcome)
        try:
            dice.run()
            assert_complete(home, *streams)
        except AssertionError as wrong:
            outcome.problem = str(wrong).splitlines()[0][:300] if str(wrong) else "not equal"
        dice.compare_ids()
    return outcome


def summary(outcomes: Sequence[SeedResult], seconds: float) -> str:
    """Return the closing line over all seeds."""
    parts = (
        *("kills", "faults", "false_responses", "overlaps", "moves"),
        *("requests", "compared", "lost", "doubled"),
    )
    total = {part: sum(getattr(each, part) for each in outcomes) for part in parts}
    return (
        f"{len(outcomes)} seeds in {seconds:.0f} s: {total['kills']} kills, {total['faults']:,} "
        f"faults in {total['requests']:,} requests ({total['false_responses']} of them "
        "false responses), "
        f"{total['overlaps']} full refreshes beside a run, {total['moves']} times an event on "
        f"another day, {total['compared']:,} ids compared, "
        f"{total['lost']} lost, {total['doubled']} doubled, "
        f"{sum(not each.is_good for each in outcomes)} seeds with problems"
    )


def main() -> int:
    """Run the long form; exit code 1 if any seed has a problem."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seeds", type=int, default=200, help="how many")
    options.add_argument("--first", type=int, default=1, help="the first of them")
    wanted = options.parse_args()
    began = monotonic()
    outcomes: list[SeedResult] = []
    with TemporaryDirectory() as blank_folder:
        dagster_template = create_dagster_home(Path(blank_folder), ROOT / "deploy" / "dagster.yaml")
        for seed in range(wanted.first, wanted.first + wanted.seeds):
            with TemporaryDirectory() as folder:
                outcomes.append(run_seed(seed, Path(folder), dagster_template))
            sys.stdout.write(f"{outcomes[-1]}\n")
            sys.stdout.flush()
    sys.stdout.write(summary(outcomes, monotonic() - began) + "\n")
    return int(not all(each.is_good for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
