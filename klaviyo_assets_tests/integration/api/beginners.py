"""Processes that begin at the same moment on a ledger that is not there yet; run by test_sharing.

A program of its own, because it forks, which a process with threads must not. Prints one line for
each process: the seconds it was told to wait, or what went wrong.
"""

import multiprocessing
import sys
import time
from pathlib import Path

from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.errors import KlaviyoAssetsError
from klaviyo_assets.model.tiers import Budget, Tier

PROCESSES = 8
ROUNDS = 6
SLOW = (Budget("GET /api/any", Tier(name="any", burst=1, steady=1)),)


def begin(folder: Path, moment: float) -> None:
    """Wait for the moment, then make the first booking."""
    time.sleep(max(0.0, moment - time.time()))
    try:
        said = str(Ledger(folder, "a", share=1.0).reserve(SLOW))
    except KlaviyoAssetsError as error:
        said = str(error)
    sys.stdout.write(f"{said}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    forking = multiprocessing.get_context("fork")
    for turn in range(ROUNDS):
        begins = (Path(sys.argv[1]) / f"{turn}", time.time() + 0.05)
        children = [forking.Process(target=begin, args=begins) for _ in range(PROCESSES)]
        for child in children:
            child.start()
        for child in children:
            child.join()
