"""The published facts of every operation that the sandbox serves."""

from dataclasses import replace

from klaviyo_assets.sandbox.facts import schema as names
from klaviyo_assets.sandbox.facts.reporting import REPORTING_OPERATIONS
from klaviyo_assets.sandbox.facts.schema import (
    ANY,
    BOOLEAN_EQUALS,
    CONTAINS,
    EQ,
    PUBLISHED_L,
    PUBLISHED_M,
    PUBLISHED_S,
    PUBLISHED_XL,
    PUBLISHED_XS,
    RELATION_PRESENT,
    TEXT_ANY,
    TEXT_EQUALS,
    TEXT_EQUALS_OR_ANY,
    TEXT_SEARCH,
    TIME_AFTER,
    TIME_BOUNDS,
    TIME_BOUNDS_OR_EQUAL,
    TIME_STRICT_BOUNDS,
    FilterableField,
    Operation,
    PageSizeLimits,
)

_EVENT_INCLUDES = ("attributions", "metric", "profile")
_EVENT_FIELDSETS = {
    "attribution": names.ATTRIBUTION_FIELDS,
    "event": names.EVENT_FIELDS,
    "metric": names.METRIC_FIELDS,
    "profile": names.EVENT_PROFILE_FIELDS,
}
_CUSTOM_METRIC_FIELDSETS = {
    "custom-metric": names.CUSTOM_METRIC_FIELDS,
    "metric": names.METRIC_FIELDS,
}

EVENT_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="get_accounts",
        path="/api/accounts",
        role="collection",
        kind="account",
        tier=PUBLISHED_XS,
        scopes=("accounts:read",),
        fieldsets={"account": names.ACCOUNT_FIELDS},
    ),
    Operation(
        name="get_account",
        path="/api/accounts/{id}",
        role="detail",
        kind="account",
        tier=PUBLISHED_XS,
        scopes=("accounts:read",),
        fieldsets={"account": names.ACCOUNT_FIELDS},
    ),
    Operation(
        name="get_events",
        path="/api/events",
        role="collection",
        kind="event",
        tier=PUBLISHED_XL,
        scopes=("events:read",),
        page_size=PageSizeLimits(200, 1000),
        has_cursor=True,
        filters={
            "metric_id": TEXT_EQUALS,
            "profile_id": TEXT_EQUALS,
            "profile": RELATION_PRESENT,
            "metric": RELATION_PRESENT,
            "datetime": TIME_BOUNDS,
            # Seconds since 1970 as a bare number, as events carry them.
            "timestamp": TIME_BOUNDS,
        },
        sorts=("datetime", "timestamp"),
        default_sort="-datetime",
        includes=_EVENT_INCLUDES,
        fieldsets=_EVENT_FIELDSETS,
    ),
    Operation(
        name="get_event",
        path="/api/events/{id}",
        role="detail",
        kind="event",
        tier=PUBLISHED_M,
        scopes=("events:read",),
        includes=_EVENT_INCLUDES,
        fieldsets=_EVENT_FIELDSETS,
    ),
    Operation(
        name="get_metrics",
        path="/api/metrics",
        role="collection",
        kind="metric",
        tier=PUBLISHED_M,
        scopes=("metrics:read",),
        has_cursor=True,
        fixed_page_size=200,
        filters={"integration.name": TEXT_EQUALS, "integration.category": TEXT_EQUALS},
        includes=("flow-triggers",),
        fieldsets={"flow": names.FLOW_FIELDS, "metric": names.METRIC_FIELDS},
    ),
    Operation(
        name="get_metric",
        path="/api/metrics/{id}",
        role="detail",
        kind="metric",
        tier=PUBLISHED_M,
        scopes=("metrics:read",),
        includes=("flow-triggers",),
        fieldsets={"flow": names.FLOW_FIELDS, "metric": names.METRIC_FIELDS},
    ),
    Operation(
        name="get_custom_metrics",
        path="/api/custom-metrics",
        role="collection",
        kind="custom-metric",
        tier=PUBLISHED_S,
        scopes=("metrics:read",),
        includes=("metrics",),
        fieldsets=_CUSTOM_METRIC_FIELDSETS,
    ),
    Operation(
        name="get_custom_metric",
        path="/api/custom-metrics/{id}",
        role="detail",
        kind="custom-metric",
        tier=PUBLISHED_S,
        scopes=("metrics:read",),
        includes=("metrics",),
        fieldsets=_CUSTOM_METRIC_FIELDSETS,
    ),
    Operation(
        name="get_mapped_metrics",
        path="/api/mapped-metrics",
        role="collection",
        kind="mapped-metric",
        tier=PUBLISHED_S,
        scopes=("metrics:read",),
        includes=("custom-metric", "metric"),
        fieldsets={**_CUSTOM_METRIC_FIELDSETS, "mapped-metric": names.MAPPED_METRIC_FIELDS},
    ),
    Operation(
        name="get_mapped_metric",
        path="/api/mapped-metrics/{id}",
        role="detail",
        kind="mapped-metric",
        tier=PUBLISHED_S,
        scopes=("metrics:read",),
        includes=("custom-metric", "metric"),
        fieldsets={**_CUSTOM_METRIC_FIELDSETS, "mapped-metric": names.MAPPED_METRIC_FIELDS},
    ),
)


