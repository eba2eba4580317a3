"""A first sync makes the requests that the simulation of it says."""

from klaviyo_assets.model.stream import Collection
from klaviyo_assets.streams import DEFAULT_COLLECTIONS
from klaviyo_assets_tests.benchmarks.model_account import count_requests
from klaviyo_assets_tests.e2e.conftest import StartHome

SPLIT = {"events", "profiles"}
"""Streams long enough here for an idle worker to take a half: at most one request for each."""

WORKERS = 16


def test_a_first_sync_makes_the_simulated_requests(open_home: StartHome) -> None:
    """Every stream sends as many requests as its records, slices and page sizes need."""
    home = open_home(events=9_000, profiles=1_200, lists=25, templates=21, flows=6, future_events=0)
    counts = {
        each.name: (len(home.account.true_ids(each.name)),)
        for each in DEFAULT_COLLECTIONS
        if isinstance(each.source, Collection)
    }
    run = home.sync()
    assert run.success
    counts_by_stream = {
        stream.name: count_requests(stream, counts) for stream in DEFAULT_COLLECTIONS
    }
    made = {
        name: int(run.metadata_number(name, "requests"))
        for name in counts_by_stream
        if counts_by_stream[name]
    }
    for name, number in made.items():
        if name in SPLIT:
            assert counts_by_stream[name] <= number <= counts_by_stream[name] + WORKERS, name
        else:
            assert number == counts_by_stream[name], name
