"""Klaviyo, brought home: every API stream as a Dagster asset, in Delta tables, read by DuckDB.

This module holds the version and imports nothing.
"""

__version__ = "2026.11.0"
