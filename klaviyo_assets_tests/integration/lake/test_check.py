"""Checking: every kind of damage is found and named, and a sound lake passes."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from klaviyo_assets.errors import CorruptFileError, LakeError
from klaviyo_assets.lake import Lake
from klaviyo_assets_tests.integration.lake.ground import (
    ACCOUNT,
    EVENTS,
    PROFILES,
    TAGS,
    batch,
    data_files,
    merge,
    notes_of,
    now,
    numbered,
)


def flip_a_bit(path: Path) -> None:
    """Change one bit in the middle of the data."""
    content = bytearray(path.read_bytes())
    content[len(content) // 4] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Take the last bytes away."""
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    """Leave a file of no bytes."""
    path.write_bytes(b"")


def swap(path: Path) -> None:
    """Put another sound file in its place."""
    other = next(each for each in path.parent.glob("*.parquet") if each != path)
    path.write_bytes(other.read_bytes())


def repack(path: Path) -> None:
    """Write the same rows as another file of another size."""
    pq.write_table(pq.read_table(path), path, compression="none")


def test_a_sound_lake_passes(lake: Lake) -> None:
    """Tables, histories and empty tables pass; so does a lake that does not exist yet."""
    lake.check()
    merge(lake, EVENTS, [numbered(0, 100, days=0.1)], with_history=True)
    merge(lake, EVENTS, [numbered(50, 100, days=0.1, synced=9)], with_history=True)
    merge(lake, TAGS, [])
    lake.check()


@pytest.mark.parametrize("damage", [flip_a_bit, cut, empty, swap, repack, Path.unlink])
def test_damage_is_named(lake: Lake, root: Path, damage: Callable[[Path], None]) -> None:
    """The error names the file and the way out, for any damage to it."""
    merge(lake, PROFILES, [numbered(0, 500)])
    merge(lake, PROFILES, [numbered(500, 700)])
    victim = data_files(root, "profiles")[0]
    damage(victim)
    with pytest.raises(CorruptFileError) as caught:
        lake.check()
    assert str(victim) in str(caught.value)
    assert "full_refresh_overwrite" in str(caught.value)


def test_all_damage_is_named_at_once(lake: Lake, root: Path) -> None:
    """One bad file does not hide another, nor one bad table the next."""
    merge(lake, EVENTS, [numbered(0, 40, days=0.1)])
    merge(lake, PROFILES, [numbered(0, 40)])
    merge(lake, TAGS, [numbered(0, 40)])
    victims = [*data_files(root, "events")[:2], *data_files(root, "profiles")]
    for victim in victims:
        cut(victim)
    (root / "lake/tags/_delta_log/00000000000000000000.json").write_text("{")
    with pytest.raises(CorruptFileError) as caught:
        lake.check()
    text = str(caught.value)
    assert all(str(victim) in text for victim in victims)
    assert "tags/_delta_log" in text


def test_a_key_on_two_days_is_found_and_goes_with_the_next_run(lake: Lake) -> None:
    """An event on two days, which no partition can see, is counted; an idle run mends it.

    Between two commits of one run it may lie there so.
    """
    merge(lake, EVENTS, [batch([("a", 0, "", 1), ("b", 0, "", 1)])])
    with lake.open(
        EVENTS, account=ACCOUNT, mode="merge", with_history=False, started_at=now()
    ) as session:
        session.add(batch([("a", 3, "again", 2)]))
        session.commit({}, is_last=False)
    with pytest.raises(LakeError, match="events: 1 key is there more than once"):
        lake.check()
    merge(lake, EVENTS, [])
    lake.check()
    assert notes_of(lake, "events") == {"a": "again", "b": ""}
