"""Runs with random faults and random kills, told by their seed, each judged to the last id.

`python -m klaviyo_assets_tests.faults.random_runs --seeds 200` is the long form; the test suite has
the short one. One seed is one account and one installation: some runs of some streams, of which up
to two are killed, while one request in twenty meets a fault, some answers come in another order or
dated ahead, events change their day, and time goes by between the runs; then, in some, a full
refresh beside a run, a run that lives, and one for what was put aside. What belongs here: rolling
the dice and counting. What does not: comparing (`judge`).
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

from klaviyo_assets.api import clock as machine
from klaviyo_assets.api import retries
from klaviyo_assets.sandbox.faults.kinds import LENIENT, RECOVERABLE, TOO_LARGE
from klaviyo_assets.sandbox.json_types import Json
from klaviyo_assets.sync import quarantine_retries
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, blank_home
from klaviyo_assets_tests.e2e.lives import Life, Orders, carry_out_and_exit, orders_of
from klaviyo_assets_tests.e2e.shop import open_shop
from klaviyo_assets_tests.faults.judge import PATHS, judge, stored_ids
from klaviyo_assets_tests.forks import FORKS

RATE = 0.05
OTHERS = tuple(sorted(PATHS.keys() - {"events", "global_exclusions"}))
"""Without the one whose records the sandbox lets sign up with suppressions older than themselves:
no cursor finds those."""

BROKEN = ("no_id", "null_attributes")
KINDS = (*RECOVERABLE, *LENIENT, *TOO_LARGE, *BROKEN)
"""What may happen to a request: broken answers and records, no JSON to the letter, weight.

A broken record is put aside by a green run, and comes with a later one.
"""

LIES: tuple[dict[str, object], ...] = (
    {"kind": "unsorted", "sort": "-datetime"},
    {"kind": "date", "seconds": 3_600},
    {"kind": "date", "seconds": 60 * 86_400},
)
"""What answers of events may claim untruly: an order, and a time in their `Date` header."""

MOST_KILLS = 2
OVERLAPS = 0.3
"""Share of seeds in which a full refresh and a run live at the same time."""

TRIES = 3
"""Lives that the last run may take: six faults in a row on one request end one, and rightly."""

WHOLE = {"sync_mode": "full_refresh_overwrite"}

COMMIT_BYTES = 2**18
"""A few hundred events, so that a small sync has several commits to be killed between."""


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a seed, in numbers; `problem` is what the judge said, empty if nothing."""

    seed: int
    streams: tuple[str, ...]
    kills: int = 0
    faults: int = 0
    lies: int = 0
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
            f"seed {self.seed}: {self.kills} kills, {self.faults} faults, {self.lies} of them "
            f"lies, {self.overlaps} overlaps, {self.moves} moves, {self.requests:,} requests, "
            f"{self.compared:,} ids compared, {self.lost} lost, {self.doubled} doubled"
            f"{'; ' + self.problem if self.problem else ''} ({', '.join(self.streams)})"
        )


@dataclass(slots=True, kw_only=True)
class Dice:
    """One seed at work in its home."""

    home: Home
    chance: random.Random
    outcome: Outcome
    moving: str = ""
    """An event that changes its day, once it was written."""

    def roll(self) -> None:
        """Run, kill and go on until a run has lived to its end; then compare."""
        for _ in range(self.chance.randint(0, MOST_KILLS)):
            self.lie()
            self.outcome.kills += self.killed(self.begin())
            judge_part_but_marks(self.home, self.outcome.streams, moving=self.moving)
            self.pass_time()
        if self.chance.random() < OVERLAPS:
            self.overlap()
            self.pass_time()
        self.lie()
        codes: list[int | None] = []
        while 0 not in codes and len(codes) < TRIES:
            life = self.begin()
            assert life.ended(within=300), "a run did not end"
            codes.append(life.code)
        assert 0 in codes, f"the last run failed {TRIES} times"
        if any((self.home.data / "lake" / "_quarantine").rglob("*.parquet")):
            self.home.shop.sandbox.faults.clear()
            life = self.begin()
            assert life.ended(within=300), "the run for what was put aside did not end"
            assert life.code == 0, "the run for what was put aside failed"

    def lie(self) -> None:
        """Have some of the next answers of events lie."""
        for lie in self.chance.sample(LIES, self.chance.randint(0, len(LIES))):
            match: dict[str, object] = {"path": PATHS["events"], "nth": self.chance.randint(1, 6)}
            script = [{"match": match, "fault": lie}]
            self.home.shop.sandbox.faults.add(cast("Json", script))

    def overlap(self) -> None:
        """Let a full refresh of events and a run of all streams live at the same time.

        The refresh may be the later of the two, and then goes on from what the other stored.
        """
        self.outcome.overlaps += 1
        refresh = self.begin("events", config=WHOLE)
        refresh.ended(within=self.chance.uniform(0, 0.5))
        run = self.begin()
        assert run.ended(within=300), "a run did not end"
        assert refresh.ended(within=300), "a refresh did not end"
        judge_part_but_marks(self.home, self.outcome.streams, moving=self.moving)

    def begin(self, *streams: str, config: Mapping[str, str] | None = None) -> Life:
        """Start a run of these streams, or of all that the seed has."""
        wanted = streams or self.outcome.streams
        orders = orders_of(self.home, *wanted, config=config, commit_bytes=COMMIT_BYTES)
        process = FORKS.Process(target=live_impatiently, args=(orders, self.home.shop.now))
        process.start()
        return Life(process)

    def killed(self, life: Life) -> bool:
        """Kill a run somewhere; tell if it was still alive."""
        seen = len(self.home.shop.sandbox.journal.requests())
        enough = seen + self.chance.randint(1, 8)
        while len(self.home.shop.sandbox.journal.requests()) < enough and not life.ended(
            within=0.003
        ):
            pass
        was_alive = not life.ended(within=self.chance.uniform(0, 0.15))
        life.kill()
        return was_alive

    def pass_time(self) -> None:
        """Let up to two days go by in the shop, with their events and people, and a new list.

        An event that was written before may come back with the day of now.
        """
        self.home.shop.move(hours=self.chance.uniform(0, 48))
        now = self.home.shop.now.isoformat()
        if self.moving:
            self.home.shop.mutate(redate_event=self.moving, datetime=now)
            self.outcome.moves += 1
        elif self.chance.random() < 0.5:
            (self.moving,) = self.home.shop.write_events({"datetime": now})
        if self.chance.random() < 0.5:
            self.home.shop.mutate(create="list", set={"name": f"list {self.chance.random()}"})

    def count(self) -> None:
        """Compare every stream's ids with the shop's, and count what the journal has."""
        for stream in self.outcome.streams:
            truth, stored = self.home.shop.truth(stream), Counter(stored_ids(self.home, stream))
            self.outcome.compared += len(truth)
            self.outcome.lost += len(truth - stored.keys())
            self.outcome.doubled += stored.total() - len(stored)
        entries = self.home.shop.sandbox.journal.requests()
        self.outcome.requests = len(entries)
        met = Counter(each.fault for each in entries if each.fault is not None)
        self.outcome.faults = met.total()
        self.outcome.lies = sum(met[kind] for kind in {str(each["kind"]) for each in LIES})


