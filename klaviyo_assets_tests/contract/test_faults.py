"""The fault matrix as a promise: each row has its test, and the page says which."""

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.faults.matrix import (
    PAGE_PATH,
    find_numbered_tests,
    read_fault_rows,
    render_page,
)


def test_every_row_has_a_test() -> None:
    """No fault of the matrix is without a test that carries its number, and none has another's."""
    assert find_numbered_tests().keys() == {row.number for row in read_fault_rows()}


def test_the_page_is_what_the_tests_say() -> None:
    """`docs/faults.md` names the rows and tests of now: `python -m klaviyo_assets_tests.faults`."""
    assert PAGE_PATH.read_text(encoding="utf-8") == render_page()


def test_the_page_on_reliability_counts_the_rows() -> None:
    """`docs/reliability.md` says how many rows have a test: all that there are."""
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert f"{len(read_fault_rows())} of {len(read_fault_rows())} rows have a test" in text
