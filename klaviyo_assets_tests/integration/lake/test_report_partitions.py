"""Report partitions are replaced whole, and their state is in the commit, despite other writers."""

import multiprocessing
import os
import random
import signal
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import pyarrow as pa
import pytest

from klaviyo_assets.errors import CorruptFileError, LakeConflictError, LakeError, WrongAccountError
from klaviyo_assets.lake.delta.state import MetricRefusal, PartitionState, TableState
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LakeTable
from klaviyo_assets.lake.write.report_partitions import (
    MAX_REPLACE_ATTEMPTS,
    PartitionFetch,
    build_replacement,
    replace_partitions,
)
from klaviyo_assets.lake.write.session import CommitReceipt
from klaviyo_assets.model.report import ReportPartition
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    ACCOUNT_ID,
    PROFILES,
    TIMESTAMP_TYPE,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    utc_now,
)

SCHEMA = pa.schema(
    [
        pa.field("date", pa.date32(), nullable=False),
        pa.field("conversion_metric_id", pa.string(), nullable=False),
        pa.field("message_id", pa.string(), nullable=False),
        pa.field("opens", pa.float64()),
        pa.field("synced_at", TIMESTAMP_TYPE, nullable=False),
    ]
)
REPORTS = LakeTable(
    name="reports",
    schema=SCHEMA,
    key=("date", "conversion_metric_id", "message_id"),
    partitioning="metric and month",
)
FIRST = date(2026, 1, 1)
FETCHED_AT = datetime(2026, 11, 1, 3, tzinfo=UTC)

Stored = Mapping[ReportPartition, Mapping[str, float]]
"""The opens of each message, by cell."""


def cell(metric_id: str, number: int) -> ReportPartition:
    """Return the partition of the day so many days after the first."""
    return ReportPartition(metric_id, FIRST + timedelta(days=number))


def batch(wanted: Stored) -> pa.RecordBatch:
    """Return the rows of some partitions."""
    rows = [(each, *row) for each, messages in wanted.items() for row in messages.items()]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([each.day for each, _, _ in rows], pa.date32()),
            pa.array([each.metric_id for each, _, _ in rows], pa.string()),
            pa.array([message for _, message, _ in rows], pa.string()),
            pa.array([opens for _, _, opens in rows], pa.float64()),
            pa.array([FETCHED_AT for _ in rows], TIMESTAMP_TYPE),
        ],
        schema=SCHEMA,
    )


def store_partitions(
    lake: Lake,
    wanted: Stored,
    *,
    state: Mapping[str, object] | None = None,
    fetched: PartitionFetch | None = None,
) -> CommitReceipt:
    """Make these the rows of their partitions."""
    return lake.replace_report_partitions(
        REPORTS,
        account=ACCOUNT_ID,
        partitions=dict.fromkeys(wanted, fetched or PartitionFetch(FETCHED_AT, is_final=True)),
        batch=batch(wanted),
        build_state=lambda known: state or (known.state if known else {}),
    )


def read_partitions(lake: Lake) -> dict[ReportPartition, dict[str, float]]:
    """Return what the table holds; a key that is there twice fails the test."""
    columns = ("conversion_metric_id", "date", "message_id", "opens")
    found: dict[ReportPartition, dict[str, float]] = {}
    for metric_id, day, message, opens in (
        lake.query_relation("reports").select(*columns).fetchall()
    ):
        messages = found.setdefault(ReportPartition(metric_id, day), {})
        assert message not in messages
        messages[message] = opens
    return found


def partitions_with_rows(wanted: Stored) -> dict[ReportPartition, dict[str, float]]:
    """Return the partitions that have rows."""
    return {each: dict(messages) for each, messages in wanted.items() if messages}


def test_partitions_are_replaced_and_no_others(lake: Lake) -> None:
    """A partition fetched again has the rows of the latest response; no other one changes."""
    first = {cell("A", 0): {"m": 1.0, "n": 2.0}, cell("A", 1): {"m": 3.0}, cell("B", 0): {"m": 4.0}}
    receipt = store_partitions(lake, first)
    assert (receipt.version, receipt.rows_written, receipt.rows_total) == (0, 4, 4)
    receipt = store_partitions(lake, {cell("A", 0): {"n": 5.0}})
    assert (receipt.version, receipt.rows_written, receipt.rows_total) == (1, 1, 3)
    assert read_partitions(lake) == {**first, cell("A", 0): {"n": 5.0}}


def test_a_partition_without_rows_is_done(lake: Lake) -> None:
    """A day on which nothing was sent is stored as such: known, final, and without a row."""
    store_partitions(lake, {cell("A", 0): {}, cell("A", 1): {}})
    assert read_partitions(lake) == {}
    facts = lake.read_partition_states("reports")
    done = PartitionState(fetched_at=FETCHED_AT, is_final=True, rows=0)
    assert facts == {cell("A", 0): done, cell("A", 1): done}
    store_partitions(lake, {cell("A", 0): {"m": 1.0}})
    store_partitions(lake, {cell("A", 0): {}})
    assert read_partitions(lake) == {}


