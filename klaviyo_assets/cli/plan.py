"""The verbs `plan` and `metrics`: what reports, members, a first sync or an added stream will cost.

Also what both and `status` are computed from, and names of metrics in the place of ids.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import cast

from klaviyo_assets.account.connection import open_rate_limiter
from klaviyo_assets.account.metrics import (
    METRICS_TABLE,
    AccountMetric,
    describe_missing_revenue,
    describe_similar_metrics,
    find_metric_setting_problems,
    read_custom_metrics,
    read_metrics,
    resolve_metric_words,
    revenue_metric,
    select_event_metric_ids,
    select_metric_ids,
)
from klaviyo_assets.cli.lake_access import open_lake, open_stored_lake, split_names
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.cli.terminal import print_errors, print_json
from klaviyo_assets.errors import (
    LakeError,
    MissingTableError,
    SettingError,
    format_quantity,
    format_seconds,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import NO_METRIC, DateRange, ReportEndpoint
from klaviyo_assets.model.selection import DEFAULT_GROUP, selected_streams, selection_errors
from klaviyo_assets.model.stream import Children, Stream, ViewSource
from klaviyo_assets.reconcile.counts import GroupSize, find_count_stream, read_group_sizes
from klaviyo_assets.reports.backfill_plan import (
    BackfillPlan,
    PlanContext,
    format_alternative,
    format_plan,
    no_complete_day_error,
    plan_backfill,
    plannable_days,
)
from klaviyo_assets.reports.calendar import build_calendar_offline
from klaviyo_assets.reports.failed_requests import read_failed_metrics
from klaviyo_assets.reports.planner import report_endpoint
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import REPORTS, STREAMS
from klaviyo_assets.sync.plan import FirstReadPrice, least_seconds, price_first_read


@contextmanager
def open_plan_context(settings: Settings) -> Generator[PlanContext]:
    """Give the lake, the rate limiter of its account, the settings and the time, for the block."""
    lake = open_lake(settings)
    with closing(open_rate_limiter(settings, lake.stored_account() or "")) as rate_limiter:
        yield PlanContext(
            lake=lake, rate_limiter=rate_limiter, settings=settings, now=datetime.now(tz=UTC)
        )


def find_proven_metrics(context: PlanContext) -> frozenset[str]:
    """Return the metrics that a report was fetched for, or refused: the account knows their ids."""
    lake = context.lake
    stored = {each.metric_id for one in REPORTS for each in lake.read_partition_states(one.name)}
    return frozenset(stored.union(*(lake.read_metric_refusals(one.name) for one in REPORTS)))


def find_metric_warnings(context: PlanContext) -> list[str]:
    """Return what is wrong with the setting that names the metrics of reports."""
    proven_ids = {
        partition.metric_id
        for stream in REPORTS
        for partition in context.lake.read_partition_states(stream.name)
    }
    return find_metric_setting_problems(
        context.settings,
        read_metrics(context.lake),
        mapped=context.mapped_metric,
        proven_ids=proven_ids,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricStatus:
    """A line of the table; `reports` says by report whether Klaviyo makes it of this metric.

    `events`: how many are stored; None where no events are.
    """

    id: str
    name: str | None
    integration: str | None
    is_revenue: bool
    reports: Mapping[str, str]
    events: int | None


def list_metrics(settings: Settings, *, as_json: bool) -> int:
    """Print the account's metrics."""
    lake = open_stored_lake(settings)
    if lake.read_table_state(METRICS_TABLE) is None:
        raise MissingTableError("no metric is known: materialize klaviyo/metrics first")
    with open_plan_context(settings) as context:
        revenue = revenue_metric(read_metrics(lake), context.mapped_metric)
    found = _examine_metrics(settings, lake, revenue=revenue)
    if as_json:
        print_json([asdict(each) for each in found])
        return 0
    reports = list(found[0].reports) if found else []
    print_table(
        ["id", "name", "integration", "events", *reports],
        [
            (
                each.id,
                f"{each.name or ''}{' (revenue)' if each.is_revenue else ''}",
                each.integration or "",
                "" if each.events is None else f"{each.events:,}",
                *each.reports.values(),
            )
            for each in found
        ],
        numbers=["events"],
    )
    return 0


