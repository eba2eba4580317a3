"""Each question of the marketing overview, asked of a shop whose answers are known."""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pytest

from klaviyo_assets.dashboard import questions
from klaviyo_assets.dashboard.page import build_overview
from klaviyo_assets.dashboard.questions import MissingData, OverviewReader, Question, Row
from klaviyo_assets.defs.assets import overview_metadata
from klaviyo_assets.lake.layout import HISTORY_SUFFIX
from klaviyo_assets.model.stream import VALID_FROM_COLUMN, VALID_TO_COLUMN, relation_columns
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.integration.dashboard.shop import NOW, open_empty_shop, open_shop


@pytest.fixture(scope="module")
def reader() -> Iterator[OverviewReader]:
    """Give the shop."""
    with open_shop() as opened:
        yield OverviewReader(opened)


def ask(reader: OverviewReader, question: Question) -> Sequence[Row]:
    """Return the rows of an answer that is there."""
    found = reader.ask(question, reader.read_scope(NOW))
    assert not isinstance(found, MissingData)
    return found


def pick(rows: Sequence[Row], *names: str) -> list[tuple[Any, ...]]:
    """Return some columns of the rows."""
    return [tuple(row[name] for name in names) for row in rows]


def test_the_scope_is_the_accounts(reader: OverviewReader) -> None:
    """90 whole days of the account's zone, its currency, and the shop system's Placed Order."""
    scope = reader.read_scope(NOW)
    assert (scope.first_day, scope.last_day) == (date(2026, 5, 12), date(2026, 8, 9))
    assert (scope.zone, scope.currency, scope.account) == ("America/New_York", "EUR", "A shop")
    assert scope.revenue_metric == "order"
    assert scope.first_month == date(2025, 9, 1)
    assert [f"{each:%m-%d %H:%M}" for each in (scope.since, scope.until)] == [
        "05-12 04:00",
        "08-10 04:00",
    ]


def test_the_mapped_metric_is_revenue() -> None:
    """What the account maps to revenue comes before a metric's name."""
    with open_shop() as opened:
        opened.execute("INSERT INTO mapped_metrics VALUES ('revenue', 'own', NULL)")
        assert OverviewReader(opened).read_scope(NOW).revenue_metric == "own"


def test_revenue_by_day(reader: OverviewReader) -> None:
    """A day is one of New York; both attributions are the campaign's; other currencies are out."""
    rows = ask(reader, questions.REVENUE_BY_DAY)
    assert pick(rows, "day", "source", "orders", "revenue") == [
        (date(2026, 5, 12), "campaign", 1, 100.25),
        (date(2026, 6, 10), "campaign", 1, 20.0),
        (date(2026, 6, 10), "neither", 1, 30.0),
        (date(2026, 8, 1), "campaign", 1, 40.0),
        (date(2026, 8, 9), "flow", 1, 50.0),
    ]
    assert pick(ask(reader, questions.OTHER_CURRENCIES), "currency", "orders", "revenue") == [
        ("USD", 1, 999.0)
    ]
    assert pick(ask(reader, questions.REVENUE_BEFORE), "orders", "is_complete") == [(1, False)]


def test_top_campaigns_and_flows(reader: OverviewReader) -> None:
    """By revenue; one that is not stored has its id."""
    campaigns = pick(ask(reader, questions.TOP_CAMPAIGNS), "name", "orders", "revenue")
    assert [each[1:] for each in campaigns] == [(1, 100.25), (1, 40.0), (1, 20.0)]
    assert [each[0] for each in campaigns[1:]] == ["campaign gone", "Summer"]
    flows = pick(ask(reader, questions.TOP_FLOWS), "name", "orders", "revenue")
    assert flows == [("Welcome", 1, 50.0)]


def test_funnel(reader: OverviewReader) -> None:
    """Email alone, and the revenue metric alone, by month."""
    columns = ("month", "sent", "opened", "clicked", "ordered")
    assert pick(ask(reader, questions.CAMPAIGN_FUNNEL), *columns) == [
        (date(2026, 7, 1), 1000, 400, 50, 10),
        (date(2026, 8, 1), 500, 0, 0, 0),
    ]
    assert pick(ask(reader, questions.FLOW_FUNNEL), *columns) == [
        (date(2026, 7, 1), 1000, 500, 100, 30)
    ]


def test_list_growth(reader: OverviewReader) -> None:
    """Members at the end of each of 26 weeks; who left counts until then."""
    rows = ask(reader, questions.LIST_GROWTH)
    newsletter = [row["members"] for row in rows if row["name"] == "Newsletter"]
    assert newsletter == [2] * 20 + [1] * 4 + [3] * 2
    other = [row["members"] for row in rows if row["name"] == "list l2"]
    assert other == [0] * 25 + [1]


def test_list_growth_by_dated_sizes(reader: OverviewReader) -> None:
    """The version at the end of each week since the history began; a deleted list is not there."""
    rows = ask(reader, questions.LIST_HISTORY)
    assert pick(rows, "name", "day", "members") == [
        ("Newsletter", date(2026, 7, 19), 10),
        ("Newsletter", date(2026, 7, 26), 10),
        ("Newsletter", date(2026, 8, 2), 12),
        ("Newsletter", date(2026, 8, 9), 12),
        ("list l2", date(2026, 7, 19), 9),
        ("list l2", date(2026, 7, 26), 9),
        ("list l2", date(2026, 8, 2), 9),
        ("list l2", date(2026, 8, 9), 4),
    ]


