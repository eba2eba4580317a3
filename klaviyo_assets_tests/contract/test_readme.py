"""The README tells the truth: its table of streams is the registry, its names exist."""

import re

import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.settings import Settings
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.golden_streams import expected_stream_pages
from klaviyo_assets_tests.contract.settings_table import TABLE_HEAD, expected_pages

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", ["README.md", "docs/streams.md", "docs/coverage.md"])
def test_the_tables_of_streams_are_made_from_the_registry(page: str) -> None:
    """The README has the streams that are on without a setting, the pages of docs have all.

    `python -m klaviyo_assets_tests.contract.golden_streams` writes both anew.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == expected_stream_pages()[ROOT / page]


def test_jobs_and_schedules_are_those_of_the_code_location() -> None:
    """Every job has a row in the README and every row a job."""
    jobs = {job.name for job in build_defs(Settings()).jobs or ()}
    assert set(re.findall(r"^\| `(klaviyo_\w+)`", README, flags=re.MULTILINE)) == jobs


@pytest.mark.parametrize("page", ["README.md", "docs/settings.md"])
def test_the_table_of_settings_is_made_from_the_settings(page: str) -> None:
    """`python -m klaviyo_assets_tests.contract.settings_table` writes it anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert TABLE_HEAD in text
    assert text == expected_pages()[ROOT / page]


def test_it_fits_on_three_screens() -> None:
    """A newcomer reads it to its end: at most 150 lines, none longer than a wide screen."""
    lines = README.splitlines()
    assert len(lines) <= 150
    assert max(len(line) for line in lines if not line.startswith("|")) <= 130
