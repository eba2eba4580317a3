"""What a run is given: the connection to Klaviyo, which logs its waits, the lake, and run config.

A line about a wait says which request waits, how long, and for reports what is left of the day's
requests, so that a run that waits does not look hung.

Run config is what a person may change for one run. An asset's schema names only the options that
the asset supports, because Dagster's launchpad writes every option with a default into its editor.
A script may give the contract's other options to all ops alike. So most schemas are permissive:
they accept such an option, and the run then refuses it in a sentence that says why. A stream that
supports all of the contract's options has a strict schema, so that the launchpad marks a misspelt
option.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from threading import Lock
from time import monotonic
from typing import Self, cast

import dagster as dg

from klaviyo_assets.account.connection import (
    AccountConnection,
    connect_account,
    resolve_account_id,
    resolve_lake_account,
)
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Request, validate_api_key, validate_base_url
from klaviyo_assets.api.rate_limiter import read_daily_quota
from klaviyo_assets.errors import (
    KlaviyoAssetsError,
    LakeError,
    QueryError,
    SettingError,
    contains_key,
    format_seconds,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.read.views import Relation, build_relations
from klaviyo_assets.model.privacy import privacy_setting_errors, validate_salt
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import selection_errors, shown_streams
from klaviyo_assets.model.stream import Collection, Join, Stream, Unnest
from klaviyo_assets.model.window import Window
from klaviyo_assets.reports.failed_requests import ReportContext
from klaviyo_assets.reports.fetch import RESPONSE_CACHE_LIFETIME, ReportFetch, RequestBudget
from klaviyo_assets.reports.planner import CostEstimator, PartitionRequest, load_planner_inputs
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import (
    EARLIEST_DATE,
    KEY_VARIABLE,
    SALT_VARIABLE,
    Settings,
    future_date_errors,
    read_settings,
    settings_to_environment,
)
from klaviyo_assets.streams import DERIVED_RELATIONS, STREAMS
from klaviyo_assets.sync.plan import SyncMode, SyncOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class KlaviyoConnection:
    """A client that can send requests, its account and its settings.

    It is a context manager that closes the sockets and the rate limiter's file at its end.
    """

    client: KlaviyoClient
    account: str
    settings: Settings
    account_connection: AccountConnection
    """Asks Klaviyo about the account, and holds the rate limiter that stores the answers."""
    warn: Callable[[str], None]
    """Takes a warning for the operator."""
    salt: bytes = field(repr=False)
    """The salt of hashed columns; empty if no column is hashed."""

    def close(self) -> None:
        """Close sockets and files, and warn if this machine's clock is wrong. May be repeated."""
        self.account_connection.close()
        if (warning := self.client.clock_skew.take_skew_warning()) is not None:
            self.warn(warning)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class KlaviyoResource(dg.ConfigurableResource[object]):
    """Klaviyo's API with one private key, which each run reads from KLAVIYO_API_KEY.

    The other settings are environment variables KLAVIYO_... of the code location. No field is run
    config, for two reasons. The launchpad would write every field into its editor, a secret as
    asterisks, and the run would use the asterisks as the key. And a resource that is configured in
    part loses its other settings.
    """

    settings: dg.ResourceDependency[Settings]
    key_variable: dg.ResourceDependency[str] = KEY_VARIABLE  # pyright: ignore[reportAssignmentType]
    """The environment variable with the private key, read in the run's own process."""
    refusals: dg.ResourceDependency[Sequence[SettingError]] = ()  # pyright: ignore[reportAssignmentType]
    """What is wrong with the environment's settings. While there is anything, nothing connects."""

    def validate_settings(self) -> Settings:
        """Return the settings after checking them as if they were environment variables.

        Settings written in Python have not been checked before.

        Raises:
            SettingError: a setting cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(map(str, self.refusals)))
        settings, refusals = read_settings(settings_to_environment(self.settings))
        future_dates = future_date_errors(settings, today=utc_now().date())
        of_streams = (
            *selection_errors(settings, STREAMS),
            *privacy_setting_errors(settings, shown_streams(settings, STREAMS)),
        )
        for refusal in (*refusals, *future_dates, *of_streams):
            raise refusal
        return settings

    def key(self) -> str:
        """Return the private key in the environment of this process.

        Dagster's own EnvVar is not used: if the variable is missing, it ends a run before any asset
        starts, with an error about config that does not say what to do.

        Raises:
            SettingError: there is no key, or it does not look like one.
        """
        name = self.key_variable
        raw = os.environ.get(name)
        if raw is None:
            raise SettingError(
                f"{name} is not set: give the process that runs Dagster the account's private key, "
                f"by `export {name}=pk_...` before it starts, or in the file .env of its folder."
            )
        return validate_api_key(raw, variable=name)

    def salt(self) -> bytes:
        """Return the salt of hashed columns in the environment of this process.

        Raises:
            SettingError: there is no salt, or it is too short.
        """
        return validate_salt(os.environ.get(SALT_VARIABLE, ""))

    def connect(
        self, *, warn: Callable[[str], None], lake: Lake | None = None
    ) -> KlaviyoConnection:
        """Return a connection that shares the account's rate limit with all processes of the user.

        It holds sockets and a file open until it is closed. A request is sent only if the account
        was not requested today. `warn` takes warnings for the operator.

        `lake` is the lake that will be written. Once the settings are known to be good, and before
        any request, its folder is prepared. The account then has the id that the lake knows it by.

        Raises:
            KlaviyoAssetsError: a setting cannot be used, Klaviyo refuses the key, or the lake's
                folder cannot be used.
        """
        settings = self.validate_settings()
        key = self.key()
        salt = self.salt() if settings.hash_columns else b""
        validate_base_url(settings.base_url)
        if lake is not None:
            lake.ensure_writable()
        connection = connect_account(settings, key, accounts=STREAMS["accounts"])
        try:
            account = resolve_account_id(connection, warn=warn)
            if lake is not None:
                streams = shown_streams(settings, STREAMS)
                account = resolve_lake_account(
                    lake, connection, account, streams=streams, warn=warn
                )
        except BaseException:
            connection.close()
            raise
        connection.share_rate_limit(account)
        return KlaviyoConnection(
            client=connection.client,
            account=account,
            settings=settings,
            account_connection=connection,
            warn=warn,
            salt=salt,
        )


@lru_cache(maxsize=4)
def shown_relations(settings: Settings) -> tuple[Relation, ...]:
    """Return the relations of `klaviyo.duckdb`; a run publishes them after each of its commits."""
    return tuple(build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS))


class LakeResource(dg.ConfigurableResource[object]):
    """The lake and the DuckDB file in the folder KLAVIYO_DATA_DIR. No field is run config."""

    settings: dg.ResourceDependency[Settings]
    refusals: dg.ResourceDependency[Sequence[SettingError]] = ()  # pyright: ignore[reportAssignmentType]
    """What is wrong with the environment's settings. While there is anything, there is no lake:
    it may be meant to lie elsewhere."""

    def lake(self) -> Lake:
        """Return the lake, without touching the disk.

        Raises:
            SettingError: a setting of the environment cannot be used.
        """
        if self.refusals:
            raise SettingError(" ".join(map(str, self.refusals)))
        folder = Path(self.settings.data_dir).absolute()
        return Lake(folder, clock=utc_now, folder_mode=self.settings.folder_mode)

    def publish(self, lake: Lake, *, warn: Callable[[str], None]) -> Mapping[str, LakeError]:
        """Rebuild `klaviyo.duckdb` from the lake; return the errors of what it does without.

        They are by relation; all others are published. `warn` takes a sentence for each error.

        Raises:
            StorageError: the folder cannot be written, or another process publishes too long.
        """
        problems = lake.publish(shown_relations(self.settings))
        for problem in problems:
            if isinstance(problem, QueryError):
                warn(f"klaviyo.duckdb does without a view. {problem}")
            else:
                warn(f"klaviyo.duckdb does without a table that cannot be read. {problem}")
        return {problem.stream or "": problem for problem in problems}


SHORT_WAIT_SECONDS = 5.0
"""A shorter wait is not worth a line: nobody thinks of a hung run."""

LINE_INTERVAL_SECONDS = 10.0
"""Waits that end this soon after one that has a line get none: threads wait side by side."""


class WaitLog:
    """Writes a line for each wait that a person would notice. Safe for threads.

    Args:
        log: writes a line.
        describe: returns the line of a wait of so many seconds.
        clock: monotonic seconds, for tests.
    """

    def __init__(
        self,
        log: Callable[[str], None],
        describe: Callable[[float], str],
        *,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._log = log
        self._describe = describe
        self._clock = clock
        self._lock = Lock()
        self._told_until = float("-inf")

    def __call__(self, request: Request, seconds: float) -> None:  # noqa: ARG002 - the client's
        """Write a line, unless the wait is short or another line covers it."""
        end = self._clock() + seconds
        with self._lock:
            if seconds < SHORT_WAIT_SECONDS or end < self._told_until + LINE_INTERVAL_SECONDS:
                return
            self._told_until = end
        self._log(self._describe(seconds))


def describe_wait(subject: str, seconds: float) -> str:
    """Return the line of a wait: `lists_detailed: request 31, next in 58 s`."""
    return f"{subject}, next in {format_seconds(seconds)}"


def log_waits(log: Callable[[str], None], stream: Stream, client: KlaviyoClient) -> None:
    """Let the client of a sync log its waits, each with the number of the request that waits."""

    def describe(seconds: float) -> str:
        return describe_wait(f"{stream.name}: request {client.stats.requests + 1:,}", seconds)

    client.on_wait = WaitLog(log, describe)


class ReportWaits:
    """Describes the waits of a report's run: how many requests it makes, and how many are left."""

    def __init__(
        self,
        context: ReportContext,
        fetch: ReportFetch,
        requests: Iterable[PartitionRequest],
        budget: RequestBudget,
    ) -> None:
        """Do no I/O."""
        self._context = context
        self._fetch = fetch
        self._requests = tuple(requests)
        self._budget = budget
        self._expected: int | None = None

    def describe(self, seconds: float) -> str:
        """Return `flow_series_reports: request 4 of about 7, next in 30 s, 218 left today`."""
        name, number = self._context.stream.name, self._budget.spent
        total = self._budget.limit
        of = f"of at most {total:,}" if total is not None else f"of about {self._expect():,}"
        line = describe_wait(f"{name}: request {number:,} {of}", seconds)
        quota = read_daily_quota(self._context.stream, self._context.client.rate_limiter)
        return line if quota is None else f"{line}, {quota.remaining:,} left today"

    def _expect(self) -> int:
        """Return how many requests the run makes in all, estimated when it first waits."""
        if self._expected is None:
            try:
                left = self._estimate_left()
            except KlaviyoAssetsError:
                left = 1
            self._expected = self._budget.spent - 1 + left
        return max(self._expected, self._budget.spent)

    def _estimate_left(self) -> int:
        """Return what the days cost that are not stored yet, the waiting request included.

        Raises:
            KlaviyoAssetsError: the lake cannot be read.
        """
        context, bounds = self._context, self._context.calendar.bounds
        if bounds is None:
            return 1
        cache = context.lake.response_cache(context.stream.name)
        estimator = CostEstimator(
            load_planner_inputs(
                context.stream, context.lake, bounds=bounds, calendar=context.calendar
            ),
            assume_spread=True,
            recent_timeframes=cache.recent_timeframes(max_age=RESPONSE_CACHE_LIFETIME),
        )
        days = self._fetch.remaining_days
        left = (replace(each, days=frozenset(days[each.metric_id])) for each in self._requests)
        return sum(estimator.estimate(each) for each in left if each.days)


