"""The judge of rates: fixed windows per operation and per parameter, on real time.

Windows are floor(t / 1), floor(t / 60) and, for reports, floor(t / 86400); every request counts,
also those that are refused. Time is an argument; nothing here reads a clock. Source:
https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling, headers as recorded on
2026-09-04.
"""

import math
import threading

from klaviyo_assets.sandbox.errors import ApiError
from klaviyo_assets.sandbox.facts.operation import Tier

_GUIDE = "https://developers.klaviyo.com/en/docs/rate_limits_and_error_handling"


class Windows:
    """Counts of one budget in its current windows."""

    def __init__(self, tier: Tier, scale: float) -> None:
        """Scale every limit, daily included; at least one request stays."""
        limits = [(1, tier.burst), (60, tier.steady)]
        if tier.daily is not None:
            limits.append((86_400, tier.daily))
        self.limits = [(span, max(1, math.ceil(limit * scale))) for span, limit in limits]
        self.counts: dict[int, tuple[int, int]] = {}

    def count(self, now: float) -> float | None:
        """Count one request; seconds until all broken windows end, or None when none is broken."""
        wait: float | None = None
        for span, limit in self.limits:
            window = math.floor(now / span)
            last, used = self.counts.get(span, (window, 0))
            used = used + 1 if last == window else 1
            self.counts[span] = (window, used)
            if used > limit:
                wait = max(wait or 0.0, (window + 1) * span - now)
        return wait

    def headers(self, now: float) -> dict[str, str]:
        """The three headers of an answer that is not 429; the burst window is the one reported."""
        span, limit = self.limits[0]
        window, used = self.counts.get(span, (0, 0))
        remaining = limit - used if window == math.floor(now / span) else limit
        listed = ", ".join(f"{bound};w={seconds}" for seconds, bound in self.limits)
        return {
            "ratelimit-limit": f"{limit}, {listed}",
            "ratelimit-remaining": str(max(0, remaining)),
            "ratelimit-reset": str(int((math.floor(now / span) + 1) * span - now)),
        }


class Limits:
    """All budgets of the account; keys of one account share them."""

    def __init__(self, scale: float) -> None:
        """Multiply every published limit by `scale`."""
        self.scale = scale
        self.budgets: dict[str, Windows] = {}
        self.lock = threading.Lock()

    def spend(self, budgets: dict[str, Tier], now: float) -> dict[str, str]:
        """Count a request in each named budget; its headers, or a 429 with `retry-after` only.

        The first budget is the operation's own; its headers are the ones shown.
        """
        with self.lock:
            windows = [self.budget(name, tier) for name, tier in budgets.items()]
            waits = [wait for each in windows if (wait := each.count(now)) is not None]
            if waits:
                raise throttled(max(waits))
            return windows[0].headers(now)

    def budget(self, name: str, tier: Tier) -> Windows:
        """The windows of that name, made at their first use."""
        if name not in self.budgets:
            self.budgets[name] = Windows(tier, self.scale)
        return self.budgets[name]


def throttled(wait: float, *, retry_after: str | None = None) -> ApiError:
    """A 429; `wait` in seconds, told as whole seconds rounded up."""
    seconds = max(1, math.ceil(wait))
    plural = "" if seconds == 1 else "s"
    error = ApiError(
        429,
        "throttled",
        title="Request was throttled.",
        detail=f"Request was throttled. Expected available in {seconds} second{plural}.",
        source={"pointer": "/data"},
    )
    error.links = {"type": _GUIDE}
    error.headers = {"retry-after": str(seconds) if retry_after is None else retry_after}
    return error
