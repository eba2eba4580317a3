"""Every stream that KLAVIYO_STREAMS can turn on is brought home, those of each revision from it."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.model.selection import offered_streams
from klaviyo_assets.model.stream import PARENT_ID, Children, Collection, Detail, Stream, ViewSource
from klaviyo_assets.sandbox.account.records import RecordCollection
from klaviyo_assets.settings import SUPPORTED_REVISIONS
from klaviyo_assets.streams import COLLECTIONS, STREAMS
from klaviyo_assets_tests.benchmarks.model_account import (
    RecordCounts,
    count_requests,
    count_second_sync_requests,
)
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.run_log import RunResult
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

JULY, OCTOBER = SUPPORTED_REVISIONS
FULL = {"sync_mode": "full_refresh_overwrite"}
CHOSEN = tuple(stream for stream in COLLECTIONS if stream.is_opt_in or stream.since)
OPT_IN = tuple(stream for stream in CHOSEN if not isinstance(stream.source, ViewSource))
WITH_HOMES = [(each.since or JULY, each) for each in OPT_IN]
PARENTS = tuple(
    sorted({each.source.parent for each in OPT_IN if isinstance(each.source, Children)})
)
NAMES = {
    JULY: tuple(
        dict.fromkeys([*PARENTS, *(each.name for each in OPT_IN if each.is_offered_at(JULY))])
    ),
    OCTOBER: ("campaigns", *(each.name for each in CHOSEN if each.since == OCTOBER)),
}
"""What is synced at each revision; the same at both need not be read twice."""


def name_of(value: Stream | str) -> str:
    """Return what a case is called by."""
    return value if isinstance(value, str) else value.name


each_stream = pytest.mark.parametrize(("revision", "stream"), WITH_HOMES, ids=name_of)
each_revision = pytest.mark.parametrize("revision", SUPPORTED_REVISIONS)


CHANGED = tuple(
    (revision, each)
    for revision, each in WITH_HOMES
    if isinstance(each.source, Collection | Children)
    and not each.name.endswith("_members")
    and not each.name.startswith("campaign_")
)
"""The streams of records that are renamed, switched and deleted between the two syncs.

Of those that are on from the start the tests are in test_soft_deletes.py and test_second_sync.py,
of members in test_members.py, of campaigns and their parts in test_revisions.py.
"""

WITHOUT_NAMES = {"brand_email_defaults", "mapped_metrics", "webhook_topics"}
"""Streams of which no text or object can change: their ids and links say all."""

NEW_TEXT = "Another name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What was changed in a stream: columns of one record, and another one that was deleted."""

    changed_id: str | None
    columns: Mapping[str, object]
    deleted_id: str | None


def choose_columns(stream: Stream, attributes: Mapping[str, Any]) -> dict[str, object]:
    """Return new values of a text, or else of a JSON object, and of a switch such as archived."""

    def named(kind: type, column_type: str) -> list[str]:
        return [
            each.name
            for each in stream.columns
            if each.type == column_type and isinstance(attributes.get(each.name), kind)
        ]

    texts = sorted(named(str, "string"), key=lambda name: name not in {"name", "title", "label"})
    chosen: dict[str, object] = dict.fromkeys(texts[:1], NEW_TEXT)
    if not chosen:
        chosen |= {name: {"changed": NEW_TEXT} for name in named(dict, "json")[:1]}
    return chosen | {name: not attributes[name] for name in named(bool, "boolean")[:1]}


def change_every_kind(home: Home, revision: str) -> dict[str, Changes]:
    """Change a record of each stream and delete another, but no parent; return what was done."""
    collections, done = home.account.sandbox.store.collections, dict[str, Changes]()
    for stream in (each for wanted, each in CHANGED if wanted == revision):
        found = collections[kind_of(stream.name, collections)]
        assert isinstance(found, RecordCollection)
        first, last = found.records[0], found.records[-1]
        columns = choose_columns(stream, last.attributes)
        if columns:
            home.account.mutate(**{found.kind: last.id, "set": columns})
        # More than a third of the rows would be read a second time before they are marked.
        is_deleted = len(found.records) > 3 and stream.name not in PARENTS
        if is_deleted:
            home.account.mutate(**{found.kind: first.id, "delete": True})
        done[stream.name] = Changes(
            changed_id=last.id, columns=columns, deleted_id=first.id if is_deleted else None
        )
    return done


@dataclass(slots=True, kw_only=True)
class FullHome(Home):
    """A home with the runs that synced its streams, and how many requests the last one made.

    `changes`: by stream, what changed between the two.
    """

    runs: list[RunResult] = field(default_factory=list[RunResult])
    requests: int = 0
    changes: dict[str, Changes] = field(default_factory=dict[str, Changes])


OpenFullHome = Callable[[str], FullHome]


