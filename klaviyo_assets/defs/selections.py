"""Our assets and checks as selections that hold when somebody renames assets.

What belongs here: finding what is ours in a code location, by a tag that every asset carries. What
does not: what is done with it (`automation`, sensors). A key is never taken from a constant:
Dagster's `asset_key_replacements` gives an asset another one, and everything else of ours follows.
"""

import re
from collections.abc import Set as AbstractSet
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from klaviyo_assets.defs.metadata import STREAM_TAG, asset_key
from klaviyo_assets.streams import STREAMS

_NAMED = re.compile(r"(?<![\w/])klaviyo/([a-z_]+)\b")
"""How the texts of rooms that know no asset name one."""


def assets_of(*streams: str) -> dg.AssetSelection:
    """Return the assets of streams, whatever their keys; each has its checks with it."""
    found = dg.AssetSelection.tag(STREAM_TAG, streams[0])
    for stream in streams[1:]:
        found |= dg.AssetSelection.tag(STREAM_TAG, stream)
    return found


class ChecksByName(dg.AssetSelection):
    """The checks of our assets that have one of some names; no asset."""

    def __init__(self, *names: str) -> None:
        self._names = frozenset(names)

    def resolve_inner(
        self,
        asset_graph: BaseAssetGraph[Any],  # noqa: ARG002 - the signature is Dagster's
        allow_missing: bool,  # noqa: ARG002, FBT001 - the signature is Dagster's
    ) -> AbstractSet[dg.AssetKey]:
        """Return no asset."""
        return set()

    def resolve_checks_inner(
        self,
        asset_graph: BaseAssetGraph[Any],
        allow_missing: bool,  # noqa: ARG002, FBT001 - the signature is Dagster's
    ) -> AbstractSet[dg.AssetCheckKey]:
        """Return the checks of those names in a code location."""
        ours = {node.key for node in asset_graph.asset_nodes if STREAM_TAG in node.tags}
        return {
            key
            for key in asset_graph.asset_check_keys
            if key.asset_key in ours and key.name in self._names
        }


def with_own_keys(context: dg.AssetExecutionContext, text: str) -> str:
    """Return a text that names assets as `build_defs` does, with the keys that they have here.

    An asset that the run's job does not hold keeps the name that `build_defs` gives it.
    """
    if not any(each.group(1) in STREAMS for each in _NAMED.finditer(text)):
        return text
    nodes = context.job_def.asset_layer.asset_graph.asset_nodes
    keys = {node.tags[STREAM_TAG]: node.key for node in nodes if STREAM_TAG in node.tags}

    def own(named: re.Match[str]) -> str:
        key = keys.get(named.group(1))
        return named.group() if key is None else key.to_user_string()

    return _NAMED.sub(own, text)


def key_in(
    context: dg.SensorEvaluationContext | dg.ScheduleEvaluationContext, stream: str
) -> dg.AssetKey:
    """Return the key that a stream's asset has in the code location of a tick.

    That of `build_defs` where a test evaluates the tick without a code location.
    """
    try:
        repository = context.repository_def
    except dg.DagsterInvariantViolationError:
        repository = None
    if repository is None:
        return asset_key(stream)
    (key,) = assets_of(stream).resolve(repository.asset_graph)
    return key
