"""What the tests of reports share: sound requests, their rows, and the truth."""

import json
from datetime import date, timedelta

from klaviyo_assets.sandbox.facts.reporting import PUBLISHED_STATISTICS
from klaviyo_assets_tests.sandbox.sandbox_client import Document, SandboxClient, SandboxResponse

VALUES_REPORT = "campaign-values-report"


SERIES_REPORT = "flow-series-report"


ADDITIVE_STATISTICS = (
    "recipients",
    "delivered",
    "conversions",
    "conversion_value",
    "opens",
    "clicks",
)


DAY = 86_400


def report_body(client: SandboxClient, kind: str, **changes: object) -> bytes:
    """A sound request for that report, with these attributes changed; None takes one out."""
    attributes: dict[str, object] = {
        "statistics": list(PUBLISHED_STATISTICS),
        "timeframe": {"start": "2026-10-01T00:00:00", "end": "2026-10-31T23:59:59"},
        "conversion_metric_id": revenue_metric_id(client),
        **({"interval": "daily"} if kind == SERIES_REPORT else {}),
        **changes,
    }
    given = {name: value for name, value in attributes.items() if value is not None}
    return json.dumps({"data": {"type": kind, "attributes": given}}).encode()


def revenue_metric_id(client: SandboxClient) -> str:
    """The metric that is mapped as revenue."""
    return client.sandbox.store.metrics.id_of(5)


def post_report(
    client: SandboxClient, kind: str, target: str | None = None, **changes: object
) -> SandboxResponse:
    """The answer to a report request."""
    return client.request(
        target or f"/api/{kind}s",
        {"Content-Type": "application/vnd.api+json"},
        method="POST",
        body=report_body(client, kind, **changes),
    )


def report_rows(client: SandboxClient, kind: str, **changes: object) -> list[Document]:
    """All rows of a report, over its pages."""
    found: list[Document] = []
    target: str | None = f"/api/{kind}s"
    while target:
        answered = post_report(client, kind, target, **changes)
        assert answered.status == 200, answered.body[:300]
        found += answered.json["data"]["attributes"]["results"]
        target = answered.json["links"].get("next")
    return found


def day_timeframe(day: date) -> dict[str, str]:
    """The time frame of one local day."""
    return {"start": f"{day}T00:00:00", "end": f"{day}T23:59:59"}


def true_rows(client: SandboxClient, name: str, **days: object) -> list[Document]:
    """The true rows of a report by day."""
    query = "&".join(f"{key}={value}" for key, value in days.items())
    return client.call_admin(
        "GET", f"/__truth/reports/{name}?metric={revenue_metric_id(client)}&{query}"
    )["rows"]


def rows_by_key(rows: list[Document], *names: str) -> dict[tuple[str, ...], Document]:
    """Rows by their keys."""
    return {tuple(row[name] for name in names): row for row in rows}


CAMPAIGN_KEYS = ("campaign_id", "campaign_message_id", "send_channel")


FLOW_KEYS = ("flow_id", "flow_message_id", "send_channel")


def trailing_timeframe(count: int) -> dict[str, str]:
    """A frame of so many days."""
    first = date(2026, 11, 1) - timedelta(days=count - 1)
    return {"start": f"{first}T00:00:00", "end": "2026-11-01T23:59:59"}
