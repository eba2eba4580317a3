"""The README is true: its table of streams is the registry, and its names exist."""

import re

import duckdb
import pytest

from klaviyo_assets.definitions import build_defs
from klaviyo_assets.model.stream import Stream, relation_columns
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.golden_streams import expected_stream_pages
from klaviyo_assets_tests.contract.settings_table import TABLE_HEAD, expected_pages
from klaviyo_assets_tests.contract.stream_pages import (
    COLUMN_TYPES,
    PAGES_FOLDER,
    expected_stream_files,
    sample_query,
)

README = (ROOT / "README.md").read_text()


GENERATED_PAGES = (
    "README.md",
    "docs/start.md",
    "docs/streams.md",
    "docs/coverage.md",
    "docs/dictionary.md",
    "docs/joins.md",
)


@pytest.mark.parametrize("page", GENERATED_PAGES)
def test_the_tables_of_streams_are_made_from_the_registry(page: str) -> None:
    """README and start have the streams and scopes of the default set, the other pages all.

    `python -m klaviyo_assets_tests.contract.golden_streams` writes both anew.
    """
    text = (ROOT / page).read_text(encoding="utf-8")
    assert text == expected_stream_pages()[ROOT / page]


def test_every_stream_has_its_page() -> None:
    """`docs/streams` has a page a stream, as its declaration has it, and no other.

    `python -m klaviyo_assets_tests.contract.golden_streams` writes them anew.
    """
    expected = expected_stream_files()
    assert sorted(PAGES_FOLDER.iterdir()) == sorted(expected)
    stale = [page.name for page, text in expected.items() if page.read_text("utf-8") != text]
    assert stale == []
    assert max(len(text.splitlines()) for text in expected.values()) <= 150


@pytest.mark.parametrize("stream", STREAMS.values(), ids=lambda stream: stream.name)
def test_a_sample_query_runs(stream: Stream) -> None:
    """The query of a stream's page runs on a relation with its columns."""
    types = {**COLUMN_TYPES, "json": "VARCHAR"}
    columns = [f'"{each.name}" {types[each.type]}' for each in relation_columns(stream, STREAMS)]
    with duckdb.connect() as connection:
        connection.execute("CREATE SCHEMA klaviyo")
        connection.execute(f"CREATE TABLE klaviyo.{stream.name} ({', '.join(columns)})")
        assert connection.execute(sample_query(stream)).fetchall() == []


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
