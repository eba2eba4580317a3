"""Crash points: nothing happens there unless a hook is set."""

import pytest

from klaviyo_assets.seams import CrashPoint, reach_crash_point, set_crash_hook
from klaviyo_assets_tests.crash_hooks import run_at_crash_point


def test_a_hook_gets_each_point_until_it_is_removed() -> None:
    """With a hook each point calls it, in order; without one points do nothing."""
    reached: list[CrashPoint] = []
    reach_crash_point("before a table commit")
    set_crash_hook(reached.append)
    try:
        reach_crash_point("before moving a file")
        reach_crash_point("after a table commit")
    finally:
        set_crash_hook(None)
    reach_crash_point("after moving files")
    assert reached == ["before moving a file", "after a table commit"]


def test_an_error_of_the_hook_ends_what_reached_the_point() -> None:
    """So a test can fail a run at a point, and no hook is left behind."""

    def fail() -> None:
        raise OSError("the machine went dark")

    with (
        run_at_crash_point("before a table commit", fail),
        pytest.raises(OSError, match="went dark"),
    ):
        reach_crash_point("before a table commit")
    reach_crash_point("before a table commit")
