"""SIGKILL at every step of a sync: the table is as before or as after, and a rerun completes it."""

from pathlib import Path

import pytest

from klaviyo_assets.lake.read.views import PlainRelation
from klaviyo_assets_tests.crash_hooks import KillAt
from klaviyo_assets_tests.integration.lake.killed_process import (
    NEW_KEY_COUNT,
    run_in_child_process,
    sync_rows,
)
from klaviyo_assets_tests.integration.lake.lake_fixtures import (
    EVENTS,
    PROFILES,
    list_data_files,
    merge_rows,
    numbered_batch,
    open_lake,
    query_database,
    read_notes,
)

MOMENTS = {
    "before the first row is written": KillAt("before staging rows"),
    "as a file is begun": KillAt("before writing a row group"),
    "as the next file is begun": KillAt("before writing a row group", count=2),
    "as the table's rows are merged": KillAt("before merging a partition", count=2),
    "as files are rewritten": KillAt("before rewriting files", count=2),
    "as a file is placed": KillAt("before moving a file"),
    "before the history's commit": KillAt("before a table commit"),
    "between the history's commit and the table's": KillAt("after a table commit"),
    "before the table's commit": KillAt("before a table commit", count=2),
    "after the table's commit": KillAt("after a table commit", count=2),
    "as the database is built": KillAt("before building the database"),
    "as the old files are retired": KillAt("before starting the file grace"),
    "before the new database is in its place": KillAt("before swapping the database"),
    "before what was published is noted": KillAt("after swapping the database"),
    "as retired files are deleted": KillAt("before deleting files"),
}


# Merging takes every road; replacing and days differ up to the commit alone.
SHORT = ["as the table's rows are merged", "as a file is placed", "before the table's commit"]


@pytest.mark.parametrize(
    ("mode", "moment"),
    [("merge", moment) for moment in MOMENTS]
    + [(mode, moment) for mode in ("replace", "days") for moment in SHORT],
)
def test_a_kill_leaves_before_or_after(tmp_path: Path, mode: str, moment: str) -> None:
    """Rows and state are of one generation; the database still reads; a rerun ends it, no doubles.

    The next session also removes what the killed one had staged.
    """
    table = EVENTS if mode == "days" else PROFILES
    lake = open_lake(tmp_path)
    merge_rows(
        lake,
        table,
        [numbered_batch(0, NEW_KEY_COUNT, note="old", days=0.1)],
        {"generation": 1},
        with_history=True,
    )
    lake.publish([PlainRelation(name=table.name)])
    old = read_notes(lake, table.name)

    assert run_in_child_process(sync_rows, tmp_path, mode, MOMENTS[moment]) == -9

    state = lake.read_table_state(table.name)
    assert state is not None
    found = read_notes(lake, table.name)
    new = {
        f"k{at:07}": "new" for at in range(NEW_KEY_COUNT // 2, NEW_KEY_COUNT // 2 + NEW_KEY_COUNT)
    }
    expected = {1: old, 2: new if mode == "replace" else old | new}
    generation = int(str(state.state["generation"]))
    assert found == expected[generation]
    # A mark that has moved is never asked about again: by then its history must be there.
    history = lake.query_relation(f"{table.name}_history").filter("note = 'new'").fetchall()
    assert generation == 1 or len(history) == NEW_KEY_COUNT // 2
    assert query_database(tmp_path, f"SELECT count(*) FROM k.{table.name}")[0][0] in {
        len(old),
        len(expected[2]),
    }

    sync_rows(tmp_path, mode, None)
    assert read_notes(lake, table.name) == expected[2]
    notes = lake.query_relation(f"{table.name}_history").aggregate("note, count(*)").fetchall()
    assert sorted(notes) == [("new", NEW_KEY_COUNT // 2), ("old", NEW_KEY_COUNT)]
    lake.check_integrity()
    staged = [path for path in list_data_files(tmp_path, table.name) if "_staging" in path.parts]
    assert staged == []
