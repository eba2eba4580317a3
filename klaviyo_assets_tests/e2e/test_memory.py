"""Memory stays flat however many events there are. The long form is the module `memory`."""

from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.memory import DAYS, peak_of_fork

FEW, MANY = 40_000, 160_000


def test_four_times_the_events_take_no_more_memory(start: StartHome) -> None:
    """The peak of a first sync of 160,000 events is within a fifth of that of 40,000."""
    few, many = (
        peak_of_fork(start(events=events, days=DAYS, gzip=False)) for events in (FEW, MANY)
    )
    assert many <= few * 1.2, f"{few / 2**20:.0f} MiB, then {many / 2**20:.0f} MiB"
