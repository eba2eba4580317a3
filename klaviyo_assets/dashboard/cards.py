"""The cards of the page: about sales, and about people.

Sales: where revenue comes from, top messages, the funnel, who comes back. People: lists, consent,
deliverability, and who has stopped reading.
"""

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
    build_share_parts,
    format_count,
    format_day,
    format_money,
    format_period,
    format_share,
    join_words,
    read_day,
    read_number,
    rows_of,
)
from klaviyo_assets.dashboard.questions import (
    MIN_PEOPLE,
    PERIOD_DAYS,
    MissingData,
    Question,
    Row,
    Scope,
)
from klaviyo_assets.errors import format_quantity


def build_lists_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of list growth: from members, else from the dated sizes of lists.

    Of sizes where it is not known how the lists grew.
    """
    question = questions.LIST_GROWTH
    found = answers[question.name]
    if not isinstance(found, MissingData):
        source = "Members of the five largest lists, from list_members"
        method = (
            "Who was a member at the end of each week. Somebody who left is known since the next "
            "full read of the members, once a week."
        )
        return _build_growth_section(found, scope, source=source, method=method)
    dated = rows_of(answers, questions.LIST_HISTORY)
    if len({row["day"] for row in dated}) < 2:  # noqa: PLR2004 - growth is between two days
        return _build_sizes_section(answers, found)
    source = "Sizes of the five largest lists, from lists_detailed_history"
    method = "As last read before the end of each week; the history begins with the first read."
    return _build_growth_section(dated, scope, source=source, method=method)


def _build_growth_section(
    found: Sequence[Row], scope: Scope, *, source: str, method: str
) -> Section:
    """Return the card of members by list and week; `source` is what was counted from what."""
    question = questions.LIST_GROWTH
    if not found:
        return Section(name=question.name, title=question.title, answer="No list has a member.")
    days = sorted({read_day(row, "day") for row in found})
    members: dict[str, dict[date, float]] = {}
    for row in found:
        members.setdefault(str(row["name"]), {})[read_day(row, "day")] = read_number(row, "members")
    names = sorted(members, key=lambda name: -members[name][days[-1]])
    return Section(
        name=question.name,
        title=question.title,
        answer=_describe_growth(members, days),
        source=(
            f"{format_day(days[0])} to {format_day(days[-1])}, days of {scope.zone}. {source}; "
            "people."
        ),
        method=method,
        figure="lines",
        drawing={
            "labels": [format_day(day) for day in days],
            "unit": "people",
            "series": [
                {
                    "name": name,
                    "color": f"line{number}",
                    "values": [members[name][day] for day in days],
                }
                for number, name in enumerate(names)
            ],
        },
        table=_growth_table(members, names, days),
    )


def _describe_growth(members: Mapping[str, Mapping[date, float]], days: Sequence[date]) -> str:
    changes = {name: counts[days[-1]] - counts[days[0]] for name, counts in members.items()}
    best = max(changes, key=lambda name: changes[name])
    weeks = len(days) - 1
    if changes[best] <= 0:
        return f"None of the largest lists has grown in {weeks} weeks."
    grown = sum(change > 0 for change in changes.values())
    people = int(changes[best])
    most = f"by {people:,} {'person' if people == 1 else 'people'}"
    if grown == 1:
        return f"{best} has grown in {weeks} weeks, {most}."
    part = "All" if grown == len(changes) else f"{grown} of the"
    return f"{part} {len(changes)} largest lists have grown in {weeks} weeks, {best} {most}."


def _growth_table(
    members: Mapping[str, Mapping[date, float]], names: Sequence[str], days: Sequence[date]
) -> FigureTable:
    first, last = days[0], days[-1]
    return FigureTable(
        columns=("List", format_day(first), format_day(last), "Change"),
        rows=[
            (
                name,
                format_count(members[name][first]),
                format_count(members[name][last]),
                f"{members[name][last] - members[name][first]:+,.0f}",
            )
            for name in names
        ],
    )


def _build_sizes_section(answers: Answers, growth: MissingData) -> Section:
    """Return how large the lists are, with what growth needs."""
    name, title = questions.LIST_GROWTH.name, questions.LIST_GROWTH.title
    sizes = rows_of(answers, questions.LIST_SIZES)
    if not sizes:
        return Section(name=name, title=title, missing=growth.sentence)
    largest = format_count(read_number(sizes[0], "members"))
    return Section(
        name=name,
        title=title,
        answer=f"{sizes[0]['name']} is the largest list, with {largest} people.",
        source="As of the last sync of lists_detailed: Klaviyo's own counts of people.",
        missing=growth.sentence,
        figure="ranking",
        drawing=build_ranking(
            [(str(row["name"]), read_number(row, "members")) for row in sizes],
            "line0",
            [(format_count(read_number(row, "members")), "") for row in sizes],
        ),
    )


CONSENT_STATES = {
    "SUBSCRIBED": ("Subscribed", "yes"),
    "NEVER_SUBSCRIBED": ("Never subscribed", "maybe"),
    "UNSUBSCRIBED": ("Unsubscribed", "no"),
    "NOT_KNOWN": ("Not known", "unknown"),
}
"""Klaviyo's words for consent, with the page's and its colour; others count as not known."""

CHANNEL_WORDS = {"Email": "email", "SMS": "SMS", "Push": "push", "WhatsApp": "WhatsApp"}


def build_consent_section(answers: Answers) -> Section:
    """Return the card of consent by channel."""
    question = questions.CONSENT_BY_CHANNEL
    found = answers[question.name]
    if isinstance(found, MissingData):
        return build_missing_section(question, found)
    channels = count_consent(found)
    return Section(
        name=question.name,
        title=question.title,
        answer=_describe_consent(channels),
        source="As of the last sync of profiles: people, by their consent to marketing.",
        method="Profiles that Klaviyo has deleted are left out.",
        figure="shares" if channels else "",
        drawing={
            "legend": [{"name": name, "color": color} for name, color in CONSENT_STATES.values()],
            "rows": [
                {
                    "name": name,
                    "parts": build_share_parts(
                        [(*CONSENT_STATES[state], count) for state, count in counts.items()]
                    ),
                }
                for name, counts in channels.items()
            ],
        },
        table=FigureTable(
            columns=("Channel", *(name for name, _ in CONSENT_STATES.values())),
            rows=[
                (name, *(format_count(count) for count in counts.values()))
                for name, counts in channels.items()
            ],
        ),
    )


def count_consent(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Return people by channel and state, both in the page's order; nothing without people."""
    channels: dict[str, dict[str, float]] = {}
    for name in CHANNEL_WORDS:
        for row in (each for each in rows if each["channel"] == name):
            counts = channels.setdefault(name, dict.fromkeys(CONSENT_STATES, 0.0))
            state = str(row["consent"]) if row["consent"] in CONSENT_STATES else "NOT_KNOWN"
            counts[state] += read_number(row, "people")
    return channels


