"""Declares each setting once: its type, its default, what is allowed and what it means.

`read_settings`, Dagster's resources, `klaviyo-assets --help` and the tables of README.md and
docs/settings.md are made from these declarations. The callers read the environment. The key, the
salt and where alerts go are no fields of `Settings`, so that no dump of the settings contains a
secret: who knows the address of a webhook can post to it.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime, timedelta
from difflib import get_close_matches
from typing import Annotated, cast, get_type_hints
from zoneinfo import ZoneInfo

from klaviyo_assets.errors import SettingError, contains_key, redact_keys, register_secret

PREFIX = "KLAVIYO_"
"""The prefix of every setting's environment variable."""

KEY_VARIABLE = "KLAVIYO_API_KEY"
SALT_VARIABLE = "KLAVIYO_HASH_SALT"
ALERT_WEBHOOK_VARIABLE = "KLAVIYO_ALERT_WEBHOOK"
ALERT_COMMAND_VARIABLE = "KLAVIYO_ALERT_COMMAND"

MIN_SALT_CHARACTERS = 16
"""Characters; a shorter salt can be found by brute force, and with it every e-mail address."""

EARLIEST_DATE = date(1970, 1, 1)
"""Older than Klaviyo, and far from the earliest date of Python."""

MAX_SETTING_DAYS = 36_500
"""A century: longer than any account exists, and no date arithmetic overflows."""

MAX_ALLOWED_BODY_MIB = 2047
"""The most text that Arrow can hold in one column of a page."""

MAX_REPORT_RESERVE = 224
"""Klaviyo allows 225 report requests a day; at least one must remain for us."""

MAX_RATE_LIMIT_SCALE = 1_000_000_000
"""More than any sandbox needs; up to here the scaled limits are exact integers."""

SUPPORTED_REVISIONS = ("2026-07-15", "2026-10-15")
"""Revisions of Klaviyo's API that the project supports, the newest last; no beta (`.pre`).

The last one is the default: a new one moves everyone who does not set KLAVIYO_REVISION.
"""

DEFAULT_REVISION = SUPPORTED_REVISIONS[-1]
"""The newest one: every stream of the default set can be read at it."""

_URL_START = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
"""The start of a URL: `s3://`, `file://`, also with a slash missing."""

_REMOTE_PATH = re.compile(r"[\w.-]+@[\w.-]+:|//[\w.-]+/")
"""A path on another machine: `user@host:`, `//host/`."""

_SHELL_SYNTAX = re.compile(r"""^\$|^["']|`|\$[({]|&&|\|\||^[;|&<>]|\s[;|<>]|[;|<>]\s""")
"""Text that a shell would expand, run or remove: quotes, variables, commands, redirections.

A folder may really be named `$HOME`; but in a file of settings such a path is almost always a
mistake.
"""

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
"""Control characters, and bytes that are not text: messages and deltalake fail on them."""

_AMBIGUOUS_PATH_TEXT = re.compile(r"[?\\]|%[0-9A-Fa-f]{2}")
"""Characters that deltalake or DuckDB interpret in a path, so that they open another folder."""

AUTOMATION_OFF, AUTOMATION_RECOMMENDED = "off", "recommended"
"""Values of `KLAVIYO_AUTOMATION`: whether schedules and sensors start by themselves."""

ALL_IDS, AUTO_METRIC = "all", "auto"
"""Words in the place of ids: all there are, as an empty value means; the revenue metric."""

DEFAULT_REPORT_START_DATE = date(2025, 1, 1)
"""First day of the report partitions without a setting; each earlier day is one more to fetch."""


class InvalidPathError(ValueError):
    """A path that cannot be used; the text is the reason."""


@dataclass(frozen=True, slots=True)
class ValueFormat:
    """The format of a setting's value: what is allowed, in words, and the parser of its text.

    `parse` raises ValueError, LookupError or OSError for a text that is not allowed.
    """

    allowed: str
    parse: Callable[[str], object]


def _one_of(*values: str) -> ValueFormat:
    return ValueFormat(" or ".join(values), lambda raw: values[values.index(raw.lower())])


def _whole_number(unit: str, least: int, most: int) -> ValueFormat:
    def read(raw: str) -> int:
        is_short = len(raw) <= len(str(most)) and re.fullmatch("[0-9]+", raw) is not None
        if not is_short or not least <= int(raw) <= most:
            raise ValueError
        return int(raw)

    return ValueFormat(f"a whole number of {unit}, from {least} to {most}", read)


