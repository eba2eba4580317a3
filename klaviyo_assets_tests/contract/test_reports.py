"""Our report requests are within Klaviyo's published offer, and the tables are as promised."""

import re

import pytest

from klaviyo_assets.api.messages import READ_ONLY_POST_PATHS
from klaviyo_assets.api.requests import MAX_FILTER_IDS
from klaviyo_assets.decode.reports import MAX_PAGE_GROUPS, report_schema
from klaviyo_assets.defs.metadata import table_column_schema
from klaviyo_assets.model.report import TOTAL_DIMENSION, ReportEndpoint
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.streams import COLLECTIONS, REPORTS
from klaviyo_assets.streams import reports as module
from klaviyo_assets.streams.metrics import METRIC_AGGREGATES
from klaviyo_assets_tests.contract.facts import AGGREGATES, ReportOperation
from klaviyo_assets_tests.contract.facts import REPORTS as FACTS

each_computed = pytest.mark.parametrize("stream", REPORTS, ids=lambda stream: stream.name)
"""Every stream that Klaviyo computes, metric aggregates among them."""

OF_REPORTS = [stream for stream in REPORTS if stream is not METRIC_AGGREGATES]
each_report = pytest.mark.parametrize("stream", OF_REPORTS, ids=lambda stream: stream.name)


def source(stream: Stream) -> ReportEndpoint:
    """Return the report that a stream is made of."""
    assert isinstance(stream.source, ReportEndpoint)
    return stream.source


def operation_facts(stream: Stream) -> ReportOperation:
    """Return the facts of the operation that a stream asks."""
    return FACTS[source(stream).path]


def test_the_promised_reports_are_there_with_their_columns() -> None:
    """A report or a column comes or goes only together with the promise made of it."""
    assert {stream.name: len(stream.columns) for stream in REPORTS} == {
        "campaign_values_reports": 39,
        "campaign_variation_reports": 41,
        "flow_series_reports": 40,
        "flow_values_reports": 40,
        "flow_variation_reports": 42,
        "form_series_reports": 17,
        "form_values_reports": 17,
        "metric_aggregates": 9,
        "segment_series_reports": 8,
        "segment_values_reports": 8,
    }
    assert [stream.name for stream in REPORTS] == sorted(stream.name for stream in REPORTS)


def test_every_fact_is_used() -> None:
    """The facts are those of the reports in use, all of them POSTs that only read."""
    assert list(dict.fromkeys(source(stream).path for stream in OF_REPORTS)) == list(FACTS)
    assert set(FACTS) <= READ_ONLY_POST_PATHS


@each_report
def test_limits_and_scopes_are_the_published_ones(stream: Stream) -> None:
    """A report spends from its own path, by the second, the minute and the day."""
    facts = operation_facts(stream)
    assert stream.tier is not None
    assert (stream.tier.burst, stream.tier.steady, stream.tier.daily) == (
        facts.burst,
        facts.steady,
        facts.daily,
    )
    assert [budget.name for budget in stream.rate_limit_buckets()] == [f"POST {facts.path}"]
    assert stream.scopes == tuple(facts.scopes)
    assert stream.section == facts.section
    assert source(stream).type == facts.type


@each_report
def test_everything_that_is_offered_is_requested(stream: Stream) -> None:
    """Every statistic, and groupings that Klaviyo offers: the usual ones and names besides."""
    facts, report = operation_facts(stream), source(stream)
    assert sorted(report.statistics) == sorted(facts.statistics)
    added = set(report.group_by) - set(facts.group_by_default)
    assert set(report.group_by) <= set(facts.group_by)
    assert set(facts.group_by_required) <= set(facts.group_by_default) <= set(report.group_by)
    finer = {name for name in facts.group_by if re.match(f"{report.subject}_.*name$", name)}
    by_variation = {"variation", "variation_name"} & set(report.group_by)
    assert added == finer | ({"form_version_id"} & set(facts.group_by)) | by_variation
    assert report.has_metric == ("conversion_metric_id" in facts.attributes)


