"""The IO manager: writes syncs to the lake, and loads tables for downstream assets."""

from collections.abc import Callable
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from klaviyo_assets.crash_points import reach_crash_point
from klaviyo_assets.defs.failures import raise_as_failures
from klaviyo_assets.defs.metadata import ROW_COUNT_METADATA_KEY, stream_name_of_asset
from klaviyo_assets.defs.resources import LakeResource
from klaviyo_assets.defs.sync_output import SyncOutput, first_seen_metadata
from klaviyo_assets.model.stream import base_stream_name

if TYPE_CHECKING:
    import duckdb
    import pandas as pd

_PUBLISH_INTERVAL = timedelta(minutes=1)
"""How often a long sync publishes its commits to DuckDB.

It must be well below the time for which retired files are kept: until then the published views
still read them.
"""


class LakeIOManager(dg.ConfigurableIOManager):
    """Stores the syncs of stream assets; loads a `DataFrame`, `pyarrow.Table` or a relation."""

    lake: dg.ResourceDependency[LakeResource]

    def handle_output(self, context: dg.OutputContext, obj: SyncOutput) -> None:
        """Run the sync to its end, commit by commit, and publish it to DuckDB.

        Raises:
            dg.Failure: the sync failed. What was committed before stays.
        """
        try:
            with raise_as_failures(obj.stream.name):
                self._write_output(obj, context.log.warning)
                lateness = first_seen_metadata(obj, self.lake.lake())
        except BaseException:
            if obj.sync_run.is_done:
                # No materialization will follow and carry the mark of the last commit.
                obj.observe_cursor()
            raise
        finally:
            obj.close()
        metadata = {**obj.metadata(), **self._row_count_metadata(obj), **lateness}
        context.add_output_metadata(metadata)
        reach_crash_point("after writing an output")

    def _write_output(self, sync_output: SyncOutput, warn: Callable[[str], None]) -> None:
        lake = self.lake.lake()
        publish_at = monotonic() + _PUBLISH_INTERVAL.total_seconds()
        for receipt in sync_output.sync_run.run(lake):
            reach_crash_point("before observing a commit")
            sync_output.log_commit(receipt)
            reach_crash_point("after observing a commit")
            if monotonic() >= publish_at:
                self.lake.publish(lake, warn=warn)
                publish_at = monotonic() + _PUBLISH_INTERVAL.total_seconds()
        for warning in sync_output.warnings():
            warn(warning)
        self.lake.publish(lake, warn=warn)
        lake.vacuum(sync_output.stream.name)

    def _row_count_metadata(self, sync_output: SyncOutput) -> dict[str, int]:
        """Return the row count of a detail stream's relation, which is that of its parent's table.

        The relation has the parent's rows and columns as well. Nothing for every other stream.
        """
        parent = base_stream_name(sync_output.stream)
        state = None if parent is None else self.lake.lake().read_table_state(parent)
        return {} if state is None else {ROW_COUNT_METADATA_KEY: state.rows}

    def load_input(
        self, context: dg.InputContext
    ) -> "pd.DataFrame | pa.Table | duckdb.DuckDBPyRelation":
        """Return the asset's relation in the type with which the input is annotated.

        Without an annotation it is a `pandas.DataFrame`. Times are UTC.

        Raises:
            dg.Failure: a table of the relation was never stored, or cannot be read.
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
        # Not DuckDB's own `df`: it uses what pandas 3 deprecates, and warns at every call.
        return relation.to_arrow_table().to_pandas()