@pytest.fixture(scope="module")
def open_full_home(
    tmp_path_factory: pytest.TempPathFactory, dagster_template: Path
) -> Iterator[OpenFullHome]:
    """Give the home of a revision, one for all tests, whatever their order: it takes seconds."""
    with ExitStack() as stack:

        @cache
        def synced(revision: str) -> FullHome:
            home = FullHome(
                account=stack.enter_context(open_sandbox_account(objects=30, flows=6)),
                root=tmp_path_factory.mktemp("every"),
                dagster_template=dagster_template,
                settings={"KLAVIYO_STREAMS": "all", "KLAVIYO_REVISION": revision},
            )
            if revision == JULY:
                for name in ("forms", "flows", "metrics", "coupons"):
                    assert home.sync(name).success
            for _ in range(2):
                home.account.clear_journal()
                home.runs.append(home.sync(*NAMES[revision]))
                assert home.runs[-1].success
                home.requests = home.account.request_counts().total()
                if not home.changes:
                    home.account.advance_clock(hours=1)
                    home.changes = change_every_kind(home, revision)
            by_cursor = [
                name
                for name in home.changes
                if STREAMS[name].cursor and home.changes[name].deleted_id
            ]
            assert not by_cursor or home.sync(*by_cursor, config=FULL).success
            return home

        yield synced


@pytest.fixture
def full_home(revision: str, open_full_home: OpenFullHome) -> FullHome:
    """A home in which every stream of a revision is on, and the opt-in ones were synced twice."""
    return open_full_home(revision)


def truth(home: Home, stream: Stream) -> set[Any]:
    """Return the ids that the stream's table must hold."""
    if stream.name in ("list_members", "segment_members"):
        kind = stream.name.removesuffix("_members")
        return {key[:2] for key in home.account.true_members(kind)}
    store = home.account.sandbox.store
    collections = store.collections
    if stream.name.startswith("campaign_") and stream.since:
        collections = {**collections, **store.campaign_family.current().by_kind()}
    collection = collections[kind_of(stream.name, collections)]
    return {collection.id_of(k) for k in collection.sorted_ordinals("id")}


OTHER_WORDS = {"universal_content": "template_universal_content", "email_templates": "template"}
"""Streams whose names are not the plurals of the sandbox's words."""


def kind_of(stream: str, kinds: Iterable[str]) -> str:
    """Return the sandbox's word for a record of a stream."""
    known = {each.replace("-", "_"): each for each in kinds}
    word = OTHER_WORDS.get(stream, stream)
    singular = word.removesuffix("ies") + "y" if word.endswith("ies") else word.removesuffix("s")
    return known.get(word) or known[singular]


@each_stream
def test_every_record_is_there_once(full_home: Home, stream: Stream) -> None:
    """What the account has of a type is in the table, each id once."""
    living = f"WHERE {stream.deletion_column.name} IS NULL" if stream.has_soft_deletes else ""
    rows = full_home.query(f"SELECT {', '.join(stream.key[:2])} FROM {stream.name} {living}")
    ids: list[Any] = [row if len(stream.key) > 1 else row[0] for row in rows]
    assert len(ids) == len(set(ids))
    if isinstance(stream.source, Collection | Children):
        assert set(ids) == truth(full_home, stream)
    assert ids


def record_counts(home: Home, stream: Stream) -> RecordCounts:
    """Return how many records a stream has, or how many of each parent; of details, parents."""
    match stream.source:
        case Children(parent=parent, parent_condition=condition):
            column = next(each.name for each in stream.columns if each.source == PARENT_ID)
            name, member, start = condition or ("id", "", "")
            where = f"json_extract_string(p.{name}, '$.{member}') LIKE '{start}%'"
            rows = home.query(
                f"SELECT count({column}) FROM {parent} AS p LEFT JOIN {stream.name} ON {column} = "
                f"p.id WHERE {where if condition else 'TRUE'} GROUP BY p.id"
            )
            return {stream.name: [count for (count,) in rows]}
        case Detail(parent=parent):
            return {parent: [home.row_count(parent)]}
        case _:
            return {stream.name: [home.row_count(stream.name)]}


@each_stream
def test_two_syncs_make_the_stated_requests(full_home: FullHome, stream: Stream) -> None:
    """A first sync sends a request a page, slice and parent; a second one for what may be new."""
    counts = record_counts(full_home, stream)
    first, second = (run.metadata_number(stream.name, "requests") for run in full_home.runs)
    assert first == count_requests(stream, counts)
    assert second == count_second_sync_requests(stream, counts)


@each_revision
def test_no_stream_makes_other_requests(full_home: FullHome) -> None:
    """The requests that arrive in the second sync are those that the streams report."""
    names = NAMES[full_home.settings["KLAVIYO_REVISION"]]
    asset_names = set(full_home.runs[-1].materializations) & set(names)
    stated = [full_home.runs[-1].metadata_number(each, "requests") for each in asset_names]
    assert full_home.requests == sum(stated)


@each_stream
def test_nothing_is_left_for_extra(full_home: Home, stream: Stream) -> None:
    """Every published attribute has a column that holds it."""
    assert full_home.query(f"SELECT DISTINCT extra FROM {stream.name}") == [(None,)]


