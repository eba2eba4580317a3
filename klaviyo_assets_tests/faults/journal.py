"""What was requested and when, from the sandbox's journal; and scripts with several faults."""

from itertools import pairwise

from klaviyo_assets_tests.e2e.home import Home


def response_statuses(home: Home, path: str) -> list[int | None]:
    """Return how each request of a path was answered, in order of arrival."""
    return [each.status for each in home.account.sandbox.journal.requests() if each.path == path]


def request_pauses(home: Home, path: str) -> list[float]:
    """Return the seconds between the requests of a path, in order of arrival."""
    arrived = [
        each.received_at for each in home.account.sandbox.journal.requests() if each.path == path
    ]
    return [later - earlier for earlier, later in pairwise(arrived)]
