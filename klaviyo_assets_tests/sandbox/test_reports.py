"""Reports say what was sent and earned, by send date, in the company's zone, as Klaviyo says it."""

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from klaviyo_assets.sandbox.facts.reporting import RATES, STATISTICS
from klaviyo_assets_tests.sandbox.asking import Answered, Asker, Document
from klaviyo_assets_tests.sandbox.conftest import NOON, Start

VALUES = "campaign-values-report"
SERIES = "flow-series-report"
ADDABLE = ("recipients", "delivered", "conversions", "conversion_value", "opens", "clicks")
DAY = 86_400


def body(shop: Asker, kind: str, **changes: object) -> bytes:
    """A sound request for that report, with these attributes changed; None takes one out."""
    attributes: dict[str, object] = {
        "statistics": list(STATISTICS),
        "timeframe": {"start": "2026-10-01T00:00:00", "end": "2026-10-31T23:59:59"},
        "conversion_metric_id": orders(shop),
        **({"interval": "daily"} if kind == SERIES else {}),
        **changes,
    }
    kept = {name: value for name, value in attributes.items() if value is not None}
    return json.dumps({"data": {"type": kind, "attributes": kept}}).encode()


def orders(shop: Asker) -> str:
    """The metric that is mapped as revenue."""
    return shop.sandbox.shop.metrics.id_of(5)


def post(shop: Asker, kind: str, target: str | None = None, **changes: object) -> Answered:
    """The answer to a report request."""
    return shop.ask(
        target or f"/api/{kind}s",
        {"Content-Type": "application/vnd.api+json"},
        method="POST",
        body=body(shop, kind, **changes),
    )


def results(shop: Asker, kind: str, **changes: object) -> list[Document]:
    """All rows of a report, over its pages."""
    found: list[Document] = []
    target: str | None = f"/api/{kind}s"
    while target:
        answered = post(shop, kind, target, **changes)
        assert answered.status == 200, answered.body[:300]
        found += answered.json["data"]["attributes"]["results"]
        target = answered.json["links"].get("next")
    return found


def day_of(day: date) -> dict[str, str]:
    """The time frame of one local day."""
    return {"start": f"{day}T00:00:00", "end": f"{day}T23:59:59"}


def truth(shop: Asker, name: str, **days: object) -> list[Document]:
    """The true rows of a report by day."""
    query = "&".join(f"{key}={value}" for key, value in days.items())
    return shop.admin("GET", f"/__truth/reports/{name}?metric={orders(shop)}&{query}")["rows"]


def keyed(rows: list[Document], *names: str) -> dict[tuple[str, ...], Document]:
    """Rows by their keys."""
    return {tuple(row[name] for name in names): row for row in rows}


CAMPAIGN_KEYS = ("campaign_id", "campaign_message_id", "send_channel")
FLOW_KEYS = ("flow_id", "flow_message_id", "send_channel")


def test_values_of_a_day_are_the_truth_of_that_day(shop: Asker) -> None:
    """For each of forty days the report's rows are the true rows, with all 31 statistics."""
    seen = 0
    for k in range(1, 41):
        day = NOON.date() - timedelta(days=k)
        rows = results(shop, VALUES, timeframe=day_of(day))
        wanted = keyed(truth(shop, "campaign_values", date=day), *CAMPAIGN_KEYS)
        found = {tuple(row["groupings"][key] for key in CAMPAIGN_KEYS): row for row in rows}
        assert set(found) == set(wanted)
        for key, row in found.items():
            assert row["statistics"] == {name: wanted[key][name] for name in STATISTICS}
        seen += len(rows)
    assert seen > 5


def test_days_add_up_to_their_range(shop: Asker) -> None:
    """What can be added is the same over ninety days as over its days, for campaigns and flows."""
    first, last = date(2026, 8, 1), date(2026, 10, 29)
    frame = {"start": f"{first}T00:00:00", "end": f"{last}T23:59:59"}
    for kind, name, keys in (
        (VALUES, "campaign_values", CAMPAIGN_KEYS),
        ("flow-values-report", "flow_values", FLOW_KEYS),
    ):
        sums: dict[tuple[str, ...], dict[str, float]] = {}
        for row in truth(shop, name, start=first, end=last):
            key = tuple(row[each] for each in keys)
            total = sums.setdefault(key, dict.fromkeys(ADDABLE, 0))
            for each in ADDABLE:
                total[each] += row[each]
        rows = results(shop, kind, timeframe=frame)
        assert len(rows) == len(sums) > 5
        for row in rows:
            total = sums[tuple(row["groupings"][each] for each in keys)]
            assert {each: row["statistics"][each] for each in ADDABLE} == pytest.approx(total)