def test_the_commit_names_the_stored_partitions(lake: Lake) -> None:
    """Missing and not final days are found without reading a row, and of a table never read too."""
    assert lake.read_partition_states("reports") == {}
    assert lake.read_metric_refusals("reports") == {}
    early = PartitionFetch(FETCHED_AT, is_final=False)
    store_partitions(
        lake, {cell("A", 0): {"m": 1.0, "n": 1.0}, cell("A", 1): {"m": 1.0}}, fetched=early
    )
    late = PartitionFetch(FETCHED_AT + timedelta(days=30), is_final=True)
    store_partitions(lake, {cell("A", 0): {"m": 2.0}}, fetched=late)
    assert lake.read_partition_states("reports") == {
        cell("A", 0): PartitionState(fetched_at=late.fetched_at, is_final=True, rows=1),
        cell("A", 1): PartitionState(fetched_at=early.fetched_at, is_final=False, rows=1),
    }


def test_only_the_touched_metrics_and_months_are_rewritten(lake: Lake, root: Path) -> None:
    """A replaced day rewrites one file: that of its metric and month; and months have one each."""
    store_partitions(
        lake, {cell(metric, number): {"m": 1.0} for metric in "AB" for number in range(90)}
    )
    before = set(list_data_files(root, "reports"))
    assert len(before) == 6
    receipt = store_partitions(lake, {cell("A", 40): {"m": 2.0}})
    assert receipt.files_removed == 1
    [added] = set(list_data_files(root, "reports")) - before
    assert added.parent == root / "lake" / "reports" / "metric=A" / "month=2026-02"


def test_anything_goes_in_any_order(lake: Lake) -> None:
    """After forty random replacements the table equals the last word on every partition."""
    luck = random.Random(7)
    expected: dict[ReportPartition, dict[str, float]] = {}
    value = count()
    for _ in range(40):
        metric, start, length = luck.choice("ABC"), luck.randrange(100), luck.randrange(1, 45)
        wanted = {
            cell(metric, number): {
                f"m{luck.randrange(9)}": float(next(value)) for _ in range(luck.randrange(4))
            }
            for number in range(start, start + length)
        }
        store_partitions(lake, wanted)
        expected |= wanted
    assert read_partitions(lake) == partitions_with_rows(expected)
    facts = lake.read_partition_states("reports")
    assert {each: fact.rows for each, fact in facts.items()} == {
        each: len(messages) for each, messages in expected.items()
    }
    lake.check_integrity()


HOSTILE = (
    "../../etc/x",
    "a/b",
    "..",
    "CON",
    "x" * 300,
    "%2e%2e",
    "metric=A",
    "x'; DROP TABLE reports; --",
    'x"y',
    "é 🙂",
    "a\0b",
    "\ud800",
    " ",
    "~",
)


def test_f64_metric_ids_stay_in_the_folder(lake: Lake, root: Path) -> None:
    """Whatever an id from outside holds, its rows are there under it, and every file inside."""
    wanted = {cell(metric, 0): {"m": float(at)} for at, metric in enumerate(("A", *HOSTILE))}
    store_partitions(lake, wanted)
    store_partitions(lake, {cell(metric, 1): {"m": 1.0} for metric in HOSTILE})
    assert {each: row for each, row in read_partitions(lake).items() if each.day == FIRST} == wanted
    assert set(lake.read_partition_states("reports")) == set(read_partitions(lake))
    lake.publish(())
    assert query_database(root, "SELECT count(*) FROM k.reports") == [(29,)]
    inside = root / "lake" / "reports"
    every = [path for path in root.parent.rglob("*") if path.name.startswith("part-")]
    assert len(every) == len(list_data_files(root, "reports"))
    assert all(path.resolve().is_relative_to(inside) for path in every)


def test_the_syncs_own_state_is_kept_beside(lake: Lake) -> None:
    """What the caller wants in the commit is there, worked out from the table as it was found."""
    seen: list[TableState | None] = []

    def state_of(known: TableState | None) -> Mapping[str, object]:
        seen.append(known)
        before = known.state.get("n", 0) if known else 0
        assert isinstance(before, int)
        return {"n": before + 1}

    for number in range(2):
        lake.replace_report_partitions(
            REPORTS,
            account=ACCOUNT_ID,
            partitions={cell("A", number): PartitionFetch(FETCHED_AT, is_final=True)},
            batch=batch({}),
            build_state=state_of,
        )
    state = lake.read_table_state("reports")
    assert state is not None
    assert state.state["n"] == 2
    assert seen[0] is None
    assert seen[1] is not None


