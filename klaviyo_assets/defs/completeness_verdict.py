"""What the comparison of events with Klaviyo's counts comes to, in words and metadata.

What belongs here: the sentence, and the tables beside it. What does not: running it
(`completeness`), what follows from it (`healing`).
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta

import dagster as dg

from klaviyo_assets.defs.verdicts import Shown, ShownValue, check_key, failed, passed, warned
from klaviyo_assets.sync.completeness import Difference, in_a_row, short_days, vanished_days
from klaviyo_assets.sync.counts import STREAM
from klaviyo_assets.sync.reckoning import Reckoning, Wish
from klaviyo_assets.wording import quantity

COMPLETE = check_key(STREAM, "complete")

SHORT_DAYS = "klaviyo/short_days"
READ_AGAIN = "klaviyo/read_again"
ASKED_AT = "klaviyo/asked_at"
DAYS = "klaviyo/days_asked"

ROWS_SHOWN = 200
"""Rows of the table that a verdict shows; short days are all named beside it."""

STRETCHES_NAMED = 5


def verdict(outcome: Reckoning, shown: Shown) -> dg.AssetCheckResult:
    """Return the verdict: red for what is missing here, yellow for what is gone at Klaviyo."""
    short, gone = short_days(outcome.found), vanished_days(outcome.found)
    vanished = sum(each.vanished for each in outcome.found)
    lost = (
        f"{quantity(vanished, 'stored event')} of {named(gone)} Klaviyo no longer has: redacted, "
        "or merged away. They stay, and reading again brings none back; a full refresh drops them."
    )
    if short:
        newest = in_a_row(short)[-1]
        missing = (
            f"{events_missing(short)}. The sensor "
            "klaviyo_events_healing reads exactly these days again; by hand, materialize "
            f"klaviyo/events with start {newest.first} and end {newest.last + timedelta(days=1)}."
        )
        return failed(COMPLETE, f"{missing} {lost}" if gone else missing, shown)
    if gone:
        return warned(COMPLETE, lost, shown)
    return passed(
        COMPLETE,
        f"All {quantity(outcome.stored, 'event')} of {quantity(len(outcome.names), 'metric')} from "
        f"{outcome.window.floor:%Y-%m-%d} to {outcome.window.ceiling:%Y-%m-%d %H:%M} UTC are "
        "stored, as Klaviyo counts them.",
        shown,
    )


def events_missing(short: Mapping[date, int]) -> str:
    """Return how many events of which days are missing, as the beginning of a sentence."""
    days = named(short)
    return quantity(
        sum(short.values()), f"event of {days} is missing", plural=f"events of {days} are missing"
    )


def named(days: Collection[date]) -> str:
    """Return the days in words, those in a row together."""
    stretches = in_a_row(days)
    texts = [
        f"{each.first}" if each.first == each.last else f"{each.first} to {each.last}"
        for each in stretches[:STRETCHES_NAMED]
    ]
    more = len(stretches) - STRETCHES_NAMED
    rest = quantity(more, "more stretch", plural="more stretches")
    return ", ".join(texts) + (f" and {rest}" if more > 0 else "")


def shown_of(outcome: Reckoning, wish: Wish) -> dict[str, ShownValue]:
    """Return what the verdict rests on, and what the next comparison has to know."""
    gone = vanished_days(outcome.found)
    kept = {f"{day}": at.isoformat() for day, at in wish.read_again.items() if day in gone}
    short = {f"{day}": count for day, count in short_days(outcome.found).items()}
    shown: dict[str, ShownValue] = {
        "klaviyo/events_stored": outcome.stored,
        "klaviyo/events_counted": outcome.counted,
        "klaviyo/missing": sum(each.missing for each in outcome.found),
        "klaviyo/vanished": sum(each.vanished for each in outcome.found),
        "klaviyo/metrics": len(outcome.names),
        "klaviyo/events_without_metric": outcome.without_metric,
        DAYS: wish.days,
    }
    if outcome.found:
        shown["klaviyo/differences"] = differences_table(outcome.found, outcome.names)
    for name, told in ((SHORT_DAYS, short), (READ_AGAIN, kept), (REFUSED, outcome.refused)):
        if told:
            shown[name] = dg.MetadataValue.json(dict(told))
    if outcome.asked_at is not None:
        shown[ASKED_AT] = outcome.asked_at.isoformat()
    return shown


REFUSED = "klaviyo/metrics_not_counted"
"""Metrics that Klaviyo does not count, with its words."""


def differences_table(
    found: Sequence[Difference], names: Mapping[str, str]
) -> dg.TableMetadataValue:
    """Return the days and metrics that differ, the newest first."""
    records = [
        dg.TableRecord(
            {
                "day": f"{each.cell.day}",
                "metric": names.get(each.cell.metric_id) or each.cell.metric_id,
                "metric_id": each.cell.metric_id,
                "stored": each.stored,
                "at Klaviyo": each.counted,
                "missing": each.missing,
                "vanished": each.vanished,
            }
        )
        for each in reversed(found)
    ]
    return dg.MetadataValue.table(records[:ROWS_SHOWN])
