"""The time and the account's zone, as they are when a fetch begins.

What belongs here: the calendar that a fetch keeps to. What does not: which zone counts
(`account_zone`), the arithmetic of days (`zone`).

Klaviyo is asked on every fetch, not once a day: its clock decides which days are over, and an
account's zone can be changed. The endpoint has a limit of its own, far from that of reports.
"""

from collections.abc import Callable
from zoneinfo import ZoneInfo

from klaviyo_assets.errors import MissingScopeError, SettingError
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.account import Asking, ask_account
from klaviyo_assets.sync.reports.account_zone import GIVE_ZONE, agreed_zone
from klaviyo_assets.sync.reports.desk import Calendar


def calendar_of(asking: Asking, settings: Settings, *, say: Callable[[str], None]) -> Calendar:
    """Return the account's calendar.

    Raises:
        SettingError: KLAVIYO_TIMEZONE is not the account's zone; or it is not set, and nobody says
            which zone that is.
        KlaviyoAssetsError: Klaviyo cannot be reached.
    """
    try:
        present = ask_account(asking)
    except MissingScopeError:
        if settings.timezone is None:
            raise SettingError(
                "the key lacks accounts:read, so the time zone that reports count days in is not "
                f"known: {GIVE_ZONE}, or make a key with that scope"
            ) from None
        zone, now = ZoneInfo(settings.timezone), asking.client.clocks.cautious_now()
        say(
            "the key lacks accounts:read: whether the account's days are those of "
            f"KLAVIYO_TIMEZONE={zone.key} cannot be checked"
        )
    else:
        now = present.at
        zone = agreed_zone(settings, present.timezone, now=now)
        if present.timezone is None:
            say(
                f"Klaviyo names no time zone for the account: whether its days are those of "
                f"KLAVIYO_TIMEZONE={zone.key} cannot be checked"
            )
    return Calendar(
        zone=zone,
        now=now,
        first=settings.first_report_day,
        window_days=settings.report_lookback_days,
    )
