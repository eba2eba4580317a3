"""Settings: what the environment variables mean, and what is refused.

What belongs here: names, defaults, allowed values. What does not: reading the environment
(`definitions.py`) and the key, which only the client resource ever holds.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from typing import cast
from zoneinfo import ZoneInfo

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.tiers import REPORT
from klaviyo_assets.redaction import holds_key, keep_secret

EARLIEST = date(1970, 1, 1)
"""Older than Klaviyo, and far from where dates end."""

MOST_DAYS = 36_500
MOST_DIGITS = len(str(MOST_DAYS))
"""A century: more than any account has, and no date runs out of years."""

MOST_BODY_MIB = 2047
"""Arrow holds no more text than that in one column of a page."""

LARGEST_SCALE = 1e9
"""No sandbox needs more, and the limits stay exact integers."""


_COLUMN = r"(\*|[a-z][a-z0-9_]*)\.[a-z][a-z0-9_]*"
"""A stream, or all of them, and a column."""

REVISIONS = ("2026-07-15",)
"""Revisions of Klaviyo's API that the project has facts of, the newest last; no beta (`.pre`)."""

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""How an address begins: `s3://`, `file://`, and the same with a slash missing."""

_REMOTE = re.compile(r"[\w.-]+@[\w.-]+:|//[\w.-]+/")
"""How copies are addressed on another machine: `user@host:`, `//host/`."""

_SHELL = re.compile(r"""^\$|^["']|`|\$[({]|&&|\|\||^[;|&<>]|\s[;|<>]|[;|<>]\s""")
"""What a shell would have expanded, run or taken away: quotes, variables, commands, redirections.

A folder may be named `$HOME` or hold quotes; that a path begins so is a slip in a file of settings.
"""

_UNTOLD = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that are no text: messages and deltalake break at them."""

_UNREADABLE = re.compile(r"[?\\]|%[0-9A-Fa-f]{2}")
"""What deltalake or DuckDB take for something else in a path: it names another folder to them."""

_KEY_VARIABLE = "KLAVIYO_API_KEY"

OFF, RECOMMENDED = "off", "recommended"
"""Values of `KLAVIYO_AUTOMATION`: whether schedules and sensors start by themselves."""

ALL_METRICS = "all"
"""The word of `conversion_metric_ids` that stands for every metric, as nothing does."""

FIRST_REPORT_DAY = date(2025, 1, 1)
"""Where report partitions begin if no setting says so; each day more is a cell to fetch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting but the key; each field is the variable `KLAVIYO_<FIELD>`."""

    base_url: str = "https://a.klaviyo.com"
    revision: str = REVISIONS[-1]
    start_date: date | None = None
    lookback_days: int = 0
    late_events_days: int = 7
    report_lookback_days: int = 30
    report_reserve: int = 0
    conversion_metric_ids: tuple[str, ...] = ()
    event_metric_ids: tuple[str, ...] = ()
    disable_predictive_analytics: bool = False
    exclude_columns: tuple[str, ...] = ()
    hash_columns: tuple[str, ...] = ()
    json_keys: tuple[str, ...] = ()
    timezone: str | None = None
    """None: the zone of the account, as Klaviyo says it."""
    report_start_date: date | None = None
    data_dir: str = "./data"
    folder_mode: str = ""
    """Octal. Empty: new folders of the lake are 700, and those that are there stay as they are."""
    state_dir: str = ""
    shrink_limit: float = 0.33
    rate_limit_share: float = 0.9
    rate_limit_scale: float = 1.0
    max_body_mib: int = 256
    """A larger answer is refused while it comes in."""
    automation: str = OFF

    def __post_init__(self) -> None:
        """Let `all` among the conversion metrics be what it says, whoever wrote it: no choice."""
        if ALL_METRICS in self.conversion_metric_ids:
            object.__setattr__(self, "conversion_metric_ids", ())

    @property
    def start(self) -> datetime | None:
        """Return the first instant of the start date in UTC, None for everything."""
        if self.start_date is None:
            return None
        return datetime(*self.start_date.timetuple()[:3], tzinfo=UTC)

    @property
    def first_report_day(self) -> date:
        """Return the first day of the report partitions, in the account's zone."""
        return self.report_start_date or self.start_date or FIRST_REPORT_DAY

    @property
    def left_out(self) -> frozenset[str]:
        """Return the optional additional fields that are not asked for."""
        switched_off = self.disable_predictive_analytics
        return frozenset({"predictive_analytics"}) if switched_off else frozenset()