_SUPPRESSION_PATH = "subscriptions.email.marketing.suppression"
_LIST_SUPPRESSIONS_PATH = "subscriptions.email.marketing.list_suppressions"
_PROFILE_ADDITIONAL_FIELDS = {"profile": ("subscriptions", "predictive_analytics")}
_PREDICTIVE_TIERS = {"additional-fields[profile]=predictive_analytics": PUBLISHED_M}
_MEMBER_FILTERS = {
    "email": TEXT_EQUALS_OR_ANY,
    "phone_number": TEXT_EQUALS_OR_ANY,
    "push_token": TEXT_EQUALS_OR_ANY,
    "_kx": TEXT_EQUALS,
    "joined_group_at": TIME_BOUNDS,
}
_GROUP_FIELDSETS = {"flow": names.FLOW_FIELDS, "tag": names.TAG_FIELDS}
_PROFILE_FIELDSETS = {
    "conversation": names.CONVERSATION_FIELDS,
    "profile": names.PROFILE_FIELDS,
    "push-token": names.PUSH_TOKEN_FIELDS,
}


def group_operations(
    kind: str, *, scope: str, filters: dict[str, FilterableField], fields: frozenset[str]
) -> tuple[Operation, ...]:
    """The four operations that lists and segments share: all, one, members, ids of members."""
    every = Operation(
        name=f"get_{kind}s",
        path=f"/api/{kind}s",
        role="collection",
        kind=kind,
        tier=PUBLISHED_L,
        scopes=(scope,),
        page_size=PageSizeLimits(10, 10),
        has_cursor=True,
        filters=filters,
        sorts=("created", "id", "name", "updated"),
        includes=("flow-triggers", "tags"),
        fieldsets={**_GROUP_FIELDSETS, kind: fields},
    )
    one = Operation(
        name=f"get_{kind}",
        path=f"/api/{kind}s/{{id}}",
        role="detail",
        kind=kind,
        tier=PUBLISHED_L,
        scopes=(scope,),
        includes=("flow-triggers", "tags"),
        additional_fields={kind: ("profile_count",)},
        reduced_tiers={f"additional-fields[{kind}]=profile_count": PUBLISHED_XS},
        fieldsets={**_GROUP_FIELDSETS, kind: fields | {"profile_count"}},
    )
    return every, one, *member_operations(kind, scope)