def judge_part_but_marks(home: Home, streams: Sequence[str], *, moving: str = "") -> None:
    """Assert that what a killed run left is sound; Dagster may not have heard of its mark.

    `moving` is an event that may lie on two days until the end of the run that brings the second.
    """
    for stream in streams:
        stored = [each for each in stored_ids(home, stream) if each != moving]
        assert len(stored) == len(set(stored)), stream
        assert set(stored) <= home.shop.truth(stream), stream


def live_impatiently(orders: Orders, now: datetime) -> None:
    """Carry out the orders with short waits between tries, and between runs for broken records.

    This machine's clock stands at `now`, UTC.
    """
    machine.utc_now = lambda: now
    retries.FIRST_WAIT_SECONDS, retries.LONGEST_WAIT_SECONDS = 0.01, 0.02
    quarantine_retries.FIRST_WAIT = timedelta(0)
    carry_out_and_exit(orders)


def rolled(seed: int, folder: Path, blank: Path) -> Outcome:
    """Return what becomes of a seed in a fresh home below `folder`."""
    chance = random.Random(seed)
    streams = ("events", *chance.sample(OTHERS, chance.randint(1, 3)))
    outcome = Outcome(seed=seed, streams=streams)
    events = chance.choice([0, 1500, 4000])
    with open_shop(seed=seed, events=events, gzip=chance.random() < 0.5) as shop:
        # Some events of a shop come days late.
        settings = {"KLAVIYO_LOOKBACK_DAYS": "7"}
        home = Home(shop=shop, root=folder / f"seed-{seed}", blank=blank, settings=settings)
        shop.sandbox.faults.add({"random": {"seed": seed, "rate": RATE, "kinds": list(KINDS)}})
        dice = Dice(home=home, chance=chance, outcome=outcome)
        try:
            dice.roll()
            judge(home, *streams)
        except AssertionError as wrong:
            outcome.problem = str(wrong).splitlines()[0][:300] if str(wrong) else "not equal"
        dice.count()
    return outcome


def summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return the closing line over all seeds."""
    parts = (
        *("kills", "faults", "lies", "overlaps", "moves"),
        *("requests", "compared", "lost", "doubled"),
    )
    total = {part: sum(getattr(each, part) for each in outcomes) for part in parts}
    return (
        f"{len(outcomes)} seeds in {seconds:.0f} s: {total['kills']} kills, {total['faults']:,} "
        f"faults in {total['requests']:,} requests ({total['lies']} of them lies), "
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
    outcomes: list[Outcome] = []
    with TemporaryDirectory() as blank_folder:
        blank = blank_home(Path(blank_folder), ROOT / "deploy" / "dagster.yaml")
        for seed in range(wanted.first, wanted.first + wanted.seeds):
            with TemporaryDirectory() as folder:
                outcomes.append(rolled(seed, Path(folder), blank))
            sys.stdout.write(f"{outcomes[-1]}\n")
            sys.stdout.flush()
    sys.stdout.write(summary(outcomes, monotonic() - began) + "\n")
    return int(not all(each.is_good for each in outcomes))


if __name__ == "__main__":
    sys.exit(main())
