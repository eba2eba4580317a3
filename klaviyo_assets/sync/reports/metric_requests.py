"""What Klaviyo is asked about metrics beside the table of them: the mapping, custom metrics.

What belongs here: the two requests. What does not: what follows from the answers (`metrics`).
Sources: https://developers.klaviyo.com/en/reference/get_mapped_metrics and get_custom_metrics,
revision 2026-07-15.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TypeVar

import msgspec

from klaviyo_assets.api.client import Client
from klaviyo_assets.api.exchange import Answer, Request
from klaviyo_assets.api.ledger import Ledger
from klaviyo_assets.errors import BrokenBodyError, PermanentError, RefusedStreamError
from klaviyo_assets.model.tiers import Budget, S
from klaviyo_assets.sync.reports.metrics import TABLE, Metric
from klaviyo_assets.tables.body import mended, opened
from klaviyo_assets.tables.envelope import refuse_no_answer

REVENUE = "revenue"
"""The id of the mapping that names the account's revenue metric."""

A_DAY = timedelta(days=1)

MAPPED, CUSTOM = "/api/mapped-metrics", "/api/custom-metrics"

_Shape = TypeVar("_Shape", bound=msgspec.Struct)


class _Identifier(msgspec.Struct):
    id: str


class _Related(msgspec.Struct):
    data: _Identifier | None = None


class _Relationships(msgspec.Struct, rename="kebab"):
    metric: _Related | None = None
    custom_metric: _Related | None = None


class _Mapped(msgspec.Struct):
    id: str
    relationships: _Relationships = msgspec.field(default_factory=_Relationships)


class _Answer(msgspec.Struct):
    data: list[_Mapped]


class _CustomAttributes(msgspec.Struct):
    name: str | None = None


class _Custom(msgspec.Struct):
    id: str
    attributes: _CustomAttributes = msgspec.field(default_factory=_CustomAttributes)


class _CustomAnswer(msgspec.Struct):
    data: list[_Custom]


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
    return [Metric(id=each.id, name=each.attributes.name, is_of_shop=False) for each in found]


def _request(base_url: str, path: str, query: str = "") -> Request:
    return Request(
        method="GET",
        url=f"{base_url}{path}{query}",
        budgets=(Budget(f"GET {path}", S),),
        path=path,
    )


def _revenue_in(answer: Answer) -> str | None:
    for each in _decoded(answer, MAPPED, _Answer).data:
        if each.id != REVENUE:
            continue
        for related in (each.relationships.metric, each.relationships.custom_metric):
            if related is not None and related.data is not None:
                return related.data.id
    return None


def _customs_in(answer: Answer) -> list[_Custom]:
    return _decoded(answer, CUSTOM, _CustomAnswer).data


def _decoded(answer: Answer, path: str, shape: type[_Shape]) -> _Shape:
    try:
        text, _ = mended(opened(answer.body, TABLE))
        refuse_no_answer(text, stream=TABLE, is_paged=True)
        return msgspec.json.decode(text, type=shape)
    except msgspec.DecodeError:
        raise BrokenBodyError(f"the answer to GET {path} has not the documented shape") from None
