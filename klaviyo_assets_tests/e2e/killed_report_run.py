"""A report run in a process of its own, which kills itself: which responses survive that."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.settings import read_settings
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.e2e.instance import open_instance


@dataclass(frozen=True, slots=True, kw_only=True)
class KilledReportRun:
    """A run of the partitions between two keys, and where it kills itself."""

    variables: Mapping[str, str]
    dagster_home: Path
    stream: str
    partition_range: tuple[str, str]
    kill_at: KillAt


def run_until_killed(run: KilledReportRun) -> None:
    """Be a process that runs the partitions until it kills itself."""
    os.environ.update(run.variables)
    run.kill_at.arm()
    defs = build_defs(*read_settings(run.variables))
    first, last = run.partition_range
    tags = {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }
    with open_instance(run.dagster_home) as instance:
        dg.materialize(
            list(defs.assets or ()),  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.assets(dg.AssetKey(["klaviyo", run.stream])),
            instance=instance,
            resources=defs.resources,
            tags=tags,
        )
