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

from klaviyo_assets.lake import Lake
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, blank_home
from klaviyo_assets_tests.e2e.lives import Life, commanded
from klaviyo_assets_tests.e2e.shop import open_shop

EVENTS = "/api/events"
UNSETTLED = timedelta(minutes=5)
"""What is younger than this is read again by every sync, as the mark stays behind it."""


@dataclass(slots=True, kw_only=True)
class Cost:
    """What the kills cost so far, in records.

    `in_flight` is the most that one life had been shown and left uncommitted. `asked_in_vain` were
    stored and asked for again all the same: they share the second at which an open window goes on,
    or had not settled.
    """

    lives: int = 0
    shown: int = 0
    in_flight: int = 0
    asked_in_vain: int = 0
    problems: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        """Return it in a sentence."""
        return (
            f"{self.lives} lives: {self.shown:,} records shown, at most {self.in_flight:,} of a "
            f"life uncommitted, {self.asked_in_vain:,} asked for again though they were stored"
        )


@dataclass(slots=True, kw_only=True)
class Killing:
    """One home whose first sync of events is killed; `begin` starts a run.

    `moments` are those of all its events: the shop's clock stands still.
    """

    home: Home
    begin: Callable[[], Life]
    chance: random.Random
    cost: Cost = field(default_factory=Cost)
    moments: Mapping[str, datetime | None] = field(init=False)

    def __post_init__(self) -> None:
        """Ask the shop for its events, once."""
        self.moments = self.home.shop.moments("events")

    def kill_once(self, *, pages: int) -> bool:
        """Let one run live until it has asked for up to so many pages; tell if it was killed."""
        stored, edges = self.stored(), self.edges()
        life, enough = self.begin(), self.chance.randint(1, pages)
        while self.home.shop.asked()[EVENTS] < enough and not life.ended(within=0.005):
            pass
        was_killed = not life.ended(within=self.chance.uniform(0, 0.1))
        life.kill()
        self.judge(stored, edges)
        return was_killed

    def finish(self) -> int | None:
        """Let a run live to its end; return its exit code."""
        stored, edges = self.stored(), self.edges()
        life = self.begin()
        assert life.ended(within=600)
        self.judge(stored, edges)
        return life.code

    def stored(self) -> set[str]:
        """Return what is committed; notes what is there twice."""
        if not (self.home.data / "lake" / "events" / "_delta_log").exists():
            return set()
        ids = self.home.lake_ids("events")
        if len(ids) != len(set(ids)):
            self.cost.problems.append(f"{len(ids) - len(set(ids))} rows are there twice")
        return {each for each in ids if each is not None}

    def edges(self) -> set[datetime]:
        """Return the seconds at which reading goes on: the ends of the windows read so far."""
        lake = Lake(self.home.data, clock=lambda: self.home.shop.now)
        state = lake.state("events")
        if state is None:
            return set()
        slices = cast("dict[str, dict[str, list[list[str | None]]]]", state.state["slices"])
        ends = [end for each in slices.values() for _, end in each["windows"] if end]
        return {datetime.fromisoformat(end) for end in ends}

    def judge(self, stored: set[str], edges: set[datetime]) -> None:
        """Take in what a life has shown and left; `stored` and `edges` are from before it."""
        shown = self.home.shop.shown(EVENTS)
        horizon = self.home.shop.now - UNSETTLED
        vain = set(shown) & stored
        wrong = [k for k in vain if (at := self.moments[k]) and at <= horizon and at not in edges]
        if wrong:
            self.cost.problems.append(f"{len(wrong)} stored records of closed windows asked again")
        kept = self.stored()
        if not stored <= kept:
            self.cost.problems.append(f"{len(stored - kept)} stored rows are gone")
        self.cost.lives += 1
        self.cost.shown += shown.total()
        self.cost.in_flight = max(self.cost.in_flight, len(set(shown) - kept))
        self.cost.asked_in_vain += len(vain)
        self.home.shop.forget()


def main() -> int:
    """Run the long form; exit code 1 if anything is lost, doubled or asked for in vain."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--events", type=int, default=200_000)
    options.add_argument("--kills", type=int, default=20)
    options.add_argument("--pages", type=int, default=60, help="the most that a life asks for")
    options.add_argument("--seed", type=int, default=random.randrange(10**6))
    wanted = options.parse_args()
    sys.stdout.write(f"seed {wanted.seed}\n")
    with TemporaryDirectory() as folder, open_shop(events=wanted.events, days=60) as shop:
        blank = Path(folder, "blank")
        blank.mkdir()
        blank_home(blank, ROOT / "deploy" / "dagster.yaml")
        home = Home(shop=shop, root=Path(folder, "home"), blank=blank)
        words = ("asset", "materialize", "--select", "klaviyo/events")
        killing = Killing(
            home=home,
            begin=lambda: commanded(home, *words),
            chance=random.Random(wanted.seed),
        )
        kills = 0
        while kills < wanted.kills and killing.kill_once(pages=wanted.pages):
            kills += 1
            sys.stdout.write(f"kill {kills}: {len(killing.stored()):,} events stored\n")
        code = killing.finish()
        lost = shop.truth("events") ^ set(home.ids("events"))
        sys.stdout.write(f"{killing.cost}\nlast exit code {code}, {len(lost)} lost or invented\n")
        sys.stdout.writelines(f"{each}\n" for each in killing.cost.problems)
        return int(bool(killing.cost.problems or lost or code))


if __name__ == "__main__":
    sys.exit(main())
