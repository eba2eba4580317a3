"""The checks can fail, and the matrix is whole: without this the numbered tests prove nothing."""

from datetime import timedelta

import pytest

from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.faults.assertions import (
    assert_complete,
    assert_sound_part,
    read_committed_cursor,
)
from klaviyo_assets_tests.faults.matrix import find_numbered_tests, read_fault_rows

CODES = {"OK", "RETRY", "SKIP", "FAIL"}


def test_the_matrix_is_whole_and_in_order() -> None:
    """The first seventy rows are there without a gap; each has a stage, a fault and an outcome."""
    found = read_fault_rows()
    numbers = [row.number for row in found]
    assert numbers[:70] == [f"F{number:02}" for number in range(1, 71)]
    assert numbers == sorted(set(numbers))
    for row in found:
        assert row.stage
        assert row.fault
        assert row.outcome
        assert row.codes
        assert set(row.codes) <= CODES


def test_a_numbered_test_names_a_row() -> None:
    """No test carries the number of a row that is not in the matrix."""
    assert find_numbered_tests().keys() <= {row.number for row in read_fault_rows()}


def test_the_judge_accepts_a_good_sync(home: Home) -> None:
    """What a sync without faults leaves passes, with and without cursors."""
    assert home.sync("events", "lists", "profiles", "metrics").success
    assert_complete(home, "events", "lists", "profiles", "metrics")


def test_the_judge_finds_what_is_missing(home: Home) -> None:
    """One record more in the account than in the lake is one too few."""
    home.sync("lists")
    home.account.mutate(create="list", set={"name": "new"})
    with pytest.raises(AssertionError):
        assert_complete(home, "lists")
    assert_sound_part(home, "lists")


def test_the_judge_finds_what_was_never_shown(home: Home) -> None:
    """A row of which the journal knows nothing is an invention."""
    home.sync("lists")
    home.account.clear_journal()
    with pytest.raises(AssertionError, match="never shown intact"):
        assert_sound_part(home, "lists")


def test_the_judge_finds_two_marks(home: Home) -> None:
    """A mark in asset metadata that is not the lake's is no mark."""
    home.sync("events")
    mark = read_committed_cursor(home, "events")
    assert mark is not None
    home.observe_cursor("events", mark - timedelta(seconds=1))
    with pytest.raises(AssertionError, match="in asset metadata"):
        assert_complete(home, "events")