def test_uniques_of_flows_do_not_add_up(shop: Asker) -> None:
    """Over a month a flow message has fewer unique opens than the sum of its days."""
    frame = {"start": "2026-09-01T00:00:00", "end": "2026-09-30T23:59:59"}
    rows = results(shop, "flow-values-report", timeframe=frame)
    days = truth(shop, "flow_values", start="2026-09-01", end="2026-09-30")
    row = max(rows, key=lambda each: each["statistics"]["opens_unique"])
    message = row["groupings"]["flow_message_id"]
    summed = sum(each["opens_unique"] for each in days if each["flow_message_id"] == message)
    assert 0 < row["statistics"]["opens_unique"] < summed


def test_series_are_the_truth_day_by_day(shop: Asker) -> None:
    """Each value of a daily series is that day's true value, in the order of `date_times`."""
    frame = {"start": "2026-10-20T00:00:00", "end": "2026-11-12T23:59:59"}
    answered = post(shop, SERIES, timeframe=frame).json["data"]["attributes"]
    labels = answered["date_times"]
    assert labels[0] == "2026-10-20T00:00:00+00:00"
    assert len(labels) == 24
    wanted = keyed(
        truth(shop, "flow_series", start="2026-10-20", end="2026-11-12"), "date", *FLOW_KEYS
    )
    checked = 0
    for row in answered["results"]:
        key = tuple(row["groupings"][each] for each in FLOW_KEYS)
        for place, label in enumerate(labels):
            true = wanted.get((label[:10], *key))
            for name, values in row["statistics"].items():
                assert len(values) == len(labels)
                assert values[place] == (true[name] if true else 0)
                checked += 1
    assert checked > 1000


def test_statistics_fit_each_other(shop: Asker) -> None:
    """Counts nest, and rates are fractions of them between 0 and 1."""
    frame = {"start": "2025-12-01T00:00:00", "end": "2026-11-19T23:59:59"}
    rows = [
        *results(shop, VALUES, timeframe=frame),
        *results(shop, "flow-values-report", timeframe=frame),
    ]
    channels = {row["groupings"]["send_channel"] for row in rows}
    assert channels == {"email", "sms", "push-notification", "whatsapp"}
    for row in rows:
        s = row["statistics"]
        assert s["delivered"] == s["recipients"] - s["bounced_or_failed"]
        assert s["bounced_or_failed"] == s["bounced"] + s["failed"]
        assert s["opens"] >= s["opens_unique"] >= 0
        assert s["clicks"] >= s["clicks_unique"] >= 0
        assert s["delivered"] >= max(s["opens_unique"], s["clicks_unique"])
        assert s["conversions"] >= s["conversion_uniques"] >= 0
        assert all(0 <= s[name] <= 1 for name in RATES)
        assert s["open_rate"] == s["opens_unique"] / s["delivered"]
        assert s["revenue_per_recipient"] == s["conversion_value"] / s["recipients"]


def test_conversions_arrive_over_the_attribution_window(start: Start) -> None:
    """A day's recipients stay what they are; its conversions and value grow for five days."""
    shop = start(days=30, campaigns=60, profiles=3_000, spread_share=0.0)
    day = NOON.date() - timedelta(days=1)
    totals: list[dict[str, float]] = []
    for _ in range(8):
        rows = results(shop, VALUES, timeframe=day_of(day))
        names = ("recipients", "conversions", "conversion_value")
        totals.append({name: sum(row["statistics"][name] for row in rows) for name in names})
        shop.admin("POST", "/__clock", {"advance_seconds": DAY})
    conversions = [each["conversions"] for each in totals]
    assert len({each["recipients"] for each in totals}) == 1
    assert conversions == sorted(conversions)
    assert conversions[0] < conversions[5] == conversions[7]
    assert totals[0]["conversion_value"] < totals[7]["conversion_value"]


