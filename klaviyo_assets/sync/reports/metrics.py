"""Which metrics reports are fetched for, which of them is the revenue, and which do not exist.

What belongs here: from the stored metrics and the setting to ids, in the order of worth, and what
is wrong with the setting, in words. What does not: asking Klaviyo about metrics
(`metric_requests`), making partitions of them (`defs`).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import cast

import msgspec

from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.lake import Lake
from klaviyo_assets.settings import ALL_METRICS, Settings
from klaviyo_assets.sync.account import ledger_of

TABLE = "metrics"
AUTO = "auto"
"""The word of the setting that stands for the account's revenue metric."""

PLACED_ORDER = "Placed Order"
"""What a shop's main metric is called where nothing is mapped; the name is not unique."""

VARIABLE = "KLAVIYO_CONVERSION_METRIC_IDS"

NEAR, MOST_NEAR = 0.6, 3
"""How alike an id or a name has to be to be offered instead, 0 to 1, and how many are."""


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
    revenue = revenue_metric(stored, mapped)
    asked = settings.conversion_metric_ids
    if not asked:
        ids = [metric.id for metric in stored]
        first = [revenue] if revenue in ids else []
    else:
        ids = [revenue if each == AUTO else each for each in asked]
        first = [revenue] if revenue in ids else []
    return list(dict.fromkeys(each for each in (*first, *ids) if each is not None))


def revenue_metric(stored: Sequence[Metric], mapped: str | None) -> str | None:
    """Return the metric that is the account's revenue: the mapped one, else Placed Order."""
    return mapped or named_revenue(stored)


def named_revenue(stored: Sequence[Metric]) -> str | None:
    """Return the metric named Placed Order, a shop system's before others; None without one."""
    named = [metric for metric in stored if metric.name == PLACED_ORDER]
    of_shops = [metric for metric in named if metric.is_of_shop]
    best = of_shops or named
    return best[0].id if best else None


def metric_choices(stored: Sequence[Metric], mapped: str | None) -> dict[str, list[str]]:
    """Return what the setting's words stand for in this account: `auto` and `all`."""
    revenue = revenue_metric(stored, mapped)
    choices = {AUTO: [revenue] if revenue is not None else []}
    choices[ALL_METRICS] = [metric.id for metric in stored]
    return {word: ids for word, ids in choices.items() if ids}


def mapped_metric(lake: Lake, settings: Settings) -> str | None:
    """Return the metric that the account maps to revenue, as the last sync of metrics was told.

    Raises:
        LakeError: the table of metrics cannot be read.
    """
    state = lake.state(TABLE)
    if state is None:
        return None
    ledger = ledger_of(settings, lake.account() or state.account)
    try:
        return remembered_revenue(ledger)
    finally:
        ledger.close()


def remembered_revenue(ledger: Ledger) -> str | None:
    """Return the metric that an account maps to revenue, None where it maps none or was not asked.

    Raises:
        StorageError: the state folder cannot be used.
    """
    known = ledger.revenue_metric()
    return known.id if known is not None else None


def setting_problems(
    settings: Settings,
    stored: Sequence[Metric],
    *,
    mapped: str | None,
    custom: Sequence[Metric] | None = None,
    proven: Collection[str] = (),
) -> list[str]:
    """Return what is wrong with the metrics of the setting, a sentence each.

    `custom` are the account's custom metrics, which the table does not have; None where Klaviyo was
    not asked. Reports of `proven` metrics were answered, so they exist. Nothing is said before the
    table of metrics was read.
    """
    if not stored:
        return []
    problems: list[str] = []
    if AUTO in settings.conversion_metric_ids and revenue_metric(stored, mapped) is None:
        problems.append(no_revenue(stored))
    known = [*stored, *(custom or ())]
    where = "the account has no metric of that id, and no custom metric"
    advice = "Correct the id: no report of it can be fetched."
    if custom is None:
        where = f"the table metrics has no metric of that id among its {len(stored):,}"
        advice = "Correct the id, unless it is a custom metric's: that table has none of those."
    problems += [
        f"{VARIABLE} names {each!a}, but {where}.{nearest_sentence(each, known)} {advice}"
        for each in absent_metrics(settings, known)
        if each not in proven and each != mapped
    ]
    return problems


def absent_metrics(settings: Settings, known: Sequence[Metric]) -> list[str]:
    """Return the ids of the setting that are not among the metrics known."""
    ids = {metric.id for metric in known}
    return [each for each in settings.conversion_metric_ids if each != AUTO and each not in ids]


def no_revenue(stored: Sequence[Metric]) -> str:
    """Return the sentence for an account in which `auto` finds nothing."""
    return (
        f"{VARIABLE}=auto finds no metric, so no report is fetched: the account maps none to "
        f"revenue, and none of its {len(stored):,} metrics is named {PLACED_ORDER}. Map one in "
        f"Klaviyo, or set {VARIABLE} to the id of the metric whose events are revenue"
        f"{examples(stored)}."
    )


def examples(stored: Sequence[Metric]) -> str:
    """Return some metrics of the account's shop systems in brackets, where there are any."""
    found = [shown_metric(each) for each in stored if each.is_of_shop][:MOST_NEAR]
    return f" ({', '.join(found)})" if found else ""


def nearest_sentence(metric_id: str, known: Sequence[Metric]) -> str:
    """Return the metrics whose id or name is most like an id, as a sentence; empty without any."""
    found = nearest_metrics(metric_id, known)
    return f" Nearest: {', '.join(map(shown_metric, found))}." if found else ""


def nearest_metrics(metric_id: str, known: Sequence[Metric]) -> list[Metric]:
    """Return the metrics whose id or name is most like an id, the most alike first."""
    rated = [
        (max(likeness(metric_id, each.id), likeness(metric_id, each.name or "")), each)
        for each in known
    ]
    near = [pair for pair in rated if pair[0] >= NEAR]
    return [each for _, each in sorted(near, key=lambda pair: -pair[0])[:MOST_NEAR]]


def likeness(one: str, other: str) -> float:
    """Return how alike two texts are, 0 to 1, case and blanks apart."""
    first, second = ("".join(filter(str.isalnum, text)).casefold() for text in (one, other))
    return SequenceMatcher(None, first, second).ratio()


def shown_metric(metric: Metric) -> str:
    """Return a metric's id, with its name where it has one."""
    name = "".join(each if each.isprintable() else " " for each in metric.name or "")
    return f"{metric.id!a} ({name[:100]})" if name else ascii(metric.id)