def test_a_refused_metric_is_remembered_until_it_is_retried_or_served(lake: Lake) -> None:
    """The commit stores a refusal with its reason; `ask_refused` or a response clears it."""
    store_partitions(lake, {cell("A", 0): {"m": 1.0}}, state={"mine": 1})
    refusal = MetricRefusal(refused_on=date(2026, 11, 2), reason="not so", is_known=False)
    for metric in ("B", "C"):
        lake.record_metric_refusal(REPORTS, account=ACCOUNT_ID, metric_id=metric, refusal=refusal)
    refused = {"B": refusal, "C": refusal}
    assert lake.read_metric_refusals("reports") == refused
    store_partitions(lake, {cell("A", 1): {"m": 1.0}})
    assert lake.read_metric_refusals("reports") == refused
    store_partitions(lake, {cell("B", 0): {}})
    assert lake.read_metric_refusals("reports") == {"C": refusal}
    lake.record_metric_refusal(REPORTS, account=ACCOUNT_ID, metric_id="C", refusal=None)
    assert lake.read_metric_refusals("reports") == {}
    assert len(lake.read_partition_states("reports")) == 3
    state = lake.read_table_state("reports")
    assert state is not None
    assert state.state["mine"] == 1


def test_nothing_new_is_no_commit(lake: Lake) -> None:
    """Partitions that stay empty, with facts that stay, leave the table at its version."""
    store_partitions(lake, {cell("A", 0): {}})
    assert store_partitions(lake, {cell("A", 0): {}}).version == 0


def test_rows_outside_the_partitions_are_refused(lake: Lake) -> None:
    """A row outside of the replaced partitions is refused: it would be stored a second time."""
    cells = {cell("A", 0): PartitionFetch(FETCHED_AT, is_final=True)}
    for wanted, text in (
        ({cell("A", 1): {"m": 1.0}}, "none of the partitions"),
        ({cell("B", 0): {"m": 1.0}}, "none of the partitions"),
    ):
        with pytest.raises(LakeError, match=text):
            lake.replace_report_partitions(
                REPORTS,
                account=ACCOUNT_ID,
                partitions=cells,
                batch=batch(wanted),
                build_state=nothing,
            )
    twice = pa.Table.from_batches([batch({cell("A", 0): {"m": 1.0}})] * 2).combine_chunks()
    with pytest.raises(LakeError, match="same key"):
        lake.replace_report_partitions(
            REPORTS,
            account=ACCOUNT_ID,
            partitions=cells,
            batch=twice.to_batches()[0],
            build_state=nothing,
        )
    assert lake.read_table_state("reports") is None


def nothing(_: TableState | None) -> Mapping[str, object]:
    """Want nothing in the state."""
    return {}


def test_another_accounts_partitions_stay_out(lake: Lake) -> None:
    """The lake of one account takes no report of another."""
    merge_rows(lake, PROFILES, [numbered_batch(0, 1)])
    with pytest.raises(WrongAccountError):
        lake.replace_report_partitions(
            REPORTS, account="other", partitions={}, batch=batch({}), build_state=nothing
        )
    assert lake.read_table_state("reports") is None


def test_a_reader_sees_whole_versions(lake: Lake, root: Path) -> None:
    """The view of a report shows what was published, and the files of before stay for the grace."""
    store_partitions(lake, {cell("A", number): {"m": 1.0} for number in range(60)})
    lake.publish(())
    store_partitions(lake, {cell("A", number): {"m": 2.0} for number in range(60)})
    lake.vacuum("reports")
    assert query_database(root, "SELECT sum(opens), count(*) FROM k.reports") == [(60.0, 60)]
    lake.publish(())
    assert query_database(root, "SELECT sum(opens), count(*) FROM k.reports") == [(120.0, 60)]
    assert "metric" not in str(query_database(root, "DESCRIBE k.reports")).replace(
        "conversion_metric_id", ""
    )


def test_retired_files_are_removed(lake: Lake, root: Path) -> None:
    """Files of replaced partitions, and their folders, are removed once no reader needs them."""
    for opens in (1.0, 2.0, 3.0):
        store_partitions(lake, {cell("A", number): {"m": opens} for number in range(60)})
    lake.publish(())
    assert len(list_data_files(root, "reports")) == 9
    lake.vacuum("reports", grace=timedelta(0))
    assert len(list_data_files(root, "reports")) == 3
    assert len(read_partitions(lake)) == 60


def test_a_damaged_file_is_named(lake: Lake, root: Path) -> None:
    """A stored file that has to be read and cannot be is an error, and nothing is lost by it."""
    store_partitions(lake, {cell("A", 0): {"m": 1.0}, cell("A", 1): {"m": 1.0}})
    [file] = list_data_files(root, "reports")
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    with pytest.raises(CorruptFileError, match=file.name):
        store_partitions(lake, {cell("A", 0): {"m": 2.0}})
    file.write_bytes(whole)
    assert read_partitions(lake) == {cell("A", 0): {"m": 1.0}, cell("A", 1): {"m": 1.0}}