def settings_as_variables(settings: Settings) -> dict[str, str]:
    """Return settings as the environment variables that they stand for, as `read_settings` reads.

    What is not set, and what is empty, is left out.
    """
    texts = {each.name: _as_text(getattr(settings, each.name)) for each in fields(Settings)}
    return {f"KLAVIYO_{name.upper()}": text for name, text in texts.items() if text}


def _as_text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value)))
    return str(value) if value is not None else ""


def future_refusals(settings: Settings, *, today: date) -> list[SettingError]:
    """Return an error for each first day that lies in the future; `today` is the day in UTC.

    Somewhere it may be tomorrow already.
    """
    days = {
        "KLAVIYO_START_DATE": settings.start_date,
        "KLAVIYO_REPORT_START_DATE": settings.report_start_date,
    }
    return [
        SettingError(
            f"{name}={day} cannot be used: it lies in the future, so nothing would ever be read. A "
            f"day up to today is wanted; this machine's clock says {today}."
        )
        for name, day in days.items()
        if day is not None and day > today + timedelta(days=1)
    ]


class PrivateError(ValueError):
    """A value that is refused without being quoted."""


def read_settings(environment: Mapping[str, str]) -> tuple[Settings, tuple[SettingError, ...]]:
    """Return the settings and what had to be refused; a refused one keeps its default here.

    A code location has to load whatever the environment holds, so that its other parts can be
    seen; a run refuses to start while a refusal stands. No text of this process holds from then on
    what KLAVIYO_API_KEY holds.
    """
    keep_secret(environment.get(_KEY_VARIABLE, "").strip())
    values: dict[str, object] = {}
    refusals: list[SettingError] = []
    for each in fields(Settings):
        variable = f"KLAVIYO_{each.name.upper()}"
        raw = environment.get(variable, "").strip()
        if not raw:
            continue
        try:
            values[each.name] = _parsed(each.name, raw)
        except ValueError as refused:
            # Of a key not even a part is quoted, nor of what may be one.
            is_private = isinstance(refused, PrivateError) or "pk_" in raw
            quoted = "" if is_private else f"={raw!r}"
            refusals.append(SettingError(f"{variable}{quoted} cannot be used: {refused}."))
    return Settings(**values), tuple(refusals)  # pyright: ignore[reportArgumentType]


def _parsed(name: str, raw: str) -> object:
    if holds_key(raw):
        raise PrivateError(f"a private key stands in it, and belongs in {_KEY_VARIABLE} alone")
    return _PARSERS[name](raw)


def _text(raw: str) -> str:
    return raw


def _folder(raw: str) -> str:
    if _ADDRESS.match(raw):
        raise ValueError(
            "a folder of this machine is wanted, as a path; object storage and other addresses "
            "are not supported yet"
        )
    if _REMOTE.match(raw):
        raise ValueError("a folder of this machine is wanted, as a path, and no other host's")
    if _SHELL.search(raw):
        raise ValueError("a path is wanted as it is: no shell expands or runs what stands in it")
    if raw.startswith("~"):
        raise ValueError("a folder is wanted by its whole path, as nothing here expands ~")
    if _UNTOLD.search(raw):
        raise ValueError("the path of a folder is wanted, without control characters")
    return raw


def _lake_folder(raw: str) -> str:
    refuse_lake_path(_folder(raw))
    return raw


def refuse_lake_path(path: str) -> None:
    """Refuse a folder in which deltalake or DuckDB would not find what was written.

    Raises:
        ValueError: the path holds what one of them takes for something else.
    """
    found = _UNREADABLE.search(path) or _UNTOLD.search(path)
    if found is not None:
        raise ValueError(
            f"deltalake and DuckDB take {found.group()!r} in a path for something else; choose a "
            "folder whose path has no ?, no backslash, no control character and no % before two "
            "hexadecimal digits"
        )


def _day(raw: str) -> date:
    # fromisoformat also takes weeks and dates without hyphens, which people mistype for others.
    try:
        day = date.fromisoformat(raw) if re.fullmatch(r"\d{4}-\d{2}-\d{2}", raw) else None
    except ValueError:
        day = None
    if day is None or day < EARLIEST:
        raise ValueError(f"a date as YYYY-MM-DD is wanted, not before {EARLIEST}")
    return day


