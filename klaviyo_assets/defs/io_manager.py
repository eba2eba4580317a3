"""The IO manager: drains a sync into the lake, and loads tables for downstream code.

What belongs here: Dagster's side of writing and reading. What does not: how it is written
(`sync.pull`, `lake`). Because the reader is lazy, Klaviyo is talked to in here, and its errors
surface here.
"""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from klaviyo_assets.defs.cursors import ROW_COUNT
from klaviyo_assets.defs.failures import as_failures
from klaviyo_assets.defs.lateness import first_seen_metadata
from klaviyo_assets.defs.metadata import stream_of
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.syncing import Syncing
from klaviyo_assets.model.descriptions import widened_by

if TYPE_CHECKING:
    # At run time both come when they are asked for: pandas alone takes a third of a second.
    import duckdb
    import pandas as pd

_PUBLISH_EVERY = timedelta(minutes=1)
"""How often a long sync shows its commits in DuckDB; well below the grace of retired files."""


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores what the stream assets return; loads `DataFrame`, `pyarrow.Table` or a relation."""

    lake: dg.ResourceDependency[LakeResource]

    def handle_output(self, context: dg.OutputContext, obj: Syncing) -> None:
        """Read everything, commit by commit, and show it in DuckDB.

        Raises:
            dg.Failure: the sync failed; what was committed before stays.
        """
        try:
            with as_failures(obj.stream.name):
                self._drain(obj, context.log.warning)
                late = first_seen_metadata(obj, self.lake.lake())
        except BaseException:
            if obj.pull.is_done:
                # What is committed has no materialization now that would tell its mark.
                obj.keep_mark()
            raise
        finally:
            obj.close()
        context.add_output_metadata({**obj.metadata(), **self._rows_shown(obj), **late})

    def _drain(self, obj: Syncing, warn: Callable[[str], None]) -> None:
        lake = self.lake.lake()
        due = monotonic() + _PUBLISH_EVERY.total_seconds()
        for receipt in obj.pull.receipts(lake):
            obj.report(receipt)
            if monotonic() >= due:
                self.lake.publish(lake, say=warn)
                due = monotonic() + _PUBLISH_EVERY.total_seconds()
        for remark in obj.remarks():
            warn(remark)
        self.lake.publish(lake, say=warn)
        lake.maintain(obj.stream.name)

    def _rows_shown(self, obj: Syncing) -> dict[str, int]:
        """Return the rows of a relation that is wider than its own table; nothing for the rest."""
        parent = widened_by(obj.stream)
        state = None if parent is None else self.lake.lake().state(parent)
        return {} if state is None else {ROW_COUNT: state.rows}

    def load_input(
        self, context: dg.InputContext
    ) -> "pd.DataFrame | pa.Table | duckdb.DuckDBPyRelation":
        """Return the asset's relation in the type that the input is annotated with.

        Without an annotation a `pandas.DataFrame` is returned; times are UTC.

        Raises:
            dg.Failure: a table that it is made of was never read, or cannot be.
        """
        upstream = context.upstream_output
        name = stream_of(context.asset_key, upstream.definition_metadata if upstream else {})
        with as_failures(name):
            relation = self.lake.lake().relation(name)
        wanted = context.dagster_type.typing_type
        if wanted is pa.Table:
            return relation.to_arrow_table()
        if wanted is type(relation):
            return relation
        # Not DuckDB's own `df`: that warns of what pandas 3 deprecates, at every call.
        return relation.to_arrow_table().to_pandas()