def test_growth_is_told_by_what_is_there() -> None:
    """Members come before dated sizes, these before the sizes of today, which name what to add."""
    with open_shop() as opened:
        answers = [describe_lists(opened)]
        opened.execute("DROP TABLE list_members")
        answers.append(describe_lists(opened))
        opened.execute("DELETE FROM lists_detailed_history WHERE valid_from < '2026-08-09'")
        answers.append(describe_lists(opened))
        opened.execute("DROP TABLE lists_detailed_history")
        answers.append(describe_lists(opened))
    largest = "Newsletter is the largest list, with 12 people."
    assert answers == [
        ("All 2 largest lists have grown in 25 weeks, Newsletter by 1 person.", False),
        ("Newsletter has grown in 3 weeks, by 2 people.", False),
        (largest, True),
        (largest, True),
    ]


def describe_lists(opened: duckdb.DuckDBPyConnection) -> tuple[str, bool]:
    """Return what the card of lists answers, and whether it says what is missing."""
    overview = build_overview(OverviewReader(opened), now=NOW)
    (card,) = (each for each in overview.sections if each.name == "list_growth")
    return card.answer, "KLAVIYO_HISTORY" in card.missing


def test_consent(reader: OverviewReader) -> None:
    """People that are not deleted, by channel and state; NULL is not known."""
    rows = ask(reader, questions.CONSENT_BY_CHANNEL)
    assert set(pick(rows, "channel", "consent", "people")) == {
        ("Email", "SUBSCRIBED", 8),
        ("Email", "UNSUBSCRIBED", 4),
        ("Email", "NEVER_SUBSCRIBED", 8),
        *((each, "NOT_KNOWN", 20) for each in ("SMS", "Push", "WhatsApp")),
    }


def test_few_people_have_no_domain_of_their_own(reader: OverviewReader) -> None:
    """A domain of four people, and an address that came in its place, are in `other`."""
    rows = ask(reader, questions.DELIVERABILITY)
    columns = ("domain", "people", "delivered", "bounced", "spam", "people_who_opened")
    # p3's open is a machine's; the opens before the period are not of it.
    assert pick(rows, *columns) == [("big.example", 5, 5, 1, 1, 2), ("other", 5, 5, 0, 0, 0)]


def test_engagement(reader: OverviewReader) -> None:
    """By the last open or click of a person, not of a machine."""
    rows = ask(reader, questions.ENGAGEMENT)
    assert pick(rows, "last_engaged", "people") == [
        ("within 30 days", 1),
        ("31 to 90 days ago", 1),
        ("91 to 180 days ago", 1),
        ("longer ago, or never", 7),
    ]


def test_cohorts(reader: OverviewReader) -> None:
    """Who first ordered in a month, and how many of them ordered again, by months later."""
    rows = ask(reader, questions.COHORTS)
    assert pick(rows, "cohort", "months_later", "customers") == [
        (date(2026, 5, 1), 0, 2),
        (date(2026, 5, 1), 1, 2),
        (date(2026, 5, 1), 3, 1),
        (date(2026, 8, 1), 0, 2),
    ]


def test_plan_usage(reader: OverviewReader) -> None:
    """What the plan allows, with the days of its period."""
    rows = ask(reader, questions.PLAN_USAGE)
    assert pick(rows, "kind", "used", "allowed", "first_day", "until_day") == [
        ("email", 8200.0, 10000, date(2026, 8, 1), date(2026, 9, 1))
    ]


@pytest.mark.parametrize("name", questions.QUESTIONS)
def test_every_column_that_a_question_needs_is_declared(name: str) -> None:
    """What a question reads is a column of a relation, as the streams declare it."""
    for relation, columns in questions.QUESTIONS[name].needs.items():
        stream = STREAMS[relation.removesuffix(HISTORY_SUFFIX)]
        declared = {each.name for each in relation_columns(stream, STREAMS)}
        if stream.name != relation:
            declared |= {VALID_FROM_COLUMN.name, VALID_TO_COLUMN.name}
        assert set(columns) <= declared, relation


@pytest.mark.parametrize("name", questions.QUESTIONS)
def test_an_answer_names_what_to_switch_on(name: str) -> None:
    """Without one of its columns a question answers with a sentence, and asks nothing."""
    question = questions.QUESTIONS[name]
    relation, columns = next(iter(question.needs.items()))
    with open_empty_shop() as opened:
        opened.execute(f"ALTER TABLE {relation} DROP COLUMN {columns[-1]}")
        reader = OverviewReader(opened)
        found = reader.ask(question, reader.read_scope(NOW))
    assert found == MissingData(sentence=question.switch_on)
    assert question.switch_on.endswith(".")


def test_names_in_the_summary_are_text(reader: OverviewReader) -> None:
    """A campaign's name is no markup of the page in Dagster that sums the overview up."""
    metadata = overview_metadata(build_overview(reader, now=NOW), Path("/overview.html"))
    summary = metadata["klaviyo/overview"].value
    assert r"\<script\>" in summary
    assert "<script>" not in summary