def _number(most: int, *, or_zero: bool = False) -> ValueFormat:
    def read(raw: str) -> float:
        number = float(raw)
        if not 0 <= number <= most or (number == 0 and not or_zero):
            raise ValueError
        return number

    return ValueFormat(f"a number {'from 0' if or_zero else 'above 0 and up'} to {most}", read)


def _list_of(pattern: str, allowed: str, *words: str) -> ValueFormat:
    """Return the format of a comma-separated list; duplicates are dropped, `pk_...` is refused.

    `words` may stand in the place of entries, in any letter case.
    """

    def read(raw: str) -> tuple[str, ...]:
        entries = (part.strip() for part in raw.split(","))
        found = tuple(each.lower() if each.lower() in words else each for each in entries if each)
        if any(re.fullmatch(pattern, each) is None or each[:3] == "pk_" for each in found):
            raise ValueError
        return tuple(dict.fromkeys(found))

    return ValueFormat(" or ".join((*words, f"{allowed}, separated by commas")), read)


def _parse_date(raw: str) -> date:
    # fromisoformat also accepts weeks and dates without hyphens, which are mostly typing errors.
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", raw) is None or date.fromisoformat(raw) < EARLIEST_DATE:
        raise ValueError
    return date.fromisoformat(raw)


def _parse_flag(raw: str) -> bool:
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    return known[raw.lower()]


def _parse_folder_mode(raw: str) -> str:
    if re.fullmatch(r"0?7[057][05]", raw) is None:
        raise ValueError
    return raw[-3:]


def _parse_folder(raw: str) -> str:
    if _URL_START.match(raw):
        raise InvalidPathError(
            "a folder of this machine is wanted, as a path; object storage and other addresses "
            "are not supported yet"
        )
    if _REMOTE_PATH.match(raw):
        raise InvalidPathError("a folder of this machine is wanted, as a path, and no other host's")
    if _SHELL_SYNTAX.search(raw):
        raise InvalidPathError(
            "a path is wanted as it is: no shell expands or runs what stands in it"
        )
    if raw.startswith("~"):
        raise InvalidPathError("a folder is wanted by its whole path, as nothing here expands ~")
    if _CONTROL_CHARACTERS.search(raw):
        raise InvalidPathError("the path of a folder is wanted, without control characters")
    return raw


def _parse_lake_folder(raw: str) -> str:
    check_lake_path(_parse_folder(raw))
    return raw


def check_lake_path(path: str) -> None:
    """Refuse a folder whose path deltalake or DuckDB would read as another one.

    Raises:
        InvalidPathError: the path contains a character that one of them interprets.
    """
    found = _AMBIGUOUS_PATH_TEXT.search(path) or _CONTROL_CHARACTERS.search(path)
    if found is not None:
        raise InvalidPathError(
            f"deltalake and DuckDB take {found.group()!r} in a path for something else; choose a "
            "folder whose path has no ?, no backslash, no control character and no % before two "
            "hexadecimal digits"
        )


_WEBHOOK = re.compile(
    r"https://[\x21-\x7e]+|http://(localhost|127\.0\.0\.1|\[::1\])[:/][\x21-\x7e]*"
)

