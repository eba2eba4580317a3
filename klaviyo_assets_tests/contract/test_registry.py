"""The registry is complete, and its streams are named, cut and put together as promised.

What Klaviyo publishes for each is compared in `test_requests.py` and `test_columns.py`.
"""

import pkgutil
import re
from datetime import UTC, datetime
from importlib import import_module

import pytest

from klaviyo_assets import streams
from klaviyo_assets.model.selection import section_group
from klaviyo_assets.model.stream import (
    KEY_COLUMN,
    POSITION_COLUMN,
    Children,
    Collection,
    Detail,
    Join,
    Stream,
    Unnest,
    ViewSource,
)
from klaviyo_assets.streams import COLLECTIONS, REPORTS, STREAMS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.fan_outs import CHANGED_PARENTS, WHY_ALL_PARENTS, fan_outs
from klaviyo_assets_tests.contract.golden_streams import (
    GOLDEN_FOLDER,
    expected_golden_files,
    golden_text,
)

each_stream = pytest.mark.parametrize("stream", COLLECTIONS, ids=lambda stream: stream.name)

EVERY_TABLE_HAS = {"id", "extra", "synced_at", "parent_version"}


MODULES_OF_SQL = {
    "airbyte_views",
    "campaign_sql",
    "figure_views",
    "fivetran_views",
    "other_tools",
    "profile_views",
}
"""Modules beside a stream's own: SQL that would fill it, views of several tables, other tools."""


def declared_in(module: str) -> list[Stream]:
    """Return the streams that a module of the registry declares, in its order."""
    values = vars(import_module(f"{streams.__name__}.{module}")).values()
    return [value for value in values if isinstance(value, Stream)]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=lambda stream: stream.name)
def test_a_stream_is_what_its_golden_file_says(stream: Stream) -> None:
    """A column, a key, a cursor or a limit changes only together with the promise made of it.

    `python -m klaviyo_assets_tests.contract.golden_streams` writes the files anew; read the diff.
    """
    path = GOLDEN_FOLDER / f"{stream.name}.txt"
    assert path.exists(), f"{path} is missing"
    assert path.read_text(encoding="utf-8") == golden_text(stream)


def test_every_golden_file_has_its_stream() -> None:
    """A promised stream does not go unnoticed."""
    assert {path.name for path in GOLDEN_FOLDER.iterdir()} == set(expected_golden_files())


def test_every_module_is_in_the_registry() -> None:
    """A stream declared in a module of the registry is a stream of the product, once."""
    modules = [module.name for module in pkgutil.iter_modules(streams.__path__)]
    declared = [stream for module in modules for stream in declared_in(module)]
    assert {module for module in modules if not declared_in(module)} == MODULES_OF_SQL
    assert sorted(stream.name for stream in declared) == sorted(STREAMS)
    assert all(STREAMS[stream.name] is stream for stream in declared)


def test_the_registry_is_in_order() -> None:
    """Streams are listed by name, so that a table of them is the same everywhere."""
    names = [stream.name for stream in COLLECTIONS]
    assert names == sorted(names)
    assert list(STREAMS.values()) == [*COLLECTIONS, *REPORTS]


def test_reading_by_parent_has_its_reason() -> None:
    """Whoever adds a stream that is read by parent says why it requests every parent, or not."""
    assert fan_outs(COLLECTIONS) == (set(WHY_ALL_PARENTS), set(CHANGED_PARENTS))


@each_stream
def test_a_stream_lies_in_the_module_of_its_section(stream: Stream) -> None:
    """Who knows the section in Klaviyo's reference knows the file."""
    assert stream in declared_in(section_group(stream))


@each_stream
def test_a_stream_says_its_grain(stream: Stream) -> None:
    """Every stream says what one row is, in one sentence."""
    assert re.fullmatch(r"One row per [^\n]+\.", stream.description)


@each_stream
def test_columns_are_named_for_sql(stream: Stream) -> None:
    """Column names need no quotes, differ by more than case and leave every table's own free."""
    names = [column.name for column in stream.columns]
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert len(set(names)) == len(names)
    assert not EVERY_TABLE_HAS & set(names)


@each_stream
def test_every_column_has_a_short_description(stream: Stream) -> None:
    """Each column is described in a sentence short enough for a table."""
    for column in stream.columns:
        assert re.fullmatch(r"[^\n{}]{3,99}\.", column.description), column.name


@each_stream
def test_records_are_known_by_their_id(stream: Stream) -> None:
    """The key is the id that Klaviyo gives; of an element without, its parent's and its place.

    Of an element that is an id, which an array has once, it is the id instead of the place. Of a
    membership it is who joined what and when.
    """
    match stream.source:
        case Unnest(parent_columns=columns, array=array) if stream.key != ("id",):
            parent, element = stream.key
            expected = "tag_id" if array == "tag_ids" else POSITION_COLUMN
            assert (columns[parent], element) == ("id", expected)
        case Children(parent=parent, fields=("joined_group_at",)):
            joined = (f"{parent.removesuffix('s')}_id", "profile_id", "joined_group_at")
            assert stream.key == joined
        case _:
            assert stream.key == ("id",)


@each_stream
def test_a_cursor_is_a_time(stream: Stream) -> None:
    """High-water marks are compared as times."""
    types = {column.name: column.type for column in stream.columns}
    assert stream.cursor is None or types[stream.cursor.column] == "timestamp"


