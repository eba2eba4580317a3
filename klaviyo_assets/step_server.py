"""Imported last by the server that step processes of the first sync are forked from; by none else.

Dagster lets that server import modules and do nothing more. What every step would do alike is done
here once, and each fork finds it in its memory. Nothing here opens a database or starts a thread:
a fork would not have them.
"""

from dagster._core.execution.api import create_execution_plan

from klaviyo_assets.definitions import defs
from klaviyo_assets.defs.schedules import FIRST_SYNC_JOB


def resolve_first_sync() -> None:
    """Resolve the job; definitions built by another code location than ours may have none."""
    repository = defs.get_repository_def()
    if repository.has_job(FIRST_SYNC_JOB):
        create_execution_plan(repository.get_job(FIRST_SYNC_JOB))


resolve_first_sync()
