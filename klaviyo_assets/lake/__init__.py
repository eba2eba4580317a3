"""The lake: Delta tables of Parquet as the truth, DuckDB views as the door.

What belongs here: everything that touches the disk, the ledger of the room `api` apart. What does
not: Klaviyo, schemas (`tables` makes them), Dagster. The names below are the room's door.
"""

from klaviyo_assets.lake.answers import Answers
from klaviyo_assets.lake.aside import set_aside
from klaviyo_assets.lake.cells import Fetched
from klaviyo_assets.lake.current import stored_columns
from klaviyo_assets.lake.day_counts import Counting, DayCount, day_counts, first_day
from klaviyo_assets.lake.engine import load
from klaviyo_assets.lake.erase import Erased, erase
from klaviyo_assets.lake.export import (
    Exported,
    export,
    half_written,
    note_export,
    noted_exports,
    refuse_target,
    relations_to_export,
)
from klaviyo_assets.lake.facts import CellFacts, MetricRefusal
from klaviyo_assets.lake.first_seen import FirstSeen, Since, first_seen
from klaviyo_assets.lake.gone import Noticed
from klaviyo_assets.lake.identity import STAND_IN, Identity, Whereabouts, read_whereabouts
from klaviyo_assets.lake.kept import KeptAnswer
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import HISTORY, Table, table_of
from klaviyo_assets.lake.quarantine import older_quarantine
from klaviyo_assets.lake.rebase import Rebase
from klaviyo_assets.lake.relations import (
    Detailed,
    Joined,
    Plain,
    Relation,
    relation_of,
    relations_of,
)
from klaviyo_assets.lake.removal import PeopleTable
from klaviyo_assets.lake.report_failures import ReportFailure
from klaviyo_assets.lake.session import Receipt, Session
from klaviyo_assets.lake.shrink import ShrinkGuard
from klaviyo_assets.lake.standing import keys_there_twice, null_counts
from klaviyo_assets.lake.states import TableState
from klaviyo_assets.lake.sweep import Sweep
from klaviyo_assets.lake.vectors import values_of

__all__ = [
    "HISTORY",
    "STAND_IN",
    "Answers",
    "CellFacts",
    "Counting",
    "DayCount",
    "Detailed",
    "Erased",
    "Exported",
    "Fetched",
    "FirstSeen",
    "Identity",
    "Joined",
    "KeptAnswer",
    "Lake",
    "MetricRefusal",
    "Noticed",
    "PeopleTable",
    "Plain",
    "Rebase",
    "Receipt",
    "Relation",
    "ReportFailure",
    "Session",
    "ShrinkGuard",
    "Since",
    "Sweep",
    "Table",
    "TableState",
    "Whereabouts",
    "day_counts",
    "erase",
    "export",
    "first_day",
    "first_seen",
    "half_written",
    "keys_there_twice",
    "load",
    "note_export",
    "noted_exports",
    "null_counts",
    "older_quarantine",
    "read_whereabouts",
    "refuse_target",
    "relation_of",
    "relations_of",
    "relations_to_export",
    "set_aside",
    "stored_columns",
    "table_of",
    "values_of",
]
