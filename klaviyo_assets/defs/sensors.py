"""Two sensors: one adds metrics as partitions of reports, one repairs events.

The metric sensor never removes a partition key. A metric that is missing from one response, or
from the setting, keeps its partitions and what was fetched for them.

The repair sensor launches runs that read again the days on which the completeness check found
events missing. A run reads one range of consecutive days, the newest range first. There is one run
at a time, because the commits of two would conflict. Each run ends with the completeness check,
whose new result names the days that are left. The sensor has no state of its own: it reads what was
tried from the tags of runs.
"""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from typing import cast

import dagster as dg

from klaviyo_assets.account.metrics import (
    METRICS_TABLE,
    AccountMetric,
    fetch_custom_metrics,
    find_metric_setting_problems,
    get_revenue_metric,
    read_mapped_metric,
    read_metrics,
    select_event_metric_ids,
    select_metric_ids,
    unknown_metric_ids,
)
from klaviyo_assets.defs.automation import default_sensor_status, find_asset_key, select_assets
from klaviyo_assets.defs.checks import materialization_check_names
from klaviyo_assets.defs.completeness_check import (
    ASKED_AT_METADATA_KEY,
    COMPLETENESS_CHECK_KEY,
    DAYS_METADATA_KEY,
    SHORT_DAYS_METADATA_KEY,
    check_metadata_value,
    describe_days,
    fetch_last_comparison,
)
from klaviyo_assets.defs.report_runs import (
    EVENT_METRIC_PARTITIONS,
    INVALID_PARTITION_KEY_PATTERN,
    METRIC_PARTITIONS,
    UNFINISHED_STATUSES,
)
from klaviyo_assets.defs.resources import (
    RENEW_SYNCED_AT_OPTION,
    KlaviyoResource,
    LakeResource,
)
from klaviyo_assets.errors import KeyRedactingFilter, KlaviyoAssetsError, format_quantity
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import DateRange, contiguous_ranges
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.seams import utc_now
from klaviyo_assets.settings import AUTO_METRIC, Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.streams.events import EVENTS
from klaviyo_assets.streams.metrics import METRIC_AGGREGATES

METRIC_SENSOR_INTERVAL_SECONDS = 300


def add_metric_partitions(
    context: dg.AssetExecutionContext, klaviyo: KlaviyoResource, lake: LakeResource
) -> None:
    """Add a partition key for each selected metric that has none; a failure is only a warning.

    Klaviyo is asked for the revenue metric, and for the custom metrics if the setting names an id
    that is not in the table. What is wrong with the setting is a warning as well.
    """
    try:
        with klaviyo.connect(warn=context.log.warning, lake=lake.lake()) as connection:
            settings, stored = connection.settings, read_metrics(lake.lake())
            mapped = get_revenue_metric(
                connection.client,
                connection.account_connection.rate_limiter,
                now=utc_now(),
            )
            custom: Sequence[AccountMetric] | None = None
            if unknown_metric_ids(settings, stored):
                custom = fetch_custom_metrics(connection.client)
        for problem in find_metric_setting_problems(settings, stored, mapped=mapped, custom=custom):
            context.log.warning("%s", problem)
        missing = missing_metric_partitions(context, settings, stored, mapped=mapped)
    except KlaviyoAssetsError as error:
        context.log.warning("no metrics were added to the partitions of reports: %s", error)
        return
    for definition, new in missing:
        context.instance.add_dynamic_partitions(definition.name or "", list(new))
        kind = "reports" if definition is METRIC_PARTITIONS else "counted events"
        context.log.info(
            "%s added to the partitions of %s", format_quantity(len(new), "metric"), kind
        )


