"""What plans, `status` and `metrics` are computed from."""

from collections.abc import Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime

from klaviyo_assets.account.connection import open_rate_limiter
from klaviyo_assets.account.metrics import find_metric_setting_problems, read_metrics
from klaviyo_assets.cli.lake_access import open_lake
from klaviyo_assets.reports.backfill_plan import PlanContext
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS


@contextmanager
def open_plan_context(settings: Settings) -> Generator[PlanContext]:
    """Give the lake, the rate limiter of its account, the settings and the time, for the block."""
    lake = open_lake(settings)
    with closing(open_rate_limiter(settings, lake.stored_account() or "")) as rate_limiter:
        yield PlanContext(
            lake=lake, rate_limiter=rate_limiter, settings=settings, now=datetime.now(tz=UTC)
        )


def find_proven_metrics(context: PlanContext) -> frozenset[str]:
    """Return the metrics that a report was fetched for, or refused: the account knows their ids."""
    lake = context.lake
    stored = {each.metric_id for one in REPORTS for each in lake.read_partition_states(one.name)}
    return frozenset(stored.union(*(lake.read_metric_refusals(one.name) for one in REPORTS)))


def find_metric_warnings(context: PlanContext) -> list[str]:
    """Return what is wrong with the setting that names the metrics of reports."""
    proven_ids = {
        partition.metric_id
        for stream in REPORTS
        for partition in context.lake.read_partition_states(stream.name)
    }
    return find_metric_setting_problems(
        context.settings,
        read_metrics(context.lake),
        mapped=context.mapped_metric,
        proven_ids=proven_ids,
    )
