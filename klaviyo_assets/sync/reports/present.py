"""Klaviyo's clock and the account's zone, as they are when a fetch begins.

What belongs here: the calendar that a fetch keeps to, and refusing one that is not the account's.
What does not: the arithmetic of days (`zone`).

Klaviyo is asked on every fetch, not once a day: its clock decides which days are over, and an
account's zone can be changed. The endpoint has a limit of its own, far from that of reports.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from klaviyo_assets.errors import MissingScopeError, SettingError
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.sync.account import Asking, ask_account
from klaviyo_assets.sync.reports.desk import Calendar

_COMPARED = timedelta(days=365)
"""How far ahead two names of a zone must agree to be the same one."""

_STEP = timedelta(hours=6)


def calendar_of(
    asking: Asking,
    settings: Settings,
    *,
    clock: Callable[[], datetime],
    say: Callable[[str], None],
) -> Calendar:
    """Return the account's calendar.

    Raises:
        SettingError: KLAVIYO_TIMEZONE is not the account's zone.
        KlaviyoAssetsError: Klaviyo cannot be reached.
    """
    now: datetime | None = None
    try:
        present = ask_account(asking)
    except MissingScopeError:
        say(
            "the key lacks accounts:read: whether the account's days are those of "
            f"KLAVIYO_TIMEZONE={settings.timezone} cannot be checked"
        )
    else:
        now = present.server_time
        refuse_other_zone(settings, present.timezone, now=now or clock())
    return Calendar(
        zone=ZoneInfo(settings.timezone),
        now=now or clock(),
        first=settings.first_report_day,
        window_days=settings.report_lookback_days,
    )


def refuse_other_zone(settings: Settings, account_zone: str, *, now: datetime) -> None:
    """Refuse a setting under which days would begin at other instants than the account's.

    Raises:
        SettingError: they would.
    """
    if account_zone == settings.timezone:
        return
    try:
        theirs = ZoneInfo(account_zone)
    except (KeyError, ValueError, OSError):
        theirs = None
    first = datetime(*settings.first_report_day.timetuple()[:3], tzinfo=UTC)
    if theirs is not None and is_same_zone(theirs, ZoneInfo(settings.timezone), first, now):
        return
    raise SettingError(
        f"KLAVIYO_TIMEZONE is {settings.timezone}, but the account's zone is {account_zone}: its "
        f"reports have other days. Set KLAVIYO_TIMEZONE={account_zone}; no report was asked for"
    )


def is_same_zone(one: ZoneInfo, other: ZoneInfo, first: datetime, now: datetime) -> bool:
    """Return whether clocks agree from `first` until a year after `now`: zones have aliases."""
    steps = max(0, (now + _COMPARED - first) // _STEP)
    moments = (first + number * _STEP for number in range(steps))
    return all(
        one.utcoffset(each.astimezone(one)) == other.utcoffset(each.astimezone(other))
        for each in moments
    )
