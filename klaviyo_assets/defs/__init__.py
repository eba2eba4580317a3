"""Dagster definitions: with `klaviyo_assets.definitions` the only modules that import Dagster."""
