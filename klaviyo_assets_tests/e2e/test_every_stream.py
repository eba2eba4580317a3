"""Every stream that KLAVIYO_STREAMS can turn on is brought home, those of the default set aside."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from klaviyo_assets.model.stream import PARENT_ID, Children, Collection, Stream
from klaviyo_assets.streams import COLLECTIONS, STREAMS
from klaviyo_assets_tests.e2e.home import Home
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account

OPT_IN = tuple(stream for stream in COLLECTIONS if stream.is_opt_in)
PARENTS = tuple(
    sorted({each.source.parent for each in OPT_IN if isinstance(each.source, Children)})
)
NAMES = tuple(dict.fromkeys([*PARENTS, *(each.name for each in OPT_IN)]))


@pytest.fixture(scope="module")
def full_home(tmp_path_factory: pytest.TempPathFactory, dagster_template: Path) -> Iterator[Home]:
    """A home in which every stream is on and was synced once."""
    with open_sandbox_account(objects=30, flows=6) as account:
        home = Home(
            account=account,
            root=tmp_path_factory.mktemp("every"),
            dagster_template=dagster_template,
            settings={"KLAVIYO_STREAMS": "all"},
        )
        for name in ("forms", "flows", "metrics", "coupons"):
            assert home.sync(name).success
        assert home.sync(*NAMES).success
        yield home


def truth(home: Home, stream: Stream) -> set[Any]:
    """Return the ids that the stream's table must hold."""
    if stream.name in ("list_members", "segment_members"):
        kind = stream.name.removesuffix("_members")
        return {key[:2] for key in home.account.true_members(kind)}
    collections = home.account.sandbox.store.collections
    kinds = {name.replace("-", "_"): name for name in collections}
    word = {"universal_content": "template_universal_content"}.get(stream.name, stream.name)
    singular = word.removesuffix("ies") + "y" if word.endswith("ies") else word.removesuffix("s")
    collection = collections[kinds.get(word) or kinds[singular]]
    return {collection.id_of(k) for k in collection.sorted_ordinals("id")}


@pytest.mark.parametrize("stream", OPT_IN, ids=lambda stream: stream.name)
def test_every_record_is_there_once(full_home: Home, stream: Stream) -> None:
    """What the account has of a type is in the table, each id once."""
    rows = full_home.query(f"SELECT {', '.join(stream.key[:2])} FROM {stream.name}")
    ids: list[Any] = [row if len(stream.key) > 1 else row[0] for row in rows]
    assert len(ids) == len(set(ids))
    if isinstance(stream.source, Collection | Children):
        assert set(ids) == truth(full_home, stream)
    assert ids


@pytest.mark.parametrize("stream", OPT_IN, ids=lambda stream: stream.name)
def test_nothing_is_left_for_extra(full_home: Home, stream: Stream) -> None:
    """Every published attribute has a column that holds it."""
    assert full_home.query(f"SELECT DISTINCT extra FROM {stream.name}") == [(None,)]


@pytest.mark.parametrize(
    "stream",
    [each for each in OPT_IN if isinstance(each.source, Children)],
    ids=lambda stream: stream.name,
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


def test_every_stream_is_an_asset(full_home: Home) -> None:
    """`all` turns on every stream of the registry."""
    keys = full_home.load_definitions().resolve_asset_graph().get_all_asset_keys()
    assert {key.path[-1] for key in keys} == set(STREAMS)
