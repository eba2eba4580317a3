"""The metric dimension of report partitions: kept in step with the account, never shrunk.

What belongs here: adding keys, by the run of the `metrics` asset and by a sensor. What does not:
which metrics those are (`sync.reports.metrics`).

A key is never taken away: a metric that is missing from one answer, or from the setting, keeps its
partitions and what was fetched for them.
"""

from collections.abc import Sequence

import dagster as dg

from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.defs.partitions import METRICS, UNFIT
from klaviyo_assets.defs.resources import KlaviyoResource, LakeResource
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.lake import Lake
from klaviyo_assets.redaction import Redaction
from klaviyo_assets.settings import Settings
from klaviyo_assets.sync.reports.metric_requests import custom_metrics, revenue_now
from klaviyo_assets.sync.reports.metrics import (
    AUTO,
    TABLE,
    Metric,
    absent_metrics,
    mapped_metric,
    setting_problems,
    stored_metrics,
    wanted_metrics,
)
from klaviyo_assets.wording import quantity

EVERY_SECONDS = 300


def add_metric_keys(
    context: dg.AssetExecutionContext, klaviyo: KlaviyoResource, lake: LakeResource
) -> None:
    """Add a partition key for each metric wanted that has none; a failure is only told.

    Klaviyo says which metric is the revenue, and, where the setting names an id that the table does
    not have, which custom metrics there are; what is wrong with the setting is a warning.
    """
    try:
        with klaviyo.connect(say=context.log.warning, lake=lake.lake()) as connection:
            settings, stored = connection.settings, stored_metrics(lake.lake())
            mapped = revenue_now(
                connection.client, connection.asking.ledger, settings.base_url, now=utc_now()
            )
            custom: Sequence[Metric] | None = None
            if absent_metrics(settings, stored):
                custom = custom_metrics(connection.client, settings.base_url)
        for problem in setting_problems(settings, stored, mapped=mapped, custom=custom):
            context.log.warning("%s", problem)
        new = missing_keys(context, wanted_metrics(settings, stored, mapped=mapped))
    except KlaviyoAssetsError as error:
        context.log.warning("no metrics were added to the partitions of reports: %s", error)
        return
    if new:
        context.instance.add_dynamic_partitions(METRICS.name or "", list(new))
        context.log.info("%s added to the partitions of reports", quantity(len(new), "metric"))


def missing_keys(
    context: dg.AssetExecutionContext | dg.SensorEvaluationContext, wanted: Sequence[str]
) -> Sequence[str]:
    """Return the metrics wanted that have no partition key, in their order.

    One whose id Dagster takes for no key is left out, said aloud.
    """
    known = set(context.instance.get_dynamic_partitions(METRICS.name or ""))
    for each in wanted:
        if UNFIT.search(each):
            context.log.warning("%.80r cannot be the key of a partition: no report of it", each)
    return [each for each in wanted if each not in known and not UNFIT.search(each)]


def metrics_to_fetch(
    instance: dg.DagsterInstance,
    lake: Lake,
    settings: Settings,
    *,
    stream: str,
    mapped: str | None,
) -> list[str]:
    """Return the metrics of a report's partitions that Klaviyo has not refused, in order of worth.

    The revenue metric comes first. Those that the setting no longer names are left out.

    Raises:
        LakeError: a table cannot be read.
    """
    keys = set(instance.get_dynamic_partitions(METRICS.name or ""))
    wanted = wanted_metrics(settings, stored_metrics(lake), mapped=mapped)
    others = () if settings.conversion_metric_ids else sorted(keys.difference(wanted))
    refused = lake.refused_metrics(stream)
    return [each for each in (*wanted, *others) if each in keys and each not in refused]


def metric_sensor(settings: Settings) -> dg.SensorDefinition:
    """Return the sensor that adds keys; it looks at the lake alone, unless the setting says auto.

    It runs from the start: it costs nothing, and without keys there is no partition to fetch.
    """
    needs_klaviyo = AUTO in settings.conversion_metric_ids

    @dg.sensor(
        name="klaviyo_conversion_metrics",
        description="Adds the account's metrics to the partitions of reports.",
        minimum_interval_seconds=EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"lake", "klaviyo"} if needs_klaviyo else {"lake"},
    )
    def metrics(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
        context.log.addFilter(Redaction())
        lake: Lake = context.resources.lake.lake()
        before = lake.state(TABLE)
        seen = f"{before.version if before is not None else None} {settings.conversion_metric_ids}"
        if context.cursor == seen:
            return dg.SkipReason("the metrics are as they were at the last look")
        mapped = mapped_metric(lake, settings)
        if needs_klaviyo:
            klaviyo: KlaviyoResource = context.resources.klaviyo
            known = lake if before is not None else None
            with klaviyo.connect(say=context.log.warning, lake=known) as connection:
                ledger = connection.asking.ledger
                base_url = connection.settings.base_url
                mapped = revenue_now(connection.client, ledger, base_url, now=utc_now())
        stored = stored_metrics(lake)
        for problem in setting_problems(settings, stored, mapped=mapped):
            context.log.warning("%s", problem)
        new = missing_keys(context, wanted_metrics(settings, stored, mapped=mapped))
        adding = [METRICS.build_add_request(list(new))] if new else []
        return dg.SensorResult(dynamic_partitions_requests=adding, cursor=seen)

    return metrics
