"""A sandbox as these tests see it: its true records, its requests, its changes."""

import json
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, cast
from unittest.mock import patch
from zoneinfo import ZoneInfo

from klaviyo_assets.model.stream import Collection
from klaviyo_assets.sandbox import AccountConfig, Sandbox, serve
from klaviyo_assets.sandbox.account.events import EventSelection
from klaviyo_assets.sandbox.account.profiles import ProfileCollection
from klaviyo_assets.sandbox.account.records import RecordCollection
from klaviyo_assets.sandbox.admin import list_true_records
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams import DEFAULT_COLLECTIONS

NOON = datetime(2026, 9, 30, 12, tzinfo=UTC)
"""When an account's clock starts: some weeks before these tests run, so that it can be advanced."""

UNLIMITED_SCALE = 1_000_000.0
"""Scales the rate limits out of the way."""

COLLECTION_BY_STREAM = {
    stream.name: stream.source.path.removeprefix("/api/")
    for stream in DEFAULT_COLLECTIONS
    if isinstance(stream.source, Collection)
}
"""The sandbox's own word for a stream's records. `global_exclusions` are some of the profiles."""


ALL_EVENTS = EventSelection(start=-(1 << 40), end=1 << 40)
"""Of any time, as seconds since 1970."""

PARTS_OF_CAMPAIGNS = ("campaign_audiences", "campaign_variations")
"""Streams whose records no list has: they come with others."""


class HeldResponses(Event):
    """Stands in for the event at which a sandbox ends its pauses early because it closes."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the responses may be sent; return that the sandbox was not closed."""
        super().wait(timeout)
        return False


