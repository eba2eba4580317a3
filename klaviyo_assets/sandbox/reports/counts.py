"""Counts of a message in an hour, their sums, and the statistics that follow from them.

Money is in cents and everything is whole, so that sums over parts equal the whole exactly.
Source of the names and fractions: Query Campaign Values, API reference at revision 2026-07-15.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Self


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was sent and what came of it; `value` and `spend` in cents."""

    recipients: int = 0
    bounced: int = 0
    failed: int = 0
    opens: int = 0
    opens_unique: int = 0
    clicks: int = 0
    clicks_unique: int = 0
    unsubscribes: int = 0
    unsubscribe_uniques: int = 0
    spam_complaints: int = 0
    conversions: int = 0
    conversion_uniques: int = 0
    value: int = 0
    segments: int = 0
    credits: int = 0
    spend: int = 0

    @property
    def delivered(self) -> int:
        """Recipients that it reached."""
        return self.recipients - self.bounced - self.failed

    @classmethod
    def total(cls, parts: "Sequence[Counts]") -> Self:
        """The sum of all counts."""
        if not parts:
            return cls()
        columns = zip(*map(_numbers, parts), strict=True)
        return cls(**dict(zip(_NAMES, map(sum, columns), strict=True)))

    @classmethod
    def over_days(cls, days: "Sequence[Counts]") -> Self:
        """Several days as one: who opens on two days is one unique, so uniques are below sums."""
        summed = cls.total(days)
        lessened = {
            name: getattr(summed, name) - (getattr(summed, name) - most_of(days, name)) // 20
            for name in UNIQUES
        }
        return replace(summed, **lessened)


def most_of(days: "Sequence[Counts]", name: str) -> int:
    """The greatest value of a count on one day."""
    return max((getattr(day, name) for day in days), default=0)


UNIQUES = ("opens_unique", "clicks_unique", "unsubscribe_uniques", "conversion_uniques")
_NAMES = tuple(each.name for each in fields(Counts))
_numbers = attrgetter(*_NAMES)


def statistics(counts: Counts) -> dict[str, float]:
    """All 31 statistics in the order of their names; rates are zero where the whole is zero."""
    found = {**numbers(counts), **rates(counts)}
    return {name: found[name] for name in sorted(found)}


def numbers(counts: Counts) -> dict[str, float]:
    """What is counted or paid, money in the account's currency."""
    c = counts
    return {
        "bounced": c.bounced,
        "bounced_or_failed": c.bounced + c.failed,
        "clicks": c.clicks,
        "clicks_unique": c.clicks_unique,
        "conversion_uniques": c.conversion_uniques,
        "conversion_value": c.value / 100,
        "conversions": c.conversions,
        "delivered": c.delivered,
        "failed": c.failed,
        "message_segment_count_sum": c.segments,
        "opens": c.opens,
        "opens_unique": c.opens_unique,
        "recipients": c.recipients,
        "spam_complaints": c.spam_complaints,
        "text_message_credit_usage_amount": c.credits,
        "text_message_spend": c.spend / 100,
        "unsubscribe_uniques": c.unsubscribe_uniques,
        "unsubscribes": c.unsubscribes,
    }


def rates(counts: Counts) -> dict[str, float]:
    """What is divided: fractions from 0 to 1, and money per order, recipient or money spent."""
    c, delivered = counts, counts.delivered
    return {
        "average_order_value": _ratio(c.value / 100, c.conversions),
        "bounce_rate": _ratio(c.bounced, c.recipients),
        "bounced_or_failed_rate": _ratio(c.bounced + c.failed, c.recipients),
        "click_rate": _ratio(c.clicks_unique, delivered),
        "click_to_open_rate": min(1.0, _ratio(c.clicks_unique, c.opens_unique)),
        "conversion_rate": _ratio(c.conversion_uniques, delivered),
        "delivery_rate": _ratio(delivered, c.recipients),
        "failed_rate": _ratio(c.failed, c.recipients),
        "open_rate": _ratio(c.opens_unique, delivered),
        "revenue_per_recipient": _ratio(c.value / 100, c.recipients),
        "spam_complaint_rate": _ratio(c.spam_complaints, delivered),
        "text_message_roi": _ratio(c.value, c.spend),
        "unsubscribe_rate": _ratio(c.unsubscribe_uniques, delivered),
    }


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
