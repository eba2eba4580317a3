"""The lake: Delta tables of Parquet as the truth, DuckDB views as the door."""

from klaviyo_assets.arrow_buffers import to_python_values
from klaviyo_assets.lake.delta.state import MetricRefusal, PartitionState, TableState
from klaviyo_assets.lake.identity import (
    ACCOUNT_STAND_IN_PREFIX,
    LakeIdentity,
    LakeLocation,
    parse_location,
)
from klaviyo_assets.lake.lake import Lake, set_aside_table
from klaviyo_assets.lake.layout import HISTORY_SUFFIX, LakeTable, build_table
from klaviyo_assets.lake.maintenance.erasure import ErasureResult, erase_profiles
from klaviyo_assets.lake.maintenance.personal_data import ProfileTable
from klaviyo_assets.lake.quarantine import find_unredacted_quarantine
from klaviyo_assets.lake.read.duckdb import load_duckdb
from klaviyo_assets.lake.read.export import (
    ExportProgress,
    build_export_statements,
    export_tables,
    partial_export_path,
    read_exports,
    record_export,
    refuse_export_target,
)
from klaviyo_assets.lake.read.integrity import count_duplicate_keys, read_null_counts
from klaviyo_assets.lake.read.queries import (
    ArrivalDelay,
    ArrivalQuery,
    DayCount,
    DayCountQuery,
    count_rows_by_day,
    first_stored_day,
    measure_arrival_delays,
)
from klaviyo_assets.lake.read.views import (
    DetailRelation,
    JoinRelation,
    PlainRelation,
    Relation,
    build_relation,
    build_relations,
    stored_columns,
)
from klaviyo_assets.lake.response_cache import CachedResponse, ReportFailure, ReportResponseCache
from klaviyo_assets.lake.write.id_scan import IdScanSession
from klaviyo_assets.lake.write.report_partitions import PartitionFetch
from klaviyo_assets.lake.write.session import CommitReceipt, WriteSession
from klaviyo_assets.lake.write.soft_deletes import DeletionScan, ShrinkGuard
from klaviyo_assets.lake.write.table_writer import Rebase

__all__ = [
    "ACCOUNT_STAND_IN_PREFIX",
    "HISTORY_SUFFIX",
    "ArrivalDelay",
    "ArrivalQuery",
    "CachedResponse",
    "CommitReceipt",
    "DayCount",
    "DayCountQuery",
    "DeletionScan",
    "DetailRelation",
    "ErasureResult",
    "ExportProgress",
    "IdScanSession",
    "JoinRelation",
    "Lake",
    "LakeIdentity",
    "LakeLocation",
    "LakeTable",
    "MetricRefusal",
    "PartitionFetch",
    "PartitionState",
    "PlainRelation",
    "ProfileTable",
    "Rebase",
    "Relation",
    "ReportFailure",
    "ReportResponseCache",
    "ShrinkGuard",
    "TableState",
    "WriteSession",
    "build_export_statements",
    "build_relation",
    "build_relations",
    "build_table",
    "count_duplicate_keys",
    "count_rows_by_day",
    "erase_profiles",
    "export_tables",
    "find_unredacted_quarantine",
    "first_stored_day",
    "load_duckdb",
    "measure_arrival_delays",
    "parse_location",
    "partial_export_path",
    "read_exports",
    "read_null_counts",
    "record_export",
    "refuse_export_target",
    "set_aside_table",
    "stored_columns",
    "to_python_values",
]
