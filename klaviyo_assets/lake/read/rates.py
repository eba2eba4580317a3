"""The SQL of relations with the rates of a report over longer periods than its days.

A rate of a week is no mean of the rates of its days: it is made anew, from the sums of what it
divides. People who are counted on several days are in such a sum several times; of whole months the
reports by month know better.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from klaviyo_assets.lake.read.duckdb import (
    TableFiles,
    quote_identifier,
    quote_literal,
    select_table_files,
)
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.stream import RelationDescription, Stream

PERIODS = ("day", "week", "month", "quarter", "year")
"""As DuckDB's date_trunc knows them; weeks begin on Monday."""

TOTAL_LEVEL = "total"


@dataclass(frozen=True, slots=True, kw_only=True)
class RatesRelation:
    """Sums and rates of a report's rows by period, for each level of its groupings.

    `rates`: name, part and whole. `levels`: the groupings by name of level, the finest first.
    """

    name: str
    report: str
    metric_column: str
    levels: tuple[tuple[str, tuple[str, ...]], ...]
    counts: tuple[str, ...]
    rates: tuple[tuple[str, str, str], ...]
    description: RelationDescription = field(default=RelationDescription(), compare=False)

    @property
    def required_tables(self) -> tuple[str, ...]:
        """Return the names of the tables that it needs."""
        return (self.report,)

    def column_names(self) -> list[str]:
        """Return the names of its columns in their order."""
        metric = [self.metric_column] if self.metric_column else []
        rates = [name for name, _, _ in self.rates]
        return ["period", "date", "level", *metric, *self.levels[0][1], *self.counts, *rates]


def build_rates_relation(stream: Stream) -> RatesRelation | None:
    """Return the relation with the rates of a report by day; None where it has none."""
    report = stream.source
    if not isinstance(report, ReportEndpoint) or not report.rates or report.period != "day":
        return None
    finest = "message" if report.has_metric else "version"
    relation = RatesRelation(
        name=f"{report.subject}_rates",
        report=stream.name,
        metric_column=report.metric_column if report.has_metric else "",
        levels=(
            (finest, report.key_groupings),
            (report.subject, (f"{report.subject}_id",)),
            (TOTAL_LEVEL, ()),
        ),
        counts=tuple(name for name in report.statistics if name not in report.rates),
        rates=tuple((name, rate.part, rate.whole) for name, rate in report.rates.items()),
    )
    return replace(relation, description=_describe(relation, stream))


def _describe(relation: RatesRelation, stream: Stream) -> RelationDescription:
    by_name = {column.name: column.description for column in stream.columns}
    levels = [name for name, _ in relation.levels]
    made = {name: f"{part} of the period by its {whole}." for name, part, whole in relation.rates}
    sums = {name: f"Sum of {name} over the days of the period." for name in relation.counts}
    return RelationDescription(
        summary=f"One row per period, level and what it groups: the rates of {relation.report}, "
        "made of sums.",
        columns={
            "period": f"How long the period is: {', '.join(PERIODS)}.",
            "date": "The first day of the period, in the account's time zone.",
            "level": f"What the row adds up, {levels[0]}s by channel first: {', '.join(levels)}.",
            **{
                name: by_name[name]
                for name in (relation.metric_column, *relation.levels[0][1])
                if name
            },
            **sums,
            **made,
        },
    )


def select_rates(relation: RatesRelation, tables: Mapping[str, TableFiles]) -> str:
    """Return the SELECT of the relation; the report's table must exist."""
    first_day = "CAST(date_trunc(period, date) AS DATE)"
    metric = [quote_identifier(relation.metric_column)] if relation.metric_column else []
    always = ["period", first_day, *metric]
    groupings = [quote_identifier(name) for name in relation.levels[0][1]]
    sets = ", ".join(
        f"({', '.join([*always, *map(quote_identifier, names)])})" for _, names in relation.levels
    )
    counts = [f"sum({name}) AS {name}" for name in map(quote_identifier, relation.counts)]
    rates = [
        f"sum({quote_identifier(part)}) / nullif(sum({quote_identifier(whole)}), 0) "
        f"AS {quote_identifier(name)}"
        for name, part, whole in relation.rates
    ]
    shown = [
        "period",
        f"{first_day} AS date",
        f"{_level_expression(relation)} AS level",
        *metric,
        *groupings,
        *counts,
        *rates,
    ]
    periods = ", ".join(f"({quote_literal(name)})" for name in PERIODS)
    return (
        f"SELECT {', '.join(shown)} FROM ({select_table_files(tables[relation.report])}), "
        f"(VALUES {periods}) AS periods(period) GROUP BY GROUPING SETS ({sets})"
    )


def _level_expression(relation: RatesRelation) -> str:
    """Return the SQL of the name of a row's level: by the first grouping that it does not have."""
    finest, *coarser = relation.levels
    cases = [
        f"WHEN grouping({quote_identifier(finest[1][len(names)])}) = 1 THEN {quote_literal(name)}"
        for name, names in reversed(coarser)
    ]
    return f"CASE {' '.join(cases)} ELSE {quote_literal(finest[0])} END"