@pytest.mark.parametrize(
    ("revision", "stream"),
    [each for each in WITH_HOMES if isinstance(each[1].source, Children)],
    ids=name_of,
)
def test_a_child_names_its_parent(full_home: Home, stream: Stream) -> None:
    """Every child has the id of a stored parent."""
    assert isinstance(stream.source, Children)
    column = next(each.name for each in stream.columns if each.source == PARENT_ID)
    lost = full_home.query(
        f"SELECT count(*) FROM {stream.name} WHERE {column} IS NULL OR {column} NOT IN "
        f"(SELECT id FROM {stream.source.parent})"
    )
    assert lost == [(0,)]


@each_revision
def test_every_stream_is_an_asset(full_home: Home) -> None:
    """`all` turns on every stream of the registry that the revision offers."""
    keys = full_home.load_definitions().resolve_asset_graph().get_all_asset_keys()
    offered = offered_streams(STREAMS, full_home.settings["KLAVIYO_REVISION"])
    assert {key.path[-1] for key in keys} == {*offered, "health", "marketing_overview"}


@each_revision
def test_dagster_loads_everything(full_home: Home) -> None:
    """Jobs, schedules and sensors of all streams at once are accepted by Dagster's code server."""
    defs = full_home.load_definitions()
    dg.Definitions.validate_loadable(defs)
    selected = {
        key.path[-1]
        for job in defs.resolve_all_job_defs()
        if job.name.startswith("klaviyo_")
        for key in job.asset_layer.selected_asset_keys
    }
    offered = offered_streams(STREAMS, full_home.settings["KLAVIYO_REVISION"]).values()
    assert selected >= {each.name for each in offered if isinstance(each.source, Collection)}


@pytest.mark.parametrize("revision", [OCTOBER])
def test_a_message_has_its_campaign_and_all_its_variations(full_home: Home) -> None:
    """Every variation is a row, with its message, campaign and channel."""
    family = full_home.account.sandbox.store.campaign_family.current()
    rows = full_home.query(
        "SELECT v.id, v.campaign_id, channel, v.created, details FROM campaign_variations AS v "
        "JOIN campaign_messages AS m ON m.id = campaign_message_id "
        "AND list_contains(campaign_variation_ids, v.id)"
    )
    assert sorted(row[0] for row in rows) == sorted(each.id for each in family.variations.records)
    assert {row[1] for row in rows} <= {each.id for each in family.campaigns.records}
    assert {row[2] for row in rows} == {"email", "sms", "push"}
    assert all(created and json.loads(details) for *_, created, details in rows)


@pytest.mark.parametrize("revision", [JULY])
def test_tags_are_linked_to_what_carries_them(full_home: Home) -> None:
    """Each link of a flow, list or segment to a tag is a row, once; no request is made for them."""
    kinds = ("flow", "list", "segment")
    full_home.account.clear_journal()
    assert full_home.sync(*(f"{kind}_tags" for kind in kinds)).success
    assert not full_home.account.request_counts()
    linked = 0
    for kind in kinds:
        collection = full_home.account.sandbox.store.collections[kind]
        found: list[tuple[str, str]] = []
        for ordinal in collection.sorted_ordinals("id"):
            _, tags = collection.links(ordinal)["tags"]
            found += [(collection.id_of(ordinal), tag) for tag in tags or ()]
        expected = sorted(found)
        assert sorted(full_home.query(f"SELECT {kind}_id, tag_id FROM {kind}_tags")) == expected
        linked += len(expected)
    assert linked, "nothing carries a tag"


@pytest.mark.parametrize("revision", [JULY])
def test_the_tokens_of_devices_are_stored_nowhere(full_home: Home) -> None:
    """Who has a push token can send messages to the device: no file of the lake holds one."""
    tokens = [
        each["token"].encode() for each in full_home.account.attributes("push-token").values()
    ]
    assert len(full_home.live_ids("push_tokens")) == len(tokens) > 0
    stored = b"".join(
        repr(pq.read_table(path).to_pylist()).encode()
        for path in (full_home.data_dir / "lake" / "push_tokens").rglob("*.parquet")
    )
    assert stored
    assert not [each for each in tokens if each in stored]


@pytest.mark.parametrize(("revision", "stream"), CHANGED, ids=name_of)
def test_a_change_of_each_kind_is_seen(full_home: FullHome, stream: Stream) -> None:
    """A record that was renamed, switched or deleted is so in the table after a read of all."""
    changes = full_home.changes[stream.name]
    assert changes.columns or stream.name in WITHOUT_NAMES
    for column, value in changes.columns.items():
        query = f"SELECT {column} FROM {stream.name} WHERE id = '{changes.changed_id}'"
        ((stored,),) = full_home.query(query)
        if isinstance(value, dict):
            assert value.items() <= json.loads(stored).items()
        else:
            assert stored == value
    if changes.deleted_id is not None:
        assert list(full_home.deletion_times(stream.name)) == [changes.deleted_id]
