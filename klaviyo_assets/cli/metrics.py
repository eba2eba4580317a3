"""The verb `metrics`, and names of metrics in the place of ids."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import cast

from klaviyo_assets.account.metrics import (
    METRICS_TABLE,
    AccountMetric,
    describe_similar_metrics,
    read_custom_metrics,
    read_metrics,
    revenue_metric,
)
from klaviyo_assets.cli.lake_access import open_stored_lake
from klaviyo_assets.cli.plan_context import open_plan_context
from klaviyo_assets.cli.printing import print_errors, print_json
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.errors import LakeError, MissingTableError, SettingError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.selection import selected_streams
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS, STREAMS


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricStatus:
    """A line of the table; `reports` says by report whether Klaviyo makes it of this metric.

    `events`: how many are stored; None where no events are.
    """

    id: str
    name: str | None
    integration: str | None
    is_revenue: bool
    reports: Mapping[str, str]
    events: int | None


def list_metrics(settings: Settings, *, as_json: bool) -> int:
    """Print the account's metrics."""
    lake = open_stored_lake(settings)
    if lake.read_table_state(METRICS_TABLE) is None:
        raise MissingTableError("no metric is known: materialize klaviyo/metrics first")
    with open_plan_context(settings) as context:
        revenue = revenue_metric(read_metrics(lake), context.mapped_metric)
    found = _examine_metrics(settings, lake, revenue=revenue)
    if as_json:
        print_json([asdict(each) for each in found])
        return 0
    reports = list(found[0].reports) if found else []
    print_table(
        ["id", "name", "integration", "events", *reports],
        [
            (
                each.id,
                f"{each.name or ''}{' (revenue)' if each.is_revenue else ''}",
                each.integration or "",
                "" if each.events is None else f"{each.events:,}",
                *each.reports.values(),
            )
            for each in found
        ],
        numbers=["events"],
    )
    return 0


def _examine_metrics(settings: Settings, lake: Lake, *, revenue: str | None) -> list[MetricStatus]:
    selected = selected_streams(settings, STREAMS)
    reports = [
        each.name for each in REPORTS if each.name in selected and report_endpoint(each).has_metric
    ]
    answers = {name: _read_report_answers(lake, name) for name in reports}
    counts = _count_events(lake)
    return [
        MetricStatus(
            id=metric_id,
            name=name,
            integration=integration,
            is_revenue=metric_id == revenue,
            reports={each: answers[each].get(metric_id, "not asked yet") for each in reports},
            events=None if counts is None else counts.get(metric_id, 0),
        )
        for metric_id, name, integration in _read_named_metrics(lake)
    ]


def _read_named_metrics(lake: Lake) -> list[tuple[str, str | None, str | None]]:
    """Return the id, the name and the integration of each metric, by name."""
    rows = cast(
        "list[dict[str, str | None]]",
        lake.read_columns(METRICS_TABLE, ["id", "name", "integration"]).to_pylist(),
    )
    found = [(row["id"] or "", row["name"], _integration_name(row["integration"])) for row in rows]
    return sorted(found, key=lambda each: ((each[1] or "").casefold(), each[0]))


def _integration_name(text: str | None) -> str | None:
    with suppress(ValueError):
        found: object = json.loads(text or "null")
        if isinstance(found, dict):
            name = cast("dict[str, object]", found).get("name")
            return name if isinstance(name, str) else None
    return None


def _read_report_answers(lake: Lake, report: str) -> dict[str, str]:
    """Return what Klaviyo answered to each metric that was asked for, with the reason if no."""
    answers = {each.metric_id: "yes" for each in lake.read_partition_states(report)}
    failed = read_failed_metrics(lake, report)
    answers |= {each: f"failing: {one.reason}" for each, one in failed.items()}
    refused = lake.read_metric_refusals(report)
    return answers | {each: f"no: {one.reason}" for each, one in refused.items()}


def _count_events(lake: Lake) -> dict[str, int] | None:
    """Return how many events of each metric are stored; None without a readable table."""
    if lake.read_table_state("events") is None:
        return None
    with suppress(LakeError):
        counted = lake.query_relation("events").aggregate("metric_id, count(*)").fetchall()
        return {str(metric_id): int(count) for metric_id, count in counted}
    return None


def resolve_metric_names(
    words: Sequence[str], lake: Lake, *, known_ids: frozenset[str]
) -> list[str]:
    """Return the ids that ids or names mean; letter case of names does not count.

    A word may also be several, separated by commas. `known_ids`: ids that are no metric of the
    table, such as those that a setting names. Before the first sync of metrics nothing is known,
    and every word is taken for an id.

    Raises:
        SettingError: a word is neither.
    """
    stored = [*read_metrics(lake), *read_custom_metrics(lake)]
    if not stored:
        return [part for word in words for part in word.split(",") if part]
    found: list[str] = []
    for word in words:
        is_name = any((each.name or "").casefold() == word.casefold() for each in stored)
        parts = [word] if is_name else filter(None, word.split(","))
        for part in parts:
            found += _resolve_metric(part.strip(), stored, known_ids)
    return list(dict.fromkeys(found))


def _resolve_metric(
    word: str, stored: Sequence[AccountMetric], known_ids: frozenset[str]
) -> list[str]:
    """Return the id, or the ids of every metric that has the name: names are not unique."""
    if word in known_ids or any(each.id == word for each in stored):
        return [word]
    named = [each for each in stored if (each.name or "").casefold() == word.casefold()]
    if not named:
        raise SettingError(
            f"the account has no metric {word!a}, by id or by name."
            f"{describe_similar_metrics(word, stored)} `klaviyo-assets metrics` lists them"
        )
    if len(named) > 1:
        ids = ", ".join(each.id for each in named)
        print_errors([f"{len(named)} metrics are named {word!a}, and all are meant: {ids}"])
    return [each.id for each in named]