def _examine_metrics(settings: Settings, lake: Lake, *, revenue: str | None) -> list[MetricStatus]:
    selected = selected_streams(settings, STREAMS)
    reports = [
        each.name for each in REPORTS if each.name in selected and report_endpoint(each).has_metric
    ]
    answers = {name: _read_report_answers(lake, name) for name in reports}
    counts = _count_events(lake)
    return [
        MetricStatus(
            id=metric_id,
            name=name,
            integration=integration,
            is_revenue=metric_id == revenue,
            reports={each: answers[each].get(metric_id, "not asked yet") for each in reports},
            events=None if counts is None else counts.get(metric_id, 0),
        )
        for metric_id, name, integration in _read_named_metrics(lake)
    ]


def _read_named_metrics(lake: Lake) -> list[tuple[str, str | None, str | None]]:
    """Return the id, the name and the integration of each metric, by name."""
    rows = cast(
        "list[dict[str, str | None]]",
        lake.read_columns(METRICS_TABLE, ["id", "name", "integration"]).to_pylist(),
    )
    found = [(row["id"] or "", row["name"], _integration_name(row["integration"])) for row in rows]
    return sorted(found, key=lambda each: ((each[1] or "").casefold(), each[0]))


def _integration_name(text: str | None) -> str | None:
    with suppress(ValueError):
        found: object = json.loads(text or "null")
        if isinstance(found, dict):
            name = cast("dict[str, object]", found).get("name")
            return name if isinstance(name, str) else None
    return None


def _read_report_answers(lake: Lake, report: str) -> dict[str, str]:
    """Return what Klaviyo answered to each metric that was asked for, with the reason if no."""
    answers = {each.metric_id: "yes" for each in lake.read_partition_states(report)}
    failed = read_failed_metrics(lake, report)
    answers |= {each: f"failing: {one.reason}" for each, one in failed.items()}
    refused = lake.read_metric_refusals(report)
    return answers | {each: f"no: {one.reason}" for each, one in refused.items()}


def _count_events(lake: Lake) -> dict[str, int] | None:
    """Return how many events of each metric are stored; None without a readable table."""
    if lake.read_table_state("events") is None:
        return None
    with suppress(LakeError):
        counted = lake.query_relation("events").aggregate("metric_id, count(*)").fetchall()
        return {str(metric_id): int(count) for metric_id, count in counted}
    return None


def resolve_metric_names(
    words: Sequence[str], lake: Lake, *, known_ids: frozenset[str]
) -> list[str]:
    """Return the ids that ids or names mean; letter case of names does not count.

    A word may also be several, separated by commas. `known_ids`: ids that are no metric of the
    table, such as those that a setting names. Before the first sync of metrics nothing is known,
    and every word is taken for an id.

    Raises:
        SettingError: a word is neither.
    """
    stored = [*read_metrics(lake), *read_custom_metrics(lake)]
    if not stored:
        return [part for word in words for part in word.split(",") if part]
    found: list[str] = []
    for word in words:
        is_name = any((each.name or "").casefold() == word.casefold() for each in stored)
        parts = [word] if is_name else filter(None, word.split(","))
        for part in parts:
            found += _resolve_metric(part.strip(), stored, known_ids)
    return list(dict.fromkeys(found))


def _resolve_metric(
    word: str, stored: Sequence[AccountMetric], known_ids: frozenset[str]
) -> list[str]:
    """Return the id, or the ids of every metric that has the name: names are not unique."""
    if word in known_ids or any(each.id == word for each in stored):
        return [word]
    named = [each for each in stored if (each.name or "").casefold() == word.casefold()]
    if not named:
        raise SettingError(
            f"the account has no metric {word!a}, by id or by name."
            f"{describe_similar_metrics(word, stored)} `klaviyo-assets metrics` lists them"
        )
    if len(named) > 1:
        ids = ", ".join(each.id for each in named)
        print_errors([f"{len(named)} metrics are named {word!a}, and all are meant: {ids}"])
    return [each.id for each in named]


