"""What comes of a send: counts by channel, growing with the time since.

Opens and clicks go on for thirty days, conversions arrive within the channel's attribution window,
and some orders are refunded after twenty days. A pure function of (bits, recipients, age). Source
of the windows: Klaviyo's help centre, "Message attribution", defaults as of 2026.
"""

from dataclasses import dataclass

from klaviyo_assets.sandbox.moments import DAY_SECONDS
from klaviyo_assets.sandbox.reports.counts import Counts

_ENGAGED_FOR = 30 * DAY_SECONDS
_REFUND_AFTER = 20 * DAY_SECONDS
_CREDIT_CENTS = 1.5
_CONVERTING = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """Shares of a channel: bounces and failures of recipients, the others of those reached.

    `window` is the attribution window in seconds.
    """

    bounced: float
    failed: float
    opened: float
    clicked: float
    left: float
    window: int
    is_text: bool = False


HABITS: dict[str, Habits] = {
    "email": Habits(
        bounced=0.012, failed=0.0, opened=0.42, clicked=0.03, left=0.003, window=5 * DAY_SECONDS
    ),
    "sms": Habits(
        bounced=0.0,
        failed=0.03,
        opened=0.0,
        clicked=0.07,
        left=0.01,
        window=5 * DAY_SECONDS,
        is_text=True,
    ),
    "push-notification": Habits(
        bounced=0.05, failed=0.01, opened=0.11, clicked=0.0, left=0.0, window=DAY_SECONDS
    ),
    "whatsapp": Habits(
        bounced=0.0, failed=0.02, opened=0.7, clicked=0.09, left=0.004, window=5 * DAY_SECONDS
    ),
}


def arrived(final: float, age: float, span: float) -> int:
    """How much of a final number is there after `age` seconds, all of it after `span`."""
    if age <= 0:
        return 0
    share = min(1.0, age / span)
    return int(final * share * 1.1 / (share + 0.1))


def outcome(channel: str, bits: int, recipients: int, *, age: float, weight: float) -> Counts:
    """Counts of one hour's send after `age` seconds; `weight` scales conversions by the metric."""
    if recipients == 0 or age < 0:
        return Counts()
    habits = HABITS[channel]
    jitter = 0.6 + (bits & 255) / 320
    bounced = int(recipients * habits.bounced * jitter + (bits >> 8 & 1)) if habits.bounced else 0
    failed = int(recipients * habits.failed * jitter)
    segments = recipients * (1 + (bits >> 12 & 1)) if habits.is_text else 0
    bounced = min(bounced, recipients)
    failed = min(failed, recipients - bounced)
    reached = (recipients - bounced - failed) * jitter
    return Counts(
        recipients=recipients,
        bounced=bounced,
        failed=failed,
        segments=segments,
        credits=segments * 2,
        spend=int(segments * 2 * _CREDIT_CENTS),
        **engagement(habits, bits, reached=reached, age=age),
        **earnings(habits, bits, reached=reached * weight, age=age),
    )


def engagement(habits: Habits, bits: int, *, reached: float, age: float) -> dict[str, int]:
    """Opens, clicks and leavings of so many reached, after `age` seconds."""
    opened = arrived(reached * habits.opened, age, _ENGAGED_FOR)
    clicked = arrived(reached * habits.clicked, age, _ENGAGED_FOR)
    left = arrived(reached * habits.left, age, _ENGAGED_FOR)
    return {
        "opens": opened + opened * (bits >> 9 & 7) // 8,
        "opens_unique": opened,
        "clicks": clicked + clicked * (bits >> 13 & 3) // 4,
        "clicks_unique": clicked,
        "unsubscribes": left,
        "unsubscribe_uniques": left,
        "spam_complaints": left // 9,
    }


def earnings(habits: Habits, bits: int, *, reached: float, age: float) -> dict[str, int]:
    """Conversions and their value; one send in sixteen has refunds after twenty days."""
    ordered = arrived(reached * _CONVERTING, age, habits.window)
    value = ordered * (1500 + (bits >> 32) % 9000)
    if age > _REFUND_AFTER and bits >> 56 & 15 == 0:
        value -= value // 10
    return {
        "conversions": ordered,
        "conversion_uniques": ordered - ordered // 12,
        "value": value,
    }
