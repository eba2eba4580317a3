"""Profiles: the people. Klaviyo API reference, section "Profiles"."""

from collections.abc import Mapping
from datetime import UTC, datetime

from klaviyo_assets.model.column import (
    Column,
    ColumnType,
    FieldPath,
    LatestOf,
    RelatedId,
    attribute_column,
)
from klaviyo_assets.model.stream import (
    TIER_L,
    TIER_M,
    AdditionalField,
    Collection,
    Cursor,
    ProfileMergeRule,
    Stream,
)

SUPPRESSION_PATH = "subscriptions.email.marketing.suppression"

PERSON_COLUMNS = (
    Column("email", "Email address.", personal_kind="email"),
    Column("phone_number", "Phone number in E.164 form.", personal_kind="phone_number"),
    Column("external_id", "The id that another system knows the person by.", is_personal=True),
    Column("first_name", "First name.", is_personal=True),
    Column("last_name", "Last name.", is_personal=True),
    Column("organization", "The company the person works for.", is_personal=True),
    Column("locale", "Language tag (BCP 47), such as en-US."),
    Column("title", "Job title.", is_personal=True),
    Column("image", "Address of a picture.", is_personal=True),
    Column("created", "When the profile was created.", "timestamp"),
    Column("updated", "When the profile last changed.", "timestamp"),
    Column("last_event_date", "When the latest event that changed it happened.", "timestamp"),
    attribute_column("location.address1", "Street address, first line.", is_personal=True),
    attribute_column("location.address2", "Street address, second line.", is_personal=True),
    attribute_column("location.city", "City.", is_personal=True),
    attribute_column("location.country", "Country."),
    # Published as number or text: old senders put both.
    attribute_column("location.latitude", "Latitude in degrees.", "number", is_personal=True),
    attribute_column("location.longitude", "Longitude in degrees.", "number", is_personal=True),
    attribute_column("location.region", "State or region within the country."),
    attribute_column("location.zip", "Postal code.", is_personal=True),
    attribute_column("location.timezone", "Time zone name, mostly IANA's."),
    attribute_column(
        "location.ip", "IP address that the person was last seen at.", is_personal=True
    ),
    Column("properties", "The account's own properties of the person.", "json", is_free_form=True),
)

CONSENT_FIELDS: Mapping[str, tuple[ColumnType, str]] = {
    "can_receive_email_marketing": ("boolean", "Whether {} may be sent: nothing suppresses it."),
    "can_receive_sms_marketing": ("boolean", "Whether {} may be sent."),
    "can_receive_sms_transactional": ("boolean", "Whether {} may be sent."),
    "can_receive_push_marketing": ("boolean", "Whether {} may be sent."),
    "can_receive": ("boolean", "Whether {} is allowed."),
    "consent": ("string", "State of the consent to {}."),
    "consent_timestamp": ("timestamp", "When the consent to {} was given or last changed."),
    "created_timestamp": ("timestamp", "When the consent to {} was first recorded."),
    "last_updated": ("timestamp", "When anything about the consent to {} last changed."),
    "valid_until": ("timestamp", "When the consent to {} runs out; mostly NULL."),
    "method": ("string", "How the consent to {} was got."),
    "method_detail": ("string", "More on how the consent to {} was got."),
    "custom_method_detail": ("string", "What the caller said on how consent to {} was got."),
    "double_optin": ("boolean", "Whether the consent to {} was confirmed a second time."),
    "metadata": ("json", "More on the consent to {}; differs by channel."),
    "phone_number": ("string", "The number that the consent to {} was given for."),
    "suppression": ("json", "Reasons and times that shut {} off; mostly empty."),
    "list_suppressions": ("json", "Lists, reasons and times that shut {} off for one list."),
}
"""Type and description of each field of a consent; `{}` is what is consented to."""

PERMISSION_CONSENT_FIELDS = (
    "consent",
    "consent_timestamp",
    "last_updated",
    "created_timestamp",
    "metadata",
    "can_receive",
    "valid_until",
)
"""The fields of the newer consents, tracking and WhatsApp, in Klaviyo's order."""

SMS_CONSENT_FIELDS = ("consent", "consent_timestamp", "method", "method_detail", "last_updated")
"""The fields that both consents to SMS share."""


def consent_columns(path: str, subject: str, fields: tuple[str, ...]) -> tuple[Column, ...]:
    """Return one column a field of the consent at `subscriptions.<path>`.

    `subject`: what is consented to, in words for the columns' descriptions.
    """
    return tuple(
        attribute_column(
            f"subscriptions.{path}.{name}",
            about.format(subject),
            kind,
            personal_kind="phone_number" if name == "phone_number" else None,
            # What the shop's own programs wrote there.
            is_personal=name == "custom_method_detail",
        )
        for name in fields
        for kind, about in (CONSENT_FIELDS[name],)
    )


