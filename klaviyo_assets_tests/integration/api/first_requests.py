"""Processes that begin together without a rate limit store; run by test_shared_rate_limit.

A program of its own, because it forks, which a process with threads must not. Prints one line for
each process: the seconds it was told to wait, or what went wrong.
"""

import multiprocessing
import sys
import time
from pathlib import Path

from klaviyo_assets.api import rate_limit_store
from klaviyo_assets.api.rate_limiter import RateLimiter
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.model.stream import RateLimitBucket, RateTier

PROCESS_COUNT = 8
ROUND_COUNT = 6
SLOW_BUDGETS = (RateLimitBucket("GET /api/any", RateTier(name="any", burst=1, steady=1)),)


def book_first_request(folder: Path, start_at: float) -> None:
    """Wait for the moment, then make the first booking."""
    rate_limit_store.BUSY_TIMEOUT_SECONDS = 300
    time.sleep(max(0.0, start_at - time.time()))
    try:
        result = str(RateLimiter(folder, "a", share=1.0).reserve(SLOW_BUDGETS))
    except KlaviyoAssetsError as error:
        result = str(error)
    sys.stdout.write(f"{result}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    for turn in range(ROUND_COUNT):
        begins = (Path(sys.argv[1]) / f"{turn}", time.time() + 0.05)
        children = [
            forking.Process(target=book_first_request, args=begins) for _ in range(PROCESS_COUNT)
        ]
        for child in children:
            child.start()
        for child in children:
            child.join()
