"""The code location: the one place where the parts are put together.

What belongs here: `build_defs`, a pure function of the settings (two accounts are two calls), and
`defs`, its value for this process's environment. What does not: anything that acts.
"""

import logging
import os
from collections.abc import Sequence

import dagster as dg

from klaviyo_assets.defs.assets import asset_of
from klaviyo_assets.defs.automation import jobs, schedules
from klaviyo_assets.defs.completeness import completeness_check
from klaviyo_assets.defs.deep_checks import deep_checks
from klaviyo_assets.defs.healing import healing_sensor
from klaviyo_assets.defs.io_manager import LakeIOManager
from klaviyo_assets.defs.metric_keys import add_metric_keys, metric_sensor
from klaviyo_assets.defs.newest_days import newest_days_check, newest_days_sensor
from klaviyo_assets.defs.report_assets import report_asset
from klaviyo_assets.defs.report_drain import drain_sensor
from klaviyo_assets.defs.report_schedule import report_schedule
from klaviyo_assets.defs.resources import KlaviyoResource, LakeResource
from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.privacy import uncovered_places
from klaviyo_assets.settings import KEY_VARIABLE, Settings, read_settings, unknown_variables
from klaviyo_assets.streams import COLLECTIONS, REPORTS, STREAMS
from klaviyo_assets.streams.metrics import METRICS
from klaviyo_assets.sync.reports.account_zone import zone_at_load

log = logging.getLogger(__name__)


def build_defs(
    settings: Settings,
    refusals: Sequence[SettingError] = (),
    *,
    api_key: dg.EnvVar | None = None,
) -> dg.Definitions:
    """Return everything Dagster needs for one account.

    Args:
        settings: what is configured, but for the key.
        refusals: what of it could not be used; nothing is read or run while one stands.
        api_key: where the key is, read when a run needs it; by default `KLAVIYO_API_KEY`.
    """
    for each in [] if refusals else uncovered_places(settings, STREAMS):
        log.warning(each)
    klaviyo = KlaviyoResource(
        settings=settings,
        refusals=tuple(refusals),
        key_variable=KEY_VARIABLE if api_key is None else api_key.env_var_name,
    )
    lake = LakeResource(settings=settings, refusals=tuple(refusals))
    zone = None if refusals else zone_at_load(settings, lake.lake())
    return dg.Definitions(
        assets=[
            *(
                asset_of(stream, afterwards=add_metric_keys if stream is METRICS else None)
                for stream in COLLECTIONS
            ),
            *(report_asset(stream, settings, zone) for stream in REPORTS),
        ],
        asset_checks=_checks(settings),
        jobs=jobs(),
        schedules=[
            *schedules(settings),
            *(report_schedule(each, settings, zone) for each in REPORTS),
        ],
        sensors=_sensors(settings),
        resources={
            "klaviyo": klaviyo,
            "lake": lake,
            "lake_io_manager": LakeIOManager(lake=lake),
        },
        executor=dg.in_process_executor,
    )


def _sensors(settings: Settings) -> list[dg.SensorDefinition]:
    return [
        metric_sensor(settings),
        drain_sensor(settings),
        healing_sensor(settings),
        newest_days_sensor(settings),
    ]


def _checks(settings: Settings) -> list[dg.AssetChecksDefinition]:
    return [
        *map(deep_checks, STREAMS.values()),
        completeness_check(),
        *(newest_days_check(stream, settings) for stream in REPORTS),
    ]


for warning in unknown_variables(os.environ):
    log.warning(warning)
defs = build_defs(*read_settings(os.environ))