def member_plan_lines(
    streams: Mapping[str, Stream], *, lake: Lake, settings: Settings
) -> Iterator[str]:
    """Yield the lines of the plan: each list and segment with its price, and the sums."""
    known = set[str]()
    for stream in streams.values():
        source = stream.source
        if not isinstance(source, Children) or not source.has_parent_filter:
            continue
        counts = find_count_stream(stream, streams)
        sizes = read_group_sizes(stream, counts, lake=lake, settings=settings)
        known |= {each.id for each in sizes}
        if not sizes:
            yield f"{stream.name}: {source.parent} were never read; materialize them first"
            continue
        yield from _sum_lines(stream, source, sizes, settings=settings)
        yield from _group_lines(sizes, source.page_size or 1)
        if counts is not None and any(each.counted is None for each in sizes):
            yield f"  materialize klaviyo/{counts.name} for the sizes as Klaviyo counts them"
    if unknown := sorted(set(settings.members_of) - known):
        yield f"warning: KLAVIYO_MEMBERS_OF names no stored list or segment: {', '.join(unknown)}"


def _sum_lines(
    stream: Stream, source: Children, sizes: Sequence[GroupSize], *, settings: Settings
) -> Iterator[str]:
    chosen = [each for each in sizes if each.is_chosen]
    full_reads = [each.full_read_requests(source.page_size or 1) for each in chosen]
    full, unknown = sum(filter(None, full_reads)), full_reads.count(None)
    steady = stream.tier.steady if stream.tier is not None else 1
    seconds = 60 * full / (steady * settings.rate_limit_share)
    more = f", without {unknown} of unknown size" if unknown else ""
    yield f"{stream.name}: {len(chosen)} of {len(sizes)} {source.parent} are read"
    yield (
        f"  a full read takes {format_quantity(full, 'request')}{more}, at least "
        f"{format_seconds(seconds)}; a sync of joins {format_quantity(len(chosen), 'request')} "
        "or more"
    )


def _group_lines(sizes: Iterable[GroupSize], page_size: int) -> Iterator[str]:
    for each in sizes:
        requests = each.full_read_requests(page_size)
        members = each.counted if each.counted is not None else each.stored
        size = "size unknown" if members is None else format_quantity(members, "profile")
        price = "" if requests is None else format_quantity(requests, "request")
        note = "" if each.is_chosen else "  not in KLAVIYO_MEMBERS_OF"
        yield f"  {each.id:<12} {each.name[:32]:<32} {size:>20} {price:>16}{note}".rstrip()


def plan_first_sync(
    settings: Settings, added: Sequence[str], sizes: Sequence[str], *, as_json: bool
) -> int:
    """Print the price of every collection that is on, or of streams to add and what they need."""
    lake, names = open_lake(settings), split_names(added)
    before = selected_streams(settings, STREAMS) if names else frozenset[str]()
    wanted = replace(settings, streams=(*(settings.streams or (DEFAULT_GROUP,)), *names))
    for refused in selection_errors(wanted, STREAMS):
        raise refused
    # A stream that is on already is priced as well where it is named.
    shown = (selected_streams(wanted, STREAMS) - before) | STREAMS.keys() & set(names)
    records = {**_stored_sizes(lake), **_parse_sizes(sizes)}
    row_bytes = _measure_rows(lake)
    prices = [
        price_first_read(stream, records=records, row_bytes=row_bytes, settings=settings)
        for name, stream in STREAMS.items()
        if name in shown and not isinstance(stream.source, ViewSource | ReportEndpoint)
    ]
    if as_json:
        print_json(
            {
                "streams": [asdict(each) for each in prices],
                "requests": sum(each.requests or 0 for each in prices),
                "least_seconds": round(least_seconds(prices, STREAMS)),
                "disk_bytes": sum(each.disk_bytes or 0 for each in prices),
            }
        )
        return 0
    _print_prices(prices)
    return 0