def missing_metric_partitions(
    context: dg.AssetExecutionContext | dg.SensorEvaluationContext,
    settings: Settings,
    stored: Sequence[AccountMetric],
    *,
    mapped: str | None,
) -> list[tuple[dg.DynamicPartitionsDefinition, Sequence[str]]]:
    """Return the partitions that lack metrics, each with those metrics, in their order.

    Metrics whose events are counted have partitions only where a stream counts them.
    """
    wanted = {METRIC_PARTITIONS: select_metric_ids(settings, stored, mapped=mapped)}
    if METRIC_AGGREGATES.name in selected_streams(settings, STREAMS):
        wanted[EVENT_METRIC_PARTITIONS] = select_event_metric_ids(settings, stored)
    missing = [(each, _missing_keys(context, each, ids)) for each, ids in wanted.items()]
    return [(definition, new) for definition, new in missing if new]


def _missing_keys(
    context: dg.AssetExecutionContext | dg.SensorEvaluationContext,
    definition: dg.DynamicPartitionsDefinition,
    wanted: Sequence[str],
) -> Sequence[str]:
    """Return the metrics of `wanted` that have no partition key, in their order.

    A metric whose id Dagster does not allow as a key is left out, with a warning.
    """
    known = set(context.instance.get_dynamic_partitions(definition.name or ""))
    valid: list[str] = []
    for metric_id in wanted:
        if INVALID_PARTITION_KEY_PATTERN.search(metric_id):
            context.log.warning(
                "%.80r cannot be the key of a partition: no report of it", metric_id
            )
        else:
            valid.append(metric_id)
    return [metric_id for metric_id in valid if metric_id not in known]


def build_metric_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that adds partition keys for the metrics in the lake.

    It sends a request only if the setting says `auto`, to learn the revenue metric. It is on by
    default: it costs nothing, and without keys there is no partition to fetch.
    """
    needs_klaviyo = AUTO_METRIC in settings.conversion_metric_ids

    @dg.sensor(
        name="klaviyo_conversion_metrics",
        description="Adds the account's metrics to the partitions of reports.",
        minimum_interval_seconds=METRIC_SENSOR_INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"lake", "klaviyo"} if needs_klaviyo else {"lake"},
    )
    def add_metrics(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        context.log.addFilter(KeyRedactingFilter())
        lake: Lake = context.resources.lake.lake()
        table = lake.read_table_state(METRICS_TABLE)
        version = table.version if table is not None else None
        chosen = (settings.conversion_metric_ids, settings.event_metric_ids, settings.streams)
        cursor = f"{version} {chosen}"
        if context.cursor == cursor:
            return dg.SkipReason("the metrics have not changed since the last tick")
        mapped = read_mapped_metric(lake, settings)
        if needs_klaviyo:
            klaviyo: KlaviyoResource = context.resources.klaviyo
            known_lake = lake if table is not None else None
            with klaviyo.connect(warn=context.log.warning, lake=known_lake) as connection:
                mapped = get_revenue_metric(
                    connection.client,
                    connection.account_connection.rate_limiter,
                    now=utc_now(),
                )
        stored = read_metrics(lake)
        for problem in find_metric_setting_problems(settings, stored, mapped=mapped):
            context.log.warning("%s", problem)
        missing = missing_metric_partitions(context, settings, stored, mapped=mapped)
        requests = [each.build_add_request(list(new)) for each, new in missing]
        return dg.SensorResult(dynamic_partitions_requests=requests, cursor=cursor)

    return add_metrics


REPAIR_TAG = "klaviyo/healing"
"""The tag of the repair sensor's runs: the id of the comparison that found the days short."""

REPAIRED_DAYS_TAG = "klaviyo/healed_days"
"""The tag with the days that a run reads again: `2026-10-01 2026-10-02`, both inclusive."""

REPAIR_SENSOR_INTERVAL_SECONDS = 60

MAX_REPAIR_ATTEMPTS, REPAIR_ATTEMPT_PERIOD = 3, timedelta(days=1)
"""A day that is still short after so many runs within this period is not read again."""


