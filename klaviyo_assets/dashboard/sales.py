"""The cards about sales: where revenue comes from, top messages, the funnel, who comes back."""

from collections.abc import Mapping, Sequence
from datetime import date, timedelta

from klaviyo_assets.dashboard import questions
from klaviyo_assets.dashboard.figures import (
    Answers,
    Drawing,
    FigureTable,
    Section,
    add_up_column,
    bar_width,
    build_missing_section,
    build_ranking,
    format_count,
    format_day,
    format_money,
    format_period,
    format_share,
    read_day,
    read_number,
    rows_of,
)
from klaviyo_assets.dashboard.questions import PERIOD_DAYS, MissingData, Question, Row, Scope
from klaviyo_assets.errors import format_quantity

SOURCE_LABELS = {"campaign": "Campaigns", "flow": "Flows", "neither": "Neither"}
"""What an order is credited to, and what the page calls it."""


def revenue_by_source(answers: Answers) -> dict[str, float]:
    """Return the revenue of the period by what it is credited to."""
    rows = rows_of(answers, questions.REVENUE_BY_DAY)
    return {
        source: add_up_column([row for row in rows if row["source"] == source], "revenue")
        for source in SOURCE_LABELS
    }


def build_revenue_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of revenue by day."""
    question = questions.REVENUE_BY_DAY
    found = answers[question.name]
    if isinstance(found, MissingData):
        return build_missing_section(question, found)
    by_source = revenue_by_source(answers)
    total = sum(by_source.values())
    amounts = {(read_day(row, "day"), row["source"]): read_number(row, "revenue") for row in found}
    days = [scope.first_day + timedelta(days=each) for each in range(PERIOD_DAYS)]
    values = {
        source: [round(amounts.get((day, source), 0.0), 2) for day in days]
        for source in SOURCE_LABELS
    }
    return Section(
        name=question.name,
        title=question.title,
        answer=_describe_revenue(by_source, scope),
        source=_revenue_source(scope),
        method=(
            "Each order counts on the day it was placed. It goes to the campaign or flow that "
            "Klaviyo credits it to first; the rest came without a message that Klaviyo credits. "
            + _describe_other_currencies(answers)
        ),
        figure="stacked" if total else "",
        drawing=_revenue_drawing(days, values, scope),
        table=FigureTable(
            columns=("Day", *SOURCE_LABELS.values()),
            rows=[
                (
                    format_day(days[number]),
                    *(format_money(values[each][number], scope.currency) for each in SOURCE_LABELS),
                )
                for number in reversed(range(PERIOD_DAYS))
            ],
        ),
    )


def _describe_revenue(by_source: Mapping[str, float], scope: Scope) -> str:
    total = sum(by_source.values())
    if scope.revenue_metric is None:
        return "The account has no metric named Placed Order, and none mapped to revenue."
    if not total:
        return f"No revenue in these {PERIOD_DAYS} days."
    shares = {name: format_share(amount, total) for name, amount in by_source.items()}
    return (
        f"{format_money(total, scope.currency)} in {PERIOD_DAYS} days: {shares['campaign']} from "
        f"campaigns, {shares['flow']} from flows, {shares['neither']} from neither."
    )


def _revenue_drawing(
    days: Sequence[date], values: Mapping[str, Sequence[float]], scope: Scope
) -> Drawing:
    return {
        "labels": [format_day(day) for day in days],
        "unit": scope.currency or "",
        "series": [
            {"name": label, "color": source, "values": values[source]}
            for source, label in SOURCE_LABELS.items()
        ],
    }


def _revenue_source(scope: Scope) -> str:
    currency = f", in {scope.currency}" if scope.currency else ""
    return (
        f"{format_period(scope)}. Events of the metric {scope.revenue_metric_name}, with Klaviyo's "
        f"attribution{currency}."
    )


def _describe_other_currencies(answers: Answers) -> str:
    """Return what is left out because its currency is another; nothing where nothing is."""
    rows = rows_of(answers, questions.OTHER_CURRENCIES)
    if not rows:
        return ""
    amounts = [
        f"{format_quantity(int(read_number(row, 'orders')), 'order')} of "
        f"{format_money(read_number(row, 'revenue'), str(row['currency']))}"
        for row in rows
    ]
    return f"Not added up, because their currency is another: {', '.join(amounts)}."


def build_top_section(answers: Answers, scope: Scope, question: Question, kind: str) -> Section:
    """Return the card of the best campaigns or flows; `kind` is which."""
    found = answers[question.name]
    if isinstance(found, MissingData):
        return build_missing_section(question, found)
    answer = f"No order of these {PERIOD_DAYS} days is credited to a {kind}."
    if found:
        best = read_number(found[0], "revenue")
        share = format_share(best, revenue_by_source(answers)[kind])
        amount = format_money(best, scope.currency)
        answer = f"{found[0]['name']} brought {amount}: {share} of what {kind}s sold."
    return Section(
        name=question.name,
        title=question.title,
        answer=answer,
        source=_revenue_source(scope),
        method=f"The {kind}s with the most revenue, by when the orders were placed. At most eight.",
        figure="ranking" if found else "",
        drawing=build_ranking(
            [(str(row["name"]), read_number(row, "revenue")) for row in found],
            kind,
            [
                (
                    format_money(read_number(row, "revenue"), scope.currency),
                    format_quantity(int(read_number(row, "orders")), "order"),
                )
                for row in found
            ],
        ),
    )


STAGES = ("sent", "opened", "clicked", "ordered")

MonthCounts = Mapping[date, Mapping[str, float]]
"""Counts of the stages, by the first day of the month."""

_FUNNEL_PARTS = {"campaigns": questions.CAMPAIGN_FUNNEL, "flows": questions.FLOW_FUNNEL}


def build_funnel_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of emails sent, opened, clicked and ordered by month."""
    title = "How far does email get?"
    there = {
        name: found
        for name, each in _FUNNEL_PARTS.items()
        if not isinstance(found := answers[each.name], MissingData)
    }
    if not there:
        return Section(name="funnel", title=title, missing=questions.REPORTS_OFF)
    months = _add_months([row for rows in there.values() for row in rows])
    has_mail = any(each["sent"] for each in months.values())
    return Section(
        name="funnel",
        title=title,
        answer=_describe_funnel(months),
        source=_funnel_source(there, scope),
        method=(
            "By the month the emails were sent in. Opened, clicked and ordered count people once "
            "for each message and day; Klaviyo's opens include those of mail apps that open by "
            "themselves. Days of which no report was fetched are not in it."
        ),
        figure="funnel" if has_mail else "",
        drawing={"rows": _funnel_rows(months)},
        table=FigureTable(
            columns=("Sent in", "Sent", "Opened", "Clicked", "Ordered"),
            rows=[
                (f"{month:%b %Y}", *(format_count(each[stage]) for stage in STAGES))
                for month, each in sorted(months.items(), reverse=True)
            ],
        ),
    )


