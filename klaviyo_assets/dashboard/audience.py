"""The cards about people: lists, consent, deliverability, and who has stopped reading."""

from collections.abc import Mapping, Sequence
from datetime import date

from klaviyo_assets.dashboard import questions
from klaviyo_assets.dashboard.figures import (
    Answers,
    Drawing,
    FigureTable,
    Section,
    add_up_column,
    build_missing_section,
    build_ranking,
    build_share_parts,
    format_count,
    format_day,
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
    Row,
    Scope,
)
from klaviyo_assets.errors import format_quantity


def build_lists_section(answers: Answers, scope: Scope) -> Section:
    """Return the card of list growth; of sizes where it is not known how the lists grew."""
    question = questions.LIST_GROWTH
    found = answers[question.name]
    if isinstance(found, MissingData):
        return _build_sizes_section(answers, found)
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
            f"{format_day(days[0])} to {format_day(days[-1])}, days of {scope.zone}. Members of "
            "the five largest lists, from list_members; people."
        ),
        method=(
            "Who was a member at the end of each week. Somebody who left is known since the next "
            "full read of the members, once a week."
        ),
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
