"""F70: random faults and kills, by seed. The long form is the module `random_runs`."""

from pathlib import Path

import pytest

from klaviyo_assets_tests.faults.random_runs import run_seed

SEEDS = range(1, 9)
"""A seed costs two seconds of a processor; two hundred of them are the long form's."""

SEEDS_A_TEST = 2
"""So that workers share them."""


@pytest.mark.takes(20)
@pytest.mark.parametrize("first", SEEDS[::SEEDS_A_TEST])
def test_f70_random_faults_and_kills_end_with_the_accounts_records(
    tmp_path: Path, dagster_template: Path, first: int
) -> None:
    """Whatever faults and kills a seed meets, every id is stored once; a failure names the seed.

    How many faults and kills a seed meets depends on how fast it is; the long form counts them.
    """
    seeds = range(first, first + SEEDS_A_TEST)
    outcomes = [run_seed(seed, tmp_path, dagster_template) for seed in seeds]
    assert all(each.is_good for each in outcomes), "\n".join(map(str, outcomes))
    assert all(each.requests and each.compared for each in outcomes)
