"""SIGKILL at every step of a sync: the table is as before or as after, and a rerun completes it."""

from pathlib import Path

import pytest

from klaviyo_assets.lake import Plain
from klaviyo_assets_tests.integration.lake.ground import (
    EVENTS,
    PROFILES,
    data_files,
    lake_at,
    merge,
    notes_of,
    numbered,
    shown,
)
from klaviyo_assets_tests.integration.lake.killed import NEW, Moment, run, sync

MOMENTS: dict[str, Moment] = {
    "before the first row is written": ("call", "take", 1),
    "as a file is begun": ("call", "write_table", 1),
    "as the next file is begun": ("call", "write_table", 2),
    "as rows are judged": ("call", "losers", 3),
    "as a file is placed": ("c_call", "replace", 1),
    "before the history's commit": ("c_call", "create_write_transaction", 1),
    "between the history's commit and the table's": ("c_return", "create_write_transaction", 1),
    "before the table's commit": ("c_call", "create_write_transaction", 2),
    "after the table's commit": ("c_return", "create_write_transaction", 2),
    "as the database is built": ("call", "build", 1),
    "as the old files are retired": ("call", "retire", 1),
    "before what was published is noted": ("call", "remember", 1),
    "as retired files are deleted": ("call", "delete", 1),
}


# Merging takes every road; replacing and days differ up to the commit alone.
SHORT = ["as rows are judged", "as a file is placed", "before the table's commit"]


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
    lake = lake_at(tmp_path)
    merge(
        lake, table, [numbered(0, NEW, note="old", days=0.1)], {"generation": 1}, with_history=True
    )
    lake.publish([Plain(name=table.name)])
    old = notes_of(lake, table.name)

    assert run(sync, tmp_path, mode, MOMENTS[moment]) == -9

    state = lake.state(table.name)
    assert state is not None
    found = notes_of(lake, table.name)
    new = {f"k{at:07}": "new" for at in range(NEW // 2, NEW // 2 + NEW)}
    expected = {1: old, 2: new if mode == "replace" else old | new}
    generation = int(str(state.state["generation"]))
    assert found == expected[generation]
    # A mark that has moved is never asked about again: by then its history must be there.
    history = lake.relation(f"{table.name}_history").filter("note = 'new'").fetchall()
    assert generation == 1 or len(history) == NEW // 2
    assert shown(tmp_path, f"SELECT count(*) FROM k.{table.name}")[0][0] in {
        len(old),
        len(expected[2]),
    }

    sync(tmp_path, mode, None)
    assert notes_of(lake, table.name) == expected[2]
    notes = lake.relation(f"{table.name}_history").aggregate("note, count(*)").fetchall()
    assert sorted(notes) == [("new", NEW // 2), ("old", NEW)]
    lake.check()
    staged = [path for path in data_files(tmp_path, table.name) if "_staging" in path.parts]
    assert staged == []
