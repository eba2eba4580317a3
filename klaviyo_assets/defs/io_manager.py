"""The IO manager: drains a sync into the lake, and loads tables for downstream code."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import ROW_COUNT_METADATA_KEY, stream_name_of_asset
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.sync_output import SyncOutput, first_seen_metadata
from klaviyo_assets.model.stream import base_stream_name

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_PUBLISH_INTERVAL = timedelta(minutes=1)
"""How often a long sync shows its commits in DuckDB; well below the grace of retired files."""


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores what the stream assets return; loads `DataFrame`, `pyarrow.Table` or a relation."""

    lake: dg.ResourceDependency[LakeResource]

    def handle_output(self, context: dg.OutputContext, obj: SyncOutput) -> None:
        """Read everything, commit by commit, and show it in DuckDB.

        Raises:
            dg.Failure: the sync failed; what was committed before stays.
        """
        try:
            with raise_as_failures(obj.stream.name):
                self._write_output(obj, context.log.warning)
                late = first_seen_metadata(obj, self.lake.lake())
        except BaseException:
            if obj.sync_run.is_done:
                # What is committed has no materialization now that would tell its mark.
                obj.observe_cursor()
            raise
        finally:
            obj.close()
        context.add_output_metadata({**obj.metadata(), **self._row_count_metadata(obj), **late})

    def _write_output(self, sync_output: SyncOutput, warn: Callable[[str], None]) -> None:
        lake = self.lake.lake()
        due = monotonic() + _PUBLISH_INTERVAL.total_seconds()
        for receipt in sync_output.sync_run.run(lake):
            sync_output.log_commit(receipt)
            if monotonic() >= due:
                self.lake.publish(lake, warn=warn)
                due = monotonic() + _PUBLISH_INTERVAL.total_seconds()
        for remark in sync_output.warnings():
            warn(remark)
        self.lake.publish(lake, warn=warn)
        lake.vacuum(sync_output.stream.name)

    def _row_count_metadata(self, sync_output: SyncOutput) -> dict[str, int]:
        """Return the rows of a relation that is wider than its own table; nothing for the rest."""
        parent = base_stream_name(sync_output.stream)
        state = None if parent is None else self.lake.lake().read_table_state(parent)
        return {} if state is None else {ROW_COUNT_METADATA_KEY: state.rows}

    def load_input(
        self, context: dg.InputContext
    ) -> "pd.DataFrame | pa.Table | duckdb.DuckDBPyRelation":
        """Return the asset's relation in the type that the input is annotated with.

        Without an annotation a `pandas.DataFrame` is returned; times are UTC.

        Raises:
            dg.Failure: a table that it is made of was never read, or cannot be.
        """
        upstream = context.upstream_output
        name = stream_name_of_asset(
            context.asset_key, upstream.definition_metadata if upstream else {}
        )
        with raise_as_failures(name):
            relation = self.lake.lake().query_relation(name)
        wanted = context.dagster_type.typing_type
        if wanted is pa.Table:
            return relation.to_arrow_table()
        if wanted is type(relation):
            return relation
        # Not DuckDB's own `df`: that warns of what pandas 3 deprecates, at every call.
        return relation.to_arrow_table().to_pandas()