def _funnel_source(there: Mapping[str, Sequence[Row]], scope: Scope) -> str:
    """Return the source line; it names the first day of which there is a report."""
    days = [read_day(row, "first_day") for rows in there.values() for row in rows]
    since = max(min(days), scope.first_month) if days else scope.first_month
    only = "" if len(there) == len(_FUNNEL_PARTS) else ", without the other report"
    return (
        f"{format_day(since)} to {format_day(scope.last_day)}, days of {scope.zone}, as far as "
        f"reports are fetched. Klaviyo's reports of {' and '.join(there)} by email{only}; orders "
        f"are {scope.revenue_metric_name}."
    )


def _describe_funnel(months: MonthCounts) -> str:
    totals = {stage: sum(each[stage] for each in months.values()) for stage in STAGES}
    if not totals["sent"]:
        return "The reports have no email of these twelve months."
    opened, clicked, ordered = (
        format_count(1000 * totals[stage] / totals["sent"]) for stage in STAGES[1:]
    )
    return (
        f"Of 1,000 emails sent, {opened} were opened, {clicked} clicked, {ordered} led to an order."
    )


def _add_months(rows: Sequence[Row]) -> MonthCounts:
    months: dict[date, dict[str, float]] = {}
    for row in rows:
        month = months.setdefault(read_day(row, "month"), dict.fromkeys(STAGES, 0.0))
        for stage in STAGES:
            month[stage] += read_number(row, stage)
    return months


