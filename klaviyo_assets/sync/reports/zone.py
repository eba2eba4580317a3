"""Days of an account: where they begin, whether they are over, whether their numbers still move.

What belongs here: the arithmetic of days in a time zone, changes of clocks included. What does not:
asking what time it is.
"""

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

ONE_DAY = timedelta(days=1)


def day_of(moment: datetime, zone: ZoneInfo) -> date:
    """Return the day that an instant belongs to in the zone."""
    return moment.astimezone(zone).date()


def end_of(day: date, zone: ZoneInfo) -> datetime:
    """Return the first instant after a day, UTC; 23 to 25 hours after its beginning.

    Where clocks skip midnight the day ends with the skip; where they repeat it, at the first.
    """
    return datetime.combine(day + ONE_DAY, time(), tzinfo=zone).astimezone(UTC)


def last_over(now: datetime, zone: ZoneInfo) -> date:
    """Return the newest day that is over at `now`: the only kind that may be asked for."""
    return day_of(now, zone) - ONE_DAY


def is_over(day: date, now: datetime, zone: ZoneInfo) -> bool:
    """Return whether no more can be sent on a day."""
    return now >= end_of(day, zone)


def is_final(day: date, fetched_at: datetime, *, zone: ZoneInfo, window_days: int) -> bool:
    """Return whether a day's numbers have stopped moving: its attribution window has passed.

    What was sent at the end of the day is credited for `window_days` more days.
    """
    return fetched_at >= end_of(day + timedelta(days=window_days), zone)
