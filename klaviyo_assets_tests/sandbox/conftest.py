"""Sandboxes for tests: a frozen one that no test changes, and fresh ones for tests that do."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from klaviyo_assets.sandbox import AccountConfig, serve
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
UNLIMITED_SCALE = 1_000_000.0

StartSandbox = Callable[..., SandboxClient]


SMALL_ACCOUNT = AccountConfig(
    events=1_500,
    profiles=130,
    lists=12,
    segments=11,
    campaigns=60,
    templates=12,
    flows=12,
    now=NOON,
    frozen=True,
    rate_limit_scale=UNLIMITED_SCALE,
)


def build_account(**numbers: Any) -> AccountConfig:  # noqa: ANN401  (the fields of an account)
    """A small frozen account without rate limits, with these numbers."""
    return replace(SMALL_ACCOUNT, **numbers)


@pytest.fixture(scope="module")
def client() -> Iterator[SandboxClient]:
    """A client of a sandbox that the tests of a module share and do not change."""
    with serve(build_account()) as sandbox:
        new_client = SandboxClient(sandbox)
        yield new_client
        new_client.close()


@pytest.fixture
def start_sandbox() -> Iterator[StartSandbox]:
    """Start a sandbox of its own for a test, by account numbers."""
    with ExitStack() as stack:

        def start(**numbers: Any) -> SandboxClient:  # noqa: ANN401  (as above)
            sandbox = stack.enter_context(serve(build_account(**numbers)))
            new_client = SandboxClient(sandbox)
            stack.callback(new_client.close)
            return new_client

        yield start
