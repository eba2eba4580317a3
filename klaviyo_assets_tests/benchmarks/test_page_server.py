"""The page server says what the road may rely on: whatever the window, each record once."""

import gzip
import json
from datetime import timedelta
from typing import Any

import pytest

from klaviyo_assets_tests.benchmarks.dataset import FIRST_TIME, YEAR_SECONDS, Burst, Dataset
from klaviyo_assets_tests.benchmarks.page_server import (
    ACCOUNT_BODY,
    EMPTY_BODY,
    filtered_positions,
)

COUNT = 1234


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """A shelf of events, packed as well."""
    return Dataset("events", count=COUNT, a_year=COUNT, packs=True)


def read(body: bytes) -> list[str]:
    """Return the ids of a body."""
    page: Any = json.loads(body)
    return [record["id"] for record in page["data"]]


def test_packed(dataset: Dataset) -> None:
    """A packed body is the plain one, in gzip."""
    plain = dataset.build_body(137, 451, b'"next"', packed=False)
    assert gzip.decompress(dataset.build_body(137, 451, b'"next"', packed=True)) == plain
    assert read(plain) == [f"{position:011d}" for position in range(137, 451)]


@pytest.mark.parametrize("second", [1, 12_345, YEAR_SECONDS // 2, YEAR_SECONDS - 1])
def test_seam(dataset: Dataset, second: int) -> None:
    """Two windows that meet at a second show each record once."""
    stamp = (FIRST_TIME + timedelta(seconds=second)).isoformat()
    before = (FIRST_TIME + timedelta(seconds=second - 1)).isoformat()
    until = filtered_positions(dataset, f"less-than(datetime,{stamp})")
    since = filtered_positions(dataset, f"greater-or-equal(datetime,{stamp})")
    assert until[0] == 0
    assert since == (until[1], COUNT)
    assert filtered_positions(dataset, f"greater-than(datetime,{before})") == since
    assert dataset.second_of_position(until[1] - 1) < second <= dataset.second_of_position(until[1])


def test_bursts() -> None:
    """Records of a burst lie where it says, and a window within one second cannot be cut."""
    bursts = (Burst(300, 86_400), Burst(10, 0, 100), Burst(5, 86_401, 5))
    dataset = Dataset("profiles", count=0, a_year=1, bursts=bursts)
    day = FIRST_TIME + timedelta(days=1)
    after = day + timedelta(seconds=1)
    assert dataset.count == 315
    assert filtered_positions(dataset, f"less-than(updated,{day.isoformat()})") == (0, 10)
    one = f"greater-than(updated,{(day - timedelta(seconds=1)).isoformat()})"
    assert filtered_positions(dataset, f"{one},less-than(updated,{after.isoformat()})") == (10, 310)
    page: Any = json.loads(dataset.build_body(10, 11, b"null", packed=False))
    assert page["data"][0]["attributes"]["updated"] == day.isoformat()
    assert dataset.end == FIRST_TIME + timedelta(seconds=86_405)


@pytest.mark.parametrize("body", [ACCOUNT_BODY, EMPTY_BODY])
def test_fixed_bodies_are_pages(body: bytes) -> None:
    """A body without `links.self` is refused as no page of Klaviyo's, and the job fails."""
    assert json.loads(body)["links"] == {"self": "x", "next": None, "prev": None}
