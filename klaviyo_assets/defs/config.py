"""Run config of a stream's op: what a person may change at one launch, and what it means.

What belongs here: the options that the launchpad shows for each kind of stream, and how they
become an order. What does not: what an order means (`sync.plan`), the deployment's settings
(`resources`).

An asset shows the options that it can carry out, and no others: Dagster's launchpad writes every
option with a default into the editor. The contract's other options are still taken where a script
gives them to every op alike, and refused in a sentence, hence the permissive schemas. A stream that
knows all of the contract's options has a strict one, so that the launchpad marks a typing error.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import cast

import dagster as dg

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.report import Report
from klaviyo_assets.model.stream import Collection, Join, Stream
from klaviyo_assets.model.window import Window
from klaviyo_assets.redaction import holds_key
from klaviyo_assets.settings import EARLIEST
from klaviyo_assets.sync.plan import Order, SyncMode

SYNC_MODE, START, END = "sync_mode", "start", "end"
SWEEP_IDS, ASK_REFUSED = "sweep_ids", "ask_refused"
CONFIRM_SHRINK = "confirm_shrink"

LATEST_YEAR = 9000
"""An offset from UTC must not push the moment past where dates end."""

_ABOUT_MODES = {
    SyncMode.INCREMENTAL_DEDUPED: "Reads what is new since the last run; each key is kept once.",
    SyncMode.INCREMENTAL_APPEND: "Reads what is new, and keeps all versions in <table>_history.",
    SyncMode.FULL_REFRESH_OVERWRITE: "Reads everything again, and replaces the table.",
    SyncMode.FULL_REFRESH_APPEND: "Reads everything again, and keeps all versions in "
    "<table>_history.",
}

_MODES = dg.Enum(
    "KlaviyoSyncMode",
    [dg.EnumValue(mode.value, mode, about) for mode, about in _ABOUT_MODES.items()],
)

_FIELDS: Mapping[str, dg.Field] = {
    SYNC_MODE: dg.Field(
        _MODES,
        default_value=SyncMode.INCREMENTAL_DEDUPED.value,
        # One line: the launchpad shows no others.
        description=" ".join(f"{mode.value}: {about}" for mode, about in _ABOUT_MODES.items()),
    ),
    START: dg.Field(
        dg.Noneable(str),
        default_value="",
        description="Reads one window again, from here on: an ISO date or datetime, UTC without an "
        "offset. The cursor stays where it is. Empty: no window.",
    ),
    END: dg.Field(
        dg.Noneable(str),
        default_value="",
        description="Where the window to read again ends, exclusive. Empty: now.",
    ),
    SWEEP_IDS: dg.Field(
        bool,
        default_value=False,
        description="Reads only which ids there still are, a hundred a request, and marks the "
        "others as deleted. The cursor stays where it is.",
    ),
    CONFIRM_SHRINK: dg.Field(
        bool,
        default_value=False,
        description="Lets this run drop or mark more of the table than KLAVIYO_SHRINK_LIMIT, once "
        "a second read of everything says the same.",
    ),
    ASK_REFUSED: dg.Field(
        bool,
        default_value=False,
        description="Asks again for metrics that Klaviyo has refused before, and for those whose "
        "report failed too often within a day.",
    ),
}


def run_options(stream: Stream) -> tuple[str, ...]:
    """Return the names of the options that the launchpad shows for a stream."""
    match stream.source:
        case Report():
            return (ASK_REFUSED,)
        case Join():
            return ()
        case Collection() if stream.cursor is not None:
            sweeps = (SWEEP_IDS,) if stream.ids_by is not None else ()
            return (SYNC_MODE, START, END, *sweeps, CONFIRM_SHRINK)
        case _:
            return (SYNC_MODE, CONFIRM_SHRINK)


def config_schema(stream: Stream) -> dg.Shape | dg.Permissive | None:
    """Return the schema of a stream's run config; None takes anything, and shows nothing."""
    fields = {name: _FIELDS[name] for name in run_options(stream)}
    if not fields:
        return None
    kind = dg.Shape if {SYNC_MODE, START, END} <= fields.keys() else dg.Permissive
    schema = cast("dg.Shape | dg.Permissive", kind(fields))
    # No subclass: Dagster makes a plain shape of any, and keeps it for whoever has equal fields.
    schema.post_process = refuse_keys
    return schema