def _funnel_rows(months: MonthCounts) -> list[Drawing]:
    """Return each month, the newest first. The bars of a stage share one scale."""
    most = {
        stage: max((each[stage] / (each["sent"] or 1) for each in months.values()), default=0.0)
        for stage in STAGES[1:]
    }
    longest = max((each["sent"] for each in months.values()), default=0.0)
    return [
        {
            "label": f"{month:%b %Y}",
            "sent": format_count(each["sent"]),
            "sent_width": bar_width(each["sent"], longest),
            "rates": [
                {
                    "stage": stage,
                    "text": format_share(each[stage], each["sent"]),
                    "width": bar_width(each[stage] / (each["sent"] or 1), most[stage]),
                }
                for stage in STAGES[1:]
            ],
        }
        for month, each in sorted(months.items(), reverse=True)
    ]


Cohorts = Mapping[date, Mapping[int, float]]
"""Customers by the month of their first order, and by how many months later they ordered."""

MONTHS_LATER = range(1, 12)


def build_cohort_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of customers who come back."""
    question = questions.COHORTS
    found = answers[question.name]
    if isinstance(found, MissingData):
        return build_missing_section(question, found)
    cohorts: dict[date, dict[int, float]] = {}
    for row in found:
        later = int(read_number(row, "months_later"))
        cohorts.setdefault(read_day(row, "cohort"), {})[later] = read_number(row, "customers")
    last = scope.last_day.replace(day=1)
    return Section(
        name=question.name,
        title=question.title,
        answer=_describe_cohorts(cohorts, last),
        source=(
            f"First orders since {format_day(scope.first_month)}, months of {scope.zone}. Events "
            f"of the metric {scope.revenue_metric_name}; share of the people who first ordered in "
            "that month."
        ),
        method=(
            "A row is everybody whose first stored order was in that month, a column how many "
            "months later they ordered again. The newest month is not over."
        ),
        figure="heat" if cohorts else "",
        drawing={"months": list(MONTHS_LATER), "rows": _cohort_rows(cohorts, last)},
    )


def _describe_cohorts(cohorts: Cohorts, last: date) -> str:
    if not cohorts:
        return "No orders of these twelve months are stored."
    whole = [
        each for cohort, each in cohorts.items() if _month_number(cohort) < _month_number(last)
    ]
    before = sum(each.get(0, 0.0) for each in whole)
    if not before:
        return "The first customers came this month."
    share = format_share(sum(each.get(1, 0.0) for each in whole), before)
    return f"{share} of new customers ordered again in the month after."


def _cohort_rows(cohorts: Cohorts, last: date) -> list[Drawing]:
    """Return a row for each cohort; a month that has not begun by `last` has no cell."""
    shares = [
        each[later] / each[0]
        for each in cohorts.values()
        for later in MONTHS_LATER
        if later in each
    ]
    most = max(shares, default=0.0)
    return [
        {
            "label": f"{cohort:%b %Y}",
            "size": format_count(each[0]),
            "cells": [
                _heat_cell(each, later, most)
                if _month_number(cohort) + later <= _month_number(last)
                else None
                for later in MONTHS_LATER
            ],
        }
        for cohort, each in sorted(cohorts.items())
    ]


def _month_number(day: date) -> int:
    return day.year * 12 + day.month


def _heat_cell(counts: Mapping[int, float], later: int, most: float) -> Drawing:
    count = counts.get(later, 0.0)
    return {
        "text": f"{100 * count / counts[0]:.0f}",
        "depth": round(count / counts[0] / most, 2) if most else 0.0,
        "title": f"{format_count(count)} of {format_count(counts[0])}",
    }