def build_repair_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that launches repair runs."""

    @dg.sensor(
        name="klaviyo_events_healing",
        description="Reads the days again on which the last comparison found events missing.",
        minimum_interval_seconds=REPAIR_SENSOR_INTERVAL_SECONDS,
        default_status=default_sensor_status(settings),
        target=select_assets(EVENTS.name),
    )
    def repair_events(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        check = dg.AssetCheckKey(find_asset_key(context, EVENTS.name), COMPLETENESS_CHECK_KEY.name)
        return _choose_repair_run(context.instance, check)

    return repair_events


def _choose_repair_run(
    instance: dg.DagsterInstance, check: dg.AssetCheckKey
) -> dg.RunRequest | dg.SkipReason:
    """Return the repair run to launch, or why there is none."""
    record = fetch_last_comparison(instance, check)
    if record is None:
        return dg.SkipReason("events were never compared: launch klaviyo_checks")
    counts = cast("Mapping[str, int]", check_metadata_value(record, SHORT_DAYS_METADATA_KEY) or {})
    short = [date.fromisoformat(day) for day in counts]
    if not short:
        return dg.SkipReason("no event was missing when events were last compared")
    runs = _recent_repair_runs(instance)
    if any(run.status in UNFINISHED_STATUSES for run in runs):
        return dg.SkipReason("a repair run is under way")
    comparison_id = str(record.id)
    if any(run.is_success for run in runs if run.tags[REPAIR_TAG] == comparison_id):
        return dg.SkipReason(
            "these days were read again; the next comparison shows what is still missing"
        )
    attempts = {day: sum(day in _repaired_days(run) for run in runs) for day in short}
    ranges = contiguous_ranges(day for day in short if attempts[day] < MAX_REPAIR_ATTEMPTS)
    if not ranges:
        return dg.SkipReason(
            f"{describe_days(short)}: still incomplete after {MAX_REPAIR_ATTEMPTS} repair runs "
            f"within {REPAIR_ATTEMPT_PERIOD}, so Klaviyo counts events there that it does not "
            "return. Look at the table of the check klaviyo/events complete, and ask Klaviyo's "
            "support; the next repair run is a day after the first"
        )
    days = ranges[-1]
    compared_at = check_metadata_value(record, ASKED_AT_METADATA_KEY)
    config = {
        "days": check_metadata_value(record, DAYS_METADATA_KEY),
        "read_again": {f"{day}": compared_at for day in days},
    }
    return _build_repair_request(
        days, config, check=check, comparison_id=comparison_id, attempt=attempts[days.first]
    )


def _build_repair_request(
    days: DateRange,
    config: Mapping[str, object],
    *,
    check: dg.AssetCheckKey,
    comparison_id: str,
    attempt: int,
) -> dg.RunRequest:
    window = {
        "start": f"{days.first}",
        "end": f"{days.last + timedelta(days=1)}",
        # By it the comparison tells which stored events Klaviyo still has.
        RENEW_SYNCED_AT_OPTION: True,
    }
    ops = {"klaviyo__events": {"config": window}, "klaviyo__events_complete": {"config": config}}
    return dg.RunRequest(
        # By this key a tick that is evaluated again after a crash launches nothing twice.
        run_key=f"{comparison_id} {days.first} {days.last} {attempt}",
        asset_selection=[check.asset_key],
        # The checks in the asset's own step must be named as well: they cannot be left out of it.
        asset_check_keys=[
            check,
            *(
                dg.AssetCheckKey(check.asset_key, name)
                for name in materialization_check_names(EVENTS)
            ),
        ],
        run_config={"ops": ops},
        tags={REPAIR_TAG: comparison_id, REPAIRED_DAYS_TAG: f"{days.first} {days.last}"},
    )


def _recent_repair_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """Return the repair runs that were launched within `REPAIR_ATTEMPT_PERIOD`."""
    runs = instance.get_runs(dg.RunsFilter(created_after=utc_now() - REPAIR_ATTEMPT_PERIOD))
    return [run for run in runs if REPAIR_TAG in run.tags]


def _repaired_days(run: dg.DagsterRun) -> DateRange:
    first, last = run.tags[REPAIRED_DAYS_TAG].split()
    return DateRange(date.fromisoformat(first), date.fromisoformat(last))
