"""Verdicts of checks, as Dagster takes them: green, yellow or red, with a sentence of what to do.

What belongs here: the form. What does not: what is judged (`checks`, `deep_checks`,
`completeness`).
"""

from collections.abc import Mapping

import dagster as dg

from klaviyo_assets.defs.metadata import asset_key

ShownValue = str | int | float | bool | dg.JsonMetadataValue | dg.TableMetadataValue
Shown = Mapping[str, ShownValue]
"""What a verdict rests on, as metadata."""


def check_key(stream: str, name: str) -> dg.AssetCheckKey:
    """Return the key of a stream's check."""
    return dg.AssetCheckKey(asset_key(stream), name)


def passed(
    key: dg.AssetCheckKey, description: str, shown: Shown | None = None
) -> dg.AssetCheckResult:
    """Return a green verdict."""
    return _verdict(key, description, shown, severity=None)


def warned(
    key: dg.AssetCheckKey, description: str, shown: Shown | None = None
) -> dg.AssetCheckResult:
    """Return a yellow verdict: worth a look, and nothing is wrong with the rows."""
    return _verdict(key, description, shown, severity=dg.AssetCheckSeverity.WARN)


def failed(
    key: dg.AssetCheckKey, description: str, shown: Shown | None = None
) -> dg.AssetCheckResult:
    """Return a red verdict."""
    return _verdict(key, description, shown, severity=dg.AssetCheckSeverity.ERROR)


def _verdict(
    key: dg.AssetCheckKey,
    description: str,
    shown: Shown | None,
    *,
    severity: dg.AssetCheckSeverity | None,
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        passed=severity is None,
        severity=severity or dg.AssetCheckSeverity.ERROR,
        # Without the asset's key: Dagster knows it, and somebody may have renamed the asset.
        check_name=key.name,
        description=description,
        metadata=dict(shown or {}),
    )
