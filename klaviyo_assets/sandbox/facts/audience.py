"""Facts of the sections Profiles, Lists and Segments, with their members."""

from dataclasses import replace

from klaviyo_assets.sandbox.facts import field_names as names
from klaviyo_assets.sandbox.facts.operation import (
    AFTER,
    ANY,
    BOUNDS,
    EQ,
    FLAG,
    ONE,
    ONE_OF,
    STRICT,
    XS,
    Filter,
    L,
    M,
    Operation,
    PageSize,
)

_SUPPRESSION = "subscriptions.email.marketing.suppression"
_LIST_SUPPRESSIONS = "subscriptions.email.marketing.list_suppressions"
_PROFILE_EXTRAS = {"profile": ("subscriptions", "predictive_analytics")}
_PREDICTIVE = {"additional-fields[profile]=predictive_analytics": M}
_MEMBER_FILTERS = {
    "email": ONE_OF,
    "phone_number": ONE_OF,
    "push_token": ONE_OF,
    "_kx": ONE,
    "joined_group_at": BOUNDS,
}
_GROUP_FIELDS = {"flow": names.FLOW, "tag": names.TAG}
_PROFILE_FIELDS = {
    "conversation": names.CONVERSATION,
    "profile": names.PROFILE,
    "push-token": names.PUSH_TOKEN,
}


def group(
    kind: str, *, scope: str, filters: dict[str, Filter], fields: frozenset[str]
) -> tuple[Operation, ...]:
    """The four operations that lists and segments share: all, one, members, ids of members."""
    every = Operation(
        name=f"get_{kind}s",
        path=f"/api/{kind}s",
        role="collection",
        kind=kind,
        tier=L,
        scopes=(scope,),
        page=PageSize(10, 10),
        cursor=True,
        filters=filters,
        sorts=("created", "id", "name", "updated"),
        includes=("flow-triggers", "tags"),
        fields={**_GROUP_FIELDS, kind: fields},
    )
    one = Operation(
        name=f"get_{kind}",
        path=f"/api/{kind}s/{{id}}",
        role="detail",
        kind=kind,
        tier=L,
        scopes=(scope,),
        includes=("flow-triggers", "tags"),
        additional={kind: ("profile_count",)},
        reduced={f"additional-fields[{kind}]=profile_count": XS},
        fields={**_GROUP_FIELDS, kind: fields | {"profile_count"}},
    )
    return every, one, *members_of(kind, scope)


def members_of(kind: str, scope: str) -> tuple[Operation, Operation]:
    """The two forms of a group's members: whole profiles, and ids only."""
    by_id = {"profile_id": ONE_OF} if kind == "segment" else {}
    ids = Operation(
        name=f"get_profile_ids_for_{kind}",
        path=f"/api/{kind}s/{{id}}/relationships/profiles",
        role="member_ids",
        kind="profile",
        tier=L,
        scopes=(scope, "profiles:read"),
        page=PageSize(20, 100),
        cursor=True,
        filters={**_MEMBER_FILTERS, **by_id},
        sorts=("joined_group_at",),
        default_sort="-joined_group_at",
    )
    whole = replace(
        ids,
        name=f"get_profiles_for_{kind}",
        path=f"/api/{kind}s/{{id}}/profiles",
        role="members",
        additional=_PROFILE_EXTRAS,
        # Segments carry no lower limit for this parameter in the reference.
        reduced=_PREDICTIVE if kind == "list" else {},
        fields={"profile": names.PROFILE_OF_GROUP},
    )
    return whole, ids


AUDIENCE: tuple[Operation, ...] = (
    Operation(
        name="get_profiles",
        path="/api/profiles",
        role="collection",
        kind="profile",
        tier=L,
        scopes=("profiles:read",),
        page=PageSize(20, 100),
        cursor=True,
        filters={
            "id": ONE_OF,
            "email": ONE_OF,
            "phone_number": ONE_OF,
            "external_id": ONE_OF,
            "_kx": ONE,
            "created": STRICT,
            "updated": STRICT,
            f"{_LIST_SUPPRESSIONS}.reason": ONE,
            f"{_LIST_SUPPRESSIONS}.timestamp": BOUNDS,
            f"{_LIST_SUPPRESSIONS}.list_id": ONE,
            f"{_SUPPRESSION}.reason": ONE,
            f"{_SUPPRESSION}.timestamp": BOUNDS,
        },
        sorts=(
            "created",
            "email",
            "id",
            f"{_LIST_SUPPRESSIONS}.timestamp",
            f"{_SUPPRESSION}.timestamp",
            "updated",
        ),
        includes=("conversations", "push-tokens"),
        additional=_PROFILE_EXTRAS,
        reduced=_PREDICTIVE,
        fields=_PROFILE_FIELDS,
    ),
    Operation(
        name="get_profile",
        path="/api/profiles/{id}",
        role="detail",
        kind="profile",
        tier=L,
        scopes=("profiles:read",),
        includes=("conversations", "lists", "push-tokens", "segments"),
        additional=_PROFILE_EXTRAS,
        reduced={"include=lists": XS, "include=segments": XS},
        fields={**_PROFILE_FIELDS, "list": names.LIST, "segment": names.SEGMENT},
    ),
    *group(
        "list",
        scope="lists:read",
        filters={"name": ONE_OF, "id": ONE_OF, "created": AFTER, "updated": AFTER},
        fields=names.LIST,
    ),
    *group(
        "segment",
        scope="segments:read",
        filters={
            "name": ONE_OF,
            "id": ONE_OF,
            "created": AFTER,
            "updated": AFTER,
            "is_active": Filter((ANY, EQ), "boolean"),
            "is_starred": FLAG,
        },
        fields=names.SEGMENT,
    ),
)