SYNC_MODE_OPTION, START_OPTION, END_OPTION = "sync_mode", "start", "end"
SWEEP_IDS_OPTION, ASK_REFUSED_OPTION = "sweep_ids", "ask_refused"
RENEW_SYNCED_AT_OPTION = "renew_synced_at"
CONFIRM_SHRINK_OPTION = "confirm_shrink"

MAX_YEAR = 9000
"""Well below Python's last year, so that an offset from UTC cannot overflow."""

_SYNC_MODE_DESCRIPTIONS = {
    SyncMode.INCREMENTAL_DEDUPED: "Reads what is new since the last run; each key is kept once.",
    SyncMode.INCREMENTAL_APPEND: "Reads what is new, and keeps all versions in <table>_history.",
    SyncMode.FULL_REFRESH_OVERWRITE: "Reads everything again, and replaces the table.",
    SyncMode.FULL_REFRESH_APPEND: "Reads everything again, and keeps all versions in "
    "<table>_history.",
}

_SYNC_MODE_ENUM = dg.Enum(
    "KlaviyoSyncMode",
    [dg.EnumValue(mode.value, mode, about) for mode, about in _SYNC_MODE_DESCRIPTIONS.items()],
)

_OPTION_FIELDS: Mapping[str, dg.Field] = {
    SYNC_MODE_OPTION: dg.Field(
        _SYNC_MODE_ENUM,
        default_value=SyncMode.INCREMENTAL_DEDUPED.value,
        # On one line: the launchpad shows only the first line of a description.
        description=" ".join(
            f"{mode.value}: {about}" for mode, about in _SYNC_MODE_DESCRIPTIONS.items()
        ),
    ),
    START_OPTION: dg.Field(
        dg.Noneable(str),
        default_value="",
        description="Reads one window again, from here on: an ISO date or datetime, UTC without an "
        "offset, or 7 days ago. The cursor stays where it is. Empty: no window.",
    ),
    END_OPTION: dg.Field(
        dg.Noneable(str),
        default_value="",
        description="Where the window to read again ends, exclusive. Empty: now.",
    ),
    SWEEP_IDS_OPTION: dg.Field(
        bool,
        default_value=False,
        description="Reads ids alone, a hundred a request, and marks rows as deleted whose ids "
        "Klaviyo no longer has. The cursor stays where it is.",
    ),
    CONFIRM_SHRINK_OPTION: dg.Field(
        bool,
        default_value=False,
        description="Lets this run drop more rows than KLAVIYO_SHRINK_LIMIT, or mark more as "
        "deleted, if a second read of everything finds the same.",
    ),
    RENEW_SYNCED_AT_OPTION: dg.Field(
        bool,
        # Without a default the launchpad's editor leaves it out.
        is_required=False,
        description="Gives events that come back unchanged a new synced_at too, as the repair "
        "sensor's runs do: the completeness check then knows which Klaviyo still has.",
    ),
    ASK_REFUSED_OPTION: dg.Field(
        bool,
        default_value=False,
        description="Requests metrics again that Klaviyo has refused, and those whose report "
        "failed too often within a day.",
    ),
}


