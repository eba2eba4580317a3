"""Views of profiles: the twenty columns that most questions need, and who can be sent what.

What Klaviyo says of its flags (API reference, revision 2026-07-15, schemas EmailMarketing,
SMSMarketing, PushMarketing, WhatsappMarketingChannel):

    email        "implicit consent to receive email marketing. True if it does profile does not
                 have any global suppressions": no subscription is needed
    sms, push    "subscribed to receive": nothing is sent without a subscription
    whatsapp     "can receive messages on this channel"

None of them looks at the address, and membership of a list is no consent: a member may be
suppressed, and a suppression of a list shuts off that list alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from klaviyo_assets.model.column import Column, ColumnType
from klaviyo_assets.model.view import View, ViewTable
from klaviyo_assets.streams.profiles import PERSON_COLUMNS


@dataclass(frozen=True, slots=True, kw_only=True)
class _Channel:
    """A channel of marketing: its columns in profiles, and what must be known to send there.

    `address`: SQL of the address, "" where a profile has none for the channel. `is_opt_in`: no
    message is sent to whom Klaviyo has no consent of.
    """

    name: str
    flag: str
    consent: str
    timestamp: str
    address: str
    address_word: str
    is_opt_in: bool = True
    valid_until: str = ""


def _marketing(channel: str, column: str) -> str:
    """Return the name of a column of a channel's marketing consent."""
    return f"subscriptions_{channel}_marketing_{column}"


def _channel(  # noqa: PLR0913 - a row of the table below
    name: str,
    flag: str,
    address: str,
    address_word: str,
    *,
    is_opt_in: bool = True,
    valid_until: str = "",
) -> _Channel:
    return _Channel(
        name=name,
        flag=_marketing(name, flag),
        consent=_marketing(name, "consent"),
        timestamp=_marketing(name, "consent_timestamp"),
        address=address,
        address_word=address_word,
        is_opt_in=is_opt_in,
        valid_until=valid_until,
    )


_WHATSAPP_NUMBER = _marketing("whatsapp", "phone_number")
_CHANNELS = (
    _channel("email", "can_receive_email_marketing", "email", "email address", is_opt_in=False),
    _channel("sms", "can_receive_sms_marketing", "phone_number", "phone number"),
    _channel("mobile_push", "can_receive_push_marketing", "", ""),
    _channel(
        "whatsapp",
        "can_receive",
        f"coalesce({_WHATSAPP_NUMBER}, phone_number)",
        "phone number",
        valid_until=_marketing("whatsapp", "valid_until"),
    ),
)
_SUPPRESSION = _marketing("email", "suppression")
_LIST_SUPPRESSIONS = _marketing("email", "list_suppressions")


def _is_known(value: str) -> str:
    """Return the SQL of whether any profile has a value: none has one that a setting leaves out."""
    return f"(SELECT bool_or({value} IS NOT NULL) FROM people)"


def _can_receive(channel: _Channel) -> str:
    """Return the SQL of whether a profile can be sent marketing; NULL where nothing says so."""
    # A channel that asks for consent is closed where there is none; but where no profile at all has
    # the flag, a setting left the column out.
    flag = (
        f"coalesce({channel.flag}, CASE WHEN {_is_known(channel.flag)} THEN false END)"
        if channel.is_opt_in
        else channel.flag
    )
    if not channel.address:
        return flag
    has_no_address = f"{channel.address} IS NULL AND {_is_known(channel.address)}"
    return f"CASE WHEN {has_no_address} THEN false ELSE {flag} END"


def _suppressed() -> str:
    """Return the SQL of the reasons of the global suppressions, in Klaviyo's words; NULL: none."""
    reasons = f"json_extract_string({_SUPPRESSION}, '$[*].reason')"
    return f"nullif(array_to_string(list_sort(list_distinct({reasons})), ', '), '')"


def _reason(channel: _Channel) -> str:
    """Return the SQL of why a profile cannot be sent marketing, the strongest reason first."""
    cases = [f"{channel.flag} IS NULL AND NOT {_is_known(channel.flag)} THEN 'flag not stored'"]
    if channel.name == "email":
        cases.append(f"{_suppressed()} IS NOT NULL THEN 'suppressed: ' || {_suppressed()}")
    cases.append(f"upper({channel.consent}) = 'UNSUBSCRIBED' THEN 'unsubscribed'")
    if channel.address:
        cases.append(
            f"{channel.address} IS NULL AND {_is_known(channel.address)} "
            f"THEN 'no {channel.address_word}'"
        )
    if channel.valid_until:
        cases.append(f"{channel.valid_until} <= now() THEN 'consent ran out'")
    cases.append(f"upper({channel.consent}) = 'NEVER_SUBSCRIBED' THEN 'never subscribed'")
    if channel.is_opt_in:
        cases.append(f"{channel.flag} IS NULL THEN 'never subscribed: no consent on record'")
    cases.append(f"{channel.flag} IS NULL THEN 'Klaviyo does not say'")
    return f"CASE {' '.join(f'WHEN {each}' for each in cases)} ELSE 'Klaviyo says no' END"


