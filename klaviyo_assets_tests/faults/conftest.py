"""Homes and accounts for the numbered tests: those of the end-to-end tests."""

from klaviyo_assets_tests.e2e.conftest import (
    StartHome,
    dagster_template,
    fast_retries,
    home,
    open_home,
)

__all__ = ["StartHome", "dagster_template", "fast_retries", "home", "open_home"]
