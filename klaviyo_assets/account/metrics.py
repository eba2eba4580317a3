"""Finds the account's metrics: those stored, the revenue metric, and those to report on."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from difflib import SequenceMatcher
from typing import cast

import msgspec

from klaviyo_assets.account.connection import open_rate_limiter
from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.messages import Request, Response, json_member
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.decode.jsonapi import check_response_envelope, repair_json, strip_bom
from klaviyo_assets.errors import BrokenBodyError, PermanentError, RefusedStreamError
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import NO_METRIC, ReportEndpoint
from klaviyo_assets.model.stream import TIER_S, RateLimitBucket
from klaviyo_assets.settings import ALL_IDS, AUTO_METRIC, Settings

METRICS_TABLE, CUSTOM_METRICS_TABLE = "metrics", "custom_metrics"

PLACED_ORDER_NAME = "Placed Order"
"""The usual name of a shop's order metric, used where no metric is mapped; it is not unique."""

CONVERSION_METRICS_VARIABLE = "KLAVIYO_CONVERSION_METRIC_IDS"

MIN_NAME_SIMILARITY, MAX_SUGGESTED_METRICS = 0.6, 3
"""How similar (0 to 1) an id or name must be to be suggested, and how many are suggested."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountMetric:
    """A stored metric: its id and name, and whether its events come from a shop system."""

    id: str
    name: str | None
    is_ecommerce: bool


def read_metrics(lake: Lake) -> list[AccountMetric]:
    """Return the stored metrics, ordered by id; none before the first sync of metrics.

    Raises:
        LakeError: the table cannot be read.
    """
    if lake.read_table_state(METRICS_TABLE) is None:
        return []
    rows = cast(
        "list[dict[str, str | None]]",
        lake.read_columns(METRICS_TABLE, ["id", "name", "integration"]).to_pylist(),
    )
    found = [
        AccountMetric(
            id=row["id"] or "",
            name=row["name"],
            is_ecommerce=is_ecommerce_integration(row["integration"]),
        )
        for row in rows
    ]
    return sorted(found, key=lambda metric: metric.id)


def read_custom_metrics(lake: Lake) -> list[AccountMetric]:
    """Return the stored custom metrics, which the table of metrics lacks; none before their sync.

    Raises:
        LakeError: the table cannot be read.
    """
    if lake.read_table_state(CUSTOM_METRICS_TABLE) is None:
        return []
    rows = cast(
        "list[dict[str, str | None]]",
        lake.read_columns(CUSTOM_METRICS_TABLE, ["id", "name"]).to_pylist(),
    )
    return [AccountMetric(id=row["id"] or "", name=row["name"], is_ecommerce=False) for row in rows]


def is_ecommerce_integration(integration: str | None) -> bool:
    """Return whether an integration, given as JSON text, has the category eCommerce.

    Recorded responses have the category as a string, or as an object with a name.
    """
    try:
        found = msgspec.json.decode(integration or "{}", type=_Integration).category
    except msgspec.DecodeError:
        return False
    name = found.get("name") if isinstance(found, dict) else found
    return isinstance(name, str) and name.lower() == "ecommerce"


class _Integration(msgspec.Struct):
    category: str | dict[str, object] | None = None


def select_metric_ids(
    settings: Settings, stored: Sequence[AccountMetric], *, mapped: str | None = None
) -> list[str]:
    """Return the ids of the metrics to fetch reports for, the revenue metric first.

    `mapped`: the metric that the account maps to revenue, if known. Without a setting these are all
    metrics; Klaviyo's errors show later which of them it accepts.
    """
    revenue = revenue_metric(stored, mapped)
    configured = settings.conversion_metric_ids
    if not configured:
        ids = [metric.id for metric in stored]
        first = [revenue] if revenue in ids else []
    else:
        ids = [revenue if each == AUTO_METRIC else each for each in configured]
        first = [revenue] if revenue in ids else []
    return list(dict.fromkeys(each for each in (*first, *ids) if each is not None))


def select_event_metric_ids(settings: Settings, stored: Sequence[AccountMetric]) -> list[str]:
    """Return the ids of the metrics whose events are counted: those of the setting, or all."""
    return list(settings.event_metric_ids or (metric.id for metric in stored))


def select_report_metrics(
    report: ReportEndpoint,
    settings: Settings,
    stored: Sequence[AccountMetric],
    *,
    mapped: str | None,
) -> list[str]:
    """Return the ids of the metrics that the settings want of a report, or `NO_METRIC` alone."""
    match report.metric:
        case "event":
            return select_event_metric_ids(settings, stored)
        case "conversion":
            return select_metric_ids(settings, stored, mapped=mapped)
        case None:
            return [NO_METRIC]


def revenue_metric(stored: Sequence[AccountMetric], mapped: str | None) -> str | None:
    """Return the id of the account's revenue metric: the mapped one, else Placed Order."""
    return mapped or find_placed_order_metric(stored)