def member_operations(kind: str, scope: str) -> tuple[Operation, Operation]:
    """The two forms of a group's members: whole profiles, and ids only."""
    by_id = {"profile_id": TEXT_EQUALS_OR_ANY} if kind == "segment" else {}
    ids = Operation(
        name=f"get_profile_ids_for_{kind}",
        path=f"/api/{kind}s/{{id}}/relationships/profiles",
        role="member_ids",
        kind="profile",
        tier=PUBLISHED_L,
        scopes=(scope, "profiles:read"),
        page_size=PageSizeLimits(20, 100),
        has_cursor=True,
        filters={**_MEMBER_FILTERS, **by_id},
        sorts=("joined_group_at",),
        default_sort="-joined_group_at",
    )
    whole = replace(
        ids,
        name=f"get_profiles_for_{kind}",
        path=f"/api/{kind}s/{{id}}/profiles",
        role="members",
        additional_fields=_PROFILE_ADDITIONAL_FIELDS,
        # Segments carry no lower limit for this parameter in the reference.
        reduced_tiers=_PREDICTIVE_TIERS if kind == "list" else {},
        fieldsets={"profile": names.GROUP_PROFILE_FIELDS},
    )
    return whole, ids


AUDIENCE_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="get_profiles",
        path="/api/profiles",
        role="collection",
        kind="profile",
        tier=PUBLISHED_L,
        scopes=("profiles:read",),
        page_size=PageSizeLimits(20, 100),
        has_cursor=True,
        filters={
            "id": TEXT_EQUALS_OR_ANY,
            "email": TEXT_EQUALS_OR_ANY,
            "phone_number": TEXT_EQUALS_OR_ANY,
            "external_id": TEXT_EQUALS_OR_ANY,
            "_kx": TEXT_EQUALS,
            "created": TIME_STRICT_BOUNDS,
            "updated": TIME_STRICT_BOUNDS,
            f"{_LIST_SUPPRESSIONS_PATH}.reason": TEXT_EQUALS,
            f"{_LIST_SUPPRESSIONS_PATH}.timestamp": TIME_BOUNDS,
            f"{_LIST_SUPPRESSIONS_PATH}.list_id": TEXT_EQUALS,
            f"{_SUPPRESSION_PATH}.reason": TEXT_EQUALS,
            f"{_SUPPRESSION_PATH}.timestamp": TIME_BOUNDS,
        },
        sorts=(
            "created",
            "email",
            "id",
            f"{_LIST_SUPPRESSIONS_PATH}.timestamp",
            f"{_SUPPRESSION_PATH}.timestamp",
            "updated",
        ),
        includes=("conversations", "push-tokens"),
        additional_fields=_PROFILE_ADDITIONAL_FIELDS,
        reduced_tiers=_PREDICTIVE_TIERS,
        fieldsets=_PROFILE_FIELDSETS,
    ),
    Operation(
        name="get_profile",
        path="/api/profiles/{id}",
        role="detail",
        kind="profile",
        tier=PUBLISHED_L,
        scopes=("profiles:read",),
        includes=("conversations", "lists", "push-tokens", "segments"),
        additional_fields=_PROFILE_ADDITIONAL_FIELDS,
        reduced_tiers={"include=lists": PUBLISHED_XS, "include=segments": PUBLISHED_XS},
        fieldsets={
            **_PROFILE_FIELDSETS,
            "list": names.LIST_FIELDS,
            "segment": names.SEGMENT_FIELDS,
        },
    ),
    *group_operations(
        "list",
        scope="lists:read",
        filters={
            "name": TEXT_EQUALS_OR_ANY,
            "id": TEXT_EQUALS_OR_ANY,
            "created": TIME_AFTER,
            "updated": TIME_AFTER,
        },
        fields=names.LIST_FIELDS,
    ),
    *group_operations(
        "segment",
        scope="segments:read",
        filters={
            "name": TEXT_EQUALS_OR_ANY,
            "id": TEXT_EQUALS_OR_ANY,
            "created": TIME_AFTER,
            "updated": TIME_AFTER,
            "is_active": FilterableField((ANY, EQ), "boolean"),
            "is_starred": BOOLEAN_EQUALS,
        },
        fields=names.SEGMENT_FIELDS,
    ),
)