def test_a_writer_that_comes_second_starts_over(lake: Lake, root: Path) -> None:
    """A commit between reading and committing costs another try, and neither's rows are lost."""
    store_partitions(lake, {cell("A", 0): {"m": 1.0}, cell("A", 1): {"m": 1.0}})
    others = iter([cell("A", 1), cell("B", 0)])

    def state_of(known: TableState | None) -> Mapping[str, object]:
        other = next(others, None)
        if other is not None:
            store_partitions(lake, {other: {"m": 7.0}})
        return {"seen": known.version if known else None}

    pauses: list[float] = []
    wanted = build_replacement(
        REPORTS,
        account=ACCOUNT_ID,
        partitions={cell("A", 0): PartitionFetch(FETCHED_AT, is_final=True)},
        batch=batch({cell("A", 0): {"m": 2.0}}),
        build_state=state_of,
    )
    receipt = replace_partitions(wanted, root, clock=utc_now, pause=pauses.append)
    assert (receipt.version, len(pauses)) == (3, 2)
    assert read_partitions(lake) == {
        cell("A", 0): {"m": 2.0},
        cell("A", 1): {"m": 7.0},
        cell("B", 0): {"m": 7.0},
    }
    assert set(lake.read_partition_states("reports")) == set(read_partitions(lake))


def test_a_race_that_is_always_lost_ends(lake: Lake, root: Path) -> None:
    """Commit retries are bounded; the last conflict is raised."""
    opens = count()

    def state_of(_: TableState | None) -> Mapping[str, object]:
        store_partitions(lake, {cell("B", 0): {"m": float(next(opens))}})
        return {}

    wanted = build_replacement(
        REPORTS,
        account=ACCOUNT_ID,
        partitions={cell("A", 0): PartitionFetch(FETCHED_AT, is_final=True)},
        batch=batch({}),
        build_state=state_of,
    )
    pauses: list[float] = []
    with pytest.raises(LakeConflictError):
        replace_partitions(wanted, root, clock=utc_now, pause=pauses.append)
    assert len(pauses) == MAX_REPLACE_ATTEMPTS - 1
    assert list(read_partitions(lake)) == [cell("B", 0)]


def fill(root: str, metric: str, numbers: Iterable[int]) -> None:
    """Replace one partition after the other, as a process of its own."""
    lake = open_lake(Path(root))
    for number in numbers:
        store_partitions(lake, {cell(metric, number): {"m": float(number)}})


def test_processes_write_different_partitions_at_once(lake: Lake, root: Path) -> None:
    """Three processes, two of them in the same files: all partitions are there in the end."""
    context = multiprocessing.get_context("spawn")
    shares = [("A", range(0, 16, 2)), ("A", range(1, 16, 2)), ("B", range(8))]
    made = [context.Process(target=fill, args=(str(root), *share)) for share in shares]
    for process in made:
        process.start()
    for process in made:
        process.join()
    assert [process.exitcode for process in made] == [0, 0, 0]
    assert read_partitions(lake) == {
        cell(metric, number): {"m": float(number)}
        for metric, numbers in shares
        for number in numbers
    }
    assert set(lake.read_partition_states("reports")) == set(read_partitions(lake))
    lake.check_integrity()


def fill_and_hang(root: str, reached: Connection) -> None:
    """Replace a partition, and never get past the moment before the commit."""

    def state_of(_: TableState | None) -> Mapping[str, object]:
        reached.send("staged")
        signal.pause()
        return {}

    open_lake(Path(root)).replace_report_partitions(
        REPORTS,
        account=ACCOUNT_ID,
        partitions={cell("A", 0): PartitionFetch(FETCHED_AT, is_final=True)},
        batch=batch({cell("A", 0): {"m": 9.0}}),
        build_state=state_of,
    )


def test_a_kill_before_the_commit_changes_nothing(lake: Lake, root: Path) -> None:
    """Staged files of a killed run are never read, and the next replacement removes them."""
    store_partitions(lake, {cell("A", 0): {"m": 1.0}})
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=fill_and_hang, args=(str(root), theirs))
    process.start()
    theirs.close()
    assert mine.recv() == "staged"
    assert len(list_data_files(root, "reports")) == 2
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert read_partitions(lake) == {cell("A", 0): {"m": 1.0}}
    store_partitions(lake, {cell("A", 1): {"m": 2.0}})
    assert read_partitions(lake) == {cell("A", 0): {"m": 1.0}, cell("A", 1): {"m": 2.0}}
    assert not list((root / "lake" / "reports" / "_staging").iterdir())