CONSENT_COLUMNS = (
    *consent_columns(
        "email.marketing",
        "marketing by email",
        (
            "can_receive_email_marketing",
            "consent",
            "consent_timestamp",
            "last_updated",
            "method",
            "method_detail",
            "custom_method_detail",
            "double_optin",
            "suppression",
            "list_suppressions",
        ),
    ),
    *consent_columns("email.open_tracking", "tracking of opened emails", PERMISSION_CONSENT_FIELDS),
    *consent_columns(
        "email.click_tracking", "tracking of clicks in emails", PERMISSION_CONSENT_FIELDS
    ),
    *consent_columns(
        "sms.marketing", "marketing by SMS", ("can_receive_sms_marketing", *SMS_CONSENT_FIELDS)
    ),
    *consent_columns(
        "sms.transactional",
        "notices by SMS",
        ("can_receive_sms_transactional", *SMS_CONSENT_FIELDS),
    ),
    *consent_columns(
        "mobile_push.marketing",
        "marketing by push message",
        ("can_receive_push_marketing", "consent", "consent_timestamp"),
    ),
    *consent_columns(
        "whatsapp.marketing", "marketing by WhatsApp", (*PERMISSION_CONSENT_FIELDS, "phone_number")
    ),
    *consent_columns(
        "whatsapp.transactional",
        "notices by WhatsApp",
        (*PERMISSION_CONSENT_FIELDS, "phone_number"),
    ),
    *consent_columns(
        "whatsapp.conversational",
        "conversation by WhatsApp",
        (*PERMISSION_CONSENT_FIELDS, "phone_number"),
    ),
)

PREDICTIVE_COLUMNS = (
    attribute_column("predictive_analytics.historic_clv", "Value of all orders so far.", "number"),
    attribute_column("predictive_analytics.predicted_clv", "Value expected in 365 days.", "number"),
    attribute_column("predictive_analytics.total_clv", "Value so far and expected.", "number"),
    attribute_column("predictive_analytics.historic_number_of_orders", "Orders so far.", "number"),
    attribute_column(
        "predictive_analytics.predicted_number_of_orders", "Orders expected in 365 days.", "number"
    ),
    attribute_column(
        "predictive_analytics.average_days_between_orders",
        "Days from order to order; NULL after a single one.",
        "number",
    ),
    attribute_column(
        "predictive_analytics.average_order_value", "Value of an average order.", "number"
    ),
    attribute_column(
        "predictive_analytics.churn_probability", "How likely the person is lost, 0 to 1.", "number"
    ),
    attribute_column(
        "predictive_analytics.expected_date_of_next_order",
        "When the next order is expected, as worked out at the last one.",
        "timestamp",
    ),
    attribute_column(
        "predictive_analytics.ranked_channel_affinity",
        "Channels from the most to the least promising.",
        "ids",
    ),
)

UNLISTED_ATTRIBUTES = frozenset({"subscriptions.email.click_tracking"})
"""Listed since revision 2026-10-15."""

SUBSCRIPTIONS_FIELD = AdditionalField(resource="profile", name="subscriptions")

PROFILES = Stream(
    name="profiles",
    description="One row per profile: a person, known by email, phone number or another id.",
    section="Profiles",
    source=Collection(
        path="/api/profiles",
        page_size=100,
        additional_fields=(
            SUBSCRIPTIONS_FIELD,
            AdditionalField(
                resource="profile", name="predictive_analytics", tier=TIER_M, is_optional=True
            ),
        ),
    ),
    # For `updated` Klaviyo offers only the two strict comparisons of the four.
    cursor=Cursor(column="updated", field="updated", is_inclusive=False),
    tier=TIER_L,
    scopes=("profiles:read",),
    has_soft_deletes=True,
    # Not `updated`: a change during the scan could move a profile to a place already passed.
    id_scan_cursor=Cursor(column="created", field="created", is_inclusive=False),
    unlisted_attributes=UNLISTED_ATTRIBUTES,
    history_columns=tuple(each.name for each in PREDICTIVE_COLUMNS),
    columns=(*PERSON_COLUMNS, *CONSENT_COLUMNS, *PREDICTIVE_COLUMNS),
)

PROFILE_MERGES = ProfileMergeRule(
    name="profile_merges",
    people="profiles",
    identifiers=("email", "phone_number", "external_id"),
    events="events",
    owner="profile_id",
)
"""Klaviyo reports no merge: https://developers.klaviyo.com/en/reference/merge_profiles."""