@each_report
def test_a_time_frame_is_as_long_as_it_may_be(stream: Stream) -> None:
    """A request costs one whatever its length, so the longest that is allowed is known."""
    facts, report = operation_facts(stream), source(stream)
    assert report.max_days == facts.most_days[report.interval or "any"]
    assert (report.interval is not None) == ("interval" in facts.attributes)
    assert ("page_cursor" in facts.parameters) == report.has_metric


@each_report
def test_messages_are_filtered_by_as_offered(stream: Stream) -> None:
    """A response can be restricted to messages, as many as one list may hold."""
    if source(stream).has_metric:
        assert source(stream).message_field in operation_facts(stream).contains_any
    assert operation_facts(stream).most_items == MAX_FILTER_IDS


@each_report
def test_the_key_is_the_promised_one(stream: Stream) -> None:
    """One row a day, conversion metric, message and channel; every key column is a column."""
    subject = source(stream).subject
    assert stream.key[0] == "date"
    assert stream.key[-len(source(stream).key_groupings) :] == source(stream).key_groupings
    assert set(stream.key) <= set(report_schema(stream).names)
    assert stream.cursor is None
    if not source(stream).has_metric:
        assert len(stream.key) == 1 + len(source(stream).groupings)
        assert stream.partitioning == "month"
        return
    assert stream.key == (
        "date",
        "conversion_metric_id",
        f"{subject}_id",
        f"{subject}_message_id",
        *(["variation"] if "variation" in source(stream).group_by else []),
        "send_channel",
    )
    assert stream.partitioning == "metric and month"


@each_computed
def test_columns_are_named_for_sql_and_described(stream: Stream) -> None:
    """Names need no quotes and differ, and each column has a description."""
    names = [column.name for column in stream.columns]
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)
    assert len(set(names)) == len(names)
    assert not {"extra", "synced_at"} & set(names)
    for column in stream.columns:
        assert re.fullmatch(r"[^\n{}]{3,99}\.", column.description), column.name
    assert re.fullmatch(r"One row per [^\n]+\.", stream.description)
    assert stream in (*vars(module).values(), METRIC_AGGREGATES)


@each_computed
def test_every_statistic_says_whether_its_days_add_up(stream: Stream) -> None:
    """Counts and values add up, rates and numbers of people do not; a sentence and a tag say so."""
    wanted = source(stream).statistics
    statistics = {column.name: column for column in stream.columns if column.name in wanted}
    shown = {each.name: each for each in table_column_schema(stream).columns}
    for name, column in statistics.items():
        is_level = name == "total_members"
        must_not = is_level or name in source(stream).rates or "unique" in name
        assert column.is_additive is not must_not, name
        adds_up = f"{source(stream).period.capitalize()}s add up."
        words = "Not to be added up." if must_not else adds_up
        assert column.description.endswith(words), name
        assert shown[name].tags == {"klaviyo/is_additive": str(not must_not).lower()}
    others = [each for name, each in shown.items() if name not in statistics]
    assert others
    assert not any(each.tags for each in others)


def test_metric_aggregates_are_asked_for_as_published() -> None:
    """Everything is measured, each dimension is offered, and the limit is not the reports'."""
    report, tier = source(METRIC_AGGREGATES), METRIC_AGGREGATES.tier
    assert tier is not None
    assert (tier.burst, tier.steady, tier.daily) == (AGGREGATES.burst, AGGREGATES.steady, None)
    assert METRIC_AGGREGATES.rate_limit_buckets()[0].name == f"POST {report.path}"
    assert METRIC_AGGREGATES.scopes == tuple(AGGREGATES.scopes)
    assert (METRIC_AGGREGATES.section, report.type) == (AGGREGATES.section, AGGREGATES.type)
    assert sorted(report.statistics) == AGGREGATES.measurements
    assert set(report.dimensions) < set(AGGREGATES.dimensions)
    assert TOTAL_DIMENSION not in AGGREGATES.dimensions
    assert AGGREGATES.page_size == MAX_PAGE_GROUPS
    assert report.path in READ_ONLY_POST_PATHS
    assert METRIC_AGGREGATES.key == ("date", "metric_id", *report.key_groupings)


def test_a_collection_is_read_and_a_report_computed() -> None:
    """The registry separates the two kinds of stream."""
    assert not [stream for stream in COLLECTIONS if isinstance(stream.source, ReportEndpoint)]