def run_config_options(stream: Stream) -> tuple[str, ...]:
    """Return the names of the options that a stream supports, as the launchpad shows them."""
    match stream.source:
        case ReportEndpoint():
            return (ASK_REFUSED_OPTION,)
        case Join() | Unnest():
            return ()
        case Collection() if stream.cursor is not None:
            id_scan = (SWEEP_IDS_OPTION,) if stream.id_scan_cursor is not None else ()
            renew = (RENEW_SYNCED_AT_OPTION,) if stream.cursor.has_lookback else ()
            window = (START_OPTION, END_OPTION, *renew)
            return (SYNC_MODE_OPTION, *window, *id_scan, CONFIRM_SHRINK_OPTION)
        case _:
            return (SYNC_MODE_OPTION, CONFIRM_SHRINK_OPTION)


def run_config_schema(stream: Stream) -> dg.Shape | dg.Permissive | None:
    """Return the schema of a stream's run config; None for a stream that supports no option.

    None lets Dagster accept any config, and shows nothing in the launchpad.
    """
    fields = {name: _OPTION_FIELDS[name] for name in run_config_options(stream)}
    if not fields:
        return None
    kind = (
        dg.Shape if {SYNC_MODE_OPTION, START_OPTION, END_OPTION} <= fields.keys() else dg.Permissive
    )
    schema = cast("dg.Shape | dg.Permissive", kind(fields))
    # Not a subclass: Dagster turns one into a plain shape, which it caches by its fields.
    schema.post_process = reject_private_keys
    return schema