def _stored_sizes(lake: Lake) -> dict[str, int]:
    states = {name: lake.read_table_state(name) for name in STREAMS}
    return {name: state.rows for name, state in states.items() if state is not None}


def _measure_rows(lake: Lake) -> Mapping[str, float]:
    """Return the bytes on disk for each row of the stored tables."""
    found: dict[str, float] = {}
    for name, rows in _stored_sizes(lake).items():
        with suppress(LakeError):
            if rows:
                found[name] = lake.measure_table_bytes(name) / rows
    return found


def _parse_sizes(sizes: Sequence[str]) -> dict[str, int]:
    """Return the numbers of the option --rows.

    Raises:
        SettingError: one is no `stream=number`.
    """
    found: dict[str, int] = {}
    for each in split_names(sizes):
        name, _, number = each.partition("=")
        if name not in STREAMS or re.fullmatch(r"\d[\d_]{0,14}", number) is None:
            raise SettingError(f"--rows {each!a}: a stream and a number are wanted: events=1000000")
        found[name] = int(number)
    return found


def _print_prices(prices: Sequence[FirstReadPrice]) -> None:
    print_table(
        ["stream", "records", "requests", "least time", "disk", "note"],
        [
            (
                each.stream,
                "?" if each.records is None else f"{each.records:,}",
                "?" if each.requests is None else f"{each.requests:,}",
                "?" if each.seconds is None else format_seconds(each.seconds),
                "?" if each.disk_bytes is None else f"{each.disk_bytes / 1e6:,.1f} MB",
                ", ".join(_notes(each)),
            )
            for each in prices
        ],
        numbers=["records", "requests", "least time", "disk"],
    )
    requests = format_quantity(sum(each.requests or 0 for each in prices), "request")
    unknown = sum(each.requests is None for each in prices)
    more = f", without {format_quantity(unknown, 'stream')} of unknown size" if unknown else ""
    disk = sum(each.disk_bytes or 0 for each in prices) / 1e6
    least = format_seconds(least_seconds(prices, STREAMS))
    print(
        f"{requests}{more}, {disk:,.1f} MB; at least {least} where streams are read side by side, "
        "as klaviyo_first_sync does"
    )
    if unknown:
        print("--rows events=1000000 profiles=50000 says how many there are, as you know it")


def _notes(price: FirstReadPrice) -> Iterator[str]:
    if STREAMS[price.stream].is_read_by_parent:
        yield "a request for each parent, in every sync"
    elif price.requests is None and price.records_per_request is not None:
        yield f"a request for {price.records_per_request:,} records"


def plan(  # noqa: PLR0913 - the options, all by name
    settings: Settings,
    *,
    start: date | None,
    end: date | None,
    members: bool,
    metrics: Sequence[str],
    first_sync: bool,
    streams: Sequence[str],
    rows: Sequence[str],
    as_json: bool,
) -> int:
    """Print what reports from `start` to `end`, members, a first sync or more streams cost."""
    has_days = start is not None and end is not None
    if [has_days, members, first_sync or bool(streams)].count(True) != 1:
        raise SettingError(
            "plan: give --start and --end for reports, or --members, --first-sync or --streams"
        )
    if start is not None and end is not None:
        with open_plan_context(settings) as context:
            _print_report_plans(context, start, end, named=metrics, as_json=as_json)
        return 0
    if not members:
        return plan_first_sync(settings, streams, rows, as_json=as_json)
    lines = list(member_plan_lines(STREAMS, lake=open_lake(settings), settings=settings))
    if as_json:
        print_json({"lines": lines})
    else:
        print("\n".join(lines))
    return 0


