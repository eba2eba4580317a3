"""Imported last by the server that tests fork processes from: each then starts as after a run.

What a first run compiles, validates and reads takes longer than a small sync does. Nothing here
starts a thread, for no fork would have it.
"""

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import active_count

import dagster as dg

from klaviyo_assets.sync.memory import GC_THRESHOLD_OBJECTS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import create_dagster_home
from klaviyo_assets_tests.e2e.instance import open_instance


@dg.asset(output_required=False, check_specs=[dg.AssetCheckSpec("check", asset="warm")])
def warm() -> Iterator[dg.Output[None] | dg.AssetCheckResult]:
    """Give what Dagster keeps of any asset."""
    yield dg.Output(None)
    yield dg.AssetCheckResult(passed=True)


# The server starts with the environment of the test that happens to need it first.
for name in [each for each in os.environ if each.startswith("KLAVIYO_")]:
    del os.environ[name]

with TemporaryDirectory() as folder:
    create_dagster_home(Path(folder), ROOT / "deploy" / "dagster.yaml")
    with open_instance(Path(folder)) as instance:
        dg.materialize([warm], instance=instance)
assert active_count() == 1

gc.collect()
# The collector of a fork would otherwise traverse, and so copy, all that was imported.
gc.freeze()
gc.set_threshold(GC_THRESHOLD_OBJECTS, 20, 50)
