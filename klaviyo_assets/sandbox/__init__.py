"""A Klaviyo API on loopback: starts in a second, refuses what Klaviyo refuses, keeps a journal.

`serve` starts one in this process; `python -m klaviyo_assets.sandbox` starts one of its own. The
sandbox imports nothing of the product and the product nothing of it: it is an independent check.
"""

from collections.abc import Generator
from contextlib import contextmanager

from klaviyo_assets.sandbox.account.config import AccountConfig
from klaviyo_assets.sandbox.server import Sandbox
from klaviyo_assets.sandbox.service import SandboxService

__all__ = ["AccountConfig", "Sandbox", "serve"]


@contextmanager
def serve(account: AccountConfig | None = None, *, port: int = 0) -> Generator[Sandbox]:
    """A running sandbox on 127.0.0.1 for the length of the block; port 0 takes a free one."""
    sandbox = Sandbox(SandboxService(account or AccountConfig()), port)
    try:
        yield sandbox
    finally:
        sandbox.close()
