"""The days of an account: when they end, when their numbers are final, which zone counts.

Klaviyo counts the days of reports in the account's zone, so the setting can only repeat it. It is
needed where Klaviyo does not say: an account without a zone, a key without `accounts:read`.

Klaviyo is asked on every fetch, not once a day: its clock decides which days are over, and an
account's zone can be changed. The endpoint has a limit of its own, far from that of reports.

The days to fetch are covered by the fewest timeframes. A request costs the same whatever its
timeframe, so each timeframe is made as long as Klaviyo
allows: the cached response then serves sibling runs, since Dagster may have split one backfill into
a run for each day.

If a message was sent on only one day of a timeframe, its total over the timeframe is the number of
that day. So days that are known to isolate a message are not requested one by one.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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
    """Return the first instant after a day, UTC; 23 to 25 hours after its beginning.

    Where clocks skip midnight the day ends with the skip; where they repeat it, at the first.
    """
    return datetime.combine(day + ONE_DAY, time(), tzinfo=zone).astimezone(UTC)


def last_complete_day(now: datetime, zone: ZoneInfo) -> date:
    """Return the newest day that is over at `now`: the only kind that may be asked for."""
    return local_date(now, zone) - ONE_DAY


def is_day_over(day: date, now: datetime, zone: ZoneInfo) -> bool:
    """Return whether no more can be sent on a day."""
    return now >= day_end(day, zone)


def is_day_final(
    day: date, fetched_at: datetime, *, zone: ZoneInfo, attribution_window_days: int
) -> bool:
    """Return whether a day's numbers have stopped moving: its attribution window has passed.

    What was sent at the end of the day is credited for `attribution_window_days` more days.
    """
    return fetched_at >= day_end(day + timedelta(days=attribution_window_days), zone)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportCalendar:
    """The days of an account: its zone, the time at the start (UTC), the first day wanted.

    `attribution_window_days` is how long numbers move after the day they belong to: the attribution
    window.
    """

    zone: ZoneInfo
    now: datetime
    first_day: date
    attribution_window_days: int

    @property
    def bounds(self) -> DateRange | None:
        """Return the days that may be asked for; None while the first of them is not over."""
        last = last_complete_day(self.now, self.zone)
        return DateRange(self.first_day, last) if self.first_day <= last else None

    def is_final(self, day: date, fetched_at: datetime) -> bool:
        """Return whether a day's numbers had stopped moving at an instant."""
        return is_day_final(
            day, fetched_at, zone=self.zone, attribution_window_days=self.attribution_window_days
        )


def is_day_complete(day: date, instant: datetime, calendar: ReportCalendar) -> bool:
    """Return whether a day was over at an instant."""
    return instant >= day_end(day, calendar.zone)


ACCOUNTS_TABLE = "accounts"

SET_TIMEZONE_HINT = "set KLAVIYO_TIMEZONE to the zone that Klaviyo shows in the account's settings"
"""What the operator can do where Klaviyo does not say the zone."""

_ZONE_COMPARISON_PERIOD = timedelta(days=365)
"""How far ahead two names of a zone must agree to be the same one."""

_ZONE_COMPARISON_STEP = timedelta(hours=6)


def last_known_zone(settings: Settings, lake: Lake) -> str | None:
    """Return the zone that Klaviyo last named for the lake's account; None where it is not known.

    The state folder is newer than the table: every fetch of a report asks for the account anew.
    Sends no request and makes no file.

    Raises:
        LakeError: the table `accounts` cannot be read.
    """
    account = lake.stored_account()
    if account is None:
        return None
    said = last_known_timezone(state_folder(settings), account)
    if said is not None:
        return said
    rows = lake.read_columns(ACCOUNTS_TABLE, ["id", "timezone"]).to_pylist()
    zones = [row["timezone"] for row in rows if row["id"] == account and row["timezone"]]
    return str(zones[0]) if zones else None


def zone_for_definitions(settings: Settings, lake: Lake) -> str | None:
    """Return the zone to define days by; None where it is not known yet.

    Whatever the disk holds: a code location has to load, so that its other parts can be seen.
    """
    if settings.timezone is not None:
        return settings.timezone
    with suppress(KlaviyoAssetsError, OSError, ValueError):
        remembered = last_known_zone(settings, lake)
        return ZoneInfo(remembered).key if remembered is not None else None
    return None


def resolve_zone_offline(settings: Settings, lake: Lake, *, now: datetime) -> ZoneInfo:
    """Return the zone that a fetch will keep to, as far as that is known without a request.

    Raises:
        SettingError: no zone is known, or KLAVIYO_TIMEZONE is not the account's.
        LakeError: the table `accounts` cannot be read.
    """
    remembered = last_known_zone(settings, lake)
    if remembered is None and settings.timezone is None:
        raise SettingError(
            "the account's time zone is not known yet: materialize klaviyo/accounts first, or "
            f"{SET_TIMEZONE_HINT}"
        )
    return resolve_zone(settings, remembered, now=now)


