"""Run config of a stream's op: what a person may change for one run, and what it means.

An asset's schema names only the options that the asset supports, because Dagster's launchpad
writes every option with a default into its editor. A script may give the contract's other options
to all ops alike. So most schemas are permissive: they accept such an option, and the run then
refuses it in a sentence that says why. A stream that supports all of the contract's options has a
strict schema, so that the launchpad marks a misspelt option.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import cast

import dagster as dg

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import Collection, Join, Stream, Unnest
from klaviyo_assets.model.window import Window
from klaviyo_assets.redaction import contains_key
from klaviyo_assets.settings import EARLIEST_DATE
from klaviyo_assets.sync.plan import SyncMode, SyncOptions

SYNC_MODE_OPTION, START_OPTION, END_OPTION = "sync_mode", "start", "end"
SWEEP_IDS_OPTION, ASK_REFUSED_OPTION = "sweep_ids", "ask_refused"
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
        "offset. The cursor stays where it is. Empty: no window.",
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
            return (SYNC_MODE_OPTION, START_OPTION, END_OPTION, *id_scan, CONFIRM_SHRINK_OPTION)
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
        known=(SYNC_MODE_OPTION, START_OPTION, END_OPTION, SWEEP_IDS_OPTION, CONFIRM_SHRINK_OPTION),
    )
    start, end = (_parse_datetime(name, config.get(name)) for name in (START_OPTION, END_OPTION))
    return SyncOptions(
        mode=_parse_sync_mode(config.get(SYNC_MODE_OPTION)),
        reread_window=None if start is None and end is None else Window(start, end),
        is_id_scan=bool(config.get(SWEEP_IDS_OPTION)),
        is_shrink_confirmed=bool(config.get(CONFIRM_SHRINK_OPTION)),
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


def _parse_datetime(name: str, value: object) -> datetime | None:
    """Return the instant (UTC) of an option's value; None if it is empty."""
    if value is None or not (text := str(value).strip()):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingError(
            f"{name}={text!r} cannot be used: an ISO date or datetime is wanted, "
            "such as 2026-10-01 or 2026-10-01T06:00:00Z"
        ) from None
    if moment.year < EARLIEST_DATE.year or moment.year > MAX_YEAR:
        raise SettingError(f"{name}={text!r} cannot be used: no event lies there")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