def test_some_value_is_refunded_after_weeks(start: Start) -> None:
    """Weeks after the send, some conversion value goes down again."""
    shop = start(campaigns=60, profiles=3_000)
    frame = {"start": "2026-10-25T00:00:00", "end": "2026-11-19T23:59:59"}
    shop.admin("POST", "/__clock", {"advance_seconds": 8 * DAY})
    early = sum(
        row["statistics"]["conversion_value"] for row in results(shop, VALUES, timeframe=frame)
    )
    early += flow_value(shop, frame)
    shop.admin("POST", "/__clock", {"advance_seconds": 60 * DAY})
    late = sum(
        row["statistics"]["conversion_value"] for row in results(shop, VALUES, timeframe=frame)
    )
    late += flow_value(shop, frame)
    assert late < early


def flow_value(shop: Asker, frame: dict[str, str]) -> float:
    """The value that flows earned in a frame."""
    rows = results(shop, "flow-values-report", timeframe=frame)
    return sum(row["statistics"]["conversion_value"] for row in rows)


def spreads(shop: Asker) -> dict[str, set[str]]:
    """Local send days by campaign, over the year."""
    days: dict[str, set[str]] = {}
    for row in truth(shop, "campaign_values", start="2025-11-20", end="2026-11-19"):
        days.setdefault(row["campaign_id"], set()).add(row["date"])
    return days


def test_campaigns_spread_over_days_by_their_strategy(start: Start) -> None:
    """Smart, local, throttled and tested campaigns have several send days, the others just one."""
    shop = start(spread_share=0.6)
    days = spreads(shop)
    methods: dict[str, set[bool]] = {}
    for campaign in shop.sandbox.shop.campaigns.records:
        strategy: Document = dict(campaign.attributes["send_strategy"])  # pyright: ignore
        local = (strategy.get("options") or {}).get("is_local")
        method = "local" if local else strategy["method"]
        if campaign.id in days:
            methods.setdefault(method, set()).add(len(days[campaign.id]) > 1)
    assert methods["immediate"] == methods["static"] == {False}
    for method in ("smart_send_time", "local", "throttled", "ab_test_campaign"):
        assert True in methods[method], method


def test_without_spread_each_campaign_has_one_day(start: Start) -> None:
    """With a spread share of nothing no campaign is on two days."""
    shop = start(spread_share=0.0)
    assert {len(days) for days in spreads(shop).values()} == {1}


def test_reports_show_campaigns_that_the_list_does_not(shop: Asker) -> None:
    """WhatsApp campaigns and deleted ones are in reports though `/api/campaigns` has neither."""
    listed = set(shop.truth("campaigns"))
    rows = truth(shop, "campaign_values", start="2025-11-20", end="2026-11-19")
    unlisted = {row["send_channel"] for row in rows if row["campaign_id"] not in listed}
    assert unlisted == {"whatsapp", "email"}


def test_a_campaign_deleted_later_stays_in_reports(start: Start) -> None:
    """Deleting a campaign does not take back what it sent."""
    shop = start()
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    before = results(shop, VALUES, timeframe=frame)
    listed = set(shop.truth("campaigns"))
    gone = next(
        r["groupings"]["campaign_id"] for r in before if r["groupings"]["campaign_id"] in listed
    )
    shop.admin("POST", "/__mutate", {"campaign": gone, "delete": True})
    assert gone not in shop.truth("campaigns")
    assert results(shop, VALUES, timeframe=frame) == before


def test_the_end_is_rounded_to_its_hour_and_offsets_are_ignored(shop: Asker) -> None:
    """An end at 23:00 means 23:59:59, and a given offset changes nothing."""
    wanted = results(shop, SERIES, timeframe=day_of(date(2026, 10, 5)))
    for start, end in (
        ("2026-10-05T00:00:00", "2026-10-05T23:00:00"),
        ("2026-10-05T00:00:00+09:00", "2026-10-05T23:00:01-05:00"),
        ("2026-10-05T00:30:00Z", "2026-10-05T23:59:59Z"),
    ):
        assert results(shop, SERIES, timeframe={"start": start, "end": end}) == wanted
    shorter = {"start": "2026-10-05T00:00:00", "end": "2026-10-05T22:59:59"}
    assert results(shop, SERIES, timeframe=shorter) != wanted


