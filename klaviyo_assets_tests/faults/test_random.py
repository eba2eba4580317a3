"""F70: random faults and kills, by seed. The long form is the module `random_runs`."""

from pathlib import Path

import pytest

from klaviyo_assets_tests.faults.random_runs import run_seed

SEEDS = (1, 4, 6, 7, 8)
"""Of the first eight those that kill a run, move an event or have a full refresh beside a run.

A seed costs four seconds of a processor; two hundred of them are the long form's.
"""


@pytest.mark.takes(20)
@pytest.mark.parametrize("seed", SEEDS)
def test_f70_random_faults_and_kills_end_with_the_accounts_records(
    tmp_path: Path, dagster_template: Path, seed: int
) -> None:
    """Whatever faults and kills a seed meets, every id is stored once.

    How many faults and kills a seed meets depends on how fast it is; the long form counts them.
    """
    outcome = run_seed(seed, tmp_path, dagster_template)
    assert outcome.is_good, str(outcome)
    assert outcome.requests
    assert outcome.compared
