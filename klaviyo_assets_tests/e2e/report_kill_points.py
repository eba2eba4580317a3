"""A report run that kills itself at a chosen moment: what `kill -9` does to what was paid for."""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import dagster as dg

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs.report_assets import ReportRunRecorder
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.response_cache import ReportResponseCache
from klaviyo_assets.settings import read_settings
from klaviyo_assets_tests.e2e.instance import open_instance

Words = ParamSpec("Words")
Result = TypeVar("Result")

KILL_POINTS: dict[str, tuple[type, str, bool]] = {
    "booked": (KlaviyoClient, "send", True),
    "answered": (ReportResponseCache, "store_response", True),
    "kept": (ReportResponseCache, "store_response", False),
    "stored": (Lake, "replace_report_partitions", False),
    "told": (ReportRunRecorder, "record", False),
}
"""What is about to be called (True) or has just been called when the run dies."""


def kill_on_call(
    method: Callable[Words, Result], count: int, *, before: bool
) -> Callable[Words, Result]:
    """Return the method; its `count`-th call kills this process, before or after it."""
    calls = 0

    @wraps(method)
    def called(*words: Words.args, **named: Words.kwargs) -> Result:
        nonlocal calls
        # The account is asked for by the same call, before any report.
        calls += all(getattr(word, "method", "POST") == "POST" for word in words)
        if before and calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        result = method(*words, **named)
        if calls == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return called


@dataclass(frozen=True, slots=True, kw_only=True)
class KilledReportRun:
    """A run of the partitions between two keys, and the moment of its death, by name and count."""

    variables: Mapping[str, str]
    dagster_home: Path
    stream: str
    partition_range: tuple[str, str]
    kill_point: str
    count: int


def run_until_killed(run: KilledReportRun) -> None:
    """Be a process that runs the partitions until the moment comes."""
    os.environ.update(run.variables)
    kind, name, before = KILL_POINTS[run.kill_point]
    setattr(kind, name, kill_on_call(getattr(kind, name), run.count, before=before))
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
