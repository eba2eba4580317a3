"""Memory that large pages took goes back to the system; what lives on costs no collection."""

import subprocess
import sys

import pytest

GONE = """
from pathlib import Path
from klaviyo_assets.sync.memory import configure_malloc

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

configure_malloc()
before = resident()
for _ in range(3):
    # Texts larger than a usual page, beside something small that lives on.
    texts = [(bytes(1) * (5_000_000 + at), bytearray(600)) for at in range(16)]
    retained = [small for _, small in texts]
    del texts
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is resident")
def test_large_blocks_go_back() -> None:
    """Eighty megabytes of large texts leave less than ten behind, whatever lies between them."""
    done = subprocess.run(
        [sys.executable, "-c", GONE], capture_output=True, text=True, check=True, timeout=300
    )
    assert int(done.stdout) < 10_000_000


GIVEN_BACK = """
from pathlib import Path
from klaviyo_assets.sync.memory import trim_heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

blocks = [bytearray(4000) for _ in range(100_000)]
retained = blocks[99::100]
del blocks
before = resident()
trim_heap()
print(before, resident())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is resident")
def test_free_blocks_between_others_go_back() -> None:
    """Of 400 MB of small blocks, of which every hundredth lives on, less than half stays."""
    done = subprocess.run(
        [sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True, timeout=300
    )
    before, after = map(int, done.stdout.split())
    assert before > 350_000_000
    assert after < before / 2


SPARED = """
import gc, weakref
from klaviyo_assets.sync.memory import freeze_garbage_collector

class Circle:
    def __init__(self):
        self.itself = self

retained = [[number] for number in range(300_000)]
freeze_garbage_collector()
walked = sum(len(gc.get_objects(generation=each)) for each in range(3))
later = weakref.ref(Circle())
freeze_garbage_collector()
gc.collect()
print(walked, gc.get_threshold()[0], later() is None)
"""


def test_long_lived_objects_are_not_collected_again() -> None:
    """What was there before the first page costs the collector nothing; later circles go."""
    done = subprocess.run(
        [sys.executable, "-c", SPARED], capture_output=True, text=True, check=True, timeout=300
    )
    walked, threshold, is_gone = done.stdout.split()
    assert int(walked) < 1_000
    assert int(threshold) > 10_000
    assert is_gone == "True"


TUNED = """
import gc
at_start = gc.get_freeze_count()
import pyarrow
from klaviyo_assets.sync.memory import tune_process

# Some releases of Python start with a few objects frozen.
print(gc.get_freeze_count() - at_start, pyarrow.default_memory_pool().backend_name)
tune_process()
print(gc.get_freeze_count() - at_start, pyarrow.default_memory_pool().backend_name)
"""


def test_a_process_is_tuned_by_its_setting_and_not_by_an_import() -> None:
    """What lives on is spared and Arrow's memory is the system's from then on."""
    done = subprocess.run(
        [sys.executable, "-c", TUNED], capture_output=True, text=True, check=True, timeout=300
    )
    frozen, pool, frozen_later, pool_later = done.stdout.split()
    assert frozen == "0"
    assert pool != "system"
    assert int(frozen_later) > 0
    assert pool_later == "system"


QUIET = """
import sys
import klaviyo_assets.definitions
from klaviyo_assets.lake.read.duckdb import load_duckdb, open_connection
from klaviyo_assets.sync.memory import freeze_garbage_collector

print("duckdb" in sys.modules)
freeze_garbage_collector()
load_duckdb()
open_connection().sql("SELECT 1").fetchall()
"""


@pytest.mark.parametrize(
    ("program", "is_there_before"),
    [(QUIET, "False"), ("import duckdb" + QUIET, "True")],
    ids=["imported by the sync", "imported by the user"],
)
def test_a_process_ends_without_a_word_of_leaks(program: str, is_there_before: str) -> None:
    """DuckDB finds nothing left of its own, whether a user imported it first or a sync did."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert done.stdout.split() == [is_there_before]
    assert not done.stderr
