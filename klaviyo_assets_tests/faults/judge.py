"""The judge: is a stream in the lake what its shop holds and what was shown, and no more.

What belongs here: comparing, by the sandbox's own account, the lake's files and Dagster's records.
What does not: how it came to be so (the tests).
"""

from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, cast

from deltalake import DeltaTable

from klaviyo_assets.lake import Lake
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.e2e.home import Home, key_of
from klaviyo_assets_tests.e2e.instance import instance_of

CURSOR = "klaviyo/cursor"

PATHS = {
    "accounts": "/api/accounts",
    "campaigns": "/api/campaigns",
    "email_templates": "/api/templates",
    "events": "/api/events",
    "flows": "/api/flows",
    "global_exclusions": "/api/profiles",
    "lists": "/api/lists",
    "metrics": "/api/metrics",
    "profiles": "/api/profiles",
    "segments": "/api/segments",
}
"""Where the sandbox shows a stream's records."""

NOBODY: frozenset[str] = frozenset()


def judge(home: Home, *streams: str, put_aside: AbstractSet[str] = NOBODY) -> None:
    """Assert that each stream is complete and nothing but what was shown; all runs are over.

    Stored ids are the shop's, but for those `put_aside` into quarantine, each once, in the lake and
    in the database, and were shown intact (the journal must not have been emptied since the first
    run). Then the marks, as `judge_marks` has it.
    """
    for stream in streams:
        expected = sorted(home.shop.truth(stream) - put_aside)
        assert stored_ids(home, stream) == expected, stream
        assert sorted(home.ids(stream)) == expected, stream
        judge_shown(home, stream)
        judge_marks(home, stream)


def judge_part(home: Home, *streams: str) -> None:
    """Assert that what a failed run left is sound: a part of the shop's, shown, each key once."""
    for stream in streams:
        stored = stored_ids(home, stream)
        assert len(stored) == len(set(stored)), stream
        assert set(stored) <= home.shop.truth(stream), stream
        judge_shown(home, stream)
        judge_marks(home, stream)


def judge_shown(home: Home, stream: str) -> None:
    """Assert that nothing is stored that was never shown intact on the stream's path."""
    invented = set(stored_ids(home, stream)) - set(home.shop.shown(PATHS[stream]))
    assert not invented, f"{stream}: {len(invented)} ids stored that were never shown intact"


def judge_marks(home: Home, stream: str) -> None:
    """Assert that asset metadata and the lake's commit have one mark, not beyond the rows.

    For streams with a cursor; without rows there is no mark.
    """
    cursor = STREAMS[stream].cursor
    if cursor is None or not has_table(home, stream):
        return
    committed, told = committed_mark(home, stream), told_mark(home, stream)
    assert told == committed, f"{stream}: {told} in asset metadata, {committed} in the lake"
    if committed is not None:
        assert committed <= greatest(home, stream, cursor.column), stream


def judge_keys(home: Home, report: str) -> None:
    """Assert that a report has rows, and every key once."""
    columns = ", ".join(STREAMS[report].key)
    rows, keys = home.query(f"SELECT count(*), count(DISTINCT ({columns})) FROM klaviyo.{report}")[
        0
    ]
    assert rows == keys > 0, report


def has_table(home: Home, stream: str) -> bool:
    """Tell whether the stream was ever committed."""
    return any((home.data / "lake" / stream / "_delta_log").glob("*.json"))


def stored_ids(home: Home, stream: str) -> list[str]:
    """Return the ids in the lake, sorted, as often as they are there; none without a table."""
    if not has_table(home, stream):
        return []
    return sorted(str(each) for each in home.lake_ids(stream))


def greatest(home: Home, stream: str, column: str) -> datetime:
    """Return the greatest cursor stored, UTC."""
    table = DeltaTable(str(home.data / "lake" / stream)).to_pyarrow_table(columns=[column])
    return max(cast("list[datetime]", table[column].to_pylist()))


def committed_mark(home: Home, stream: str) -> datetime | None:
    """Return the mark in the newest commit, UTC."""
    state = Lake(home.data, clock=lambda: home.shop.now).state(stream)
    return moment_of(None if state is None else state.state.get("cursor"))


def told_mark(home: Home, stream: str) -> datetime | None:
    """Return the newest mark that asset metadata has, of materializations and observations, UTC."""
    with instance_of(home.dagster) as instance:
        records = [
            *instance.fetch_materializations(key_of(stream), limit=1).records,
            *instance.fetch_observations(key_of(stream), limit=20).records,
        ]
    for record in sorted(records, key=lambda each: each.storage_id, reverse=True):
        seen: Any = record.asset_materialization or record.event_log_entry.asset_observation
        if CURSOR in seen.metadata:
            return moment_of(seen.metadata[CURSOR].value)
    return None


def moment_of(text: object) -> datetime | None:
    """Return an ISO 8601 text as a moment."""
    return None if text is None else datetime.fromisoformat(str(text))
