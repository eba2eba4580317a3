"""The job of several processes, as tests run it, and how patient Dagster is there."""

import os
from collections.abc import Mapping

import dagster as dg

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.settings import read_settings


def no_delay(self: dg.RetryPolicy, attempt_num: int) -> int:
    """Return how long Dagster waits before the next attempt; the product has it wait a minute."""
    del self, attempt_num
    return 0


def retry_at_once() -> None:
    """Let Dagster try again at once, in a process of its own."""
    dg.RetryPolicy.calculate_delay = no_delay


def build_first_sync_job(variables: Mapping[str, str]) -> dg.JobDefinition:
    """Return the job of several processes, with settings that this process has from then on."""
    os.environ.update(variables)
    retry_at_once()
    return build_defs(*read_settings(os.environ)).resolve_job_def("klaviyo_first_sync")
