"""The page of the marketing overview: one HTML file that needs nothing but a browser.

In its order: the top row of numbers, and the cards. A card always has something to say: an answer,
that there was nothing, or what to switch on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import cast

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from klaviyo_assets.dashboard import questions
from klaviyo_assets.dashboard.cards import (
    build_cohort_section,
    build_consent_section,
    build_deliverability_section,
    build_engagement_section,
    build_funnel_section,
    build_lists_section,
    build_revenue_section,
    build_top_section,
    count_consent,
    count_silent,
    revenue_by_source,
)
from klaviyo_assets.dashboard.figures import (
    NO_NUMBER,
    Answers,
    Drawing,
    Headline,
    RequestQuota,
    Section,
    add_up_column,
    bar_width,
    format_count,
    format_day,
    format_moment,
    format_money,
    format_period,
    format_share,
    join_words,
    read_number,
    rows_of,
)
from klaviyo_assets.dashboard.questions import (
    NEWEST_EVENT,
    PERIOD_DAYS,
    MissingData,
    OverviewReader,
    Row,
    Scope,
)


def ask_all(reader: OverviewReader, scope: Scope) -> Answers:
    """Ask every question once."""
    return {name: reader.ask(each, scope) for name, each in questions.QUESTIONS.items()}


def build_sections(answers: Answers, scope: Scope, quotas: Sequence[RequestQuota]) -> list[Section]:
    """Return the cards of the page."""
    return [
        build_revenue_section(answers, scope),
        build_top_section(answers, scope, questions.TOP_CAMPAIGNS, "campaign"),
        build_top_section(answers, scope, questions.TOP_FLOWS, "flow"),
        build_funnel_section(answers, scope),
        build_lists_section(answers, scope),
        build_consent_section(answers),
        build_deliverability_section(answers, scope),
        build_engagement_section(answers, scope),
        build_quota_section(answers, scope, quotas),
        build_cohort_section(answers, scope),
    ]


def build_headlines(answers: Answers, scope: Scope) -> list[Headline]:
    """Return the numbers of the top row."""
    return [
        *_sales_headlines(answers, scope),
        _subscriber_headline(answers),
        _silence_headline(answers),
    ]


def _sales_headlines(answers: Answers, scope: Scope) -> list[Headline]:
    by_source = revenue_by_source(answers)
    revenue = sum(by_source.values())
    orders = add_up_column(rows_of(answers, questions.REVENUE_BY_DAY), "orders")
    credited = by_source["campaign"] + by_source["flow"]
    is_known = not isinstance(answers[questions.REVENUE_BY_DAY.name], MissingData)
    return [
        Headline(
            name="revenue",
            label=f"Revenue, {PERIOD_DAYS} days",
            value=revenue if is_known else None,
            text=format_money(revenue, scope.currency) if is_known else NO_NUMBER,
            context=_compare_revenue(answers, revenue),
        ),
        Headline(
            name="revenue_from_messages_share",
            label="From campaigns and flows",
            value=credited / revenue if revenue else None,
            text=format_share(credited, revenue),
            context=f"of it, {format_money(credited, scope.currency)}" if revenue else "",
        ),
        Headline(
            name="orders",
            label=f"Orders, {PERIOD_DAYS} days",
            value=orders if is_known else None,
            text=format_count(orders) if is_known else NO_NUMBER,
            context=f"{format_money(revenue / orders, scope.currency)} each" if orders else "",
        ),
    ]


def _subscriber_headline(answers: Answers) -> Headline:
    channels = count_consent(rows_of(answers, questions.CONSENT_BY_CHANNEL))
    states = channels.get("Email")
    return Headline(
        name="email_subscribers",
        label="Subscribed by email, now",
        value=states["SUBSCRIBED"] if states else None,
        text=format_count(states["SUBSCRIBED"]) if states else NO_NUMBER,
        context=f"of {format_count(sum(states.values()))} people" if states else "",
    )


def _silence_headline(answers: Answers) -> Headline:
    reached, silent = count_silent(rows_of(answers, questions.ENGAGEMENT))
    return Headline(
        name="unengaged_share",
        label=f"Read nothing, {PERIOD_DAYS} days",
        value=silent / reached if reached else None,
        text=format_share(silent, reached),
        context=f"of {format_count(reached)} people emailed" if reached else "",
    )


SAME_REVENUE = 0.005
"""A change below this rounds to no percent."""


def _compare_revenue(answers: Answers, revenue: float) -> str:
    """Return how the revenue compares with the period before; nothing where that is not whole."""
    before = next(iter(rows_of(answers, questions.REVENUE_BEFORE)), None)
    if before is None or not before["is_complete"] or not read_number(before, "revenue"):
        return ""
    change = revenue / read_number(before, "revenue") - 1
    if abs(change) < SAME_REVENUE:
        return f"as in the {PERIOD_DAYS} days before"
    return (
        f"{abs(change):.0%} {'more' if change > 0 else 'less'} than the {PERIOD_DAYS} days before"
    )


def build_quota_section(answers: Answers, scope: Scope, quotas: Sequence[RequestQuota]) -> Section:
    """Return the card of what the plan allows, and of the requests of reports."""
    found = answers[questions.PLAN_USAGE.name]
    plan = [] if isinstance(found, MissingData) else [_plan_meter(row) for row in found]
    requests = [
        _meter(f"{each.report} requests", each.used, each.limit, "a day") for each in quotas
    ]
    meters = [*plan, *requests]
    tightest = max(meters, key=lambda each: cast("float", each["width"]), default=None)
    sources = [
        *(["the plan's limits as Klaviyo counts them, in its billing period"] if plan else []),
        *(["requests of the last 24 hours as this machine counts them"] if requests else []),
    ]
    source = join_words(sources)
    nothing = "" if isinstance(found, MissingData) else "Klaviyo names no limit."
    return Section(
        name="quota",
        title="How much of the quotas is used?",
        answer=f"The tightest is {tightest['name']}: {tightest['text']}." if tightest else nothing,
        source=f"{source[:1].upper()}{source[1:]}; days of {scope.zone}." if source else "",
        missing=found.sentence if isinstance(found, MissingData) else "",
        figure="meters" if meters else "",
        drawing={"meters": meters},
    )


def _plan_meter(row: Row) -> Drawing:
    kind, unit = str(row["kind"]), str(row["unit"] or "")
    first, until = row["first_day"], row["until_day"]
    period = ""
    if isinstance(first, date) and isinstance(until, date) and first < until:
        period = f"{format_day(first)} to {format_day(until - timedelta(days=1))}"
    name = kind.upper() if kind == "sms" else f"{kind[:1].upper()}{kind[1:]}"
    meter = _meter(name, read_number(row, "used"), read_number(row, "allowed"), unit)
    return {**meter, "period": period}


def _meter(name: str, used: float, allowed: float, unit: str) -> Drawing:
    text = f"{format_count(used)} {unit} used, without a limit"
    if allowed:
        share = format_share(used, allowed)
        text = f"{share} used, {format_count(used)} of {format_count(allowed)} {unit}"
    return {"name": name, "text": text, "width": bar_width(used, allowed), "period": ""}


PAGE_FILE = "marketing_overview.html"
"""The page's name in the data folder."""

