"""The job of several processes, as tests run it, and how patient Dagster is there."""

import os

import dagster as dg

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs import assets
from klaviyo_assets.settings import read_settings

IMMEDIATE_RETRY = dg.RetryPolicy(max_retries=1, delay=0)
"""How Dagster tries again here; the product waits a minute between two attempts."""


def retry_at_once() -> None:
    """Let assets that are built from now on have this policy, in a process of its own."""
    assets.ASSET_RETRY_POLICY = IMMEDIATE_RETRY
    assets.build_stream_asset.cache_clear()


def build_first_sync_job() -> dg.JobDefinition:
    """Return the job of several processes, with the settings of this process."""
    retry_at_once()
    return build_defs(*read_settings(os.environ)).resolve_job_def("klaviyo_first_sync")