def _select_channel(channel: _Channel) -> str:
    """Return the SELECT of a channel's rows, one a profile."""
    lists = (
        f"json_extract_string({_LIST_SUPPRESSIONS}, '$[*].list_id')"
        if channel.name == "email"
        else "NULL::VARCHAR[]"
    )
    can_receive = _can_receive(channel)
    return (
        f"SELECT id AS profile_id, '{channel.name}' AS channel, {can_receive} AS can_receive, "
        f"CASE WHEN ({can_receive}) IS NOT TRUE THEN {_reason(channel)} END AS reason, "
        f"{channel.consent} AS consent, {channel.timestamp} AS consent_timestamp, "
        f"{lists} AS suppressed_list_ids FROM people"
    )


_CONSENT_COLUMNS: Mapping[str, ColumnType] = {
    "email": "string",
    "phone_number": "string",
    **{each.flag: "boolean" for each in _CHANNELS},
    **{each.consent: "string" for each in _CHANNELS},
    **{each.timestamp: "timestamp" for each in _CHANNELS},
    **{each.valid_until: "timestamp" for each in _CHANNELS if each.valid_until},
    _WHATSAPP_NUMBER: "string",
    _SUPPRESSION: "json",
    _LIST_SUPPRESSIONS: "json",
}
_PEOPLE = "people AS (SELECT * FROM profiles WHERE deleted_at IS NULL)"

CAN_RECEIVE = View(
    name="can_receive",
    description="One row per profile that exists and channel: whether it can be sent marketing "
    "there, and why not.",
    tables=(
        ViewTable(
            name="profiles",
            columns={"id": "string", "deleted_at": "timestamp", **_CONSENT_COLUMNS},
        ),
    ),
    columns=(
        Column("profile_id", "The profile."),
        Column("channel", "email, sms, mobile_push or whatsapp."),
        Column(
            "can_receive",
            "Whether marketing may be sent: Klaviyo's own flag, and false without an address; NULL "
            "where the flag is not stored.",
            "boolean",
        ),
        Column(
            "reason",
            "Why not: suppressed (with Klaviyo's reasons), unsubscribed, no address, consent ran "
            "out, never subscribed, or that Klaviyo gives none; NULL where it can.",
        ),
        Column("consent", "State of the consent, as Klaviyo has it; being on a list is none."),
        Column("consent_timestamp", "When it was given or last changed.", "timestamp"),
        Column(
            "suppressed_list_ids",
            "Lists through which no email may be sent, though the channel is open.",
            "ids",
        ),
    ),
    sql=f", {_PEOPLE} {' UNION ALL '.join(map(_select_channel, _CHANNELS))}",
)

_CORE: Mapping[str, tuple[str, ColumnType, str]] = {
    "id": ("id", "string", "Klaviyo's id; once in the view."),
    "email": ("email", "string", "Email address."),
    "phone_number": ("phone_number", "string", "Phone number in E.164 form."),
    "external_id": ("external_id", "string", "The id that another system knows the person by."),
    "first_name": ("first_name", "string", "First name."),
    "last_name": ("last_name", "string", "Last name."),
    "city": ("location_city", "string", "City."),
    "region": ("location_region", "string", "State or region within the country."),
    "country": ("location_country", "string", "Country."),
    "created": ("created", "timestamp", "When the profile was created."),
    "updated": ("updated", "timestamp", "When the profile last changed."),
    "last_event_date": ("last_event_date", "timestamp", "When its latest event happened."),
    "email_consent": (_CHANNELS[0].consent, "string", "State of the consent to email."),
    "can_receive_email": ("", "boolean", "As can_receive has it; the reason is there."),
    "sms_consent": (_CHANNELS[1].consent, "string", "State of the consent to SMS."),
    "can_receive_sms": ("", "boolean", "As can_receive has it; the reason is there."),
    "can_receive_mobile_push": ("", "boolean", "As can_receive has it; the reason is there."),
    "orders": (
        "predictive_analytics_historic_number_of_orders",
        "number",
        "Orders so far, as Klaviyo's predictions count them; NULL where these are not read.",
    ),
    "revenue": (
        "predictive_analytics_historic_clv",
        "number",
        "Value of all orders so far, in the account's currency; NULL as above.",
    ),
    "predicted_revenue": (
        "predictive_analytics_predicted_clv",
        "number",
        "Value expected in the next 365 days; NULL as above.",
    ),
}
"""Column of the view: the stored one, its type and its meaning; "": computed as in can_receive."""


_PERSONAL = {each.name for each in PERSON_COLUMNS if each.is_personal or each.personal_kind}


def _core_expression(name: str) -> str:
    """Return the SQL of a column of profiles_core."""
    stored = _CORE[name][0]
    channels = {f"can_receive_{each.name}": each for each in _CHANNELS}
    return f"{stored or _can_receive(channels[name])} AS {name}"


PROFILES_CORE = View(
    name="profiles_core",
    description="One row per profile that exists: the twenty columns that most questions need.",
    tables=(
        ViewTable(
            name="profiles",
            columns={
                "deleted_at": "timestamp",
                **{stored: kind for stored, kind, _ in _CORE.values() if stored},
                **{each.flag: "boolean" for each in _CHANNELS},
            },
        ),
    ),
    columns=tuple(
        Column(name, about, kind, is_personal=stored in _PERSONAL)
        for name, (stored, kind, about) in _CORE.items()
    ),
    sql=f", {_PEOPLE} SELECT {', '.join(map(_core_expression, _CORE))} FROM people",
)