_URL = ValueFormat("an https address, or http of this machine", str)
_DAYS = _whole_number("days", 0, MAX_SETTING_DAYS)
_DATE = ValueFormat(f"a date as YYYY-MM-DD, not before {EARLIEST_DATE}", _parse_date)
_FLAG = ValueFormat("true or false", _parse_flag)
_METRIC_IDS = _list_of("[A-Za-z0-9_-]{1,64}", "metric ids, letters and digits", ALL_IDS)
_CONVERSION_METRIC_IDS = _list_of(
    "[A-Za-z0-9_-]{1,64}", "metric ids, letters and digits", ALL_IDS, AUTO_METRIC
)
_GROUP_IDS = _list_of(
    "[A-Za-z0-9_-]{1,64}", "ids of lists and segments, letters and digits", ALL_IDS
)
_STREAM_NAMES = _list_of("[a-z][a-z_]{1,63}", "names of streams or groups, such as default,reviews")
_HISTORY_STREAMS = _list_of("[a-z][a-z_]{1,63}", "names of streams, or default")
_COLUMN_PATTERN = r"(\*|[a-z][a-z0-9_]*)\.[a-z][a-z0-9_]*"
_COLUMNS = _list_of(_COLUMN_PATTERN, "columns such as profiles.email, or *.email in all streams")
_JSON_KEYS = _list_of(
    rf"{_COLUMN_PATTERN}:[^|]+(\|[^|]+)*",
    "a column and keys such as events.event_properties:$value|ItemNames",
)
_ZONE = ValueFormat("an IANA time zone such as Europe/Copenhagen", lambda raw: ZoneInfo(raw).key)
_FOLDER = ValueFormat("a folder of this machine, as a path", _parse_folder)
_FOLDER_MODE = ValueFormat(
    "three octal digits for owner, group and others, such as 750: 7 for the owner, 7, 5 or 0 for "
    "the group, 5 or 0 for others, who may read at most",
    _parse_folder_mode,
)


@dataclass(frozen=True, slots=True)
class Setting:
    """The declaration of a setting beside its type and default: its format and its meaning."""

    format: ValueFormat
    description: str
    default_text: str = ""
    """The default in words, where the value itself would say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting except the secrets; each field has the variable `KLAVIYO_<FIELD>`."""

    # fmt: off
    automation: Annotated[str, Setting(
        _one_of(AUTOMATION_OFF, AUTOMATION_RECOMMENDED),
        "recommended: all schedules and sensors are on from the start; off: until switched on "
        "in the UI; klaviyo-assets status says what is off",
    )] = AUTOMATION_OFF
    streams: Annotated[tuple[str, ...], Setting(
        _STREAM_NAMES,
        "streams and groups that are assets; default: those without this setting; all: every one; "
        "what a stream is made from comes with it",
        "default",
    )] = ()
    history: Annotated[tuple[str, ...], Setting(
        _HISTORY_STREAMS,
        "streams of which each changed row is kept as a dated version; default: each that can",
        "none",
    )] = ()
    start_date: Annotated[date | None, Setting(
        _DATE,
        "first day of what is read, by each stream's cursor; if it is moved earlier, the gap is "
        "filled",
        "everything",
    )] = None
    lookback_days: Annotated[int, Setting(
        _DAYS, "days of events read again on every sync"
    )] = 0
    late_events_days: Annotated[int, Setting(
        _DAYS, "days of events that the daily job reads again"
    )] = 7
    event_metric_ids: Annotated[tuple[str, ...], Setting(
        _METRIC_IDS, "only events of these metrics, in `events` and in `metric_aggregates`", "all"
    )] = ()
    members_of: Annotated[tuple[str, ...], Setting(
        _GROUP_IDS,
        "the lists and segments whose members are read, where those streams are on; "
        "klaviyo-assets plan --members says what each costs",
        "all",
    )] = ()
    conversion_metric_ids: Annotated[tuple[str, ...], Setting(
        _CONVERSION_METRIC_IDS,
        "metrics of the reports; all: each that Klaviyo accepts; auto: the account's mapped "
        "revenue metric, else Placed Order",
        ALL_IDS,
    )] = ()
    timezone: Annotated[str | None, Setting(
        _ZONE,
        "zone of report days, only where Klaviyo does not say it; another than the account's "
        "is refused",
        "the account's own",
    )] = None
    report_start_date: Annotated[date | None, Setting(
        _DATE, "first day of the reports", f"KLAVIYO_START_DATE, else {DEFAULT_REPORT_START_DATE}"
    )] = None
    report_lookback_days: Annotated[int, Setting(
        _DAYS, "days after which a report's day is final; until then it is fetched again"
    )] = 30
    report_reserve: Annotated[int, Setting(
        _whole_number("requests", 0, MAX_REPORT_RESERVE),
        "report requests a day left to other users of the account",
    )] = 0
    disable_predictive_analytics: Annotated[bool, Setting(
        _FLAG, "profiles come without predictive_analytics, at five times the rate"
    )] = False
    exclude_columns: Annotated[tuple[str, ...], Setting(
        _COLUMNS,
        "NULL, and not fetched where Klaviyo lets us choose fields (then what it does not "
        "document does not come either)",
        "none",
    )] = ()
    hash_columns: Annotated[tuple[str, ...], Setting(
        _COLUMNS,
        "HMAC-SHA-256 of the trimmed, lower-case address (phone: plus and digits), the same in "
        f"all tables; needs {SALT_VARIABLE}",
        "none",
    )] = ()
    json_keys: Annotated[tuple[str, ...], Setting(
        _JSON_KEYS, "only these members of a JSON column are kept", "all"
    )] = ()
    data_dir: Annotated[str, Setting(
        ValueFormat(_FOLDER.allowed, _parse_lake_folder), "the lake and klaviyo.duckdb"
    )] = "./data"
    folder_mode: Annotated[str, Setting(
        _FOLDER_MODE, "mode of the lake's folders, for readers of another user", "700 for new ones"
    )] = ""
    state_dir: Annotated[str, Setting(
        _FOLDER,
        "rate limits, daily quotas and account facts, shared by all projects of the user",
        "the user's state folder",
    )] = ""
    rate_limit_share: Annotated[float, Setting(
        _number(1),
        "the share of Klaviyo's limits per minute that we use; reports: KLAVIYO_REPORT_RESERVE",
    )] = 0.9
    max_body_mib: Annotated[int, Setting(
        _whole_number("MiB", 1, MAX_ALLOWED_BODY_MIB), "a larger body is refused as it comes in"
    )] = 256
    shrink_limit: Annotated[float, Setting(
        _number(1, or_zero=True),
        "share of a table that one read may drop or mark as deleted without confirm_shrink; 1 lets "
        "every read drop everything",
    )] = 0.33
    tune_process: Annotated[bool, Setting(
        _FLAG,
        "run and step processes set their allocators and garbage collector; false: nothing of "
        "the process is changed, at the cost of memory and time",
    )] = True
    base_url: Annotated[str, Setting(
        _URL, "where the API is; for sandboxes and tests"
    )] = "https://a.klaviyo.com"
    revision: Annotated[str, Setting(
        _one_of(*SUPPORTED_REVISIONS), "revision of Klaviyo's API"
    )] = DEFAULT_REVISION
    rate_limit_scale: Annotated[float, Setting(
        _number(MAX_RATE_LIMIT_SCALE), "multiplies published limits; for sandboxes and tests"
    )] = 1.0
    # fmt: on

    def __post_init__(self) -> None:
        """Turn `all` in a list of ids into the empty tuple, which means the same."""
        for name in ("conversion_metric_ids", "event_metric_ids", "members_of"):
            if ALL_IDS in getattr(self, name):
                object.__setattr__(self, name, ())

    @property
    def start(self) -> datetime | None:
        """Return the first instant of the start date in UTC, None for everything."""
        if self.start_date is None:
            return None
        return datetime(*self.start_date.timetuple()[:3], tzinfo=UTC)

    @property
    def first_report_day(self) -> date:
        """Return the first day of the report partitions, in the account's zone."""
        return self.report_start_date or self.start_date or DEFAULT_REPORT_START_DATE

    @property
    def excluded_additional_fields(self) -> frozenset[str]:
        """Return the optional additional fields that are not requested."""
        is_disabled = self.disable_predictive_analytics
        return frozenset({"predictive_analytics"}) if is_disabled else frozenset()


