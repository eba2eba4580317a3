"""The backfill that drains itself: a sensor that launches what today's quota can pay.

What belongs here: which run of each report to launch at a tick. What does not: the order of worth
and the costs (`sync.reports`), what a run does (`report_assets`).

It keeps nothing but a counter: what is missing or still moves is read from the lake at every tick,
what is under way from Dagster, what is left of the quota from the ledger. So a restart, a crash or
a pause changes nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from math import floor

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.api.quota import Quota
from klaviyo_assets.defs.metric_keys import metrics_to_fetch
from klaviyo_assets.defs.partitions import (
    DRAIN,
    DRAIN_SENSOR,
    METRICS,
    REQUESTS,
    range_tags,
    report_run_tags,
)
from klaviyo_assets.defs.report_assets import CHUNK, report_of
from klaviyo_assets.defs.report_flight import SKIPPED_WITHIN, Flight, flight_of
from klaviyo_assets.defs.resources import Connection, KlaviyoResource
from klaviyo_assets.defs.selections import assets_of, key_in
from klaviyo_assets.defs.switches import sensor_status
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake import CellFacts, Lake
from klaviyo_assets.model.report import Days
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS
from klaviyo_assets.sync.reports.cost import Estimate, every_day
from klaviyo_assets.sync.reports.desk import Calendar, background_of, terms_of
from klaviyo_assets.sync.reports.failing import failed_metrics
from klaviyo_assets.sync.reports.metric_requests import custom_metrics, learn_revenue
from klaviyo_assets.sync.reports.metrics import (
    Metric,
    absent_metrics,
    revenue_metric,
    setting_problems,
    stored_metrics,
)
from klaviyo_assets.sync.reports.paying import FRESH
from klaviyo_assets.sync.reports.present import calendar_of
from klaviyo_assets.sync.reports.walk import Wish
from klaviyo_assets.sync.reports.worth import (
    Batch,
    BatchLimits,
    Errand,
    due_days,
    errands,
    next_batch,
)
from klaviyo_assets.wording import quantity

EVERY_SECONDS = 60

MINUTES = 5
"""How many minutes' requests a run may make.

