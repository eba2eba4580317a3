"""Which metrics reports are fetched for, and which of them is the account's revenue.

What belongs here: from the stored metrics and the setting to ids, in the order of worth. What does
not: making partitions of them (`defs`).
Source: https://developers.klaviyo.com/en/reference/get_mapped_metrics, revision 2026-07-15.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import msgspec

from klaviyo_assets.api.client import Client
from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.errors import BrokenBodyError, MissingScopeError, PermanentError
from klaviyo_assets.lake import Lake
from klaviyo_assets.model.settings import Settings
from klaviyo_assets.model.tiers import Budget, S
from klaviyo_assets.tables.body import opened, with_whole_characters

TABLE = "metrics"
AUTO = "auto"
"""The word of the setting that stands for the account's revenue metric."""

REVENUE = "revenue"
PLACED_ORDER = "Placed Order"
"""What a shop's main metric is called where nothing is mapped; the name is not unique."""

_PATH = "/api/mapped-metrics"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """A stored metric: its id and name, and whether its events come from a shop system."""

    id: str
    name: str | None
    is_of_shop: bool


def stored_metrics(lake: Lake) -> list[Metric]:
    """Return the metrics that the table has, in the order of their ids; none before it was read.

    Raises:
        LakeError: the table cannot be read.
    """
    if lake.state(TABLE) is None:
        return []
    rows = cast(
        "list[dict[str, str | None]]", lake.keys(TABLE, ["id", "name", "integration"]).to_pylist()
    )
    found = [
        Metric(id=row["id"] or "", name=row["name"], is_of_shop=is_shop_system(row["integration"]))
        for row in rows
    ]
    return sorted(found, key=lambda metric: metric.id)


def is_shop_system(integration: str | None) -> bool:
    """Return whether an integration, as JSON text, is of the category eCommerce.

    Recorded answers have the category as a text, and as an object with a name.
    """
    try:
        found = msgspec.json.decode(integration or "{}", type=_Integration).category
    except msgspec.DecodeError:
        return False
    name = found.get("name") if isinstance(found, dict) else found
    return isinstance(name, str) and name.lower() == "ecommerce"


class _Integration(msgspec.Struct):
    category: str | dict[str, object] | None = None


def wanted_metrics(
    settings: Settings, stored: Sequence[Metric], *, mapped: str | None = None
) -> list[str]:
    """Return the ids of the metrics to fetch reports for, the revenue metric first.

    `mapped` is the one that the account itself maps to revenue, where that is known. Without a
    setting these are all metrics; Klaviyo's refusals show later which of them it accepts.
    """
    revenue = mapped or named_revenue(stored)
    asked = settings.conversion_metric_ids
    if not asked:
        ids = [metric.id for metric in stored]
        first = [revenue] if revenue in ids else []
    else:
        ids = [revenue if each == AUTO else each for each in asked]
        first = [revenue] if revenue in ids else []
    return list(dict.fromkeys(each for each in (*first, *ids) if each is not None))


def named_revenue(stored: Sequence[Metric]) -> str | None:
    """Return the metric named Placed Order, a shop system's before others; None without one."""
    named = [metric for metric in stored if metric.name == PLACED_ORDER]
    of_shops = [metric for metric in named if metric.is_of_shop]
    best = of_shops or named
    return best[0].id if best else None


class _Identifier(msgspec.Struct):
    id: str


class _Related(msgspec.Struct):
    data: _Identifier | None = None


class _Relationships(msgspec.Struct, rename="kebab"):
    metric: _Related | None = None
    custom_metric: _Related | None = None


class _Mapped(msgspec.Struct):
    id: str
    relationships: _Relationships = msgspec.field(default_factory=_Relationships)


class _Answer(msgspec.Struct):
    data: list[_Mapped]


def mapped_revenue(client: Client, base_url: str) -> str | None:
    """Ask which metric the account maps to revenue; None where it maps none, or may not be asked.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    request = Request(
        method="GET",
        url=f"{base_url}{_PATH}?include=metric%2Ccustom-metric",
        budgets=(Budget(f"GET {_PATH}", S),),
        path=_PATH,
    )
    try:
        return client.read(request, _revenue_in, stream=TABLE)
    except (MissingScopeError, PermanentError):
        return None


def _revenue_in(answer: Answer) -> str | None:
    try:
        text, _ = with_whole_characters(opened(answer.body, TABLE))
        found = msgspec.json.decode(text, type=_Answer).data
    except msgspec.DecodeError:
        raise BrokenBodyError(f"the answer to GET {_PATH} has not the documented shape") from None
    for each in found:
        if each.id != REVENUE:
            continue
        for related in (each.relationships.metric, each.relationships.custom_metric):
            if related is not None and related.data is not None:
                return related.data.id
    return None
