"""The page of the marketing overview: one HTML file that needs nothing but a browser."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from klaviyo_assets.dashboard.figures import (
    Headline,
    RequestQuota,
    Section,
    format_moment,
    format_period,
    rows_of,
)
from klaviyo_assets.dashboard.questions import NEWEST_EVENT, OverviewReader, Scope
from klaviyo_assets.dashboard.sections import ask_all, build_headlines, build_sections

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