PUBLISHED_CAMPAIGN_STATUSES = (
    "Adding Recipients",
    "Cancelled",
    "Cancelled: Account Disabled",
    "Cancelled: Billing Limit",
    "Cancelled: Internal Error",
    "Cancelled: Misconfigured",
    "Cancelled: No Recipients",
    "Cancelled: Smart Sending",
    "Draft",
    "Preparing to schedule",
    "Preparing to send",
    "Queued without Recipients",
    "Scheduled",
    "Sending",
    "Sending Segments",
    "Sent",
    "Unknown",
    "Variations Sent",
)
TRIGGER_TYPES = (
    "Added to List",
    "Date Based",
    "Low Inventory",
    "Metric",
    "Price Drop",
    "Unconfigured",
)
_CAMPAIGN_FIELDSETS = {
    "campaign": names.CAMPAIGN_FIELDS,
    "campaign-message": names.CAMPAIGN_MESSAGE_FIELDS,
    "tag": names.TAG_FIELDS,
}
_MESSAGE_FIELDSETS = {
    "campaign": names.CAMPAIGN_FIELDS,
    "campaign-message": names.CAMPAIGN_MESSAGE_FIELDS,
    "image": names.IMAGE_FIELDS,
    "template": names.MESSAGE_TEMPLATE_FIELDS,
}
_FLOW_FIELDSETS = {"flow-action": names.FLOW_ACTION_FIELDS, "tag": names.TAG_FIELDS}

_CAMPAIGN_OPERATIONS = (
    Operation(
        name="get_campaigns",
        path="/api/campaigns",
        role="collection",
        kind="campaign",
        tier=PUBLISHED_M,
        scopes=("campaigns:read",),
        page_size=PageSizeLimits(100, 100),
        has_cursor=True,
        filters={
            "id": TEXT_ANY,
            "messages.channel": FilterableField((EQ,), values=("email", "sms", "mobile_push")),
            "name": FilterableField((CONTAINS,)),
            "status": FilterableField((ANY, EQ), values=PUBLISHED_CAMPAIGN_STATUSES),
            "archived": BOOLEAN_EQUALS,
            "created_at": TIME_BOUNDS,
            "scheduled_at": TIME_BOUNDS,
            "updated_at": TIME_BOUNDS,
        },
        required_filter="messages.channel",
        past_bounds_only=True,
        sorts=("created_at", "id", "name", "scheduled_at", "updated_at"),
        default_sort="-created_at",
        includes=("campaign-messages", "tags"),
        fieldsets=_CAMPAIGN_FIELDSETS,
    ),
    Operation(
        name="get_campaign",
        path="/api/campaigns/{id}",
        role="detail",
        kind="campaign",
        tier=PUBLISHED_M,
        scopes=("campaigns:read",),
        includes=("campaign-messages", "tags"),
        fieldsets=_CAMPAIGN_FIELDSETS,
    ),
    Operation(
        name="get_messages_for_campaign",
        path="/api/campaigns/{id}/campaign-messages",
        role="children",
        kind="campaign-message",
        tier=PUBLISHED_M,
        scopes=("campaigns:read",),
        includes=("campaign", "image", "template"),
        fieldsets=_MESSAGE_FIELDSETS,
    ),
    Operation(
        name="get_campaign_message",
        path="/api/campaign-messages/{id}",
        role="detail",
        kind="campaign-message",
        tier=PUBLISHED_M,
        scopes=("campaigns:read",),
        includes=("campaign", "image", "template"),
        fieldsets=_MESSAGE_FIELDSETS,
    ),
    Operation(
        name="get_tag_ids_for_campaign",
        path="/api/campaigns/{id}/relationships/tags",
        role="linkage",
        kind="tag",
        tier=PUBLISHED_S,
        scopes=("campaigns:read", "tags:read"),
    ),
    Operation(
        name="get_campaign_recipient_estimation",
        path="/api/campaign-recipient-estimations/{id}",
        role="detail",
        kind="campaign-recipient-estimation",
        tier=PUBLISHED_M,
        scopes=("campaigns:read",),
        fieldsets={"campaign-recipient-estimation": names.ESTIMATION_FIELDS},
    ),
)

