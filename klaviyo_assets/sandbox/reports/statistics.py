"""Counts of a send, how they grow with time, and the statistics that follow from them.

Money is in cents and everything is whole, so that sums over parts equal the whole exactly.
Source of the names and fractions: Query Campaign Values, API reference at revision 2026-07-15.

Opens and clicks go on for thirty days, conversions arrive within the channel's attribution window,
and some orders are refunded after twenty days. A pure function of (bits, recipients, age). Source
of the windows: Klaviyo's help centre, "Message attribution", defaults as of 2026.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from typing import Self

from klaviyo_assets.sandbox.clock import SECONDS_PER_DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class SendCounts:
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
    def sum_counts(cls, parts: "Sequence[SendCounts]") -> Self:
        """The sum of all counts."""
        if not parts:
            return cls()
        columns = zip(*map(_read_counts, parts), strict=True)
        return cls(**dict(zip(_COUNT_NAMES, map(sum, columns), strict=True)))

    @classmethod
    def combine_days(cls, days: "Sequence[SendCounts]") -> Self:
        """Several days as one: who opens on two days is one unique, so uniques are below sums."""
        summed = cls.sum_counts(days)
        lessened = {
            name: getattr(summed, name)
            - (getattr(summed, name) - highest_daily_count(days, name)) // 20
            for name in UNIQUE_COUNT_NAMES
        }
        return replace(summed, **lessened)


def highest_daily_count(days: "Sequence[SendCounts]", name: str) -> int:
    """The greatest value of a count on one day."""
    return max((getattr(day, name) for day in days), default=0)


UNIQUE_COUNT_NAMES = ("opens_unique", "clicks_unique", "unsubscribe_uniques", "conversion_uniques")
_COUNT_NAMES = tuple(each.name for each in fields(SendCounts))
_read_counts = attrgetter(*_COUNT_NAMES)


def compute_statistics(counts: SendCounts) -> dict[str, float]:
    """All 31 statistics in the order of their names; rates are zero where the whole is zero."""
    found = {**count_statistics(counts), **rate_statistics(counts)}
    return {name: found[name] for name in sorted(found)}


def count_statistics(counts: SendCounts) -> dict[str, float]:
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


def rate_statistics(counts: SendCounts) -> dict[str, float]:
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


_ENGAGEMENT_SECONDS = 30 * SECONDS_PER_DAY
_REFUND_DELAY_SECONDS = 20 * SECONDS_PER_DAY
_CREDIT_CENTS = 1.5
_CONVERSION_SHARE = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelRates:
    """Shares of a channel: bounces and failures of recipients, the others of those reached.

    `attribution_seconds` is the attribution window in seconds.
    """

    bounce_rate: float
    failure_rate: float
    open_rate: float
    click_rate: float
    unsubscribe_rate: float
    attribution_seconds: int
    is_text: bool = False


CHANNEL_RATES: dict[str, ChannelRates] = {
    "email": ChannelRates(
        bounce_rate=0.012,
        failure_rate=0.0,
        open_rate=0.42,
        click_rate=0.03,
        unsubscribe_rate=0.003,
        attribution_seconds=5 * SECONDS_PER_DAY,
    ),
    "sms": ChannelRates(
        bounce_rate=0.0,
        failure_rate=0.03,
        open_rate=0.0,
        click_rate=0.07,
        unsubscribe_rate=0.01,
        attribution_seconds=5 * SECONDS_PER_DAY,
        is_text=True,
    ),
    "push-notification": ChannelRates(
        bounce_rate=0.05,
        failure_rate=0.01,
        open_rate=0.11,
        click_rate=0.0,
        unsubscribe_rate=0.0,
        attribution_seconds=SECONDS_PER_DAY,
    ),
    "whatsapp": ChannelRates(
        bounce_rate=0.0,
        failure_rate=0.02,
        open_rate=0.7,
        click_rate=0.09,
        unsubscribe_rate=0.004,
        attribution_seconds=5 * SECONDS_PER_DAY,
    ),
}


def accrued_count(final: float, age: float, span: float) -> int:
    """How much of a final number is there after `age` seconds, all of it after `span`."""
    if age <= 0:
        return 0
    share = min(1.0, age / span)
    return int(final * share * 1.1 / (share + 0.1))


def compute_outcome(
    channel: str, bits: int, recipients: int, *, age: float, weight: float
) -> SendCounts:
    """Counts of one hour's send after `age` seconds; `weight` scales conversions by the metric."""
    if recipients == 0 or age < 0:
        return SendCounts()
    rates = CHANNEL_RATES[channel]
    jitter = 0.6 + (bits & 255) / 320
    bounced = (
        int(recipients * rates.bounce_rate * jitter + (bits >> 8 & 1)) if rates.bounce_rate else 0
    )
    failed = int(recipients * rates.failure_rate * jitter)
    segments = recipients * (1 + (bits >> 12 & 1)) if rates.is_text else 0
    bounced = min(bounced, recipients)
    failed = min(failed, recipients - bounced)
    reached = (recipients - bounced - failed) * jitter
    return SendCounts(
        recipients=recipients,
        bounced=bounced,
        failed=failed,
        segments=segments,
        credits=segments * 2,
        spend=int(segments * 2 * _CREDIT_CENTS),
        **compute_engagement(rates, bits, reached=reached, age=age),
        **compute_conversions(rates, bits, reached=reached * weight, age=age),
    )


def compute_engagement(
    rates: ChannelRates, bits: int, *, reached: float, age: float
) -> dict[str, int]:
    """Opens, clicks and leavings of so many reached, after `age` seconds."""
    opened = accrued_count(reached * rates.open_rate, age, _ENGAGEMENT_SECONDS)
    clicked = accrued_count(reached * rates.click_rate, age, _ENGAGEMENT_SECONDS)
    left = accrued_count(reached * rates.unsubscribe_rate, age, _ENGAGEMENT_SECONDS)
    return {
        "opens": opened + opened * (bits >> 9 & 7) // 8,
        "opens_unique": opened,
        "clicks": clicked + clicked * (bits >> 13 & 3) // 4,
        "clicks_unique": clicked,
        "unsubscribes": left,
        "unsubscribe_uniques": left,
        "spam_complaints": left // 9,
    }


def compute_conversions(
    rates: ChannelRates, bits: int, *, reached: float, age: float
) -> dict[str, int]:
    """Conversions and their value; one send in sixteen has refunds after twenty days."""
    ordered = accrued_count(reached * _CONVERSION_SHARE, age, rates.attribution_seconds)
    value = ordered * (1500 + (bits >> 32) % 9000)
    if age > _REFUND_DELAY_SECONDS and bits >> 56 & 15 == 0:
        value -= value // 10
    return {
        "conversions": ordered,
        "conversion_uniques": ordered - ordered // 12,
        "value": value,
    }