DECLARED_SETTINGS: dict[str, Setting] = {
    name: hint.__metadata__[0]
    for name, hint in get_type_hints(Settings, include_extras=True).items()
}
"""The declaration of each field of the settings."""


def variable_name(name: str) -> str:
    """Return the environment variable of a field of the settings."""
    return PREFIX + name.upper()


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, cast("tuple[object, ...]", value)))
    return str(value) if value is not None else ""


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable, as error messages and the documentation describe it."""

    name: str
    default: str
    """The default, in words where the value itself says nothing."""
    allowed: str
    description: str


def environment_variables() -> tuple[Variable, ...]:
    """Return every environment variable that is read, in the order of the documentation."""
    key = "a private key, pk_ and letters or digits"
    salt = f"at least {MIN_SALT_CHARACTERS} characters"
    return (
        Variable(KEY_VARIABLE, "", key, "only runs that talk to Klaviyo need it"),
        *(
            Variable(
                variable_name(each.name),
                (declared := DECLARED_SETTINGS[each.name]).default_text
                or _format_value(each.default).lower(),
                declared.format.allowed,
                declared.description,
            )
            for each in fields(Settings)
        ),
        Variable(SALT_VARIABLE, "", salt, "secret of the hashed columns; it must never change"),
        Variable(
            ALERT_WEBHOOK_VARIABLE,
            "none",
            _URL.allowed,
            "Slack's incoming webhook, or one like it, that hears when a stream changes its color",
        ),
        Variable(
            ALERT_COMMAND_VARIABLE,
            "none",
            "a program and its words, run without a shell",
            "gets the same as JSON on its standard input",
        ),
        Variable(
            "DAGSTER_HOME",
            "./.dagster under make",
            _FOLDER.allowed,
            "Dagster's own history; unset, syncs continue from the cursors in the lake",
        ),
    )


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Return a sentence for each variable that is named like a setting but is none; no values."""
    known = [each.name.removeprefix(PREFIX) for each in environment_variables()]
    sentences: list[str] = []
    for name in sorted(environment):
        word = name.upper().removeprefix(PREFIX)
        if not name.upper().startswith(PREFIX) or (name.startswith(PREFIX) and word in known):
            continue
        near = get_close_matches(word, known, n=1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else "`klaviyo-assets --help` lists them."
        sentences.append(f"{redact_keys(name)} is set and is no setting of klaviyo_assets: {hint}")
    return sentences


def settings_to_environment(settings: Settings) -> dict[str, str]:
    """Return settings as environment variables: the inverse of `read_settings`.

    Settings that are None or empty are left out.
    """
    texts = {name: _format_value(getattr(settings, name)) for name in DECLARED_SETTINGS}
    return {variable_name(name): text for name, text in texts.items() if text}


def future_date_errors(settings: Settings, *, today: date) -> list[SettingError]:
    """Return an error for each start date that lies in the future; `today` is the day in UTC.

    The next day is allowed: in some time zones it has begun.
    """
    values = {name: getattr(settings, name) for name in DECLARED_SETTINGS}
    return [
        SettingError(
            f"{variable_name(name)}={day} cannot be used: it lies in the future, so nothing would "
            f"ever be read. A day up to today is wanted; this machine's clock says {today}."
        )
        for name, day in values.items()
        if isinstance(day, date) and day > today + timedelta(days=1)
    ]


def read_settings(environment: Mapping[str, str]) -> tuple[Settings, tuple[SettingError, ...]]:
    """Return the settings, and an error for each invalid value; the default takes its place.

    A code location must load whatever the environment contains, so that its other parts can be
    seen; runs refuse to start while there is an error. The value of KLAVIYO_API_KEY is redacted in
    all texts of the process from then on.
    """
    register_secret(environment.get(KEY_VARIABLE, "").strip())
    values: dict[str, object] = {}
    errors: list[SettingError] = []
    for name, declared in DECLARED_SETTINGS.items():
        if raw := environment.get(variable_name(name), "").strip():
            try:
                values[name] = _read_value(name, raw, declared.format)
            except SettingError as error:
                errors.append(error)
    webhook = environment.get(ALERT_WEBHOOK_VARIABLE, "").strip()
    register_secret(webhook)
    if webhook and _WEBHOOK.fullmatch(webhook) is None:
        # Not quoted: it is a secret.
        errors.append(
            SettingError(f"{ALERT_WEBHOOK_VARIABLE} cannot be used. Allowed: {_URL.allowed}.")
        )
    return Settings(**values), tuple(errors)  # pyright: ignore[reportArgumentType]


def _read_value(name: str, raw: str, form: ValueFormat) -> object:
    """Return the value of a setting's text.

    Raises:
        SettingError: it is not allowed; the message does not quote what may be a part of a key.
    """
    shown = variable_name(name) + ("" if "pk_" in raw or contains_key(raw) else f"={raw!r}")
    if contains_key(raw):
        raise SettingError(
            f"{shown} cannot be used: a private key stands in it, and belongs in {KEY_VARIABLE} "
            "alone."
        )
    try:
        return form.parse(raw)
    except InvalidPathError as error:
        raise SettingError(f"{shown} cannot be used: {error}.") from None
    except (ValueError, LookupError, OSError):
        raise SettingError(f"{shown} cannot be used. Allowed: {form.allowed}.") from None
