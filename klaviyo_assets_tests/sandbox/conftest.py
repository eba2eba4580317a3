"""Sandboxes for tests: one frozen that nobody changes, and fresh ones for those that do."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from klaviyo_assets.sandbox import Account, serve
from klaviyo_assets_tests.sandbox.asking import Asker

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
FREE = 1_000_000.0

Start = Callable[..., Asker]


SMALL = Account(
    events=1_500,
    profiles=130,
    lists=12,
    segments=11,
    campaigns=60,
    templates=12,
    flows=12,
    now=NOON,
    frozen=True,
    rate_limit_scale=FREE,
)


def account(**numbers: Any) -> Account:  # noqa: ANN401  (the fields of an account)
    """A small frozen account without rate limits, with these numbers."""
    return replace(SMALL, **numbers)


@pytest.fixture(scope="module")
def shop() -> Iterator[Asker]:
    """An asker of a sandbox that the tests of a module share and do not change."""
    with serve(account()) as sandbox:
        asker = Asker(sandbox)
        yield asker
        asker.close()


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a sandbox of its own for a test, by account numbers."""
    with ExitStack() as stack:

        def started(**numbers: Any) -> Asker:  # noqa: ANN401  (as above)
            sandbox = stack.enter_context(serve(account(**numbers)))
            asker = Asker(sandbox)
            stack.callback(asker.close)
            return asker

        yield started
