"""Accounts whose records come in bursts: what a sync asks for, at 150 ms a page and real limits."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor
from types import MappingProxyType

from klaviyo_assets_tests.benchmarks.cases import temporary_home
from klaviyo_assets_tests.benchmarks.dataset import DAY_SECONDS, Burst
from klaviyo_assets_tests.benchmarks.measurement import (
    BenchmarkError,
    BenchmarkHome,
    RunCost,
    count_stored_rows,
    run_page_server,
)
from klaviyo_assets_tests.benchmarks.scenarios import ScenarioResult

HOUR_SECONDS = 3_600
LATENCY_MS = "150"
PAGE_SIZES: Mapping[str, int] = MappingProxyType({"events": 1000, "profiles": 100})
EARLIER_BURST = Burst(40, 0, DAY_SECONDS)
"""What an hourly sync had read before; the hour begins where it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BurstCase:
    """Records of one stream; of an hourly one, those of the hour, which a sync came before."""

    stream: str
    bursts: Sequence[Burst]
    is_hourly: bool = False
    quick: bool = True
    """Whether it is short enough for the quick form."""

    @property
    def record_count(self) -> int:
        """Return how many records the sync has to read; the last one known is read again."""
        return sum(burst.records for burst in self.bursts) + self.is_hourly


BURST_CASES: Mapping[str, BurstCase] = MappingProxyType(
    {
        "1,000 profiles in 10 s, 50 in 300 days": BurstCase(
            stream="profiles", bursts=(Burst(1_000, 0, 10), Burst(50, 20, 300 * DAY_SECONDS))
        ),
        "150 profiles in one second": BurstCase(stream="profiles", bursts=(Burst(150, 0),)),
        "500 profiles in 20 s, 30 nights": BurstCase(
            stream="profiles",
            bursts=tuple(Burst(500, night * DAY_SECONDS, 20) for night in range(30)),
            quick=False,
        ),
        "2,500 events in 10 minutes, 10 weeks": BurstCase(
            stream="events",
            bursts=tuple(Burst(2_500, week * 7 * DAY_SECONDS, 600) for week in range(10)),
        ),
        "a decade of nothing, then 100,000 events": BurstCase(
            stream="events",
            bursts=(Burst(1, 0), Burst(100_000, 3_650 * DAY_SECONDS, 100 * DAY_SECONDS)),
        ),
        "3,000 events in one second of 100 days": BurstCase(
            stream="events",
            bursts=(Burst(3_000, 50 * DAY_SECONDS), Burst(2_000, 0, 100 * DAY_SECONDS)),
        ),
        "3,000 profiles in one second of 100 days": BurstCase(
            stream="profiles",
            bursts=(Burst(3_000, 50 * DAY_SECONDS), Burst(100, 0, 100 * DAY_SECONDS)),
        ),
        "an hour with an import of 250 profiles": BurstCase(
            stream="profiles",
            bursts=(Burst(250, DAY_SECONDS + HOUR_SECONDS // 2, 2),),
            is_hourly=True,
        ),
        "an hour with a send of 5,000 events": BurstCase(
            stream="events",
            bursts=(Burst(5_000, DAY_SECONDS + 1_200, 60), Burst(1_500, DAY_SECONDS + 60, 3_456)),
            is_hourly=True,
        ),
    }
)


def run_burst_cases(*, quick: bool) -> Iterator[ScenarioResult]:
    """Sync each mixture; requests may be its pages, a tenth of them, and ten."""
    for name, mixture in BURST_CASES.items():
        if quick and not mixture.quick:
            continue
        with temporary_home() as free:
            place = replace(free, scale="1", share="0.9")
            cost = (
                measure_hourly_sync(place, mixture)
                if mixture.is_hourly
                else measure_first_sync(place, mixture)
            )
        least = ceil(mixture.record_count / PAGE_SIZES[mixture.stream])
        request_count = cost.paths[f"/api/{mixture.stream}"]
        yield ScenarioResult(
            name=name,
            figure=f"{request_count} requests for {least} pages, {cost.net_seconds:.2f} s net",
            goal=f"{floor(1.1 * least + 10)} requests: pages, 10 %, and 10",
            is_met=request_count <= 1.1 * least + 10,
        )


def measure_first_sync(home: BenchmarkHome, case: BurstCase) -> RunCost:
    """Read everything into an empty lake.

    Raises:
        BenchmarkError: a record is missing.
    """
    return sync_burst_account(home, case, case.bursts, rest_seconds=DAY_SECONDS)


def measure_hourly_sync(home: BenchmarkHome, case: BurstCase) -> RunCost:
    """Read what an hour brought, after a sync at its beginning.

    Raises:
        BenchmarkError: a record is missing.
    """
    sync_burst_account(home, case, (EARLIER_BURST,), rest_seconds=HOUR_SECONDS)
    last = max(burst.start + burst.seconds for burst in case.bursts)
    return sync_burst_account(
        home, case, (EARLIER_BURST, *case.bursts), rest_seconds=DAY_SECONDS + HOUR_SECONDS - last
    )


def sync_burst_account(
    home: BenchmarkHome, case: BurstCase, bursts: Sequence[Burst], *, rest_seconds: int
) -> RunCost:
    """Sync an account of these records, looked at `rest_seconds` seconds after the last one."""
    options = [f"--burst={each.records}:{each.start}:{each.seconds}" for each in bursts]
    fixed = (f"{case.stream}=", "--latency-ms", LATENCY_MS, "--rest", str(rest_seconds))
    with run_page_server(*fixed, *options) as server:
        cost = home.sync(server, case.stream)
    records, rows = sum(each.records for each in bursts), count_stored_rows(home, case.stream)
    if rows != records:
        raise BenchmarkError(f"{rows} rows of {case.stream} stored of {records}")
    return cost
