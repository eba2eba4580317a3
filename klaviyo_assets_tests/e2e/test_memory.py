"""Memory stays flat however many events there are. The long form is the module `memory`."""

import pytest

from klaviyo_assets.sync import pull
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.memory import DAYS, peak_of_fork

FEW, MANY = 40_000, 160_000


def test_four_times_the_events_take_no_more_memory(start: StartHome) -> None:
    """The peak of a first sync of 160,000 events is within a fifth of that of 40,000."""
    few, many = (
        peak_of_fork(start(events=events, days=DAYS, gzip=False)) for events in (FEW, MANY)
    )
    assert many <= few * 1.2, f"{few / 2**20:.0f} MiB, then {many / 2**20:.0f} MiB"


def test_memory_goes_back_while_a_sync_goes_on(
    start: StartHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Free blocks are given back time and again, but not with every page."""
    times: list[int] = []
    monkeypatch.setattr(pull, "GIVE_BACK_BYTES", 2 * 1024 * 1024)
    monkeypatch.setattr(pull, "give_free_blocks_back", lambda: times.append(1))
    home = start(events=12_000, future_events=0)
    assert home.sync("events").success
    assert 1 < len(times) < home.shop.asked()["/api/events"]