def _days(raw: str) -> int:
    if not raw.isdecimal() or len(raw) > MOST_DIGITS or int(raw) > MOST_DAYS:
        raise ValueError(f"a whole number of days is wanted, from 0 to {MOST_DAYS}")
    return int(raw)


def _requests(raw: str) -> int:
    if not raw.isdecimal() or int(raw) >= (REPORT.daily or 0):
        raise ValueError(f"a whole number of requests is wanted, below {REPORT.daily}")
    return int(raw)


def _body_mib(raw: str) -> int:
    if re.fullmatch("[0-9]{1,4}", raw) is None or not 1 <= int(raw) <= MOST_BODY_MIB:
        raise ValueError(f"a whole number of MiB is wanted, from 1 to {MOST_BODY_MIB}")
    return int(raw)


def _ids(raw: str) -> tuple[str, ...]:
    return _several(raw, r"[A-Za-z0-9_-]{1,64}", "metric ids are wanted, letters and digits")


def _columns(raw: str) -> tuple[str, ...]:
    return _several(raw, _COLUMN, "columns such as profiles.email, or *.email for all, are wanted")


def _json_keys(raw: str) -> tuple[str, ...]:
    wanted = "a column and keys such as events.event_properties:$value|ItemNames are wanted"
    return _several(raw, rf"{_COLUMN}:[^|]+(\|[^|]+)*", wanted)


def _several(raw: str, form: str, wanted: str) -> tuple[str, ...]:
    """Return what stands between commas, each once, if all of it has the form."""
    found = tuple(part.strip() for part in raw.split(",") if part.strip())
    if any(each.startswith("pk_") for each in found):
        raise PrivateError(f"a key stands where something else belongs: {wanted}")
    if not all(re.fullmatch(form, each) for each in found):
        raise ValueError(f"{wanted}, separated by commas")
    return tuple(dict.fromkeys(found))


def _flag(raw: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if raw.lower() not in known:
        raise ValueError("true or false is wanted")
    return known[raw.lower()]


def _zone(raw: str) -> str:
    try:
        return ZoneInfo(raw).key
    except (KeyError, ValueError, OSError):
        raise ValueError("an IANA time zone such as Europe/Copenhagen is wanted") from None


def _share(raw: str) -> float:
    share = _number(raw)
    if not 0 < share <= 1:
        raise ValueError("a number above 0 and up to 1 is wanted")
    return share


def _part(raw: str) -> float:
    part = _number(raw)
    if not 0 <= part <= 1:
        raise ValueError("a share from 0 to 1 is wanted; 1 lets every read drop what it likes")
    return part


def _scale(raw: str) -> float:
    scale = _number(raw)
    if not 0 < scale <= LARGEST_SCALE:
        raise ValueError(f"a number above 0 and up to {LARGEST_SCALE:.0f} is wanted")
    return scale


def _number(raw: str) -> float:
    try:
        return float(raw)
    except ValueError:
        raise ValueError("a number is wanted") from None


def _automation(raw: str) -> str:
    if raw.lower() not in {OFF, RECOMMENDED}:
        raise ValueError(f"{OFF} or {RECOMMENDED} is wanted")
    return raw.lower()


def _revision(raw: str) -> str:
    if raw not in REVISIONS:
        known = " or ".join(REVISIONS)
        raise ValueError(f"a revision that this version can read is wanted: {known}")
    return raw


def _folder_mode(raw: str) -> str:
    if re.fullmatch(r"0?7[057][05]", raw) is None:
        raise ValueError(
            "three octal digits are wanted, for owner, group and others: 7 for the owner, 7, 5 or "
            "0 for the group, 5 or 0 for others, who may read at most; such as 750"
        )
    return raw[-3:]


_PARSERS: Mapping[str, Callable[[str], object]] = {
    "base_url": _text,
    "revision": _revision,
    "start_date": _day,
    "lookback_days": _days,
    "late_events_days": _days,
    "report_lookback_days": _days,
    "report_reserve": _requests,
    "conversion_metric_ids": _ids,
    "event_metric_ids": _ids,
    "disable_predictive_analytics": _flag,
    "exclude_columns": _columns,
    "hash_columns": _columns,
    "json_keys": _json_keys,
    "timezone": _zone,
    "report_start_date": _day,
    "data_dir": _lake_folder,
    "folder_mode": _folder_mode,
    "state_dir": _folder,
    "shrink_limit": _part,
    "rate_limit_share": _share,
    "rate_limit_scale": _scale,
    "max_body_mib": _body_mib,
    "automation": _automation,
}
