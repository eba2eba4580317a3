"""The README tells the truth: its table of streams is the registry, its names exist."""

import re

import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import COLLECTIONS, REPORTS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.golden_streams import readme_row
from klaviyo_assets_tests.contract.settings_table import TABLE_HEAD, expected_pages

README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("stream", [*COLLECTIONS, *REPORTS], ids=lambda stream: stream.name)
def test_every_stream_has_its_row(stream: Stream) -> None:
    """The table of streams says what the registry says.

    `python -m klaviyo_assets_tests.contract.golden_streams` writes it anew.
    """
    assert readme_row(stream) in README.splitlines()


def test_no_row_for_a_stream_that_is_not_there() -> None:
    """A stream that was taken out leaves the table as well."""
    table = README.split("## Streams")[1].split("\n\n")[1]
    named = re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE)
    assert named == [stream.name for stream in (*COLLECTIONS, *REPORTS)]


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
