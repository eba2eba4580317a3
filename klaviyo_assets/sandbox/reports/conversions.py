"""Which metrics a report can count as conversions, and how often they happen.

Metrics of behaviour on messages and lists are not eligible; custom metrics are, though
`/api/metrics` does not list them.
"""

from dataclasses import dataclass

from klaviyo_assets.sandbox.errors import ApiError, invalid
from klaviyo_assets.sandbox.shop.metrics import METRICS
from klaviyo_assets.sandbox.shop.seeds import mix
from klaviyo_assets.sandbox.shop.store import Shop

_ORDERS_SHARE = 50


@dataclass(frozen=True, slots=True)
class Conversion:
    """A conversion metric: `weight` 1 converts as often as the main Placed Order."""

    metric_id: str
    weight: float
    seed: int


def eligible(shop: Shop) -> list[str]:
    """The ids that reports accept."""
    listed = [shop.metrics.id_of(k) for k, kind in enumerate(METRICS) if kind.converts]
    return listed + [record.id for record in shop.custom_metrics.records]


def conversion(shop: Shop, metric_id: str) -> Conversion:
    """The conversion of a metric; 400 in Klaviyo's words for one that is unknown or refused."""
    place = shop.metrics.ordinal_of(metric_id)
    custom = shop.custom_metrics.ordinal_of(metric_id)
    if custom is not None:
        return Conversion(metric_id, 0.3, mix(shop.account.seed, 900 + custom))
    if place is None:
        raise unknown()
    if place >= len(METRICS) or not METRICS[place].converts:
        raise not_eligible()
    return Conversion(
        metric_id, METRICS[place].share / _ORDERS_SHARE, mix(shop.account.seed, 500 + place)
    )


def not_eligible() -> ApiError:
    """The recorded answer for a metric whose events no report counts."""
    return refused("Passed in conversion metric does not support querying for values data")


def unknown() -> ApiError:
    """The recorded answer for an id that no metric of the account has."""
    return refused("Passed in conversion metric does not exist")


def refused(detail: str) -> ApiError:
    """A 400 that points at the conversion metric; its words are Klaviyo's to change."""
    return invalid(detail, pointer="/data/attributes/conversion_metric_id")
