"""The backfill that drains itself: a sensor that launches what today's quota can pay.

What belongs here: which runs to launch at a tick, and which not. What does not: the order of worth
and the costs (`sync.reports`), what a run does (`report_assets`).

It keeps nothing but a counter: what is missing or still moves is read from the lake at every tick,
what is under way from Dagster, what is left of the quota from the ledger. So a restart, a crash or
a pause changes nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import dagster as dg

from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.metric_keys import metrics_to_fetch
from klaviyo_assets.defs.partitions import ALONE, DRAIN, DRAIN_SENSOR, REQUESTS, range_tags
from klaviyo_assets.defs.report_assets import report_of
from klaviyo_assets.defs.report_flight import Flight, flight_of
from klaviyo_assets.defs.resources import Connection, KlaviyoResource, utc_now
from klaviyo_assets.defs.switches import sensor_status
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake import CellFacts, Lake
from klaviyo_assets.model.report import Days
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.streams import REPORTS
from klaviyo_assets.sync.reports.cost import Estimate, every_day
from klaviyo_assets.sync.reports.desk import Calendar, background_of, terms_of
from klaviyo_assets.sync.reports.metrics import AUTO, mapped_revenue
from klaviyo_assets.sync.reports.paying import FRESH
from klaviyo_assets.sync.reports.present import calendar_of
from klaviyo_assets.sync.reports.walk import Wish
from klaviyo_assets.sync.reports.worth import Errand, affordable, due_days, errands
from klaviyo_assets.wording import quantity

EVERY_SECONDS = 300

MOST_IN_FLIGHT = 8
"""Runs of one report that the sensor has under way at most: two requests a minute keep few busy."""

FAILURES, WITHIN = 3, timedelta(hours=1)
"""After so many failed runs of a report within so long the sensor leaves it alone."""

SPARE = 8
"""Requests that a run may make beyond its estimate: further pages, messages of unknown days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A run to launch: some days of one metric, and how many requests it may make."""

    errand: Errand
    requests: int


def drain_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor; it can be switched on and paused in the UI."""
    keys = [asset_key(stream.name) for stream in REPORTS]

    @dg.sensor(
        name=DRAIN_SENSOR,
        description="Fetches missing and moving report days, newest first, as the quota permits.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=sensor_status(settings),
        target=dg.AssetSelection.assets(*keys),
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
    say = context.log.warning
    connection = klaviyo.connect(say=say)
    calendar = calendar_of(connection.asking, connection.settings, clock=utc_now, say=say)
    requests: list[dg.RunRequest] = []
    reasons: list[str] = []
    for stream in REPORTS:
        found = Draining(stream, connection, lake, calendar).launches(context.instance)
        if isinstance(found, str):
            reasons.append(f"{stream.name}: {found}")
        else:
            requests += [_request(stream, launch, ticks) for launch in found]
    return requests, reasons


class Draining:
    """One report at one tick."""

    def __init__(
        self, stream: Stream, connection: Connection, lake: Lake, calendar: Calendar
    ) -> None:
        """Read nothing yet."""
        self._stream = stream
        self._report = report_of(stream)
        self._connection = connection
        self._lake = lake
        self._calendar = calendar

    def launches(self, instance: dg.DagsterInstance) -> list[Launch] | str:
        """Return the runs to launch now, in the order of worth; or why there are none.

        Raises:
            KlaviyoAssetsError: the lake or the ledger cannot be read.
        """
        flight = flight_of(instance, self._stream.name, now=utc_now(), within=WITHIN)
        if flight.failures >= FAILURES:
            return (
                f"{quantity(flight.failures, 'run')} failed within {WITHIN}; look at the last one"
            )
        free = MOST_IN_FLIGHT - flight.drains
        if free <= 0:
            return f"{flight.drains} runs are under way"
        quota = self._connection.asking.ledger.quota(self._stream.budgets()[0])
        left = quota.left - flight.given
        if left <= 0:
            return f"the day's requests are spent or given until {quota.next_free_at:%H:%M} UTC"
        bounds = self._calendar.bounds
        wanted = self._wanted(instance, bounds, flight) if bounds is not None else []
        if bounds is None or not wanted:
            return "nothing is missing, and what moves was fetched today"
        return self._affordable(wanted[:free], bounds, left) or (
            f"{left} requests are left, too few for what comes next"
        )

    def _wanted(self, instance: dg.DagsterInstance, bounds: Days, flight: Flight) -> list[Errand]:
        """Return errands for the days due, in the order of worth, but for those under way."""
        metrics = metrics_to_fetch(
            instance,
            self._lake,
            self._connection.settings,
            stream=self._stream.name,
            mapped=self._mapped(),
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
        }
        # Between days that are due may lie some that are under way.
        return [
            errand
            for errand in errands(due, bounds=bounds, most_days=self._report.most_days)
            if not any(flight.has(errand.metric_id, day) for day in errand.days)
        ]

    def _mapped(self) -> str | None:
        settings = self._connection.settings
        if AUTO not in settings.conversion_metric_ids:
            return None
        return mapped_revenue(self._connection.client, settings.base_url)

    def _affordable(self, wanted: Sequence[Errand], bounds: Days, left: int) -> list[Launch]:
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

        launches: list[Launch] = []
        for errand, price in affordable(wanted, left=left, cost=cost):
            requests = min(left, price + SPARE)
            if requests < price:
                break
            left -= requests
            launches.append(Launch(errand=errand, requests=requests))
        return launches


def _request(stream: Stream, launch: Launch, ticks: int) -> dg.RunRequest:
    errand = launch.errand
    return dg.RunRequest(
        # The same tick, evaluated again after a crash, launches nothing twice.
        run_key=f"{stream.name} {errand.metric_id} {errand.days.first} {errand.days.last} {ticks}",
        asset_selection=[asset_key(stream.name)],
        # The checks of a report read its whole table: they have a schedule of their own.
        asset_check_keys=[],
        tags={
            **range_tags(errand.metric_id, errand.days.first, errand.days.last),
            DRAIN: stream.name,
            ALONE: "true",
            REQUESTS: str(launch.requests),
        },
    )
