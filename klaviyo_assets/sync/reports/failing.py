"""What fails for good is not paid for again: how often a metric's report may fail within a day.

What belongs here: counting the requests that failed, and when to ask again. What does not: where
failures are kept (`lake.report_failures`), trying again within one call (`api/retries.py`).

    failed     1   2             3                            1 again
    ───────────x───x─────────────x────────────────────────────x────▶
               └10 s┘            └── not asked ───────────────┘
               └── FORGOTTEN_AFTER ───────────────────────────┘

A request of the day is gone whether its answer can be used or not, and there are 225. Most failures
pass within seconds, so a run tries twice; some pass within an hour, so the third try is left to
another one. A question that is answered after all takes its failures back.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from klaviyo_assets.api.retries import Policy
from klaviyo_assets.errors import (
    AccessDeniedError,
    ConnectionLostError,
    ContractError,
    IneligibleMetricError,
    KlaviyoAssetsError,
    PermanentError,
    QuotaError,
    RateLimitError,
    ReportFailedError,
    TransientError,
)
from klaviyo_assets.lake import Lake, ReportFailure
from klaviyo_assets.sync.reports.desk import ReportDesk
from klaviyo_assets.sync.reports.halving import Part
from klaviyo_assets.wording import quantity

MOST_FAILURES = 3
"""Requests of one metric that may fail within a day, over all runs and processes."""

TRIES_A_RUN = 2
"""Requests that a run spends on a question that fails."""

FORGOTTEN_AFTER = timedelta(hours=23, minutes=50)
"""How long a failure counts: a day, less what a daily run may begin sooner than the day before."""

UNUSABLE = "all"
"""The question of a failure that shows only when all answers are put together."""

PAUSE_AFTER_FAILURE = timedelta(hours=1)
"""So long nothing is launched by itself for a metric whose request has failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedMetric:
    """A metric of which requests failed within a day, the oldest first; there is at least one."""

    failures: tuple[ReportFailure, ...]

    @property
    def count(self) -> int:
        """Return how many requests failed."""
        return len(self.failures)

    @property
    def reason(self) -> str:
        """Return why the last one did."""
        return self.failures[-1].reason

    @property
    def tries_left(self) -> int:
        """Return how many more may fail today."""
        return max(0, MOST_FAILURES - self.count)

    @property
    def asked_again_at(self) -> datetime:
        """Return when whoever launches runs by himself does so for this metric again, UTC."""
        if self.tries_left:
            return self.failures[-1].at + PAUSE_AFTER_FAILURE
        return self.failures[-MOST_FAILURES].at + FORGOTTEN_AFTER

    def told(self) -> str:
        """Return how often and since when it failed, and when it is asked again, as a sentence."""
        first, again = self.failures[0].at, self.asked_again_at
        said = f"{quantity(self.count, 'request')} failed since {first:%Y-%m-%d %H:%M} UTC"
        if self.tries_left:
            return f"{said}; after {MOST_FAILURES} within a day it is not asked again that day"
        return (
            f"{said}, so it is not asked again before {again:%Y-%m-%d %H:%M} UTC, unless the run "
            "config says ask_refused: true"
        )


def failed_metrics(
    lake: Lake, name: str, now: datetime | None = None
) -> Mapping[str, FailedMetric]:
    """Return the metrics of a report of which requests failed within a day before `now`, by id.

    Without `now` those that are remembered, each by the day before its last failure.
    """
    found = {
        metric_id: recent(failures, now or failures[-1].at)
        for metric_id, failures in lake.answers(name).failed_metrics().items()
    }
    return {metric_id: each for metric_id, each in found.items() if each is not None}


def recent(failures: Sequence[ReportFailure], now: datetime) -> FailedMetric | None:
    """Return those failures that count at `now`; None where there is none.

    One far in the future was noted by a clock that was wrong: it does not count.
    """
    lately = tuple(each for each in failures if abs(now - each.at) < FORGOTTEN_AFTER)
    return FailedMetric(failures=lately) if lately else None


def is_paid_in_vain(error: KlaviyoAssetsError) -> bool:
    """Tell whether an error stands for a request of the day that brought nothing.

    Not for one that Klaviyo did not count (429), or could not get; a refusal of the metric itself
    is remembered for good.
    """
    if isinstance(error, ConnectionLostError):
        return error.was_sent
    if isinstance(error, RateLimitError | QuotaError | ReportFailedError | IneligibleMetricError):
        return False
    kinds = TransientError | PermanentError | ContractError | AccessDeniedError
    return isinstance(error, kinds)


class FailureMemory:
    """The failed requests of one report, as its lake has them; to be used under a metric's lock."""

    def __init__(self, desk: ReportDesk, *, asks_again: bool) -> None:
        """Read nothing yet; with `asks_again` each metric begins with none."""
        self._desk = desk
        self._answers = desk.lake.answers(desk.stream.name)
        self._asks_again = asks_again
        self._begun: set[str] = set()
        self._noted: KlaviyoAssetsError | None = None
        self._began_at = desk.clock()

    def policy(self, metric_id: str) -> Policy:
        """Return how often a request about a metric may be tried now.

        Raises:
            ReportFailedError: too many failed within a day.
        """
        if self._asks_again and metric_id not in self._begun:
            self._answers.keep_failures(metric_id, ())
        self._begun.add(metric_id)
        known = self.known(metric_id)
        left = known.tries_left if known is not None else MOST_FAILURES
        if known is not None and not left:
            raise ReportFailedError(
                f"{known.told()}. Not asked now; what came back last: {known.reason}"
            )
        own = self._desk.client.policy
        return replace(own, tries=min(TRIES_A_RUN, left), waits_long=True)

    def known(self, metric_id: str) -> FailedMetric | None:
        """Return the failures of a metric that count now; None where there is none."""
        return recent(self._answers.failures(metric_id), self._now())

    def note_unusable(self, metric_id: str, error: KlaviyoAssetsError) -> None:
        """Remember that what was paid for now was read, and cannot be stored all the same."""
        if error is not self._noted and isinstance(error, ContractError):
            self.note(metric_id, None, error)

    def note(self, metric_id: str, part: Part | None, error: KlaviyoAssetsError) -> None:
        """Remember that a request was paid in vain, if it was."""
        if not is_paid_in_vain(error):
            return
        self._noted = error
        known = self.known(metric_id)
        question = question_of(part) if part is not None else UNUSABLE
        failed = ReportFailure(at=self._now(), question=question, reason=error.message)
        self._answers.keep_failures(metric_id, (*(known.failures if known else ()), failed))

    def take_back(self, metric_id: str, part: Part) -> None:
        """Forget that a question failed: it was answered after all."""
        failures, question = self._answers.failures(metric_id), question_of(part)
        if any(each.question == question for each in failures):
            others = [each for each in failures if each.question != question]
            self._answers.keep_failures(metric_id, others)

    def _now(self) -> datetime:
        """Return the time by the clock that the fetch keeps to, whole seconds, UTC."""
        now = self._desk.calendar.now + (self._desk.clock() - self._began_at)
        return now.replace(microsecond=0)


def question_of(part: Part) -> str:
    """Return what tells a question about a metric from all others."""
    return f"{part.days.first} {part.days.last} {' '.join(part.message_ids)}".rstrip()