def reject_private_keys(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return an op's run config unchanged, unless it contains a private key.

    Dagster calls this before it stores a run. A stored run would hold the key as long as it exists.

    Raises:
        SettingError: it contains a key. The text does not quote the key.
    """
    if contains_key(repr(value)):
        raise SettingError(
            "a private key stands in the run config, and belongs in KLAVIYO_API_KEY alone; nothing "
            "was launched, and nothing stored"
        )
    return value


def read_op_config(context: dg.AssetExecutionContext) -> Mapping[str, object]:
    """Return the run config of the current op, defaults filled in; empty if there is none."""
    return context.op_execution_context.op_config or {}


def parse_run_config(stream: Stream, config: Mapping[str, object]) -> SyncOptions:
    """Return the sync options that a stream's run config asks for.

    Raises:
        SettingError: an option is unknown, or a value cannot be used.
    """
    _reject_unknown_options(
        stream,
        config,
        known=(
            SYNC_MODE_OPTION,
            START_OPTION,
            END_OPTION,
            RENEW_SYNCED_AT_OPTION,
            SWEEP_IDS_OPTION,
            CONFIRM_SHRINK_OPTION,
        ),
    )
    start, end = (_parse_datetime(name, config.get(name)) for name in (START_OPTION, END_OPTION))
    return SyncOptions(
        mode=_parse_sync_mode(config.get(SYNC_MODE_OPTION)),
        reread_window=None if start is None and end is None else Window(start, end),
        is_id_scan=bool(config.get(SWEEP_IDS_OPTION)),
        is_shrink_confirmed=bool(config.get(CONFIRM_SHRINK_OPTION)),
        renews_synced_at=bool(config.get(RENEW_SYNCED_AT_OPTION)),
    )


def should_retry_refused_metrics(stream: Stream, config: Mapping[str, object]) -> bool:
    """Return whether a report's run config asks to retry refused and failed metrics.

    Raises:
        SettingError: an option is unknown, or makes no sense for a report.
    """
    _reject_unknown_options(
        stream, config, known=(SYNC_MODE_OPTION, START_OPTION, END_OPTION, ASK_REFUSED_OPTION)
    )
    mode = _parse_sync_mode(config.get(SYNC_MODE_OPTION))
    if mode is not SyncMode.INCREMENTAL_DEDUPED:
        raise SettingError(
            f"sync_mode={mode.value} makes no sense for a report: its partitions are "
            "replaced. Leave it out, and choose partitions",
            stream=stream.name,
        )
    if config.get(START_OPTION) or config.get(END_OPTION):
        raise SettingError(
            "start/end make no sense for a report: choose partitions instead", stream=stream.name
        )
    return bool(config.get(ASK_REFUSED_OPTION))


def _reject_unknown_options(
    stream: Stream, config: Mapping[str, object], *, known: Iterable[str]
) -> None:
    """Raise SettingError if the config has an option that is not `known`."""
    unknown = sorted(config.keys() - set(known))
    if unknown:
        options = ", ".join(run_config_options(stream)) or "none"
        raise SettingError(
            f"run config has no option {', '.join(unknown)} here; there are: {options}",
            stream=stream.name,
        )


def _parse_sync_mode(value: object) -> SyncMode:
    """Return the mode of a config value; the default mode for None."""
    try:
        return SyncMode(str(value)) if value is not None else SyncMode.INCREMENTAL_DEDUPED
    except ValueError:
        modes = ", ".join(mode.value for mode in SyncMode)
        raise SettingError(
            f"sync_mode={value!r} cannot be used: one of {modes} is wanted"
        ) from None


_DAYS_AGO = re.compile(r"(\d{1,4}) days? ago")
"""What the job of late events has for `start`: its launchpad cannot know when it is launched."""


def _parse_datetime(name: str, value: object) -> datetime | None:
    """Return the instant (UTC) of an option's value; None if it is empty."""
    if value is None or not (text := str(value).strip()):
        return None
    if days := _DAYS_AGO.fullmatch(text):
        return utc_now() - timedelta(days=int(days[1]))
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingError(
            f"{name}={text!r} cannot be used: an ISO date or datetime is wanted, "
            "such as 2026-10-01 or 2026-10-01T06:00:00Z, or a number of days, such as 7 days ago"
        ) from None
    if moment.year < EARLIEST_DATE.year or moment.year > MAX_YEAR:
        raise SettingError(f"{name}={text!r} cannot be used: no event lies there")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
