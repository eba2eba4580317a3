"""Accounts whose records come in bursts: what a sync asks for, at 150 ms a page and real limits.

What belongs here: the mixtures, and a line of figures for each. What does not: the page server
(`pages`). Records that are spread evenly are read in `readings`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from types import MappingProxyType

from klaviyo_assets_tests.benchmarks.measured import BenchmarkError, Cost, Home, pages, stored
from klaviyo_assets_tests.benchmarks.readings import home
from klaviyo_assets_tests.benchmarks.scenes import Line
from klaviyo_assets_tests.benchmarks.shelf import DAY, Burst

HOUR = 3_600
LATENCY_MS = "150"
PAGE_SIZE: Mapping[str, int] = MappingProxyType({"events": 1000, "profiles": 100})
EARLIER = Burst(40, 0, DAY)
"""What an hourly sync had read before; the hour begins where it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mixture:
    """Records of one stream; of an hourly one, those of the hour, which a sync came before."""

    stream: str
    bursts: Sequence[Burst]
    is_hourly: bool = False
    quick: bool = True
    """Whether it is short enough for the quick form."""

    @property
    def records(self) -> int:
        """Return how many records the sync has to read; the last one known is read again."""
        return sum(burst.records for burst in self.bursts) + self.is_hourly


MIXTURES: Mapping[str, Mixture] = MappingProxyType(
    {
        "1,000 profiles in 10 s, 50 in 300 days": Mixture(
            stream="profiles", bursts=(Burst(1_000, 0, 10), Burst(50, 20, 300 * DAY))
        ),
        "150 profiles in one second": Mixture(stream="profiles", bursts=(Burst(150, 0),)),
        "500 profiles in 20 s, 30 nights": Mixture(
            stream="profiles",
            bursts=tuple(Burst(500, night * DAY, 20) for night in range(30)),
            quick=False,
        ),
        "2,500 events in 10 minutes, 10 weeks": Mixture(
            stream="events", bursts=tuple(Burst(2_500, week * 7 * DAY, 600) for week in range(10))
        ),
        "a decade of nothing, then 100,000 events": Mixture(
            stream="events", bursts=(Burst(1, 0), Burst(100_000, 3_650 * DAY, 100 * DAY))
        ),
        "3,000 events in one second of 100 days": Mixture(
            stream="events", bursts=(Burst(3_000, 50 * DAY), Burst(2_000, 0, 100 * DAY))
        ),
        "3,000 profiles in one second of 100 days": Mixture(
            stream="profiles", bursts=(Burst(3_000, 50 * DAY), Burst(100, 0, 100 * DAY))
        ),
        "an hour with an import of 250 profiles": Mixture(
            stream="profiles", bursts=(Burst(250, DAY + HOUR // 2, 2),), is_hourly=True
        ),
        "an hour with a send of 5,000 events": Mixture(
            stream="events",
            bursts=(Burst(5_000, DAY + 1_200, 60), Burst(1_500, DAY + 60, 3_456)),
            is_hourly=True,
        ),
    }
)


def bursty_accounts(*, quick: bool) -> Iterator[Line]:
    """Sync each mixture; requests may be its pages, a tenth of them, and ten."""
    for name, mixture in MIXTURES.items():
        if quick and not mixture.quick:
            continue
        with home() as free:
            place = replace(free, scale="1", share="0.9")
            cost = hourly(place, mixture) if mixture.is_hourly else first(place, mixture)
        least = ceil(mixture.records / PAGE_SIZE[mixture.stream])
        asked = cost.paths[f"/api/{mixture.stream}"]
        yield Line(
            name=name,
            figure=f"{asked} requests for {least} pages, {cost.net:.2f} s net",
            goal=f"{floor(1.1 * least + 10)} requests: pages, 10 %, and 10",
            is_met=asked <= 1.1 * least + 10,
        )


def first(place: Home, mixture: Mixture) -> Cost:
    """Read everything into an empty lake.

    Raises:
        BenchmarkError: a record is missing.
    """
    return synced(place, mixture, mixture.bursts, rest=DAY)


def hourly(place: Home, mixture: Mixture) -> Cost:
    """Read what an hour brought, after a sync at its beginning.

    Raises:
        BenchmarkError: a record is missing.
    """
    synced(place, mixture, (EARLIER,), rest=HOUR)
    last = max(burst.start + burst.seconds for burst in mixture.bursts)
    return synced(place, mixture, (EARLIER, *mixture.bursts), rest=DAY + HOUR - last)


def synced(place: Home, mixture: Mixture, bursts: Sequence[Burst], *, rest: int) -> Cost:
    """Sync an account of these records, looked at `rest` seconds after the last one."""
    options = [f"--burst={each.records}:{each.start}:{each.seconds}" for each in bursts]
    fixed = (f"{mixture.stream}=", "--latency-ms", LATENCY_MS, "--rest", str(rest))
    with pages(*fixed, *options) as server:
        cost = place.sync(server, mixture.stream)
    records, rows = sum(each.records for each in bursts), stored(place, mixture.stream)
    if rows != records:
        raise BenchmarkError(f"{rows} rows of {mixture.stream} stored of {records}")
    return cost
