"""The code location: `build_defs` puts all assets, checks, jobs and automations together."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import dagster as dg

from klaviyo_assets.defs.assets import (
    build_overview_asset,
    build_overview_job,
    build_overview_schedule,
    build_stream_asset,
)
from klaviyo_assets.defs.backfill_sensor import build_backfill_sensor
from klaviyo_assets.defs.checks import (
    build_newest_days_check,
    build_newest_days_sensor,
    build_row_checks,
)
from klaviyo_assets.defs.completeness_check import build_completeness_check
from klaviyo_assets.defs.health import build_health_asset
from klaviyo_assets.defs.io_manager import LakeIOManager
from klaviyo_assets.defs.report_assets import build_report_asset
from klaviyo_assets.defs.resources import KlaviyoResource, LakeResource
from klaviyo_assets.defs.schedules import build_jobs, build_report_schedule, build_schedules
from klaviyo_assets.defs.sensors import (
    add_metric_partitions,
    build_metric_sensor,
    build_repair_sensor,
)
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.privacy import unprotected_column_warnings
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import selected_streams, selection_errors
from klaviyo_assets.model.stream import Stream, streams_at_revision
from klaviyo_assets.reports.calendar import zone_for_definitions
from klaviyo_assets.settings import KEY_VARIABLE, Settings, read_settings, unknown_variables
from klaviyo_assets.streams import REPORTS, STREAMS
from klaviyo_assets.streams.events import EVENTS
from klaviyo_assets.streams.metrics import METRICS

logger = logging.getLogger(__name__)


def build_defs(
    settings: Settings,
    refusals: Sequence[SettingError] = (),
    *,
    api_key: dg.EnvVar | None = None,
    key_prefix: Sequence[str] = (),
) -> dg.Definitions:
    """Return the Dagster definitions for one Klaviyo account.

    Args:
        settings: all settings except the private key.
        refusals: what is wrong with the settings. While there is anything, no run starts.
        api_key: the environment variable of the private key, read when a run needs it; by default
            `KLAVIYO_API_KEY`.
        key_prefix: what asset keys begin with, before `klaviyo`: two accounts whose code locations
            share an instance need different ones. Tables keep their names.
    """
    refusals = [*refusals, *selection_errors(settings, STREAMS)]
    selected = selected_streams(settings, STREAMS)
    offered = streams_at_revision(STREAMS, settings.revision)
    streams = {name: each for name, each in offered.items() if name in selected}
    for each in [] if refusals else unprotected_column_warnings(settings, streams):
        logger.warning(each)
    klaviyo = KlaviyoResource(
        settings=settings,
        refusals=tuple(refusals),
        key_variable=KEY_VARIABLE if api_key is None else api_key.env_var_name,
    )
    lake = LakeResource(settings=settings, refusals=tuple(refusals))
    reports = [each for each in REPORTS if each.name in selected]
    zone = None if refusals else zone_for_definitions(settings, lake.lake())
    assets = _build_assets(settings, streams.values(), reports, zone)
    checks = _build_checks(selected, reports)
    keys = {key: key.with_prefix(key_prefix) for each in assets for key in each.keys}
    stream_assets = _with_keys(keys, assets) if key_prefix else assets
    return dg.Definitions(
        assets=[*stream_assets, build_health_asset(key_prefix)],
        asset_checks=_with_keys(keys, checks) if key_prefix else checks,
        jobs=[*build_jobs(settings, selected), build_overview_job()],
        schedules=[
            *build_schedules(settings, selected),
            build_overview_schedule(settings),
            *(build_report_schedule(each, settings, zone) for each in reports),
        ],
        sensors=_build_sensors(settings, selected, reports),
        resources={"klaviyo": klaviyo, "lake": lake, "lake_io_manager": LakeIOManager(lake=lake)},
        executor=dg.in_process_executor,
    )


def _with_keys(
    keys: Mapping[dg.AssetKey, dg.AssetKey],
    definitions: Sequence[dg.AssetsDefinition | dg.AssetChecksDefinition],
) -> list[dg.AssetsDefinition]:
    """Return assets or checks with other keys; to Dagster's annotation both are assets."""
    return [each.with_attributes(asset_key_replacements=keys) for each in definitions]


def _build_assets(
    settings: Settings, streams: Iterable[Stream], reports: Sequence[Stream], zone: str | None
) -> list[dg.AssetsDefinition]:
    hooks = {METRICS.name: add_metric_partitions}
    return [
        *(
            build_stream_asset(each.name, each.shape, post_sync_hook=hooks.get(each.name))
            for each in streams
            if not isinstance(each.source, ReportEndpoint)
        ),
        *(build_report_asset(each.name, settings.first_report_day, zone) for each in reports),
        build_overview_asset(frozenset(each.name for each in streams)),
    ]


def _build_sensors(
    settings: Settings, selected: frozenset[str], reports: Sequence[Stream]
) -> list[dg.SensorDefinition]:
    sensors: list[dg.SensorDefinition] = []
    if reports:
        sensors += [
            build_metric_sensor(settings),
            build_backfill_sensor(settings, reports),
            build_newest_days_sensor(settings, reports),
        ]
    if EVENTS.name in selected:
        sensors.append(build_repair_sensor(settings))
    return sensors


def _build_checks(
    selected: frozenset[str], reports: Sequence[Stream]
) -> list[dg.AssetChecksDefinition]:
    return [
        *(build_row_checks(name) for name in STREAMS if name in selected),
        *([build_completeness_check()] if EVENTS.name in selected else []),
        *(build_newest_days_check(each.name) for each in reports),
    ]


for warning in unknown_variables(os.environ):
    logger.warning(warning)
defs = build_defs(*read_settings(os.environ))