def refuse_keys(value: Mapping[str, object]) -> Mapping[str, object]:
    """Return the run config of an op as it is, once no private key stands in it.

    Dagster asks before it stores a run, which would keep the key for as long as it keeps the run.

    Raises:
        SettingError: a key stands in it; the text does not quote it.
    """
    if holds_key(repr(value)):
        raise SettingError(
            "a private key stands in the run config, and belongs in KLAVIYO_API_KEY alone; nothing "
            "was launched, and nothing stored"
        )
    return value


def given_config(context: dg.AssetExecutionContext) -> Mapping[str, object]:
    """Return the run config of the op that runs, defaults filled in; empty where there is none."""
    return context.op_execution_context.op_config or {}


def order_of(stream: Stream, config: Mapping[str, object]) -> Order:
    """Return what the run config of a stream orders.

    Raises:
        SettingError: an option that there is not, or a value that cannot be used.
    """
    _refuse_unknown(stream, config, known=(SYNC_MODE, START, END, SWEEP_IDS, CONFIRM_SHRINK))
    start, end = (_moment(name, config.get(name)) for name in (START, END))
    return Order(
        mode=_mode(config.get(SYNC_MODE)),
        again=None if start is None and end is None else Window(start, end),
        sweeps_ids=bool(config.get(SWEEP_IDS)),
        confirms_shrink=bool(config.get(CONFIRM_SHRINK)),
    )


def asks_refused(stream: Stream, config: Mapping[str, object]) -> bool:
    """Return whether a report's run config wants refused and failed metrics to be asked again.

    Raises:
        SettingError: an option makes no sense for a report, or there is none of that name.
    """
    _refuse_unknown(stream, config, known=(SYNC_MODE, START, END, ASK_REFUSED))
    mode = _mode(config.get(SYNC_MODE))
    if mode is not SyncMode.INCREMENTAL_DEDUPED:
        raise SettingError(
            f"sync_mode={mode.value} makes no sense for a report: its partitions are "
            "replaced. Leave it out, and choose partitions",
            stream=stream.name,
        )
    if config.get(START) or config.get(END):
        raise SettingError(
            "start/end make no sense for a report: choose partitions instead", stream=stream.name
        )
    return bool(config.get(ASK_REFUSED))


def _refuse_unknown(stream: Stream, config: Mapping[str, object], *, known: Iterable[str]) -> None:
    unknown = sorted(config.keys() - set(known))
    if unknown:
        options = ", ".join(run_options(stream)) or "none"
        raise SettingError(
            f"run config has no option {', '.join(unknown)} here; there are: {options}",
            stream=stream.name,
        )


def _mode(value: object) -> SyncMode:
    try:
        return SyncMode(str(value)) if value is not None else SyncMode.INCREMENTAL_DEDUPED
    except ValueError:
        modes = ", ".join(mode.value for mode in SyncMode)
        raise SettingError(
            f"sync_mode={value!r} cannot be used: one of {modes} is wanted"
        ) from None


def _moment(name: str, value: object) -> datetime | None:
    if value is None or not (text := str(value).strip()):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingError(
            f"{name}={text!r} cannot be used: an ISO date or datetime is wanted, "
            "such as 2026-10-01 or 2026-10-01T06:00:00Z"
        ) from None
    if moment.year < EARLIEST.year or moment.year > LATEST_YEAR:
        raise SettingError(f"{name}={text!r} cannot be used: no event lies there")
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