def resolve_zone(settings: Settings, account_zone: str | None, *, now: datetime) -> ZoneInfo:
    """Return the zone of the account, given what Klaviyo says it is.

    Raises:
        SettingError: Klaviyo says none, or one that this machine does not know, and the setting
            gives none; or the setting's days begin at other instants than the account's.
    """
    theirs = _load_zone(account_zone)
    if settings.timezone is None:
        if theirs is not None:
            return theirs
        if account_zone is None:
            raise SettingError(f"Klaviyo names no time zone for the account: {SET_TIMEZONE_HINT}")
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
    """Return whether clocks agree from `first` until a year after `now`: zones have aliases."""
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
"""The key of a report table's state that holds which zone counted, from which fetch on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneEra:
    """A zone that days were counted in, and the first fetch that did (UTC; None: all before)."""

    zone: str
    since: datetime | None


def zone_eras_from_json(state: Mapping[str, object]) -> list[ZoneEra]:
    """Return the zones of a report table's state in order; none where it was written before."""
    written = cast("Sequence[tuple[str, str | None]]", state.get(ZONE_ERAS_KEY, ()))
    return [ZoneEra(zone=zone, since=parse_instant(since)) for zone, since in written]


def zone_eras_to_json(
    state: Mapping[str, object], calendar: ReportCalendar
) -> list[list[str | None]]:
    """Return what the state says once a fetch by this calendar is stored."""
    eras = zone_eras_from_json(state)
    if not eras:
        # What is there was written before zones were noted: it is taken for this one's.
        eras = [ZoneEra(zone=calendar.zone.key, since=None)]
    elif not _is_current_zone(eras[-1], calendar):
        eras.append(ZoneEra(zone=calendar.zone.key, since=calendar.now.replace(microsecond=0)))
    return [[each.zone, each.since.isoformat() if each.since else None] for each in eras]


def describe_days_of_other_zones(lake: Lake, report: str, calendar: ReportCalendar) -> str | None:
    """Return a sentence that names the partitions whose days are another zone's; None: none are.

    Raises:
        LakeError: the lake cannot be read.
    """
    state = lake.read_table_state(report)
    eras = zone_eras_from_json(state.state) if state is not None else []
    if not eras or (len(eras) == 1 and _is_current_zone(eras[0], calendar)):
        return None
    partitions = {
        partition: era
        for partition, facts in lake.read_partition_states(report).items()
        if not _is_current_zone(era := _find_zone_era(eras, facts), calendar)
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
    """Return partitions by metric, each with its first and its last day."""
    days: dict[str, list[date]] = {}
    for partition in partitions:
        days.setdefault(partition.metric_id, []).append(partition.day)
    return "; ".join(
        f"{min(each)} to {max(each)} of metric {metric_id}"
        for metric_id, each in sorted(days.items())
    )


def _find_zone_era(eras: Sequence[ZoneEra], partition_state: PartitionState) -> ZoneEra:
    begun = [
        each for each in eras if each.since is None or each.since <= partition_state.fetched_at
    ]
    return begun[-1] if begun else eras[0]


def _is_current_zone(era: ZoneEra, calendar: ReportCalendar) -> bool:
    """Tell whether an era's zone is the one of now, maybe by another name."""
    if era.zone == calendar.zone.key:
        return True
    first = datetime(*calendar.first_day.timetuple()[:3], tzinfo=UTC)
    return is_same_zone(ZoneInfo(era.zone), calendar.zone, first, calendar.now)


def fetch_calendar(
    connection: AccountConnection, settings: Settings, *, warn: Callable[[str], None]
) -> ReportCalendar:
    """Return the account's calendar.

    Raises:
        SettingError: KLAVIYO_TIMEZONE is not the account's zone; or it is not set, and nobody says
            which zone that is.
        KlaviyoAssetsError: Klaviyo cannot be reached.
    """
    try:
        present = fetch_account(connection)
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
        now = present.responded_at
        zone = resolve_zone(settings, present.timezone, now=now)
        if present.timezone is None:
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
    `sibling_days` are the days that sibling runs want. Siblings that pass the same ones, with their
    own among them, all choose from the same timeframes, so that they share responses.
    `should_widen`: make each timeframe as long as allowed.

        bounds ───────[═════════════════════════════════════════]────▶ days
        wanted               x   x                     x x
        requested      [──────────────]      [──────────────────]
    """
    own_days = {day for day in wanted_days if day in bounds}
    together = sorted(own_days | {day for day in sibling_days if day in bounds})
    timeframes = _choose_timeframes(
        together, bounds=bounds, max_days=max_days, should_widen=should_widen
    )
    return tuple(timeframe for timeframe in timeframes if any(day in timeframe for day in own_days))


def bounding_range(days: Collection[date]) -> DateRange:
    """Return the shortest range that holds all days.

    Raises:
        ValueError: there are no days.
    """
    return DateRange(min(days), max(days))


def _choose_timeframes(
    ascending_days: list[date], *, bounds: DateRange, max_days: int, should_widen: bool
) -> Iterator[DateRange]:
    """Yield timeframes greedily from the newest day on, each widened if `should_widen`."""
    days = ascending_days
    newest_allowed = bounds.last
    while days:
        oldest_reached = days[-1] - timedelta(days=max_days - 1)
        needed = bounding_range([day for day in days if day >= oldest_reached])
        timeframe = needed
        if should_widen:
            timeframe = _widen_timeframe(
                needed, DateRange(bounds.first, newest_allowed), max_days=max_days
            )
        if should_widen and len(timeframe) < max_days:
            # No older days are left. Requesting newer days a second time costs nothing.
            timeframe = _widen_timeframe(timeframe, bounds, max_days=max_days)
        yield timeframe
        days = [day for day in days if day < timeframe.first]
        newest_allowed = timeframe.first - ONE_DAY


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