def find_placed_order_metric(stored: Sequence[AccountMetric]) -> str | None:
    """Return the id of the metric named Placed Order, a shop system's first; None without one."""
    named = [metric for metric in stored if metric.name == PLACED_ORDER_NAME]
    of_shops = [metric for metric in named if metric.is_ecommerce]
    best = of_shops or named
    return best[0].id if best else None


def resolve_metric_words(
    stored: Sequence[AccountMetric], mapped: str | None
) -> dict[str, list[str]]:
    """Return the metric ids that `auto` and `all` of the setting mean in this account."""
    revenue = revenue_metric(stored, mapped)
    choices = {AUTO_METRIC: [revenue] if revenue is not None else []}
    choices[ALL_IDS] = [metric.id for metric in stored]
    return {word: ids for word, ids in choices.items() if ids}


def read_mapped_metric(lake: Lake, settings: Settings) -> str | None:
    """Return the metric that the account maps to revenue, as of the last sync of metrics.

    Raises:
        LakeError: the table of metrics cannot be read.
    """
    state = lake.read_table_state(METRICS_TABLE)
    if state is None:
        return None
    rate_limiter = open_rate_limiter(settings, lake.stored_account() or state.account)
    try:
        return cached_revenue_metric(rate_limiter)
    finally:
        rate_limiter.close()


def cached_revenue_metric(rate_limiter: RateLimiter) -> str | None:
    """Return the stored metric that an account maps to revenue; None if none, or never fetched.

    Raises:
        StorageError: the state folder cannot be used.
    """
    known = rate_limiter.revenue_metric()
    return known.id if known is not None else None


def find_metric_setting_problems(
    settings: Settings,
    stored: Sequence[AccountMetric],
    *,
    mapped: str | None,
    custom: Sequence[AccountMetric] | None = None,
    proven_ids: Collection[str] = (),
) -> list[str]:
    """Return a sentence for each problem with the metrics of the setting.

    `custom`: the account's custom metrics, which the table lacks; None if not fetched.
    `proven_ids`: metrics that exist because reports of them were fetched. Before the first sync of
    metrics there are no problems to find.
    """
    if not stored:
        return []
    problems: list[str] = []
    if AUTO_METRIC in settings.conversion_metric_ids and revenue_metric(stored, mapped) is None:
        problems.append(describe_missing_revenue(stored))
    known = [*stored, *(custom or ())]
    where = "the account has no metric of that id, and no custom metric"
    advice = "Correct the id: no report of it can be fetched."
    if custom is None:
        where = f"the table metrics has no metric of that id among its {len(stored):,}"
        advice = "Correct the id, unless it is a custom metric's: that table has none of those."
    problems += [
        f"{CONVERSION_METRICS_VARIABLE} names {each!a}, but "
        f"{where}.{describe_similar_metrics(each, known)} {advice}"
        for each in unknown_metric_ids(settings, known)
        if each not in proven_ids and each != mapped
    ]
    return problems


def unknown_metric_ids(settings: Settings, known: Sequence[AccountMetric]) -> list[str]:
    """Return the ids of the setting that are not among the known metrics."""
    ids = {metric.id for metric in known}
    return [
        each for each in settings.conversion_metric_ids if each != AUTO_METRIC and each not in ids
    ]


def describe_missing_revenue(stored: Sequence[AccountMetric]) -> str:
    """Return the sentence for an account in which `auto` finds no metric."""
    return (
        f"{CONVERSION_METRICS_VARIABLE}=auto finds no metric, so no report is fetched: the account "
        "maps none to "
        f"revenue, and none of its {len(stored):,} metrics is named {PLACED_ORDER_NAME}. Map one "
        "in "
        f"Klaviyo, or set {CONVERSION_METRICS_VARIABLE} to the id of the metric whose events are "
        "revenue"
        f"{describe_ecommerce_metrics(stored)}."
    )


def describe_ecommerce_metrics(stored: Sequence[AccountMetric]) -> str:
    """Return a few metrics of the account's shop systems in brackets; empty without any."""
    found = [format_metric(each) for each in stored if each.is_ecommerce][:MAX_SUGGESTED_METRICS]
    return f" ({', '.join(found)})" if found else ""


def describe_similar_metrics(metric_id: str, known: Sequence[AccountMetric]) -> str:
    """Return the metrics whose id or name is most similar to an id, as a sentence, or empty."""
    found = find_similar_metrics(metric_id, known)
    return f" Nearest: {', '.join(map(format_metric, found))}." if found else ""


