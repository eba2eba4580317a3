"""The job of several processes, as tests run it, and how patient Dagster is there.

What belongs here: what the process of each step imports, and little else: there is one for every
stream and check. What does not: starting the job (`lives`).
"""

import os

import dagster as dg

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.defs import assets
from klaviyo_assets.settings import read_settings

SOON = dg.RetryPolicy(max_retries=1, delay=0)
"""How Dagster tries again here; the product waits a minute between two attempts."""


def first_sync() -> dg.JobDefinition:
    """Return the job of several processes, with the settings of this process."""
    assets.RETRY = SOON
    return build_defs(*read_settings(os.environ)).resolve_job_def("klaviyo_first_sync")
