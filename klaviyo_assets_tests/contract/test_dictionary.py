"""The data dictionary and the joins: every relation is there, and every id leads somewhere."""

from collections import Counter

from klaviyo_assets.model.stream import base_stream_name, relation_columns
from klaviyo_assets.streams import MERGE_RULES, STREAMS, VIEWS
from klaviyo_assets_tests.contract.dictionary_pages import (
    IDS_OF_NO_TABLE,
    OTHER_NAMES,
    dictionary_page,
    documented_relations,
    find_target,
    join_paths,
    joins_page,
)

NAMES = {each.name for each in documented_relations()}


def test_every_relation_is_documented_once() -> None:
    """Those of streams, of merges, of rates and the views."""
    assert Counter(each.name for each in documented_relations()) == Counter(NAMES)
    declared = {*STREAMS, *(each.name for each in (*MERGE_RULES, *VIEWS))}
    rates = NAMES - declared
    assert declared <= NAMES
    assert rates == {"campaign_rates", "flow_rates", "form_rates"}
    page = dictionary_page()
    assert [name for name in NAMES if f"\n### {name}\n" not in page] == []


def test_every_column_has_its_meaning() -> None:
    """A relation that extends another one has the columns that it adds."""
    for each in documented_relations():
        assert each.columns, each.name
        assert all(about for _, _, about in each.columns)
        stream = STREAMS.get(each.name)
        if stream is not None:
            base = base_stream_name(stream)
            of_base = len(relation_columns(STREAMS[base], STREAMS)) if base else 0
            assert len(each.columns) + of_base == len(relation_columns(stream, STREAMS))


def test_every_id_leads_to_a_table_or_is_known_to_lead_to_none() -> None:
    """A new column with an id is drawn by itself, or fails here until it is said where it leads."""
    columns = {name for each in documented_relations() for name, _, _ in each.columns}
    ids = {name for name in columns if name.endswith(("_id", "_ids"))}
    lost = {name for name in ids if find_target(name) is None}
    assert lost - {"old_id", "survivor_id"} == IDS_OF_NO_TABLE
    assert set(OTHER_NAMES.values()) <= {find_target(name) for name in ids}
    paths = {
        (each.relation, each.column): each.target for each in join_paths(documented_relations())
    }
    assert paths["event_attributions", "attributed_event_metric_id"] == "metrics"
    assert paths["events", "attributed_campaign_message_id"] == "campaign_messages"
    assert paths["campaigns", "tag_ids"] == "tags"
    assert paths["flow_messages", "template_id"] == "email_templates"
    assert paths["profile_merges", "survivor_id"] == "profiles"
    assert set(paths.values()) <= NAMES


def test_every_join_is_drawn_once() -> None:
    """In one of the pictures, with a fork at both ends where the column is a list."""
    page = joins_page()
    for each in join_paths(documented_relations()):
        ends = "}o--o{" if each.is_list else "||--o{"
        assert page.count(f"    {each.target} {ends} {each.relation} : {each.column}\n") == 1