CHART_LIBRARY = "chart.umd.min.js"
"""Chart.js, as npm has it; docs/dashboards.md says how it is renewed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The page, and what it says: for whoever shows the numbers elsewhere."""

    html: str
    scope: Scope
    headlines: Sequence[Headline]
    sections: Sequence[Section]


def build_overview(
    reader: OverviewReader, *, now: datetime, quotas: Sequence[RequestQuota] = ()
) -> Overview:
    """Ask all questions and write the page; no request is made and no file is written.

    Args:
        reader: a connection to `klaviyo.duckdb`.
        now: the time, with a zone; the overview ends with the last day before it.
        quotas: how many requests of the reports were used.

    Raises:
        duckdb.Error: a file of the lake cannot be read.
    """
    scope = reader.read_scope(now)
    answers = ask_all(reader, scope)
    headlines = build_headlines(answers, scope)
    sections = build_sections(answers, scope, quotas)
    newest = next((row["read_at"] for row in rows_of(answers, NEWEST_EVENT)), None)
    html = (
        _environment()
        .from_string(_read_text("overview.html.jinja"))
        .render(
            account=scope.account,
            period=format_period(scope),
            made_at=format_moment(now, scope.zone),
            read_at=format_moment(newest, scope.zone) if isinstance(newest, datetime) else "",
            zone=scope.zone,
            headlines=headlines,
            sections=sections,
            style=Markup(_read_text("overview.css")),  # noqa: S704 - our own file
            library=Markup(_read_text(CHART_LIBRARY)),  # noqa: S704 - a file of this package
            script=Markup(_read_text("overview.js")),  # noqa: S704 - our own file
        )
    )
    return Overview(html=html, scope=scope, headlines=headlines, sections=sections)


@cache
def _environment() -> Environment:
    # Names of campaigns and lists are anybody's text: everything is escaped.
    return Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _read_text(name: str) -> str:
    text = files("klaviyo_assets.dashboard").joinpath(name).read_text(encoding="utf-8")
    # A browser would look for the map, which is not there.
    return text.replace("//# sourceMappingURL=chart.umd.min.js.map", "")
