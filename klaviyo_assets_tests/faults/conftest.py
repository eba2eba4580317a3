"""Homes and shops for the numbered tests: those of the end-to-end tests."""

from klaviyo_assets_tests.e2e.conftest import StartHome, blank, home, impatient, start

__all__ = ["StartHome", "blank", "home", "impatient", "start"]
