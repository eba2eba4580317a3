"""Finds out which scopes a key has: Klaviyo tells it only by refusing a request."""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial

from klaviyo_assets.api.client import KlaviyoClient
from klaviyo_assets.api.request_guard import Request, Response
from klaviyo_assets.api.requests import first_page_request, set_page_size
from klaviyo_assets.api.retry import RetryPolicy
from klaviyo_assets.errors import (
    BadKeyError,
    KlaviyoAssetsError,
    MissingScopeError,
    RefusedStreamError,
)
from klaviyo_assets.model.stream import Collection, Stream
from klaviyo_assets.model.window import Window

MAX_PROBES_AT_ONCE = 8
"""Each is of another bucket, so that none waits for another's rate limit."""

PROBE_RETRY_POLICY = RetryPolicy(max_tries=2, max_unsent_tries=2, max_rate_limit_wait_seconds=30)
"""Somebody waits for the answer, so one more try is enough."""


class ScopeState(Enum):
    """What a probe found out about a scope."""

    GRANTED = "yes"
    MISSING = "no"
    NOT_IN_PLAN = "not in the plan"
    """Klaviyo refuses the data itself, whatever the key's scopes."""
    UNKNOWN = "not known"
    """No answer came, or no request depends on this scope alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScopeProbe:
    """A scope, the stream that was requested, and the result; `detail`: why it is not known."""

    scope: str
    stream: str
    state: ScopeState
    detail: str = ""


def probe_scopes(client: KlaviyoClient, streams: Mapping[str, Stream]) -> list[ScopeProbe]:
    """Return what the key may read, a scope each, by a request of one record for each.

    `streams`: those that the revision offers, by name.

    Raises:
        BadKeyError: Klaviyo refuses the key.
    """
    scopes = sorted({scope for stream in streams.values() for scope in stream.scopes})
    with ThreadPoolExecutor(MAX_PROBES_AT_ONCE) as pool:
        return list(pool.map(partial(_probe_scope, client, tuple(streams.values())), scopes))


def _probe_scope(client: KlaviyoClient, streams: Iterable[Stream], scope: str) -> ScopeProbe:
    probed = find_probe_stream(streams, scope)
    if probed is None:
        return ScopeProbe(
            scope=scope,
            stream="",
            state=ScopeState.UNKNOWN,
            detail="no request of its own shows it",
        )
    state, detail = ScopeState.GRANTED, ""
    try:
        client.fetch(
            build_probe_request(probed),
            _discard_response,
            stream=probed.name,
            retry_policy=PROBE_RETRY_POLICY,
        )
    except BadKeyError:
        raise
    except MissingScopeError as refused:
        # A stream of two scopes may lack the other one.
        is_this = not refused.scopes or scope in refused.scopes
        state = ScopeState.MISSING if is_this else ScopeState.UNKNOWN
    except RefusedStreamError as refused:
        state, detail = ScopeState.NOT_IN_PLAN, refused.detail or ""
    except KlaviyoAssetsError as failure:
        state, detail = ScopeState.UNKNOWN, str(failure)
    return ScopeProbe(scope=scope, stream=probed.name, state=state, detail=detail)


def find_probe_stream(streams: Iterable[Stream], scope: str) -> Stream | None:
    """Return the collection that needs a scope and the fewest others; None without one."""
    found = [
        each for each in streams if scope in each.scopes and isinstance(each.source, Collection)
    ]
    return min(found, key=lambda each: len(each.scopes), default=None)


def build_probe_request(stream: Stream) -> Request:
    """Return the cheapest request for a collection: one record, and nothing beside it.

    Raises:
        TypeError: the stream is no collection.
    """
    source = stream.source
    if not isinstance(source, Collection):
        raise TypeError(f"{stream.name} is not read page by page")
    plain = replace(stream, source=replace(source, include=(), additional_fields=()))
    return set_page_size(first_page_request(plain, source.slices[0], Window()), 1)


def _discard_response(_response: Response) -> None:
    """Take a response that only had to come."""