def _print_report_plans(
    context: PlanContext, start: date, end: date, *, named: Sequence[str], as_json: bool
) -> None:
    settings, first_day = context.settings, context.settings.first_report_day
    if end < max(start, first_day):
        raise no_complete_day_error(start, end, first_day=first_day, zone="the account's time zone")
    selected = selected_streams(settings, STREAMS)
    reports = [each for each in REPORTS if each.name in selected]
    needs_metrics = any(report_endpoint(each).has_metric for each in reports)
    metrics = _metrics_to_plan(context, named) if needs_metrics else ()
    calendar = build_calendar_offline(settings, context.lake, context.now)
    days = plannable_days(start, end, calendar)
    warnings = find_metric_warnings(context)
    if not as_json:
        for problem in warnings:
            print(f"warning: {problem}")
    plans: list[dict[str, object]] = []
    for stream in reports:
        for choice, planned in _plan_report(stream, metrics, days, named=named, context=context):
            plans.append(_plan_as_json(choice, planned))
            if not as_json:
                lines = [format_alternative(choice, planned)] if choice else format_plan(planned)
                print("\n".join(lines))
    if as_json:
        print_json({"plans": plans, "warnings": warnings})


def _plan_report(
    stream: Stream,
    metrics: Sequence[str],
    days: DateRange,
    *,
    named: Sequence[str],
    context: PlanContext,
) -> Iterator[tuple[str, BackfillPlan]]:
    """Yield the plan of a report, then those with other choices of metrics, under their names."""
    endpoint = report_endpoint(stream)
    stored = read_metrics(context.lake)
    if endpoint.metric == "event":
        counted = metrics if named else select_event_metric_ids(context.settings, stored)
        yield "", plan_backfill(stream, counted, days, context=context)
        return
    if endpoint.has_metric:
        yield "", plan_backfill(stream, metrics, days, context=context)
        alternatives = resolve_metric_words(stored, context.mapped_metric)
        for choice, others in alternatives.items():
            yield choice, plan_backfill(stream, others, days, context=context)
        return
    calendar = build_calendar_offline(context.settings, context.lake, context.now)
    own_calendar = calendar.starting_at(endpoint.first_day)
    if own_calendar.first_day <= days.last:
        own_days = plannable_days(days.first, days.last, own_calendar)
        yield "", plan_backfill(stream, [NO_METRIC], own_days, context=context)


def _plan_as_json(choice: str, planned: BackfillPlan) -> dict[str, object]:
    return {
        "stream": planned.stream,
        "metrics": choice or None,
        "metric_count": planned.metric_count if planned.has_metrics else None,
        "first_day": planned.date_range.first,
        "last_day": planned.date_range.last,
        "partitions": planned.wanted_partitions,
        "already_there": planned.stored_partitions,
        "min_requests": planned.cost.min_requests,
        "max_requests": planned.cost.max_requests,
        "unlisted_requests": planned.cost.unlisted_requests,
        "requests_left": planned.rate.requests_left,
        "minutes": planned.rate.minutes_for(planned.cost.max_requests),
        "done": planned.rate.finish_time(planned.cost.max_requests, planned.now),
        "refused": list(planned.refused_metrics),
        "failed": list(planned.failed_metrics),
    }


def _metrics_to_plan(context: PlanContext, named: Sequence[str]) -> Sequence[str]:
    """Return the ids of the metrics named by options, or else those of the settings.

    Raises:
        SettingError: there is none, or an option names none.
    """
    stored = read_metrics(context.lake)
    known_ids = find_proven_metrics(context) | {*context.settings.conversion_metric_ids}
    ids = resolve_metric_names(named, context.lake, known_ids=known_ids)
    metrics = ids or select_metric_ids(context.settings, stored, mapped=context.mapped_metric)
    if metrics:
        return metrics
    if stored:
        raise SettingError(describe_missing_revenue(stored))
    raise SettingError(
        "no metric is known: materialize klaviyo/metrics first, or name some with --metrics"
    )