One run of a report at a time: two of Klaviyo's requests a minute keep no second one busy, and it
would hold a place that others want. Of series a run holds six requests, by its partitions: three
minutes, twenty seconds to start and to store, and the next look comes within a minute. So the 225
requests of a day are made in three hours. Where no two errands fit into one run, each of 225 runs
takes two minutes: seven and a half hours.
"""

PARTITIONS = CHUNK
"""Partitions of a run: while it is launched, and nothing else is, Dagster notes each of them."""

BELOW_ALL = -10
"""What fills the past can wait for every other run, the daily fetch of reports included."""

FAILURES, WITHIN = 3, timedelta(hours=1)
"""After so many failed runs of a metric within so long the sensor leaves it alone; a report, where
so many metrics failed and no run of it ended well."""

SPARE = 8
"""Requests that a run may make beyond its estimate: further pages, messages of unknown days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A run to launch: its partitions, and how many requests it may make."""

    batch: Batch
    requests: int


def drain_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor; it can be switched on and paused in the UI."""

    @dg.sensor(
        name=DRAIN_SENSOR,
        description="Fetches missing and moving report days, newest first, as the quota permits.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=sensor_status(settings),
        target=assets_of(*(stream.name for stream in REPORTS)),
        required_resource_keys={"lake", "klaviyo"},
    )
    def drain(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        ticks = int(json.loads(context.cursor or "{}").get("ticks", 0)) + 1
        try:
            requests, reasons = _tick(context, ticks)
        except KlaviyoAssetsError as error:
            return dg.SkipReason(str(error))
        if not requests:
            return dg.SkipReason("; ".join(reasons))
        return dg.SensorResult(run_requests=requests, cursor=json.dumps({"ticks": ticks}))

    return drain


def _tick(context: dg.SensorEvaluationContext, ticks: int) -> tuple[list[dg.RunRequest], list[str]]:
    """Return what to launch for all reports, and why nothing for the others."""
    klaviyo: KlaviyoResource = context.resources.klaviyo
    lake: Lake = context.resources.lake.lake()
    known = lake if lake.account() is not None else None
    with klaviyo.connect(say=context.log.warning, lake=known) as connection:
        return _launches(context, connection, lake, ticks)


def _launches(
    context: dg.SensorEvaluationContext, connection: Connection, lake: Lake, ticks: int
) -> tuple[list[dg.RunRequest], list[str]]:
    say = context.log.warning
    reasons: list[str] = []
    able: list[tuple[Stream, Flight, int]] = []
    for stream in REPORTS:
        key = key_in(context, stream.name)
        flight = flight_of(context.instance, stream.name, key, now=utc_now(), within=WITHIN)
        quota = connection.asking.ledger.quota(stream.budgets()[0])
        if (reason := _waiting(flight, quota)) is not None:
            reasons.append(f"{stream.name}: {reason}")
        else:
            able.append((stream, flight, quota.left))
    if not able:
        # Nothing was asked: most looks come while a run is under way, or the day is spent.
        return [], reasons
    calendar = calendar_of(connection.asking, connection.settings, say=say)
    chosen = chosen_metrics(connection, lake)
    for problem in chosen.problems:
        say(problem)
    requests: list[dg.RunRequest] = []
    reasons += chosen.problems
    for stream, flight, left in able:
        draining = Draining(stream, connection, lake, calendar=calendar, chosen=chosen)
        found = draining.launch(context.instance, flight, left)
        if isinstance(found, str):
            reasons.append(f"{stream.name}: {found}")
        else:
            requests.append(_request(stream, key_in(context, stream.name), found, ticks))
    return requests, reasons


def _waiting(flight: Flight, quota: Quota) -> str | None:
    """Return why no run of a report is launched now, whatever is missing; None where one may be."""
    failures = flight.failures(None)
    if failures >= FAILURES:
        return f"{quantity(failures, 'run')} failed within {WITHIN}; look at the last one"
    if not flight.successes and len(flight.failed) >= FAILURES:
        return (
            f"runs of {len(flight.failed)} metrics failed within {WITHIN} and none ended well; "
            "look at the last one"
        )
    if flight.was_skipped:
        return (
            f"the key may not read it, as a run found within {SKIPPED_WITHIN}: look at that run's "
            "warning, and launch one by hand to see whether another key may"
        )
    if flight.is_draining:
        return "a run of the sensor is under way"
    if quota.left <= 0:
        return f"the day's requests are spent until {quota.next_free_at:%H:%M} UTC"
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenMetrics:
    """What holds of the metrics at a tick, whatever the report.

    `mapped` is the one that the account maps to revenue, `revenue` that one or Placed Order;
    `absent` are ids of the setting that the account does not have. `problems` are sentences about
    the setting.
    """

    mapped: str | None
    revenue: str | None
    absent: frozenset[str]
    problems: Sequence[str]


def chosen_metrics(connection: Connection, lake: Lake) -> ChosenMetrics:
    """Return what the setting names and the account has; Klaviyo is asked for what is not known.

    That is the revenue metric where no sync of metrics has asked for it yet, and the custom metrics
    where the setting names an id that no table has and no report was stored of.

    Raises:
        KlaviyoAssetsError: the lake or the ledger cannot be read, or Klaviyo cannot be reached.
    """
    settings, client, ledger = connection.settings, connection.client, connection.asking.ledger
    known = ledger.revenue_metric()
    mapped = known.id if known else learn_revenue(client, ledger, settings.base_url)
    stored = stored_metrics(lake)
    proven = {cell.metric_id for stream in REPORTS for cell in lake.cell_facts(stream.name)}
    custom: Sequence[Metric] | None = None
    absent = set[str]()
    if stored and not proven.issuperset(absent_metrics(settings, stored)):
        custom = custom_metrics(client, settings.base_url)
    if custom is not None:
        absent = set(absent_metrics(settings, [*stored, *custom])) - proven
    return ChosenMetrics(
        mapped=mapped,
        revenue=revenue_metric(stored, mapped),
        absent=frozenset(absent),
        problems=setting_problems(settings, stored, mapped=mapped, custom=custom, proven=proven),
    )


class Draining:
    """One report at one tick."""

    def __init__(
        self,
        stream: Stream,
        connection: Connection,
        lake: Lake,
        *,
        calendar: Calendar,
        chosen: ChosenMetrics,
    ) -> None:
        """Read which metrics failed of late; the rest is read when it is needed."""
        self._chosen = chosen
        self._stream = stream
        self._report = report_of(stream)
        self._connection = connection
        self._lake = lake
        self._calendar = calendar
        now = calendar.now
        failed = failed_metrics(lake, stream.name, now)
        self._paused = {
            metric_id: each for metric_id, each in failed.items() if now < each.asked_again_at
        }

    def launch(self, instance: dg.DagsterInstance, flight: Flight, left: int) -> Launch | str:
        """Return the run to launch now, in the order of worth; or why there is none.

        Raises:
            KlaviyoAssetsError: the lake or the ledger cannot be read.
        """
        bounds = self._calendar.bounds
        wanted = self._wanted(instance, bounds, flight) if bounds is not None else []
        if bounds is None or not wanted:
            return self._idle(flight)
        order = instance.get_dynamic_partitions(METRICS.name or "")
        return self._affordable(wanted, order, bounds, left) or (
            f"{left} requests are left, too few for what comes next"
        )

    def _wanted(self, instance: dg.DagsterInstance, bounds: Days, flight: Flight) -> list[Errand]:
        """Return errands for the days due, in the order of worth, but for those under way."""
        metrics = metrics_to_fetch(
            instance,
            self._lake,
            self._connection.settings,
            stream=self._stream.name,
            mapped=self._chosen.mapped,
        )
        stored: dict[str, dict[date, CellFacts]] = {}
        for cell, facts in self._lake.cell_facts(self._stream.name).items():
            stored.setdefault(cell.metric_id, {})[cell.day] = facts
        now, zone = self._calendar.now, self._calendar.zone
        due = {
            each: frozenset(
                day
                for day in due_days(stored.get(each, {}), bounds=bounds, now=now, zone=zone)
                if not flight.has(each, day)
            )
            for each in metrics
            if each not in self._chosen.absent
            and each not in self._paused
            and flight.failures(each) < FAILURES
        }
        # Between days that are due may lie some that are under way.
        return [
            errand
            for errand in errands(
                due,
                bounds=bounds,
                most_days=self._report.most_days,
                before_all=self._chosen.revenue,
            )
            if not any(flight.has(errand.metric_id, day) for day in errand.days)
        ]

    def _idle(self, flight: Flight) -> str:
        """Return why nothing is launched where nothing is wanted."""
        paused = [
            f"metric {metric_id!a} is left alone until {each.asked_again_at:%Y-%m-%d %H:%M} UTC: "
            f"{quantity(each.count, 'request')} failed within a day, the last one so: {each.reason}"
            for metric_id, each in self._paused.items()
        ]
        failing = sorted(
            each for each in flight.failed if each is not None and flight.failures(each) >= FAILURES
        )
        if failing:
            paused.append(
                f"left alone, as {FAILURES} runs of each failed within {WITHIN}: "
                f"{', '.join(map(ascii, failing))}"
            )
        if paused:
            return "; ".join([*paused, "nothing else is missing"])
        return "nothing is missing, and what moves was fetched today"

    def _affordable(
        self, wanted: Sequence[Errand], order: Sequence[str], bounds: Days, left: int
    ) -> Launch | None:
        background = background_of(self._stream, self._report, self._lake)
        terms = terms_of(self._report, bounds, background, self._calendar)
        estimate = Estimate(
            terms,
            background.campaigns.values(),
            days_of=every_day,
            frames=self._lake.answers(self._stream.name).frames(within=FRESH),
        )

        def cost(errand: Errand) -> int:
            days = frozenset(errand.days)
            return estimate.add(Wish(metric_id=errand.metric_id, days=days, widens=False))

        a_minute = floor(2 * self._connection.settings.rate_limit_scale)
        limits = BatchLimits(left=left, requests=max(1, a_minute * MINUTES), partitions=PARTITIONS)
        found = next_batch(wanted, order, limits=limits, cost=cost)
        if found is None:
            return None
        batch, price = found
        return Launch(batch=batch, requests=min(left, price + SPARE))


def _request(stream: Stream, key: dg.AssetKey, launch: Launch, ticks: int) -> dg.RunRequest:
    batch = launch.batch
    first, last = batch.metric_ids[0], batch.metric_ids[-1]
    return dg.RunRequest(
        # The same tick, evaluated again after a crash, launches nothing twice.
        run_key=f"{stream.name} {first} {last} {batch.days.first} {batch.days.last} {ticks}",
        asset_selection=[key],
        # The checks of a report read its whole table: they have a schedule of their own.
        asset_check_keys=[],
        tags={
            **range_tags(batch.metric_ids, batch.days),
            **report_run_tags(stream.name, priority=BELOW_ALL),
            DRAIN: stream.name,
            REQUESTS: str(launch.requests),
        },
    )
