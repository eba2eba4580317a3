"""What Klaviyo is asked about metrics beside the table of them: the mapping, custom metrics.

What belongs here: the two requests. What does not: what follows from the answers (`metrics`).
Sources: https://developers.klaviyo.com/en/reference/get_mapped_metrics and get_custom_metrics,
revision 2026-07-15.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import cast

from klaviyo_assets.api.client import Client
from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.api.refusals import member
from klaviyo_assets.errors import BrokenBodyError, PermanentError, RefusedStreamError
from klaviyo_assets.model.tiers import Budget, S
from klaviyo_assets.sync.reports.metrics import TABLE, Metric
from klaviyo_assets.tables.body import mended, opened
from klaviyo_assets.tables.envelope import refuse_no_answer

REVENUE = "revenue"
"""The id of the mapping that names the account's revenue metric."""

A_DAY = timedelta(days=1)

MAPPED, CUSTOM = "/api/mapped-metrics", "/api/custom-metrics"


def revenue_now(client: Client, ledger: Ledger, base_url: str, *, now: datetime) -> str | None:
    """Return which metric the account maps to revenue; None where it maps none.

    Klaviyo is asked once a day, and at every call while it maps none: somebody may be about to.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    known = ledger.revenue_metric()
    if known is not None and known.id is not None and abs(now - known.asked_at) < A_DAY:
        return known.id
    return learn_revenue(client, ledger, base_url)


def learn_revenue(client: Client, ledger: Ledger, base_url: str) -> str | None:
    """Ask which metric the account maps to revenue, and remember the answer.

    None where it maps none, or may not be asked.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    try:
        found = client.read(
            _request(base_url, MAPPED, "?include=metric%2Ccustom-metric"),
            _revenue_in,
            stream=TABLE,
        )
    except (RefusedStreamError, PermanentError):
        found = None
    ledger.remember_revenue_metric(found)
    return found


def custom_metrics(client: Client, base_url: str) -> Sequence[Metric] | None:
    """Ask for the account's custom metrics; None where the key may not read them.

    Raises:
        KlaviyoAssetsError: Klaviyo cannot be reached, or refuses the key.
    """
    try:
        found = client.read(_request(base_url, CUSTOM), _customs_in, stream=TABLE)
    except (RefusedStreamError, PermanentError):
        return None
    return found


def _request(base_url: str, path: str, query: str = "") -> Request:
    return Request(
        method="GET",
        url=f"{base_url}{path}{query}",
        budgets=(Budget(f"GET {path}", S),),
        path=path,
    )


def _revenue_in(answer: Answer) -> str | None:
    for each in _records(answer, MAPPED):
        if member(each, "id") != REVENUE:
            continue
        for name in ("metric", "custom-metric"):
            related = member(member(each, "relationships"), name)
            if isinstance(found := member(member(related, "data"), "id"), str):
                return found
    return None


def _customs_in(answer: Answer) -> list[Metric]:
    """Return the metrics with an id; one whose name is no text has none."""
    named = [
        (member(each, "id"), member(member(each, "attributes"), "name"))
        for each in _records(answer, CUSTOM)
    ]
    return [
        Metric(id=each, name=name if isinstance(name, str) else None, is_of_shop=False)
        for each, name in named
        if isinstance(each, str)
    ]


def _records(answer: Answer, path: str) -> list[object]:
    """Return the records of an answer, read leniently: what is odd in one of them hides no other.

    Raises:
        BrokenBodyError: it is no answer of Klaviyo's.
    """
    text, _ = mended(opened(answer.body, TABLE))
    refuse_no_answer(text, stream=TABLE, is_paged=True)
    try:
        records = member(json.loads(text), "data")
    except (ValueError, RecursionError):
        records = None
    if not isinstance(records, list):
        raise BrokenBodyError(f"the answer to GET {path} has not the documented shape")
    return cast("list[object]", records)
