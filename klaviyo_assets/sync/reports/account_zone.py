"""The account's time zone: which one counts, and where it is known from without asking Klaviyo.

What belongs here: the zone of the setting, of the state folder and of the table `accounts`, and
refusing a setting that is not the account's. What does not: asking Klaviyo (`present`), the
arithmetic of days (`zone`).

Klaviyo counts the days of reports in the account's zone, so the setting can only repeat it. It is
needed where Klaviyo does not say: an account without a zone, a key without `accounts:read`.
"""

from contextlib import suppress
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from klaviyo_assets.api.ledger import last_said_zone
from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake import Lake
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.account import state_folder

ACCOUNTS = "accounts"

GIVE_ZONE = "set KLAVIYO_TIMEZONE to the zone that Klaviyo shows in the account's settings"
"""What the operator can do where Klaviyo does not say the zone."""

_COMPARED = timedelta(days=365)
"""How far ahead two names of a zone must agree to be the same one."""

_STEP = timedelta(hours=6)


def remembered_zone(settings: Settings, lake: Lake) -> str | None:
    """Return the zone that Klaviyo last named for the lake's account; None where it is not known.

    The state folder is newer than the table: every fetch of a report asks for the account anew.
    Sends no request and makes no file.

    Raises:
        LakeError: the table `accounts` cannot be read.
    """
    account = lake.account()
    if account is None:
        return None
    said = last_said_zone(state_folder(settings), account)
    if said is not None:
        return said
    rows = lake.keys(ACCOUNTS, ["id", "timezone"]).to_pylist()
    zones = [row["timezone"] for row in rows if row["id"] == account and row["timezone"]]
    return str(zones[0]) if zones else None


def zone_at_load(settings: Settings, lake: Lake) -> str | None:
    """Return the zone to define days by; None where it is not known yet.

    Whatever the disk holds: a code location has to load, so that its other parts can be seen.
    """
    if settings.timezone is not None:
        return settings.timezone
    with suppress(KlaviyoAssetsError, OSError, ValueError):
        remembered = remembered_zone(settings, lake)
        return ZoneInfo(remembered).key if remembered is not None else None
    return None


def zone_without_asking(settings: Settings, lake: Lake, *, now: datetime) -> ZoneInfo:
    """Return the zone that a fetch will keep to, as far as that is known without a request.

    Raises:
        SettingError: no zone is known, or KLAVIYO_TIMEZONE is not the account's.
        LakeError: the table `accounts` cannot be read.
    """
    remembered = remembered_zone(settings, lake)
    if remembered is None and settings.timezone is None:
        raise SettingError(
            "the account's time zone is not known yet: materialize klaviyo/accounts first, or "
            f"{GIVE_ZONE}"
        )
    return agreed_zone(settings, remembered, now=now)


def agreed_zone(settings: Settings, account_zone: str | None, *, now: datetime) -> ZoneInfo:
    """Return the zone of the account, given what Klaviyo says it is.

    Raises:
        SettingError: Klaviyo says none, or one that this machine does not know, and the setting
            gives none; or the setting's days begin at other instants than the account's.
    """
    theirs = _known_here(account_zone)
    if settings.timezone is None:
        if theirs is not None:
            return theirs
        if account_zone is None:
            raise SettingError(f"Klaviyo names no time zone for the account: {GIVE_ZONE}")
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
            "then the account's own zone counts. No report was asked for"
        )
    return ours


def is_same_zone(one: ZoneInfo, other: ZoneInfo, first: datetime, now: datetime) -> bool:
    """Return whether clocks agree from `first` until a year after `now`: zones have aliases."""
    steps = max(0, (now + _COMPARED - first) // _STEP)
    moments = (first + number * _STEP for number in range(steps))
    return all(
        one.utcoffset(each.astimezone(one)) == other.utcoffset(each.astimezone(other))
        for each in moments
    )


def _known_here(name: str | None) -> ZoneInfo | None:
    with suppress(KeyError, ValueError, OSError):
        return ZoneInfo(name) if name is not None else None
    return None
