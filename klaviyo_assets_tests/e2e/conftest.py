"""Shops and homes for the tests of this folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from klaviyo_assets.api import retries
from klaviyo_assets.defs import assets, report_assets
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home, blank_home
from klaviyo_assets_tests.e2e.job import SOON
from klaviyo_assets_tests.e2e.shop import open_shop

StartHome = Callable[..., Home]


@pytest.fixture(scope="session")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a DAGSTER_HOME that nobody uses, to copy."""
    return blank_home(tmp_path_factory.mktemp("blank"), ROOT / "deploy" / "dagster.yaml")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waits between tries be short; how long they are is tested where they are decided."""
    monkeypatch.setattr(retries, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setattr(retries, "LONGEST_WAIT_SECONDS", 0.02)
    for module in (assets, report_assets):
        monkeypatch.setattr(module, "RETRY", SOON)


@pytest.fixture
def start(blank: Path, tmp_path: Path) -> Iterator[StartHome]:
    """Open a shop by its numbers, and give a home for it."""
    with ExitStack() as stack:

        def started(**numbers: object) -> Home:
            shop = stack.enter_context(open_shop(**numbers))
            root = tmp_path / f"home-{len(list(tmp_path.iterdir()))}"
            return Home(shop=shop, root=root, blank=blank)

        yield started


@pytest.fixture
def home(start: StartHome) -> Home:
    """Give a home for a small shop of its own."""
    return start()