@pytest.mark.parametrize(
    ("day", "hours", "odd"),
    [(date(2026, 3, 8), 23, None), (date(2026, 11, 1), 25, "2026-11-01T01:00:00+00:00")],
)
def test_days_of_clock_changes_have_23_and_25_hours(
    start: Start, day: date, hours: int, odd: str | None
) -> None:
    """In hourly series one label is missing or comes twice, and the day is the sum of its hours."""
    shop = start(timezone="America/New_York")
    hourly = post(shop, SERIES, timeframe=day_of(day), interval="hourly").json["data"]["attributes"]
    labels = hourly["date_times"]
    assert len(labels) == hours
    assert labels[0] == f"{day}T00:00:00+00:00"
    repeated = {label for label in labels if labels.count(label) > 1}
    assert repeated == ({odd} if odd else set())
    assert odd or f"{day}T02:00:00+00:00" not in labels
    daily = results(shop, SERIES, timeframe=day_of(day))
    for row in daily:
        same = [each for each in hourly["results"] if each["groupings"] == row["groupings"]]
        assert sum(same[0]["statistics"]["recipients"]) == row["statistics"]["recipients"][0]


def test_days_are_the_companys(start: Start) -> None:
    """In another zone the same hours fall into other days."""
    east, west = start(timezone="Asia/Tokyo", spread_share=0), start(timezone="UTC", spread_share=0)
    zone = ZoneInfo("Asia/Tokyo")
    shown = 0
    for message in east.sandbox.service.reports.sends.campaigns:
        for hour, _ in message.hours:
            there = datetime.fromtimestamp(hour, zone).date()
            here = datetime.fromtimestamp(hour, UTC).date()
            if there == here or hour > NOON.timestamp() - 3 * DAY:
                continue
            key = message.groupings["campaign_message_id"]
            rows = truth(east, "campaign_values", date=there)
            assert key in {row["campaign_message_id"] for row in rows}
            assert key not in {
                row["campaign_message_id"] for row in truth(west, "campaign_values", date=there)
            }
            shown += 1
    assert shown > 2


@pytest.mark.parametrize(
    ("key", "first", "count"),
    [
        ("last_7_days", "2026-11-13", 8),
        ("last_30_days", "2026-10-21", 31),
        ("today", "2026-11-20", 1),
        ("yesterday", "2026-11-19", 1),
        ("last_week", "2026-11-09", 7),
        ("this_week", "2026-11-16", 5),
        ("last_month", "2026-10-01", 31),
        ("this_month", "2026-11-01", 20),
    ],
)
def test_named_frames_hold_the_recorded_days(shop: Asker, key: str, first: str, count: int) -> None:
    """Rolling frames have today in them, so that a week has eight days."""
    answered = post(shop, SERIES, timeframe={"key": key})
    labels = answered.json["data"]["attributes"]["date_times"]
    assert labels[0] == f"{first}T00:00:00+00:00"
    assert len(labels) == count


def test_weeks_begin_on_monday_and_months_on_the_first(shop: Asker) -> None:
    """Weekly and monthly series are sums of their days."""
    frame = {"start": "2026-09-01T00:00:00", "end": "2026-10-30T23:59:59"}
    days = {
        row["groupings"]["flow_message_id"]: row for row in results(shop, SERIES, timeframe=frame)
    }
    for interval, label in (("weekly", "2026-08-31"), ("monthly", "2026-09-01")):
        answered = post(shop, SERIES, timeframe=frame, interval=interval).json["data"]["attributes"]
        assert answered["date_times"][0].startswith(label)
        for row in answered["results"]:
            same = days[row["groupings"]["flow_message_id"]]["statistics"]
            assert sum(row["statistics"]["conversions"]) == sum(same["conversions"])


def test_conversion_metrics_differ_and_opens_do_not(shop: Asker) -> None:
    """Another conversion metric changes conversions only; custom metrics are accepted."""
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    custom = shop.sandbox.shop.custom_metrics.id_of(0)
    one = results(shop, VALUES, timeframe=frame)
    two = results(shop, VALUES, timeframe=frame, conversion_metric_id=custom)
    same = [name for name in STATISTICS if "conver" not in name and "revenue" not in name]
    same = [name for name in same if name not in {"average_order_value", "text_message_roi"}]
    for left, right in zip(one, two, strict=True):
        assert [left["statistics"][k] for k in same] == [right["statistics"][k] for k in same]
    assert [r["statistics"]["conversions"] for r in one] != [
        r["statistics"]["conversions"] for r in two
    ]


