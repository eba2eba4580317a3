"""Reports by tag: a campaign counts for each tag that it has, and for none without."""

from datetime import date
from pathlib import Path

import pytest

from klaviyo_assets.streams import STREAMS, VIEWS
from klaviyo_assets_tests.unit.lake.stored_tables import Row, query_view, store_table

VIEW_BY_SUBJECT = {each.name.split("_")[0]: each for each in VIEWS if each.name.endswith("_by_tag")}
DAY = date(2026, 10, 12)


@pytest.mark.parametrize("subject", ["campaign", "flow"])
def test_sums_by_tag_are_one_query(tmp_path: Path, subject: str) -> None:
    """Rows of a tag add up by day, metric and channel; people and rates are left out."""
    view, tagged = VIEW_BY_SUBJECT[subject], {"A": ["T1", "T2"], "B": ["T1"], "C": [], "D": None}
    reports: list[Row] = [
        {
            "date": DAY,
            "conversion_metric_id": "ORDER",
            f"{subject}_id": each,
            "send_channel": "sms" if each == "D" else "email",
            "recipients": 10.0**place,
            "is_final": each != "B",
        }
        for place, each in enumerate(tagged)
    ]
    tables = {
        view.tables[0].name: store_table(tmp_path, view.tables[0].name, reports),
        f"{subject}s": store_table(
            tmp_path, f"{subject}s", [{"id": k, "tag_ids": v} for k, v in tagged.items()]
        ),
        "tags": store_table(tmp_path, "tags", [{"id": "T1", "name": "Sale"}]),
    }
    sql = "SELECT tag_id, tag_name, send_channel, recipients, is_final FROM it ORDER BY tag_id"
    expected = [("T1", "Sale", "email", 11.0, False), ("T2", None, "email", 1.0, True)]
    assert query_view(view, tables, sql) == expected
    del tables["tags"]
    unnamed = [(tag, None, *rest) for tag, _, *rest in expected]
    assert query_view(view, tables, sql) == unnamed
    known = {each.name: each.is_additive for each in STREAMS[view.tables[0].name].columns}
    assert {known.get(each.name) for each in view.columns} == {None, True}
