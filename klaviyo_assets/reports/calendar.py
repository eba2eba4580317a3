"""Knows the days of an account: its time zone, and when days are over and final; picks timeframes.

Klaviyo counts the days of reports in the account's zone, so the setting can only repeat the zone.
The setting is needed if Klaviyo does not say it: for an account without a zone, or a key without
`accounts:read`. Every fetch requests the account anew, because Klaviyo's clock decides which days
are over, and because the zone can be changed. That does not cost quota of reports.

Timeframes are as few as possible, since a request costs the same whatever its timeframe. They are
also as long as Klaviyo allows: Dagster may have split one backfill into a run for each day, and the
cached response then serves these sibling runs. If a message was sent on only one day of a
timeframe, its total over the timeframe is the number of that day, so the day needs no request of
its own.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TypeVar, cast
from zoneinfo import ZoneInfo

from klaviyo_assets.account.connection import AccountConnection, fetch_account, state_folder
from klaviyo_assets.api.rate_limiter import last_known_timezone
from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    MissingScopeError,
    SettingError,
    format_quantity,
)
from klaviyo_assets.lake.delta.state import PartitionState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ONE_DAY, DateRange, ReportPartition
from klaviyo_assets.model.window import parse_instant
from klaviyo_assets.settings import Settings


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    """Return the day that an instant belongs to in the zone."""
    return instant.astimezone(zone).date()


def day_end(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant after a day, UTC: 23 to 25 hours after its start.

    If clocks skip midnight, the day ends at the skip; if they repeat it, at the first midnight.
    """
    return datetime.combine(day + ONE_DAY, time(), tzinfo=zone).astimezone(UTC)


def last_complete_day(now: datetime, zone: ZoneInfo) -> date:
    """Return the newest day that is over at `now`; reports are requested up to this day."""
    return local_date(now, zone) - ONE_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCalendar:
    """The days of an account: its zone, the time at the start (UTC), and the first report day.

    `attribution_window_days` (KLAVIYO_REPORT_LOOKBACK_DAYS): for how many days after a day its
    numbers can still change, because conversions are attributed to messages sent on that day. Then
    the day is final.
    """

    zone: ZoneInfo
    now: datetime
    first_day: date
    attribution_window_days: int

    @property
    def bounds(self) -> DateRange | None:
        """Return the days that may be requested; None as long as the first day is not over."""
        last = last_complete_day(self.now, self.zone)
        return DateRange(self.first_day, last) if self.first_day <= last else None

    def starting_at(self, day: date | None) -> "ReportCalendar":
        """Return the calendar of a report that has no numbers before a day; None: of any day."""
        return self if day is None else replace(self, first_day=max(self.first_day, day))

    def is_over(self, day: date, instant: datetime) -> bool:
        """Return whether a day was over at an instant."""
        return instant >= day_end(day, self.zone)

    def is_final(self, day: date, fetched_at: datetime) -> bool:
        """Return whether a day's attribution window was over at an instant."""
        return self.is_over(day + timedelta(days=self.attribution_window_days), fetched_at)


ACCOUNTS_TABLE = "accounts"

SET_TIMEZONE_HINT = "set KLAVIYO_TIMEZONE to the zone that Klaviyo shows in the account's settings"
"""What the operator can do if Klaviyo does not say the zone."""

_NO_ZONE = "Klaviyo names no time zone for the account"

_ZONE_COMPARISON_PERIOD = timedelta(days=365)
"""How far into the future two zones must agree to count as the same."""

_ZONE_COMPARISON_STEP = timedelta(hours=6)


def last_known_zone(settings: Settings, lake: Lake) -> str | None:
    """Return the zone that Klaviyo last named for the lake's account; None if it is not known.

    The state folder comes before the table, because every fetch of a report updates it. Sends no
    request and writes no file.

    Raises:
        LakeError: the table `accounts` cannot be read.
    """
    account = lake.stored_account()
    if account is None:
        return None
    recorded = last_known_timezone(state_folder(settings), account)
    if recorded is not None:
        return recorded
    rows = lake.read_columns(ACCOUNTS_TABLE, ["id", "timezone"]).to_pylist()
    zones = [row["timezone"] for row in rows if row["id"] == account and row["timezone"]]
    return str(zones[0]) if zones else None


