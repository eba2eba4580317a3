"""The files of a version, with what the Delta log says of each: read in one go.

What belongs here: a loaded version's add actions. What does not: the log itself (`log`).
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable

from klaviyo_assets.lake.disk import reading
from klaviyo_assets.lake.parquet import DataFile
from klaviyo_assets.lake.vectors import values_of


def files_of(table: DeltaTable, folder: Path) -> Iterator[DataFile]:
    """Yield the files of the loaded version with what their statistics tell."""
    told = add_actions(table)
    columns = {name: values_of(told[name]) for name in told.schema.names}
    lows = {name[4:]: values for name, values in columns.items() if name.startswith("min.")}
    highs = {name[4:]: values for name, values in columns.items() if name.startswith("max.")}
    by = {name: columns[f"partition.{name}"] for name in partitions(table)}
    for at, path in enumerate(columns["path"]):
        count = columns["num_records"][at]
        yield DataFile(
            path=path,
            # A date is written as ISO 8601.
            partition="/".join(f"{name}={values[at]}" for name, values in by.items()),
            size=columns["size_bytes"][at],
            # Another engine may leave the statistics out, or some of them.
            rows=footer_rows(folder / path) if count is None else count,
            low={name: values[at] for name, values in lows.items() if values[at] is not None},
            high={name: values[at] for name, values in highs.items() if values[at] is not None},
        )


def add_actions(table: DeltaTable) -> pa.Table:
    """Return what the loaded version's log says of each file, a column a statistic."""
    # Not `pa.table`, which looks for pandas.
    return pa.RecordBatchReader.from_stream(table.get_add_actions(flatten=True)).read_all()


def footer_rows(path: Path) -> int:
    """Return the number of rows by the file's own footer."""
    with reading(path, path.parent.name):
        return pq.read_metadata(path).num_rows


def partitions(table: DeltaTable) -> list[str]:
    """Return the partition columns."""
    return table.metadata().partition_columns