def test_metrics_that_are_not_eligible_are_refused(shop: Asker) -> None:
    """Just the metrics that cannot convert get the recorded 400."""
    eligible = set(shop.admin("GET", "/__metrics")["eligible"])
    wanted = "Passed in conversion metric does not support querying for values data"
    for metric in shop.ids("/api/metrics"):
        answered = post(shop, VALUES, conversion_metric_id=metric)
        assert (answered.status == 200) == (metric in eligible)
        if answered.status == 400:
            error = answered.json["errors"][0]
            assert error["detail"] == wanted
            assert error["source"] == {"pointer": "/data/attributes/conversion_metric_id"}
    assert 3 < len(eligible) < 21


def test_groups_and_filters_choose_rows(shop: Asker) -> None:
    """Filters keep the rows that meet them; grouping by tags gives a row per tag."""
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    every = results(shop, VALUES, timeframe=frame)
    sms = [row for row in every if row["groupings"]["send_channel"] == "sms"]
    assert results(shop, VALUES, timeframe=frame, filter='equals(send_channel,"sms")') == sms
    ids = [row["groupings"]["campaign_id"] for row in every[:3]]
    listed = json.dumps(ids)
    both = f'and(contains-any(campaign_id,{listed}),contains-any(send_channel,["email","sms"]))'
    found = {
        row["groupings"]["campaign_id"]
        for row in results(shop, VALUES, timeframe=frame, filter=both)
    }
    assert found <= set(ids)
    groups = ["campaign_id", "campaign_message_id", "tag_name", "variation_name"]
    tagged = results(shop, VALUES, timeframe=frame, group_by=groups)
    assert set(tagged[0]["groupings"]) == set(groups)
    tag = next(row["groupings"]["tag_name"] for row in tagged if row["groupings"]["tag_name"])
    some = results(shop, VALUES, timeframe=frame, filter=f'contains-any(tag_name,["{tag}"])')
    assert 0 < len(some) < len(every)


def test_reports_come_in_pages(start: Start) -> None:
    """Rows are paged by `page_cursor`; another body makes the cursor invalid."""
    shop = start(report_page=7)
    frame = {"start": "2026-01-01T00:00:00", "end": "2026-11-19T23:59:59"}
    rows = results(shop, VALUES, timeframe=frame)
    first = post(shop, VALUES, timeframe=frame)
    assert len(first.json["data"]["attributes"]["results"]) == 7 < len(rows)
    keys = [tuple(row["groupings"].values()) for row in rows]
    assert len(keys) == len(set(keys))
    following = first.json["links"]["next"]
    assert "page_cursor=" in following
    assert post(shop, VALUES, following).detail == "Invalid cursor provided."


def test_the_three_windows_of_reports(start: Start) -> None:
    """A report endpoint takes one request a second, two a minute and 225 a day, each for itself."""
    shop = start(rate_limit_scale=1.0)
    answers = [post(shop, VALUES) for _ in range(4)]
    assert [each.status for each in answers].count(200) <= 2
    assert answers[-1].status == 429
    other = post(shop, SERIES)
    assert other.status == 200
    assert other.headers["ratelimit-limit"] == "1, 1;w=1, 2;w=60, 225;w=86400"


FUTURE = {"start": "2026-11-20T00:00:00", "end": "2026-11-20T23:59:59"}
LONG = {"start": "2025-01-01T00:00:00", "end": "2026-06-01T00:00:00"}


def days_ending(count: int) -> dict[str, str]:
    """A frame of so many days."""
    first = date(2026, 11, 1) - timedelta(days=count - 1)
    return {"start": f"{first}T00:00:00", "end": "2026-11-01T23:59:59"}


