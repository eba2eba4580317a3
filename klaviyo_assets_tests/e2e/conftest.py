"""Accounts and homes for the tests of this folder."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from klaviyo_assets.api import retry
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.first_sync_job import no_delay
from klaviyo_assets_tests.e2e.home import Home, create_dagster_home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

StartHome = Callable[..., Home]


@pytest.fixture(scope="session")
def dagster_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a DAGSTER_HOME that nobody uses, to copy."""
    return create_dagster_home(tmp_path_factory.mktemp("blank"), ROOT / "deploy" / "dagster.yaml")


@pytest.fixture
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let waits between tries be short; how long they are is tested where they are decided."""
    monkeypatch.setattr(retry, "INITIAL_BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr(retry, "MAX_BACKOFF_SECONDS", 0.02)
    monkeypatch.setattr(dg.RetryPolicy, "calculate_delay", no_delay)


@pytest.fixture
def open_home(dagster_template: Path, tmp_path: Path) -> Iterator[StartHome]:
    """Open an account by its numbers, and give a home for it."""
    with ExitStack() as stack:

        def create_home(**numbers: object) -> Home:
            account = stack.enter_context(open_sandbox_account(**numbers))
            root = tmp_path / f"home-{len(list(tmp_path.iterdir()))}"
            return Home(account=account, root=root, dagster_template=dagster_template)

        yield create_home


@pytest.fixture
def home(open_home: StartHome) -> Home:
    """Give a home for a small account of its own."""
    return open_home()
