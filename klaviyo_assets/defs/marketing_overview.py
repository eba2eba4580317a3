"""The marketing overview: an asset that writes a page from what is stored, its job and schedule.

It makes no request to Klaviyo. It has a job of its own: in the job of the collections Dagster would
skip it as soon as one stream is skipped or fails, and the page can do without any of them.
"""

import re
from collections.abc import Sequence
from contextlib import closing, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from klaviyo_assets.account.connection import open_rate_limiter
from klaviyo_assets.api.clock import utc_now
from klaviyo_assets.dashboard.figures import RequestQuota
from klaviyo_assets.dashboard.page import PAGE_FILE, Overview, build_overview
from klaviyo_assets.dashboard.questions import QUESTIONS, OverviewReader
from klaviyo_assets.defs.assets import ASSET_OWNERS
from klaviyo_assets.defs.automation import OVERVIEW_SCHEDULE_NAME, default_schedule_status
from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import asset_key
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.errors import KlaviyoAssetsError, MissingTableError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.reports.backfill_plan import read_daily_quota
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import DEFAULT_REPORTS

OVERVIEW_NAME = "marketing_overview"
OVERVIEW_JOB_NAME = "klaviyo_marketing_overview"
OVERVIEW_JOB_DESCRIPTION = "The page of pictures, from what is stored; no request is made."
_PAGE_TAG = "klaviyo/page"

OVERVIEW_MEMORY_LIMIT = "512MB"
"""What DuckDB may take for the queries; a million events need a fraction of it."""


def overview_streams() -> list[str]:
    """Return the names of the relations that the questions read, each once."""
    names = (name for each in QUESTIONS.values() for name in each.needs)
    return list(dict.fromkeys(["accounts", "metrics", "mapped_metrics", *names]))


@cache
def build_overview_asset(selected: frozenset[str]) -> dg.AssetsDefinition:
    """Return the asset of the page; it depends on those of its streams that are assets."""

    @dg.asset(
        key=asset_key(OVERVIEW_NAME),
        description="A page for people who know no SQL: revenue, campaigns, flows, lists, consent, "
        "deliverability, customers who come back, and quotas. One HTML file beside klaviyo.duckdb; "
        "it needs no network, and names no person.",
        group_name="reports",
        kinds={"html", "duckdb"},
        owners=ASSET_OWNERS,
        tags={_PAGE_TAG: OVERVIEW_NAME},
        deps=[asset_key(name) for name in overview_streams() if name in selected],
        freshness_policy=dg.FreshnessPolicy.time_window(
            warn_window=timedelta(hours=3), fail_window=timedelta(hours=26)
        ),
    )
    def write_marketing_overview(
        context: dg.AssetExecutionContext, lake: LakeResource
    ) -> dg.MaterializeResult[Any]:
        with raise_as_failures(OVERVIEW_NAME):
            store = lake.lake()
            overview = _build(store, lake, context)
            path = store.write_page(PAGE_FILE, overview.html)
            context.log.info("the page is %s", path)
            return dg.MaterializeResult(metadata=overview_metadata(overview, path))

    return write_marketing_overview


def _build(store: Lake, lake: LakeResource, context: dg.AssetExecutionContext) -> Overview:
    """Ask the questions of the lake as it is published now.

    Raises:
        StorageError: a file cannot be read.
    """
    try:
        connection = store.open_published_views(memory_limit=OVERVIEW_MEMORY_LIMIT)
    except MissingTableError:
        # Nothing was ever synced: the page then says what to switch on.
        store.ensure_writable()
        lake.publish(store, warn=context.log.warning)
        connection = store.open_published_views(memory_limit=OVERVIEW_MEMORY_LIMIT)
    with closing(connection), store.map_query_errors():
        return build_overview(
            OverviewReader(connection), now=utc_now(), quotas=read_quotas(lake.settings, store)
        )


def read_quotas(settings: Settings, lake: Lake) -> Sequence[RequestQuota]:
    """Return how many requests a day the reports have used; none where that is not known."""
    quotas: list[RequestQuota] = []
    with suppress(KlaviyoAssetsError):
        account = lake.stored_account()
        if account is None:
            return quotas
        with closing(open_rate_limiter(settings, account)) as limiter:
            for report in DEFAULT_REPORTS:
                quota = read_daily_quota(report, limiter)
                if quota is not None:
                    quotas.append(
                        RequestQuota(report=report.name, used=quota.used, limit=quota.limit)
                    )
    return quotas


def _escape_markdown(text: str) -> str:
    """Return a text, which may have a campaign's name in it, so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]<>()#|~])", r"\\\1", text)


def overview_metadata(overview: Overview, path: Path) -> dict[str, Any]:
    """Return the metadata of a materialization: where the page is, and its headline numbers."""
    rows = [
        f"| {each.label} | **{_escape_markdown(each.text)}** | {_escape_markdown(each.context)} |"
        for each in overview.headlines
    ]
    answers = [
        f"* {each.title} {_escape_markdown(each.answer)}"
        for each in overview.sections
        if each.answer
    ]
    summary = "\n".join(["| | | |", "|---|---|---|", *rows, "", *answers])
    return {
        "klaviyo/page": dg.MetadataValue.path(path),
        "klaviyo/page_link": dg.MetadataValue.url(path.as_uri()),
        "klaviyo/overview": dg.MetadataValue.md(summary),
        "klaviyo/period": f"{overview.scope.first_day} to {overview.scope.last_day}",
        "klaviyo/account_timezone": overview.scope.zone,
        "klaviyo/sections_without_data": sum(bool(each.missing) for each in overview.sections),
        **{
            f"klaviyo/{each.name}": each.value
            for each in overview.headlines
            if each.value is not None
        },
    }


def build_overview_job() -> UnresolvedAssetJobDefinition:
    """Return the job that writes the page."""
    return dg.define_asset_job(
        OVERVIEW_JOB_NAME,
        selection=dg.AssetSelection.tag(_PAGE_TAG, OVERVIEW_NAME),
        executor_def=dg.in_process_executor,
        description=OVERVIEW_JOB_DESCRIPTION,
    )


def build_overview_schedule(settings: Settings) -> dg.ScheduleDefinition:
    """Return the schedule: half an hour after the hourly sync has begun."""
    return dg.ScheduleDefinition(
        name=OVERVIEW_SCHEDULE_NAME,
        job_name=OVERVIEW_JOB_NAME,
        cron_schedule="37 * * * *",
        default_status=default_schedule_status(settings),
        description=OVERVIEW_JOB_DESCRIPTION,
    )
