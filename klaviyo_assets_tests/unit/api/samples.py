"""Streams, requests and responses of our own, small enough to check by eye."""

from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import parse_qsl, urlsplit

from klaviyo_assets.api.messages import Request, Response
from klaviyo_assets.model.column import Column
from klaviyo_assets.model.stream import (
    TIER_L,
    TIER_M,
    TIER_XL,
    TIER_XS,
    AdditionalField,
    Collection,
    Cursor,
    Detail,
    RateLimitBucket,
    Slice,
    Stream,
)

BASE = "https://a.klaviyo.com"
KEY = "pk_0123456789abcdef0123456789abcdef01"

EVENTS = Stream(
    name="events",
    description="One row per event.",
    section="Events",
    source=Collection(path="/api/events", page_size=1000, include=("metric", "attributions")),
    cursor=Cursor(column="datetime", field="datetime"),
    tier=TIER_XL,
    scopes=("events:read",),
    columns=(Column("datetime", "When.", "timestamp"),),
)
PROFILES = Stream(
    name="profiles",
    description="One row per profile.",
    section="Profiles",
    source=Collection(
        path="/api/profiles",
        page_size=100,
        additional_fields=(
            AdditionalField(resource="profile", name="subscriptions"),
            AdditionalField(
                resource="profile", name="predictive_analytics", tier=TIER_M, is_optional=True
            ),
        ),
    ),
    cursor=Cursor(column="updated", field="updated", is_inclusive=False),
    tier=TIER_L,
    scopes=("profiles:read",),
    columns=(Column("updated", "When.", "timestamp"),),
)
METRICS = Stream(
    name="metrics",
    description="One row per metric.",
    section="Metrics",
    source=Collection(path="/api/metrics", page_size=None),
    tier=TIER_M,
    scopes=("metrics:read",),
    columns=(Column("name", "Name."),),
)
LISTS_DETAILED = Stream(
    name="lists_detailed",
    description="One row per list.",
    section="Lists",
    source=Detail(
        parent="lists",
        path="/api/lists/{id}",
        additional_fields=(AdditionalField(resource="list", name="profile_count", tier=TIER_XS),),
    ),
    tier=TIER_L,
    scopes=("lists:read",),
    columns=(Column("profile_count", "Members.", "integer"),),
)
EMAIL = Slice(name="email", filter='equals(messages.channel,"email"),equals(archived,false)')


def build_request(path: str = "/api/events", query: str = "") -> Request:
    """Return a GET that spends the budget of its path."""
    target = f"{path}?{query}" if query else path
    return Request("GET", target, (RateLimitBucket(f"GET {path}", TIER_XL),), path)


def build_response(
    status: int, body: bytes | str = b"", headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer with a body of text or bytes."""
    return Response(
        status, headers or {}, body.encode() if isinstance(body, str) else body, datetime.now(UTC)
    )


def query_parameters(request: Request) -> dict[str, str]:
    """Return the query of a request as a server reads it."""
    query = urlsplit(request.target).query
    return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=True))