_FLOW_OPERATIONS = (
    Operation(
        name="get_flows",
        path="/api/flows",
        role="collection",
        kind="flow",
        tier=PUBLISHED_S,
        scopes=("flows:read",),
        page_size=PageSizeLimits(50, 50),
        has_cursor=True,
        filters={
            "id": TEXT_ANY,
            "name": TEXT_SEARCH,
            "status": TEXT_EQUALS,
            "archived": BOOLEAN_EQUALS,
            "created": TIME_BOUNDS_OR_EQUAL,
            "updated": TIME_BOUNDS_OR_EQUAL,
            "trigger_type": FilterableField((EQ,), values=TRIGGER_TYPES),
        },
        past_bounds_only=True,
        sort_matches_filter=True,
        sorts=("created", "id", "name", "status", "trigger_type", "updated"),
        includes=("flow-actions", "tags"),
        fieldsets={**_FLOW_FIELDSETS, "flow": names.FLOW_FIELDS},
    ),
    Operation(
        name="get_flow",
        path="/api/flows/{id}",
        role="detail",
        kind="flow",
        tier=PUBLISHED_S,
        scopes=("flows:read",),
        includes=("flow-actions", "tags"),
        additional_fields={"flow": ("definition",)},
        fieldsets={**_FLOW_FIELDSETS, "flow": names.FLOW_DETAIL_FIELDS},
    ),
)

CONTENT_OPERATIONS: tuple[Operation, ...] = (
    *_CAMPAIGN_OPERATIONS,
    *_FLOW_OPERATIONS,
    Operation(
        name="get_templates",
        path="/api/templates",
        role="collection",
        kind="template",
        tier=PUBLISHED_L,
        scopes=("templates:read",),
        page_size=PageSizeLimits(10, 10),
        has_cursor=True,
        filters={
            "id": TEXT_EQUALS_OR_ANY,
            "name": FilterableField((ANY, CONTAINS, EQ)),
            "created": TIME_BOUNDS_OR_EQUAL,
            "updated": TIME_BOUNDS_OR_EQUAL,
        },
        sorts=("created", "id", "name", "updated"),
        additional_fields={"template": ("definition",)},
        fieldsets={"template": names.TEMPLATE_FIELDS},
    ),
    Operation(
        name="get_template",
        path="/api/templates/{id}",
        role="detail",
        kind="template",
        tier=PUBLISHED_L,
        scopes=("templates:read",),
        additional_fields={"template": ("definition",)},
        fieldsets={"template": names.TEMPLATE_FIELDS},
    ),
    Operation(
        name="get_tags",
        path="/api/tags",
        role="collection",
        kind="tag",
        tier=PUBLISHED_S,
        scopes=("tags:read",),
        page_size=PageSizeLimits(50, 50),
        has_cursor=True,
        filters={"name": TEXT_SEARCH},
        sorts=("id", "name"),
        includes=("tag-group",),
        fieldsets={"tag": names.TAG_FIELDS, "tag-group": names.TAG_GROUP_FIELDS},
    ),
    Operation(
        name="get_tag",
        path="/api/tags/{id}",
        role="detail",
        kind="tag",
        tier=PUBLISHED_S,
        scopes=("tags:read",),
        includes=("tag-group",),
        fieldsets={"tag": names.TAG_FIELDS, "tag-group": names.TAG_GROUP_FIELDS},
    ),
)


OPERATIONS: tuple[Operation, ...] = (
    *EVENT_OPERATIONS,
    *AUDIENCE_OPERATIONS,
    *CONTENT_OPERATIONS,
    *REPORTING_OPERATIONS,
)
