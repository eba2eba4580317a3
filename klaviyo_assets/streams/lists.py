"""Lists: profiles that signed up together. Klaviyo API reference, section "Lists"."""

from klaviyo_assets.model.column import Column, RecordId, RelatedIds
from klaviyo_assets.model.stream import (
    PARENT_ID,
    TIER_L,
    TIER_XS,
    AdditionalField,
    Children,
    Collection,
    Cursor,
    Detail,
    Stream,
)

LISTS = Stream(
    name="lists",
    description="One row per list.",
    section="Lists",
    # Klaviyo sends the ids of a to-many relationship only with `include`; it costs no request.
    source=Collection(path="/api/lists", page_size=10, include=("flow-triggers", "tags")),
    tier=TIER_L,
    scopes=("lists:read",),
    is_exempt_from_start_date=True,
    has_soft_deletes=True,
    columns=(
        Column("name", "The list's name."),
        Column("created", "When it was created.", "timestamp"),
        Column("updated", "When the list itself last changed; not its members.", "timestamp"),
        Column("opt_in_process", "How people join it: single_opt_in or double_opt_in."),
        Column("tag_ids", "The tags it carries.", "ids", declared_source=RelatedIds("tags")),
        Column(
            "flow_trigger_ids",
            "The flows that joining it sets off.",
            "ids",
            declared_source=RelatedIds("flow-triggers"),
        ),
    ),
)


def detailed_stream(parent: str, description: str, count: str, *, is_opt_in: bool) -> Stream:
    """Return the stream of how many profiles each record of the stream `parent` has.

    `count` describes the column `profile_count`.
    """
    group = AdditionalField(resource=parent.removesuffix("s"), name="profile_count", tier=TIER_XS)
    return Stream(
        name=f"{parent}_detailed",
        description=description,
        section=parent.capitalize(),
        # 15 requests a minute: 500 lists take 34 minutes.
        source=Detail(parent=parent, path=f"/api/{parent}/{{id}}", additional_fields=(group,)),
        tier=TIER_L,
        scopes=(f"{parent}:read",),
        is_opt_in=is_opt_in,
        history_columns=("profile_count",),
        columns=(Column("profile_count", count, "integer"),),
    )


LISTS_DETAILED = detailed_stream(
    "lists",
    "One row per list: all of lists, and how many profiles are on it.",
    "Profiles on the list when it was read.",
    is_opt_in=False,
)


def member_stream(parent: str, description: str, joined: str) -> Stream:
    """Return the stream of profiles in each record of the stream `parent`.

    `joined` describes the column `joined_group_at`.
    """
    group = parent.removesuffix("s")
    return Stream(
        name=f"{group}_members",
        description=description,
        section=parent.capitalize(),
        source=Children(
            parent=parent,
            path=f"/api/{parent}/{{id}}/profiles",
            page_size=100,
            # All else that comes with a member is the profile's own.
            fields=("joined_group_at",),
            has_parent_filter=True,
        ),
        tier=TIER_L,
        scopes=tuple(sorted(("profiles:read", f"{parent}:read"))),
        key=(f"{group}_id", "profile_id", "joined_group_at"),
        # Leaving changes nothing that Klaviyo can filter by: only a full read can tell.
        cursor=Cursor(column="joined_group_at", field="joined_group_at", is_version=False),
        is_exempt_from_start_date=True,
        has_soft_deletes=True,
        deletion_column=Column(
            "left_at", "When a full read first missed the member; NULL until then.", "timestamp"
        ),
        is_opt_in=True,
        columns=(
            Column(f"{group}_id", f"The {group}.", declared_source=PARENT_ID),
            Column("profile_id", "The member.", declared_source=RecordId()),
            Column("joined_group_at", joined, "timestamp"),
        ),
    )


LIST_MEMBERS = member_stream(
    "lists",
    "One row per profile on a list and time that it joined: a re-join is a new row.",
    "When the profile joined the list.",
)
