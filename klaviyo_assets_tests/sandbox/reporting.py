"""What the tests of reports share: sound requests, their rows, and the truth."""

import json
from datetime import date, timedelta

from klaviyo_assets.sandbox.facts.reporting import STATISTICS
from klaviyo_assets_tests.sandbox.asking import Answered, Asker, Document

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


def days_ending(count: int) -> dict[str, str]:
    """A frame of so many days."""
    first = date(2026, 11, 1) - timedelta(days=count - 1)
    return {"start": f"{first}T00:00:00", "end": "2026-11-01T23:59:59"}
