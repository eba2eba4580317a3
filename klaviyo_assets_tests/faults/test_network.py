"""F69: a line that is slow in every way it can be, and an answer that comes all the same."""

import pytest

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.faults.assertions import assert_complete

SLOW = {
    "five seconds before every answer": ("lists", "latency", {"seconds": 5}),
    "ten kilobytes a second": ("profiles", "bandwidth", {"bytes_per_second": 10_240}),
    "chunks of one byte": ("events", "chunks", {"size": 1}),
}


@pytest.mark.parametrize("line", SLOW)
def test_f69_a_slow_line_is_slow_and_whole(open_home: StartHome, line: str) -> None:
    """Everything comes, requested once, without a retry; the first sync and the next one."""
    stream, kind, options = SLOW[line]
    home = open_home(events=3000, profiles=120)
    home.sync("accounts")
    with home.account.inject_fault(kind, match={"path": f"/api/{stream}"}, **options):
        run = home.sync(stream)
        assert run.success
        assert run.metadata_number(stream, "retries") == 0
        assert_complete(home, stream)
    faults = [
        each.fault
        for each in home.account.sandbox.journal.requests()
        if each.path == f"/api/{stream}"
    ]
    assert faults
    assert set(faults) == {kind}