class SandboxAccount:
    """One sandbox in this process; everything asked of it here bypasses HTTP."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.url, self.key = sandbox.url, sandbox.key

    @property
    def now(self) -> datetime:
        """Return the account's time, UTC."""
        return datetime.fromtimestamp(self.sandbox.clock.now(), UTC)

    def advance_clock(self, **span: float) -> None:
        """Let time pass in the account: `days=3`."""
        self.sandbox.clock.advance(timedelta(**span).total_seconds())

    def true_ids(self, stream: str) -> set[str]:
        """Return the ids that a complete reader of the stream holds now."""
        if stream == "global_exclusions":
            return self._suppressed_ids()
        if stream in PARTS_OF_CAMPAIGNS:
            return self._part_ids(stream.removesuffix("s").replace("_", "-"))
        if stream == "events":
            return self._visible_event_ids()
        return set(self.true_cursors(stream))

    def _visible_event_ids(self) -> set[str]:
        # Without their times, which take twice as long to write as the ids.
        service = self.sandbox.service
        with service.lock:
            events = service.store.events
            visible = events.iterate(ALL_EVENTS, service.clock.now(), after=None, descending=False)
            return set(map(events.id_of, visible))

    def _part_ids(self, kind: str) -> set[str]:
        collection = self.sandbox.store.collections_of(DEFAULT_REVISION)[kind]
        return {collection.id_of(k) for k in collection.sorted_ordinals("id")}

    def true_cursors(self, stream: str) -> dict[str, datetime | None]:
        """Return the ids that a complete reader holds now, with their cursors where there are."""
        service = self.sandbox.service
        with service.lock:
            # People sign up as time goes by, but only when somebody looks.
            service.store.profiles.advance_to(int(service.clock.now()))
            found = list_true_records(
                service.store, COLLECTION_BY_STREAM[stream], now=service.clock.now(), parameters={}
            )
        records = cast("dict[str, list[tuple[str, str | None]]]", found)["records"]
        return {each: None if at is None else datetime.fromisoformat(at) for each, at in records}

    def _suppressed_ids(self) -> set[str]:
        collection = self.sandbox.store.profiles
        field = "subscriptions.email.marketing.suppression.timestamp"
        return {
            collection.id_of(k)
            for k in collection.sorted_ordinals("updated")
            if collection.field_values(k, field)
        }

    def attributes(self, kind: str) -> dict[str, dict[str, Any]]:
        """Return the attributes of all living records of a resource type, by id."""
        collection = self.sandbox.store.collections[kind]
        return {
            collection.id_of(k): dict(collection.attributes(k))
            for k in collection.sorted_ordinals("id")
        }

    def list_member_ids(self, list_id: str) -> set[str]:
        """Return the profiles on a list."""
        group = self.sandbox.store.group_members("list", list_id)
        return set() if group is None else {group.id_of(k) for k in group.member_ordinals()}

    def true_members(self, kind: str) -> dict[tuple[str, str], datetime]:
        """Return when each profile joined each list or segment (`kind`), by the ids of both."""
        store = self.sandbox.store
        collection = store.collections[kind]
        with self.sandbox.service.lock:
            ids = [collection.id_of(k) for k in collection.sorted_ordinals("id")]
            groups = [(each, store.group_members(kind, each)) for each in ids]
            return {
                (each, group.id_of(k)): datetime.fromtimestamp(group.joined_at(k), UTC)
                for each, group in groups
                if group is not None
                for k in group.member_ordinals()
            }

    def set_time_zone(self, zone: str) -> None:
        """Let the account have another time zone from now on, in what it says and in reports."""
        (account,) = self.true_ids("accounts")
        self.mutate(account=account, set={"timezone": zone})
        self.sandbox.service.report_endpoints.zone = ZoneInfo(zone)

    def set_recipient_estimate(self, campaign: str, recipients: int) -> None:
        """Let Klaviyo estimate another number of recipients; the campaign itself stays as it is."""
        self.mutate(
            **{"campaign-recipient-estimation": campaign},
            set={"estimated_recipient_count": recipients},
        )

    def mutate(self, **change: object) -> str:
        """Make one change, in the words of the sandbox's `/__mutate`; return the record's id."""
        service = self.sandbox.service
        with service.lock:
            changed = service.mutations.apply(cast("Any", change), service.clock.now())
        return str(cast("Mapping[str, object]", changed)["id"])

    def restore(self, kind: str, record_id: str) -> None:
        """Bring a deleted record back as it was."""
        account = self.sandbox.store
        collection = account.profiles if kind == "profile" else account.collections[kind]
        ordinal = collection.ordinal_of(record_id)
        assert ordinal is not None
        with self.sandbox.service.lock:
            if isinstance(collection, ProfileCollection):
                collection.alive_flags[ordinal] = 1
                collection.invalidate_orders()
            elif isinstance(collection, RecordCollection):
                collection.records[ordinal].is_alive = True
                collection.invalidate_orders()

    def add_events(self, *events: Mapping[str, object]) -> set[str]:
        """Add events, in the words of the sandbox's `/__events`; return their ids."""
        service = self.sandbox.service
        with service.lock:
            written = service.mutations.write_events(cast("Any", list(events)), service.clock.now())
        return set(cast("Mapping[str, list[str]]", written)["ids"])

    @contextmanager
    def inject_fault(
        self, kind: str, *, match: Mapping[str, object], **options: object
    ) -> Generator[None]:
        """Have one fault for the length of the block."""
        script = self.sandbox.faults
        script.add(cast("Any", [{"match": match, "fault": {"kind": kind, **options}}]))
        try:
            yield
        finally:
            script.clear()

    @contextmanager
    def hold_response(self, match: Mapping[str, object]) -> Generator[Callable[[], None]]:
        """Make the responses to some requests as these arrive, and send them once that is called.

        At the latest they are sent when the block ends.
        """
        server, gate = self.sandbox.server, HeldResponses()
        with (
            patch.object(server, "closing", gate),
            self.inject_fault("latency", match=match, seconds=3600),
        ):
            try:
                yield gate.set
            finally:
                gate.set()

    def clear_journal(self) -> None:
        """Empty the journal."""
        self.sandbox.journal.clear()

    def request_counts(self) -> Counter[str]:
        """Return how many requests each path has had since `clear_journal`."""
        return Counter(entry.path for entry in self.sandbox.journal.requests())

    def queries(self, path: str) -> list[str]:
        """Return the queries that came for a path since `clear_journal`, still encoded."""
        return [each.query for each in self.sandbox.journal.requests() if each.path == path]

    def request_bodies(self, path: str) -> list[Any]:
        """Return the JSON objects that came for a path since `clear_journal`, in order."""
        entries = self.sandbox.journal.requests()
        return [json.loads(each.body) for each in entries if each.path == path]

    def shown_record_counts(self, path: str) -> Counter[str]:
        """Return how often each record of a path was shown intact since `clear_journal`, by id."""
        kind, counts = self.sandbox.journal.count_shown(path)
        if kind is None:
            return Counter()
        name = self.sandbox.server.admin.id_lookup(kind)
        return Counter({name(ordinal): times for ordinal, times in counts.items()})


@contextmanager
def open_sandbox_account(**numbers: object) -> Generator[SandboxAccount]:
    """Serve a small account with a frozen clock and no rate limits; `numbers` change it."""
    sizes: dict[str, object] = {
        "events": 900,
        "profiles": 90,
        "lists": 5,
        "segments": 3,
        "campaigns": 24,
        "templates": 6,
        "flows": 6,
        # Few days, because events lie in a file a day.
        "days": 8,
        "now": NOON,
        "frozen": True,
        "rate_limit_scale": UNLIMITED_SCALE,
    }
    with serve(AccountConfig(**{**sizes, **numbers})) as sandbox:  # pyright: ignore[reportArgumentType]
        yield SandboxAccount(sandbox)
