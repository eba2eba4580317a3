"""How healthy a stream is: red, yellow or green, and a sentence that says why.

The rule is here alone: what a run stores, what `status` prints and what an alert says agree. It
looks at how the last run ended, and at the age of the rows by the windows of Dagster's freshness
policies. A report is judged by the days that it has, not by the age of its last fetch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Literal

from klaviyo_assets.errors import format_seconds
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import Stream

Freshness = Literal["fresh", "late", "stale"]

HOURLY_FRESHNESS_WINDOWS = (timedelta(hours=3), timedelta(hours=26))
"""The ages at which a stream that is synced hourly is late, and is stale."""

DAILY_FRESHNESS_WINDOWS = (timedelta(hours=26), timedelta(hours=74))
"""The ages at which a stream that is synced daily is late, and is stale."""


def freshness_windows(stream: Stream) -> tuple[timedelta, timedelta]:
    """Return the ages at which a stream is late, and is stale, by how often it is synced."""
    return DAILY_FRESHNESS_WINDOWS if stream.is_read_by_parent else HOURLY_FRESHNESS_WINDOWS


def describe_freshness(stream: Stream, age: timedelta) -> Freshness:
    """Return what rows of an age are: `fresh`, `late` or `stale`."""
    late_after, stale_after = freshness_windows(stream)
    if age > stale_after:
        return "stale"
    return "late" if age > late_after else "fresh"


Color = Literal["green", "yellow", "red"]

_ORDER: tuple[Color, ...] = ("green", "yellow", "red")

Outcome = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How the last run of a stream ended. Times are in UTC.

    `detail` is the sentence of its failure, or why it was skipped. `judged` is the verdict of a
    report's own check. `stored_at` is when a run last read the stream completely, None: never.
    """

    outcome: Outcome
    ended_at: datetime
    stored_at: datetime | None
    run_id: str = ""
    detail: str = ""
    judged: Color = "green"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamHealth:
    """The color of a stream since `since` (UTC), why, and the outcome that it follows from."""

    color: Color
    sentence: str
    since: datetime
    last_run: RunOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LakeHealth:
    """The health of every stream of a lake that a run has ended of, by its name."""

    streams: Mapping[str, StreamHealth] = field(default_factory=dict[str, StreamHealth])
    written_at: datetime | None = None

    @property
    def color(self) -> Color:
        """Return the worst color of all streams."""
        colors: list[Color] = [each.color for each in self.streams.values()]
        return max([_ORDER[0], *colors], key=_ORDER.index)

    def worst_first(self) -> list[tuple[str, StreamHealth]]:
        """Return the streams with their health: red, then yellow, then green; by name in each."""
        return sorted(
            self.streams.items(), key=lambda each: (-_ORDER.index(each[1].color), each[0])
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ColorChange:
    """A stream whose color changed; `before` is None for one that no run had ended of."""

    stream: str
    before: Color | None
    after: StreamHealth

    @property
    def is_news(self) -> bool:
        """Return whether somebody wants to know: a first green is none."""
        return self.before is not None or self.after.color != "green"

    def describe(self) -> str:
        """Return the change as a line of an alert."""
        former = f" (was {self.before})" if self.before is not None else ""
        return f"{self.stream} is {self.after.color}{former}: {self.after.sentence}"


def judge_health(stream: Stream, last_run: RunOutcome, *, now: datetime) -> tuple[Color, str]:
    """Return the color of a stream at `now` (UTC), and the sentence that says why."""
    if last_run.outcome == "failed":
        return "red", f"its last run failed. {last_run.detail}"
    if last_run.outcome == "skipped":
        return "yellow", f"it is skipped: {last_run.detail}"
    if isinstance(stream.source, ReportEndpoint):
        return last_run.judged, last_run.detail or "its newest days are there"
    if last_run.stored_at is None:
        return "yellow", "it was never read completely"
    age = now - last_run.stored_at
    words = format_seconds(max(0.0, age.total_seconds()))
    match describe_freshness(stream, age):
        case "stale":
            return "red", f"it was last read {words} ago, which is too long: no run ended well"
        case "late":
            return "yellow", f"it was last read {words} ago, which is late"
        case "fresh":
            return "green", f"it was read completely {words} ago"


def take_outcome(
    known: LakeHealth,
    name: str,
    last_run: RunOutcome,
    *,
    streams: Mapping[str, Stream],
    now: datetime,
) -> tuple[LakeHealth, list[ColorChange]]:
    """Return the health after a run of the stream `name`, and which streams changed their color.

    The others are judged again, as time has passed for them as well.
    """
    if last_run.stored_at is None and name in known.streams:
        last_run = replace(last_run, stored_at=known.streams[name].last_run.stored_at)
    outcomes = {
        **{each: health.last_run for each, health in known.streams.items() if each in streams},
        name: last_run,
    }
    found: dict[str, StreamHealth] = {}
    changes: list[ColorChange] = []
    for each, outcome in outcomes.items():
        before = known.streams.get(each)
        color, sentence = judge_health(streams[each], outcome, now=now)
        since = before.since if before is not None and before.color == color else now
        found[each] = StreamHealth(color=color, sentence=sentence, since=since, last_run=outcome)
        if before is None or before.color != color:
            changes.append(
                ColorChange(
                    stream=each,
                    before=before.color if before is not None else None,
                    after=found[each],
                )
            )
    return LakeHealth(streams=found, written_at=now), changes
