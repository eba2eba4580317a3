"""The clock of this machine, and the seam by which tests put another in its place."""

from datetime import UTC, datetime, timedelta
from threading import Thread

import pytest

from klaviyo_assets.api.client import ClockSkewTracker
from klaviyo_assets.seams import use_clock, utc_now

MOMENT = datetime(2026, 3, 29, 1, tzinfo=UTC)


def test_another_clock_holds_for_the_block() -> None:
    """The innermost clock counts, in every thread and in a tracker of the skew."""
    seen: list[datetime] = []
    with use_clock(lambda: MOMENT):
        with use_clock(lambda: MOMENT + timedelta(days=1)):
            thread = Thread(target=lambda: seen.append(utc_now()))
            thread.start()
            thread.join()
        seen += [utc_now(), ClockSkewTracker().conservative_now()]
    assert seen == [MOMENT + timedelta(days=1), MOMENT, MOMENT]


def test_the_machine_has_its_clock_back_after_an_error() -> None:
    """Whatever happens in the block, nothing after it sees the other clock."""
    with pytest.raises(KeyError), use_clock(lambda: MOMENT):
        raise KeyError
    assert abs(utc_now() - datetime.now(tz=UTC)) < timedelta(minutes=1)