def refusals() -> Iterator[tuple[str, dict[str, object], str]]:
    """Reports, changes of the body, and the beginning of the refusal."""
    yield VALUES, {"statistics": []}, "'statistics' is a required field."
    yield VALUES, {"statistics": ["open"]}, "'open' is not a valid choice for statistics."
    yield VALUES, {"timeframe": None}, "'timeframe' is a required field."
    yield VALUES, {"conversion_metric_id": None}, "'conversion_metric_id' is a required field."
    yield VALUES, {"interval": "daily"}, "'interval' is not a valid field for the resource"
    yield SERIES, {"interval": None}, "'interval' is a required field."
    yield SERIES, {"interval": "yearly"}, "'yearly' is not a valid choice for interval."
    yield VALUES, {"timeframe": {"key": "last_8_days"}}, "'last_8_days' is not a valid timeframe"
    yield (
        VALUES,
        {"timeframe": {**day_of(date(2026, 1, 1)), "key": "today"}},
        "'key' is not a valid field",
    )
    yield VALUES, {"timeframe": {"start": "then", "end": "now"}}, "Invalid datetime: 'then'."
    yield VALUES, {"timeframe": FUTURE}, "End date may not be in the future"
    yield VALUES, {"timeframe": LONG}, "The timeframe may not be longer than 1 year."
    yield (
        VALUES,
        {"timeframe": dict(zip(("end", "start"), day_of(date(2026, 1, 1)).values(), strict=True))},
        "The start",
    )
    yield SERIES, {"timeframe": days_ending(61)}, "The timeframe for a daily interval"
    yield SERIES, {"timeframe": days_ending(8), "interval": "hourly"}, "The timeframe for a hourly"
    yield (
        SERIES,
        {"timeframe": days_ending(365), "interval": "weekly"},
        "The timeframe for a weekly",
    )
    yield VALUES, {"group_by": ["campaign_id"]}, "The following group by attributes are required"
    yield VALUES, {"group_by": ["flow_id"]}, "'flow_id' is not a valid choice for group_by."
    yield VALUES, {"filter": "equals(tag_id,'x')"}, "'equals' is not an allowed filter operator"
    yield VALUES, {"filter": "equals(send_channel,'mobile_push')"}, "'mobile_push' is not a valid"
    yield VALUES, {"filter": "equals(flow_id,'x')"}, "'flow_id' is not a filterable field"
    twice = "equals(campaign_id,'x'),equals(campaign_id,'y')"
    yield VALUES, {"filter": twice}, "Only one filter can be used per attribute"
    many = ",".join(f'"{k}"' for k in range(101))
    yield VALUES, {"filter": f"contains-any(campaign_id,[{many}])"}, "At most 100 items"


@pytest.mark.parametrize(("kind", "changes", "detail"), list(refusals()))
def test_a_report_beyond_the_offer_is_refused(
    shop: Asker, kind: str, changes: dict[str, object], detail: str
) -> None:
    """Whatever the reference does not offer is a 400 that says what."""
    answered = post(shop, kind, **changes)
    assert answered.status == 400, answered.body[:200]
    assert answered.detail.startswith(detail)


@pytest.mark.parametrize("count", [1, 60])
def test_the_longest_allowed_series_is_allowed(shop: Asker, count: int) -> None:
    """Sixty days by day, seven by hour and 52 weeks by week are not too long."""
    assert post(shop, SERIES, timeframe=days_ending(count)).status == 200
    assert post(shop, SERIES, timeframe=days_ending(7), interval="hourly").status == 200
    assert post(shop, VALUES, timeframe=days_ending(365)).status == 200


def test_a_report_needs_its_content_type_and_a_body(shop: Asker) -> None:
    """Without the JSON:API content type 415, without a document 400."""
    sound = body(shop, VALUES)
    target = f"/api/{VALUES}s"
    plain = shop.ask(target, {"Content-Type": "text/plain"}, method="POST", body=sound)
    assert plain.status == 415
    for text in (b"", b"[]", b'{"data":{"type":"x"}}'):
        kind = {"Content-Type": "application/vnd.api+json"}
        assert shop.ask(target, kind, method="POST", body=text).status == 400


def test_a_short_series_can_be_made(start: Start) -> None:
    """A fault makes statistics shorter than their dates."""
    shop = start()
    shop.fault("short_series")
    attributes = post(shop, SERIES).json["data"]["attributes"]
    row = attributes["results"][0]["statistics"]
    assert {len(values) for values in row.values()} == {len(attributes["date_times"]) - 1}