def test_when_it_happened_is_no_version() -> None:
    """Of two responses the later cursor wins, but where it can go back or stand still."""
    assert [each.name for each in COLLECTIONS if each.cursor and not each.cursor.is_version] == [
        "events",
        "global_exclusions",
        "list_members",
        "segment_members",
    ]


def test_only_exclusions_are_never_requested_without_a_bound() -> None:
    """Who was never suppressed has no cursor: without a bound, all profiles would be exclusions."""
    bounded = {each.name: each.cursor.earliest for each in COLLECTIONS if each.cursor}
    assert bounded.pop("global_exclusions") == datetime(1970, 1, 1, tzinfo=UTC)
    assert set(bounded.values()) == {None}


def test_tables_that_others_are_joined_to_are_never_cut() -> None:
    """A start date leaves these streams whole."""
    whole = {stream.name for stream in COLLECTIONS if stream.is_exempt_from_start_date}
    assert whole >= {"accounts", "global_exclusions", "lists", "metrics", "segments"}


def test_only_events_have_day_partitions_and_a_lookback() -> None:
    """The lookback, the restriction to metrics and the day's partition are for events alone."""
    marked = [
        (stream.partitioning == "day")
        + (stream.cursor is not None and stream.cursor.has_lookback)
        + (isinstance(stream.source, Collection) and stream.source.has_metric_filter)
        for stream in COLLECTIONS
    ]
    assert {stream.name: n for stream, n in zip(COLLECTIONS, marked, strict=True) if n} == {
        "events": 3
    }


def test_only_predictive_analytics_can_be_left_out() -> None:
    """The setting that leaves them out names the only field that is optional."""
    optional = [
        (stream.name, extra.name)
        for stream in COLLECTIONS
        if isinstance(stream.source, Collection | Detail)
        for extra in stream.source.additional_fields
        if extra.is_optional
    ]
    assert optional == [("profiles", "predictive_analytics")]


@each_stream
def test_what_asks_has_a_tier(stream: Stream) -> None:
    """Every stream that sends requests has a limit; a view sends none."""
    assert (stream.tier is None) == isinstance(stream.source, ViewSource)
    assert bool(stream.rate_limit_buckets()) != isinstance(stream.source, ViewSource)


@each_stream
def test_a_detail_fits_its_parent(stream: Stream) -> None:
    """A detail sends one request a record of a collection and adds columns that it lacks."""
    if not isinstance(stream.source, Detail):
        return
    parent = STREAMS[stream.source.parent]
    names = {column.name for column in parent.columns}
    assert isinstance(parent.source, Collection)
    assert stream.source.path.count("{id}") == 1
    assert stream.source.version_column is None or stream.source.version_column in names
    assert not names & {column.name for column in stream.columns}


@each_stream
def test_a_join_fits_its_sides(stream: Stream) -> None:
    """A join takes columns that the right side has, as they are, or texts of its JSON columns."""
    if not isinstance(stream.source, Join):
        return
    left, right = STREAMS[stream.source.left], STREAMS[stream.source.right]
    types = {column.name: column.type for column in right.columns}
    assert stream.source.join_column in {column.name for column in left.columns}
    for column in stream.columns:
        there, _, inside = stream.source.columns[column.name].partition(".")
        assert (types[there], column.type) == (("json", "string") if inside else (column.type,) * 2)
    assert stream.source.columns.keys() == {column.name for column in stream.columns}
    assert stream.scopes == (*left.scopes, *right.scopes)


@each_stream
def test_an_unnested_array_fits_its_parent(stream: Stream) -> None:
    """Columns are taken from columns of the parent, which also holds the array, of ids or JSON."""
    if not isinstance(stream.source, Unnest):
        return
    parent, reference = STREAMS[stream.source.parent], stream.source.reference
    types = {column.name: column.type for column in (KEY_COLUMN, *parent.columns)}
    own = {column.name: column.type for column in stream.columns}
    array = types[stream.source.array.partition(".")[0]]
    place = own.get(POSITION_COLUMN, "none")
    has_id = stream.key == ("id",)
    assert (array, place) in {("json", "none" if has_id else "integer"), ("ids", "none")}
    taken = {**stream.source.parent_columns, **(reference.columns if reference else {})}
    assert {name: own[name] for name in taken} == {
        name: types[there] for name, there in taken.items()
    }
    assert reference is None or own[reference.column] == "string"
    assert stream.scopes == parent.scopes


MAX_PLAIN_STREAM_LINES = 20


def test_a_plain_stream_is_at_most_20_product_lines() -> None:
    """CONTRIBUTING shows every line of the product that brings `tag_groups`, and no others."""
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (block,) = re.findall(r"^```diff\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    lines_by_file: dict[str, list[str]] = {}
    for line in block.splitlines():
        if line.startswith("+++ "):
            lines_by_file[line[4:]] = []
        else:
            lines_by_file[[*lines_by_file][-1]].append(line.removeprefix("+"))
    assert sum(map(len, lines_by_file.values())) <= MAX_PLAIN_STREAM_LINES
    declaration, registration = lines_by_file.values()
    module, registry = ((ROOT / name).read_text() for name in lines_by_file)
    assert "\n".join(declaration) in module
    assert registry.splitlines().count("    TAG_GROUPS,") == len(registration)
    product = [
        each for each in (ROOT / "klaviyo_assets").rglob("*.py") if "sandbox" not in each.parts
    ]
    naming = {each for each in product if re.search(r"(?i)\btag_groups\b", each.read_text())}
    assert naming == {ROOT / name for name in lines_by_file}
