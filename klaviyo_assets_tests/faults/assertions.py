"""Assertions: a stream in the lake is what its account holds and what was shown, and no more."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any, cast

from deltalake import DeltaTable

from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.stream import Collection
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, STREAMS
from klaviyo_assets_tests.e2e.home import Home, asset_key
from klaviyo_assets_tests.e2e.instance import open_instance

CURSOR_METADATA_KEY = "klaviyo/cursor"

STREAM_PATHS = {
    stream.name: stream.source.path
    for stream in DEFAULT_COLLECTIONS
    if isinstance(stream.source, Collection)
}
"""Where the sandbox shows a stream's records."""

NO_IDS: frozenset[str] = frozenset()


def assert_complete(home: Home, *streams: str, quarantined: AbstractSet[str] = NO_IDS) -> None:
    """Assert that each stream is complete and nothing but what was shown; all runs are over.

    Stored ids are the account's, except those `quarantined`, each once, in the lake
    and in the database, and were shown intact (the journal must not have been emptied since the
    first run). Then the marks, as `assert_cursors_agree` has it.
    """
    for stream in streams:
        expected = sorted(home.account.true_ids(stream) - quarantined)
        stored = stored_ids(home, stream)
        assert stored == expected, stream
        assert sorted(home.ids(stream)) == expected, stream
        assert_only_shown_records(home, stream, stored)
        assert_cursors_agree(home, stream)


def assert_sound_part(home: Home, *streams: str) -> None:
    """Assert that what a failed run left is sound: a part of what was shown, each key once."""
    for stream in streams:
        stored = stored_ids(home, stream)
        assert len(stored) == len(set(stored)), stream
        assert set(stored) <= home.account.true_ids(stream), stream
        assert_only_shown_records(home, stream, stored)
        assert_cursors_agree(home, stream)


def assert_only_shown_records(home: Home, stream: str, stored: Iterable[str]) -> None:
    """Assert that no id is stored that was never shown intact on the stream's path."""
    invented = set(stored) - set(home.account.shown_record_counts(STREAM_PATHS[stream]))
    assert not invented, f"{stream}: {len(invented)} ids stored that were never shown intact"


def assert_cursors_agree(home: Home, stream: str) -> None:
    """Assert that asset metadata and the lake's commit have one mark, not beyond the rows.

    For streams with a cursor; without rows there is no mark.
    """
    cursor = STREAMS[stream].cursor
    if cursor is None or not has_table(home, stream):
        return
    committed, materialized = (
        read_committed_cursor(home, stream),
        read_metadata_cursor(home, stream),
    )
    assert materialized == committed, (
        f"{stream}: {materialized} in asset metadata, {committed} in the lake"
    )
    if committed is not None:
        assert committed <= max_stored_cursor(home, stream, cursor.column), stream


def assert_unique_keys(home: Home, report: str) -> None:
    """Assert that a report has rows, and every key once."""
    columns = ", ".join(STREAMS[report].key)
    rows, keys = home.query(f"SELECT count(*), count(DISTINCT ({columns})) FROM klaviyo.{report}")[
        0
    ]
    assert rows == keys > 0, report


def has_table(home: Home, stream: str) -> bool:
    """Tell whether the stream was ever committed."""
    return any((home.data_dir / "lake" / stream / "_delta_log").glob("*.json"))


def stored_ids(home: Home, stream: str) -> list[str]:
    """Return the ids in the lake, sorted, as often as they are there; none without a table."""
    if not has_table(home, stream):
        return []
    return sorted(str(each) for each in home.lake_ids(stream))


def max_stored_cursor(home: Home, stream: str, column: str) -> datetime:
    """Return the greatest cursor stored, UTC."""
    table = DeltaTable(str(home.data_dir / "lake" / stream)).to_pyarrow_table(columns=[column])
    return max(cast("list[datetime]", table[column].to_pylist()))


def read_committed_cursor(home: Home, stream: str) -> datetime | None:
    """Return the cursor in the newest commit, UTC."""
    state = Lake(home.data_dir, clock=lambda: home.account.now).read_table_state(stream)
    return parse_datetime(None if state is None else state.state.get("cursor"))


def read_metadata_cursor(home: Home, stream: str) -> datetime | None:
    """Return the newest mark that asset metadata has, of materializations and observations, UTC."""
    with open_instance(home.dagster_home) as instance:
        records = [
            *instance.fetch_materializations(asset_key(stream), limit=1).records,
            *instance.fetch_observations(asset_key(stream), limit=20).records,
        ]
    for record in sorted(records, key=lambda each: each.storage_id, reverse=True):
        seen: Any = record.asset_materialization or record.event_log_entry.asset_observation
        if CURSOR_METADATA_KEY in seen.metadata:
            return parse_datetime(seen.metadata[CURSOR_METADATA_KEY].value)
    return None


def parse_datetime(text: object) -> datetime | None:
    """Return an ISO 8601 text as a moment."""
    return None if text is None else datetime.fromisoformat(str(text))
