"""A report run that kills itself at a chosen moment: what `kill -9` does to what was paid for.

What belongs here: the moments. What does not: what must be left of it (`test_report_quota`).
"""

import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import dagster as dg

from klaviyo_assets.api.client import Client
from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs.report_events import ReportEvents
from klaviyo_assets.lake import Lake
from klaviyo_assets.lake.answers import Answers
from klaviyo_assets.settings import read_settings
from klaviyo_assets_tests.e2e.instance import instance_of

Words = ParamSpec("Words")
Result = TypeVar("Result")

MOMENTS: dict[str, tuple[type, str, bool]] = {
    "booked": (Client, "ask", True),
    "answered": (Answers, "put", True),
    "kept": (Answers, "put", False),
    "stored": (Lake, "replace_cells", False),
    "told": (ReportEvents, "add", False),
}
"""What is about to be called (True) or has just been called when the run dies."""


def deadly(method: Callable[Words, Result], count: int, *, before: bool) -> Callable[Words, Result]:
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
class Fate:
    """A run of the partitions between two keys, and the moment of its death, by name and count."""

    variables: Mapping[str, str]
    dagster: Path
    stream: str
    ends: tuple[str, str]
    moment: str
    count: int


def meet(fate: Fate) -> None:
    """Be a process that runs the partitions until the moment comes."""
    os.environ.update(fate.variables)
    kind, name, before = MOMENTS[fate.moment]
    setattr(kind, name, deadly(getattr(kind, name), fate.count, before=before))
    defs = build_defs(*read_settings(fate.variables))
    first, last = fate.ends
    tags = {
        "dagster/asset_partition_range_start": first,
        "dagster/asset_partition_range_end": last,
    }
    with instance_of(fate.dagster) as instance:
        dg.materialize(
            list(defs.assets or ()),  # pyright: ignore[reportArgumentType]
            selection=dg.AssetSelection.assets(dg.AssetKey(["klaviyo", fate.stream])),
            instance=instance,
            resources=defs.resources,
            tags=tags,
        )
