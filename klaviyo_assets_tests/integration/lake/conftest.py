"""A lake in a folder of its own."""

from pathlib import Path

import pytest

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets_tests.integration.lake.lake_fixtures import open_lake


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a data folder that does not exist yet, with a name that needs quoting."""
    return tmp_path / "it's data"


@pytest.fixture
def lake(root: Path) -> Lake:
    """Return the lake in it."""
    return open_lake(root)