def zone_for_definitions(settings: Settings, lake: Lake) -> str | None:
    """Return the zone of the partitions' days; None if it is not known yet.

    A damaged lake counts as not known, so that the code location loads with its other assets.
    """
    if settings.timezone is not None:
        return settings.timezone
    with suppress(KlaviyoAssetsError, OSError, ValueError):
        known = last_known_zone(settings, lake)
        return ZoneInfo(known).key if known is not None else None
    return None


def resolve_zone_offline(settings: Settings, lake: Lake, *, now: datetime) -> ZoneInfo:
    """Return the zone that the next fetch will use, as far as it is known without a request.

    Raises:
        SettingError: no zone is known, or KLAVIYO_TIMEZONE is not the account's.
        LakeError: the table `accounts` cannot be read.
    """
    known = last_known_zone(settings, lake)
    if known is None and settings.timezone is None:
        if lake.read_table_state(ACCOUNTS_TABLE) is not None:
            raise SettingError(f"{_NO_ZONE}: {SET_TIMEZONE_HINT}")
        raise SettingError(
            "the account's time zone is not known yet: materialize klaviyo/accounts first, or "
            f"{SET_TIMEZONE_HINT}"
        )
    return resolve_zone(settings, known, now=now)


def build_calendar_offline(settings: Settings, lake: Lake, now: datetime) -> ReportCalendar:
    """Return the account's calendar at an instant of this machine's clock; no request is sent.

    Raises:
        SettingError: as `resolve_zone_offline` says.
        LakeError: the lake cannot be read.
    """
    return ReportCalendar(
        zone=resolve_zone_offline(settings, lake, now=now),
        now=now,
        first_day=settings.first_report_day,
        attribution_window_days=settings.report_lookback_days,
    )


def resolve_zone(settings: Settings, account_zone: str | None, *, now: datetime) -> ZoneInfo:
    """Return the zone of the account, given what Klaviyo says it is.

    Raises:
        SettingError: the setting is not set, and Klaviyo names no zone or one that this machine
            does not know; or the setting's days begin at other instants than the account's.
    """
    theirs = _load_zone(account_zone)
    if settings.timezone is None:
        if theirs is not None:
            return theirs
        if account_zone is None:
            raise SettingError(f"{_NO_ZONE}: {SET_TIMEZONE_HINT}")
        raise SettingError(
            f"the account's time zone {account_zone} is not known to this machine: install the "
            f"newest tzdata, or set KLAVIYO_TIMEZONE to another name of the same zone"
        )
    ours = ZoneInfo(settings.timezone)
    if theirs is None or theirs.key == ours.key:
        return ours
    first = datetime(*settings.first_report_day.timetuple()[:3], tzinfo=UTC)
    if not is_same_zone(theirs, ours, first, now):
        raise SettingError(
            f"KLAVIYO_TIMEZONE is {settings.timezone}, but the account's zone is {account_zone}: "
            f"its reports have other days. Set KLAVIYO_TIMEZONE={account_zone}, or leave it out: "
            "then the account's own zone counts. No report was requested"
        )
    return ours