def _describe_consent(channels: Mapping[str, Mapping[str, float]]) -> str:
    if not channels:
        return "No people are stored yet."
    shares = [
        f"{format_share(counts['SUBSCRIBED'], sum(counts.values()))} by {CHANNEL_WORDS[name]}"
        for name, counts in channels.items()
    ]
    people = sum(next(iter(channels.values())).values())
    return f"Of {format_count(people)} people, you may write to {join_words(shares)}."


def build_deliverability_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of email by the receiver's domain."""
    question = questions.DELIVERABILITY
    found = answers[question.name]
    if isinstance(found, MissingData):
        return build_missing_section(question, found)
    delivered = add_up_column(found, "delivered")
    sent = delivered + add_up_column(found, "bounced")
    answer = f"No email was sent in these {PERIOD_DAYS} days."
    if sent:
        answer = (
            f"{format_share(delivered, sent)} of {format_count(sent)} emails arrived; "
            f"{format_quantity(int(add_up_column(found, 'spam')), 'complaint')} of spam."
        )
    return Section(
        name=question.name,
        title=question.title,
        answer=answer,
        source=f"{format_period(scope)}. Events of email, by the domain of the receiver's address.",
        method=(
            "Bounced is of delivered and bounced, spam of delivered, opened of the people reached, "
            f"without opens by machines. Domains with fewer than {MIN_PEOPLE} people, and all "
            "after the tenth, are in other."
        ),
        figure="table" if found else "",
        table=FigureTable(
            columns=("Domain", "Delivered", "Bounced", "Spam", "Opened"),
            rows=[_deliverability_row(row) for row in found],
        ),
    )


def _deliverability_row(row: Row) -> tuple[str, ...]:
    delivered, bounced = read_number(row, "delivered"), read_number(row, "bounced")
    return (
        str(row["domain"]),
        format_count(delivered),
        format_share(bounced, bounced + delivered),
        format_share(read_number(row, "spam"), delivered),
        format_share(read_number(row, "people_who_opened"), read_number(row, "people_reached")),
    )


ENGAGEMENT_STEPS = {
    "within 30 days": "yes",
    "31 to 90 days ago": "soon",
    "91 to 180 days ago": "maybe",
    "longer ago, or never": "no",
}
"""When somebody last opened or clicked, with the page's colour."""

_IN_PERIOD = frozenset({"within 30 days", "31 to 90 days ago"})


def count_silent(rows: Sequence[Row]) -> tuple[float, float]:
    """Return how many people were emailed, and how many of them did nothing in the period."""
    silent = [row for row in rows if row["last_engaged"] not in _IN_PERIOD]
    return add_up_column(rows, "people"), add_up_column(silent, "people")


def build_engagement_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of who has stopped reading."""
    question = questions.ENGAGEMENT
    found = answers[question.name]
    if isinstance(found, MissingData):
        return build_missing_section(question, found)
    reached, silent = count_silent(found)
    counts = {str(row["last_engaged"]): read_number(row, "people") for row in found}
    answer = f"Nobody was emailed in these {PERIOD_DAYS} days."
    if reached:
        answer = (
            f"{format_share(silent, reached)} of the {format_count(reached)} people whom you "
            f"emailed opened or clicked nothing in {PERIOD_DAYS} days."
        )
    return Section(
        name=question.name,
        title=question.title,
        answer=answer,
        source=f"{format_period(scope)}. Events of email; people who were sent one.",
        method=(
            "By the last time somebody opened or clicked an email, at most 180 days back, without "
            "opens by machines."
        ),
        figure="shares" if reached else "",
        drawing=_engagement_drawing(counts),
        table=FigureTable(
            columns=("Last opened or clicked", "People", "Share"),
            rows=[
                (
                    name,
                    format_count(counts.get(name, 0)),
                    format_share(counts.get(name, 0), reached),
                )
                for name in ENGAGEMENT_STEPS
            ],
        ),
    )


def _engagement_drawing(counts: Mapping[str, float]) -> Drawing:
    return {
        "legend": [{"name": name, "color": color} for name, color in ENGAGEMENT_STEPS.items()],
        "rows": [
            {
                "name": "",
                "parts": build_share_parts(
                    [(name, color, counts.get(name, 0)) for name, color in ENGAGEMENT_STEPS.items()]
                ),
            }
        ],
    }


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
