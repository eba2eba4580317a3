"""The lines about waits: one for each that a person would notice."""

import pytest

from klaviyo_assets.api.messages import Request
from klaviyo_assets.defs.resources import WaitLog, describe_wait

REQUEST = Request(method="GET", target="/api/lists/A", buckets=(), path="/api/lists/{id}")

CASES: dict[str, tuple[list[tuple[float, float]], list[str]]] = {
    "reports wait one after the other": ([(0, 30), (31, 29), (61, 30)], ["30 s", "29 s", "30 s"]),
    "a short wait": ([(0, 4.9), (1, 1), (2, 4)], []),
    "threads wait side by side": ([(0, 20), (0, 21), (0, 24), (0, 30), (0, 31)], ["20 s", "30 s"]),
    "a longer wait within another": ([(0, 6), (1, 60)], ["6.0 s", "1 min 0 s"]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wait_that_a_person_would_notice_has_a_line(case: str) -> None:
    """Waits that another line covers, and those of a few seconds, have none."""
    waits, expected = CASES[case]
    now, lines = [0.0], list[str]()
    log = WaitLog(
        lines.append,
        lambda seconds: describe_wait("lists_detailed: request 31", seconds),
        clock=lambda: now[0],
    )
    for at, seconds in waits:
        now[0] = at
        log(REQUEST, seconds)
    assert lines == [f"lists_detailed: request 31, next in {each}" for each in expected]