def find_similar_metrics(metric_id: str, known: Sequence[AccountMetric]) -> list[AccountMetric]:
    """Return the metrics whose id or name is most similar to an id, the most similar first."""
    rated = [
        (
            max(text_similarity(metric_id, each.id), text_similarity(metric_id, each.name or "")),
            each,
        )
        for each in known
    ]
    near = [pair for pair in rated if pair[0] >= MIN_NAME_SIMILARITY]
    return [each for _, each in sorted(near, key=lambda pair: -pair[0])[:MAX_SUGGESTED_METRICS]]


def text_similarity(one: str, other: str) -> float:
    """Return how similar two texts are, 0 to 1; only letters and digits count, not their case."""
    first, second = ("".join(filter(str.isalnum, text)).casefold() for text in (one, other))
    return SequenceMatcher(None, first, second).ratio()


def format_metric(metric: AccountMetric) -> str:
    """Return a metric's id, with its name where it has one."""
    name = "".join(each if each.isprintable() else " " for each in metric.name or "")
    return f"{metric.id!a} ({name[:100]})" if name else ascii(metric.id)


REVENUE_MAPPING_ID = "revenue"
"""The id, in Klaviyo, of the mapping that names the account's revenue metric."""

REVENUE_CACHE_LIFETIME = timedelta(days=1)

MAPPED_METRICS_PATH, CUSTOM_METRICS_PATH = "/api/mapped-metrics", "/api/custom-metrics"


def get_revenue_metric(
    client: KlaviyoClient, rate_limiter: RateLimiter, *, now: datetime
) -> str | None:
    """Return which metric the account maps to revenue; None where it maps none.

    It is fetched once a day, but at every call while none is mapped: one may be mapped any time.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    known = rate_limiter.revenue_metric()
    if (
        known is not None
        and known.id is not None
        and abs(now - known.fetched_at) < REVENUE_CACHE_LIFETIME
    ):
        return known.id
    return fetch_revenue_metric(client, rate_limiter)


def fetch_revenue_metric(client: KlaviyoClient, rate_limiter: RateLimiter) -> str | None:
    """Fetch which metric the account maps to revenue, and store it.

    None where it maps none, or where the key may not read it.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    try:
        found = client.fetch(
            _build_request(MAPPED_METRICS_PATH, "?include=metric%2Ccustom-metric"),
            _parse_revenue_metric,
            stream=METRICS_TABLE,
        )
    except (RefusedStreamError, PermanentError):
        found = None
    rate_limiter.store_revenue_metric(found)
    return found


def fetch_custom_metrics(client: KlaviyoClient) -> Sequence[AccountMetric] | None:
    """Fetch the account's custom metrics; None where the key may not read them.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    try:
        found = client.fetch(
            _build_request(CUSTOM_METRICS_PATH),
            _parse_custom_metrics,
            stream=METRICS_TABLE,
        )
    except (RefusedStreamError, PermanentError):
        return None
    return found


def _build_request(path: str, query: str = "") -> Request:
    return Request(
        method="GET",
        target=f"{path}{query}",
        buckets=(RateLimitBucket(f"GET {path}", TIER_S),),
        path=path,
    )


def _parse_revenue_metric(response: Response) -> str | None:
    for each in _parse_records(response, MAPPED_METRICS_PATH):
        if json_member(each, "id") != REVENUE_MAPPING_ID:
            continue
        for name in ("metric", "custom-metric"):
            related = json_member(json_member(each, "relationships"), name)
            if isinstance(found := json_member(json_member(related, "data"), "id"), str):
                return found
    return None


def _parse_custom_metrics(response: Response) -> list[AccountMetric]:
    """Return the metrics that have an id; a name that is not a string becomes None."""
    named = [
        (json_member(each, "id"), json_member(json_member(each, "attributes"), "name"))
        for each in _parse_records(response, CUSTOM_METRICS_PATH)
    ]
    return [
        AccountMetric(id=each, name=name if isinstance(name, str) else None, is_ecommerce=False)
        for each, name in named
        if isinstance(each, str)
    ]


def _parse_records(response: Response, path: str) -> list[object]:
    """Return the records of a response, unchecked: one malformed record must not hide the others.

    Raises:
        BrokenBodyError: the body is not a response of Klaviyo's.
    """
    text, _ = repair_json(strip_bom(response.body, METRICS_TABLE))
    check_response_envelope(text, stream=METRICS_TABLE, is_paged=True)
    try:
        records = json_member(json.loads(text), "data")
    except (ValueError, RecursionError):
        records = None
    if not isinstance(records, list):
        raise BrokenBodyError(f"the response to GET {path} does not have the documented shape")
    return cast("list[object]", records)