def is_same_zone(one: ZoneInfo, other: ZoneInfo, first: datetime, now: datetime) -> bool:
    """Return whether two zones, maybe aliases, agree from `first` until a year after `now`."""
    steps = max(0, (now + _ZONE_COMPARISON_PERIOD - first) // _ZONE_COMPARISON_STEP)
    moments = (first + number * _ZONE_COMPARISON_STEP for number in range(steps))
    return all(
        one.utcoffset(each.astimezone(one)) == other.utcoffset(each.astimezone(other))
        for each in moments
    )


def _load_zone(name: str | None) -> ZoneInfo | None:
    with suppress(KeyError, ValueError, OSError):
        return ZoneInfo(name) if name is not None else None
    return None


ZONE_ERAS_KEY = "zones"
"""The key of the zone eras in the state of a report's table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneEra:
    """A zone that days were counted in since a fetch (UTC); None: since the first one."""

    zone: str
    since: datetime | None


def zone_eras_from_json(state: Mapping[str, object]) -> list[ZoneEra]:
    """Return the eras in a report table's state, in order; none in one of an older release."""
    written = cast("Sequence[tuple[str, str | None]]", state.get(ZONE_ERAS_KEY, ()))
    return [ZoneEra(zone=zone, since=parse_instant(since)) for zone, since in written]


def zone_eras_to_json(
    state: Mapping[str, object], calendar: ReportCalendar
) -> list[list[str | None]]:
    """Return the eras of a report table's state after a fetch with this calendar."""
    eras = zone_eras_from_json(state)
    if not eras:
        # Days that a release without eras stored are taken for days of this zone.
        eras = [ZoneEra(zone=calendar.zone.key, since=None)]
    elif not _is_current_zone(eras[-1], calendar):
        eras.append(ZoneEra(zone=calendar.zone.key, since=calendar.now.replace(microsecond=0)))
    return [[each.zone, each.since.isoformat() if each.since else None] for each in eras]


def describe_days_of_other_zones(lake: Lake, report: str, calendar: ReportCalendar) -> str | None:
    """Return a sentence about the partitions with days of another zone; None if there are none.

    Raises:
        LakeError: the lake cannot be read.
    """
    state = lake.read_table_state(report)
    eras = zone_eras_from_json(state.state) if state is not None else []
    if not eras or (len(eras) == 1 and _is_current_zone(eras[0], calendar)):
        return None
    partitions = {
        partition: era
        for partition, stored in lake.read_partition_states(report).items()
        if not _is_current_zone(era := _find_zone_era(eras, stored), calendar)
    }
    if not partitions:
        return None
    zones = sorted({era.zone for era in partitions.values()})
    return (
        f"{report}: the account's time zone was {' and '.join(zones)} and is {calendar.zone.key} "
        f"now. {format_quantity(len(partitions), 'partition')} stored before have the days of the "
        "former zone: "
        f"{_describe_partitions(partitions)}. Launch a backfill of them to have all days in one "
        "zone"
    )


def _describe_partitions(partitions: Mapping[ReportPartition, ZoneEra]) -> str:
    """Return the metrics of partitions, each with its first and last day."""
    days: dict[str, list[date]] = {}
    for partition in partitions:
        days.setdefault(partition.metric_id, []).append(partition.day)
    return "; ".join(
        f"{min(each)} to {max(each)} of metric {metric_id}"
        for metric_id, each in sorted(days.items())
    )


def _find_zone_era(eras: Sequence[ZoneEra], partition_state: PartitionState) -> ZoneEra:
    fetched_at = partition_state.fetched_at
    started = [each for each in eras if each.since is None or each.since <= fetched_at]
    return started[-1] if started else eras[0]


def _is_current_zone(era: ZoneEra, calendar: ReportCalendar) -> bool:
    """Return whether an era's zone is the current one, maybe under another name."""
    if era.zone == calendar.zone.key:
        return True
    first = datetime(*calendar.first_day.timetuple()[:3], tzinfo=UTC)
    return is_same_zone(ZoneInfo(era.zone), calendar.zone, first, calendar.now)


def fetch_calendar(
    connection: AccountConnection, settings: Settings, *, warn: Callable[[str], None]
) -> ReportCalendar:
    """Return the account's calendar.

    Raises:
        SettingError: KLAVIYO_TIMEZONE is not the account's zone; or it is not set, and Klaviyo does
            not say the zone.
        KlaviyoAssetsError: Klaviyo cannot be reached.
    """
    try:
        account = fetch_account(connection)
    except MissingScopeError:
        if settings.timezone is None:
            raise SettingError(
                "the key lacks accounts:read, so the time zone that reports count days in is not "
                f"known: {SET_TIMEZONE_HINT}, or make a key with that scope"
            ) from None
        zone, now = ZoneInfo(settings.timezone), connection.client.clock_skew.conservative_now()
        warn(
            "the key lacks accounts:read: whether the account's days are those of "
            f"KLAVIYO_TIMEZONE={zone.key} cannot be checked"
        )
    else:
        now = account.fetched_at
        zone = resolve_zone(settings, account.timezone, now=now)
        if account.timezone is None:
            warn(
                f"Klaviyo names no time zone for the account: whether its days are those of "
                f"KLAVIYO_TIMEZONE={zone.key} cannot be checked"
            )
    return ReportCalendar(
        zone=zone,
        now=now,
        first_day=settings.first_report_day,
        attribution_window_days=settings.report_lookback_days,
    )


def choose_timeframes(
    wanted_days: Collection[date],
    *,
    bounds: DateRange,
    max_days: int,
    sibling_days: Collection[date] = (),
    should_widen: bool = True,
) -> tuple[DateRange, ...]:
    """Return the fewest timeframes that hold all wanted days, newest first.

    Each has at most `max_days` days and lies within `bounds`; wanted days outside are ignored.
    `sibling_days` are the wanted days of all sibling runs. Runs that pass the same `sibling_days`
    choose from the same timeframes, and so share responses. `should_widen`: make each timeframe as
    long as allowed.

        bounds ───────[═════════════════════════════════════════]────▶ days
        wanted               x   x                     x x
        requested      [──────────────]      [──────────────────]
    """
    own_days = {day for day in wanted_days if day in bounds}
    days = sorted(own_days | {day for day in sibling_days if day in bounds})
    timeframes: list[DateRange] = []
    newest_allowed = bounds.last
    while days:
        oldest_reached = days[-1] - timedelta(days=max_days - 1)
        timeframe = bounding_range([day for day in days if day >= oldest_reached])
        if should_widen:
            free = DateRange(bounds.first, newest_allowed)
            timeframe = _widen_timeframe(timeframe, free, max_days=max_days)
            # If that reached the oldest day, requesting newer days a second time costs nothing.
            timeframe = _widen_timeframe(timeframe, bounds, max_days=max_days)
        timeframes.append(timeframe)
        days = [day for day in days if day < timeframe.first]
        newest_allowed = timeframe.first - ONE_DAY
    return tuple(timeframe for timeframe in timeframes if any(day in timeframe for day in own_days))


def bounding_range(days: Collection[date]) -> DateRange:
    """Return the shortest range that holds all days.

    Raises:
        ValueError: there are no days.
    """
    return DateRange(min(days), max(days))


def _widen_timeframe(needed: DateRange, bounds: DateRange, *, max_days: int) -> DateRange:
    """Return the longest allowed timeframe around `needed`, centred as far as `bounds` permit."""
    spare = max_days - len(needed)
    older = min(spare - spare // 2, (needed.first - bounds.first).days)
    newer = min(spare - older, (bounds.last - needed.last).days)
    older = min(spare - newer, (needed.first - bounds.first).days)
    return DateRange(needed.first - timedelta(days=older), needed.last + timedelta(days=newer))


_NameT = TypeVar("_NameT")


def choose_isolating_timeframes(
    send_days: Mapping[_NameT, Collection[date]], wanted_days: Mapping[_NameT, Iterable[date]]
) -> tuple[tuple[DateRange, dict[_NameT, date]], ...]:
    """Return timeframes, newest first, each with the one day that it isolates of each name.

    `send_days` has all days on which a name was sent, `wanted_days` those to isolate. A timeframe
    holds one send day of each of its names, so that a total over it is that day's number.
    Timeframes do not overlap, and there are as few as that permits.

        a      x         x
        b          x   x
        ───────[───][────]──▶ days: two timeframes for four pairs of name and day
    """
    by_day: dict[date, list[_NameT]] = {}
    for name, days in wanted_days.items():
        for day in days:
            by_day.setdefault(day, []).append(name)
    found: list[dict[_NameT, date]] = []
    isolated: dict[_NameT, date] = {}
    for day in sorted(by_day, reverse=True):
        together = isolated | dict.fromkeys(by_day[day], day)
        timeframe = DateRange(day, max([day, *isolated.values()]))
        is_isolating = all(
            sum(each in timeframe for each in send_days[name]) == 1 for name in together
        )
        if isolated and not is_isolating:
            found.append(isolated)
            together = dict.fromkeys(by_day[day], day)
        isolated = together
    if isolated:
        found.append(isolated)
    return tuple((bounding_range(each.values()), each) for each in found)


def split_timeframe(
    timeframe: DateRange,
    send_days: Mapping[_NameT, Collection[date]],
    wanted_days: Collection[date],
) -> tuple[DateRange, ...]:
    """Return the fewest parts of `timeframe` that isolate the wanted days, newest first.

    No part holds a wanted day of a name together with another of its days in `send_days`.

        a      x         x
        b          x   x
        [──────────][──────────] days: the totals over both parts give all four numbers
    """
    names: dict[date, list[_NameT]] = {}
    for name, days in send_days.items():
        for day in days:
            if day in timeframe:
                names.setdefault(day, []).append(name)
    found: list[DateRange] = []
    last, inside = timeframe.last, dict[_NameT, bool]()
    for day in sorted(names, reverse=True):
        is_wanted = day in wanted_days
        if any(name in inside and (is_wanted or inside[name]) for name in names[day]):
            found.append(DateRange(day + ONE_DAY, last))
            last, inside = day, {}
        inside |= {name: is_wanted or inside.get(name, False) for name in names[day]}
    return (*found, DateRange(timeframe.first, last))