GLOBAL_EXCLUSIONS = Stream(
    name="global_exclusions",
    description="One row per profile that is suppressed: no marketing by email goes there.",
    section="Profiles",
    source=Collection(
        path="/api/profiles", page_size=100, additional_fields=(SUBSCRIPTIONS_FIELD,)
    ),
    cursor=Cursor(
        column="suppressed_at",
        field=f"{SUPPRESSION_PATH}.timestamp",
        # It goes back when the latest of several suppressions is lifted.
        is_version=False,
        # A filter from here on leaves out every profile that was never suppressed.
        earliest=datetime(1970, 1, 1, tzinfo=UTC),
    ),
    tier=TIER_L,
    scopes=("profiles:read",),
    is_exempt_from_start_date=True,
    unlisted_attributes=UNLISTED_ATTRIBUTES,
    columns=(
        *PERSON_COLUMNS,
        *CONSENT_COLUMNS,
        Column(
            "suppressions",
            "Each suppression's reason and time.",
            "json",
            FieldPath(SUPPRESSION_PATH),
        ),
        Column(
            "suppressed_at",
            "When the newest suppression began.",
            "timestamp",
            LatestOf(SUPPRESSION_PATH, "timestamp"),
        ),
    ),
)


def _job_columns(*, is_import: bool) -> tuple[Column, ...]:
    """Return what the logs of the three bulk jobs share."""
    failed = Column("failed_count", "Profiles that could not be.", "integer")
    skipped = Column("skipped_count", "Profiles that needed no change.", "integer")
    return (
        Column("status", "queued, processing, complete or cancelled."),
        Column("created_at", "When it was asked for.", "timestamp"),
        Column("total_count", "Profiles in it.", "integer"),
        Column("completed_count", "Profiles that are done.", "integer"),
        failed if is_import else skipped,
        Column("completed_at", "When it was done.", "timestamp"),
    )


PROFILE_BULK_IMPORT_JOBS = Stream(
    name="profile_bulk_import_jobs",
    description="One row per bulk import of profiles, as far back as Klaviyo keeps them.",
    section="Profiles",
    source=Collection(path="/api/profile-bulk-import-jobs", page_size=100),
    tier=TIER_M,
    scopes=("lists:read", "profiles:read"),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        *_job_columns(is_import=True),
        Column("expires_at", "When Klaviyo forgets it.", "timestamp"),
        Column("started_at", "When it began.", "timestamp"),
    ),
)

PROFILE_SUPPRESSION_BULK_CREATE_JOBS = Stream(
    name="profile_suppression_bulk_create_jobs",
    description="One row per bulk job that suppressed profiles.",
    section="Profiles",
    source=Collection(path="/api/profile-suppression-bulk-create-jobs", page_size=None),
    tier=TIER_L,
    scopes=("subscriptions:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=_job_columns(is_import=False),
)

PROFILE_SUPPRESSION_BULK_DELETE_JOBS = Stream(
    name="profile_suppression_bulk_delete_jobs",
    description="One row per bulk job that lifted suppressions.",
    section="Profiles",
    source=Collection(path="/api/profile-suppression-bulk-delete-jobs", page_size=None),
    tier=TIER_L,
    scopes=("subscriptions:read",),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=_job_columns(is_import=False),
)

PUSH_TOKENS = Stream(
    name="push_tokens",
    description="One row per device that takes push messages.",
    section="Profiles",
    source=Collection(path="/api/push-tokens", page_size=100, include=("profile",)),
    tier=TIER_M,
    scopes=("profiles:read", "push-tokens:read"),
    # Who has it can send messages to the device.
    ignored_attributes=frozenset({"token"}),
    is_opt_in=True,
    has_soft_deletes=True,
    columns=(
        Column("created", "When it was created.", "timestamp"),
        Column("enablement_status", "Whether its owner allows messages: AUTHORIZED, DENIED, ..."),
        Column("platform", "ios or android."),
        Column("vendor", "Who delivers: apns or fcm."),
        Column("background", "Whether the app may be woken."),
        Column("recorded_date", "When it was last seen, as Klaviyo writes it."),
        *(
            attribute_column(f"metadata.{name}", about, is_personal=name == "device_id")
            for name, about in {
                "device_id": "The device's id.",
                "klaviyo_sdk": "The SDK in the app.",
                "sdk_version": "Its version.",
                "device_model": "The device's model.",
                "os_name": "The operating system.",
                "os_version": "Its version.",
                "manufacturer": "Who made the device.",
                "app_name": "The app's name.",
                "app_version": "The app's version.",
                "app_build": "The app's build.",
                "app_id": "The app's id.",
                "environment": "debug or release.",
            }.items()
        ),
        Column("profile_id", "Whose device it is.", declared_source=RelatedId("profile")),
    ),
)
