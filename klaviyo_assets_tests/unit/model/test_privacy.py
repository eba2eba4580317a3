"""Settings of privacy mean what they say for each stream, and what cannot be done is refused."""

import pytest

from klaviyo_assets.errors import SettingError
from klaviyo_assets.model.privacy import (
    PrivacyRules,
    preview_columns,
    privacy_setting_errors,
    profile_id_column,
    resolve_privacy_rules,
    unprotected_column_warnings,
    validate_salt,
)
from klaviyo_assets.model.stream import Stream, streams_at_revision
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS

SALT = "correct horse battery staple"


def privacy(stream: str, **settings: tuple[str, ...]) -> PrivacyRules:
    """Return the privacy of a stream by some settings."""
    return resolve_privacy_rules(STREAMS[stream], Settings(**settings))  # pyright: ignore[reportArgumentType]


def refusals(**settings: tuple[str, ...]) -> list[str]:
    """Return what is said against some settings."""
    found = privacy_setting_errors(Settings(**settings), STREAMS)  # pyright: ignore[reportArgumentType]
    return [str(each) for each in found]


def test_without_settings_nothing_is_touched() -> None:
    """By default every column of every stream is stored as it comes."""
    assert [name for name in STREAMS if privacy(name).affected_columns] == []


def test_a_column_of_one_stream_is_that_streams_alone() -> None:
    """Excluding a column of one stream leaves its namesakes elsewhere alone."""
    assert privacy("campaigns", exclude_columns=("campaigns.name",)).excluded_columns == {"name"}
    assert privacy("lists", exclude_columns=("campaigns.name",)).excluded_columns == set()


def test_what_is_said_of_profiles_holds_for_global_exclusions() -> None:
    """The same people's records must not bring in by the other table what one leaves out."""
    entry = ("profiles.email", "profiles.extra")
    assert privacy("global_exclusions", exclude_columns=entry).excluded_columns == {
        "email",
        "extra",
    }
    assert privacy("global_exclusions", hash_columns=entry[:1]).hashed_columns == {"email"}
    assert (
        privacy("profiles", exclude_columns=("global_exclusions.email",)).excluded_columns == set()
    )


def test_a_star_is_every_stream_that_has_the_column() -> None:
    """`*.extra` holds for every stored table and breaks none that lacks the column."""
    for name in ("profiles", "events", "lists_detailed", "accounts"):
        assert privacy(name, exclude_columns=("*.extra", "*.email")).excluded_columns >= {"extra"}
    sender = {"contact_information_default_sender_email"}
    assert privacy("accounts", exclude_columns=("*.email",)).excluded_columns == sender
    assert refusals(exclude_columns=("*.extra", "*.email")) == []


def test_a_name_stands_for_the_kind_of_value() -> None:
    """`*.phone_number` is every column with such a number, `*.email` the senders of messages too.

    A column that is named by itself stays what it is named for.
    """
    whatsapp = {
        f"subscriptions_whatsapp_{each}_phone_number"
        for each in ("marketing", "transactional", "conversational")
    }
    for name in ("profiles", "global_exclusions"):
        found = privacy(name, hash_columns=("*.phone_number", "*.email"))
        assert found.hashed_columns == {"email", "phone_number", *whatsapp}
    one = min(whatsapp)
    found = privacy(
        "profiles", exclude_columns=("*.phone_number",), hash_columns=(f"profiles.{one}",)
    )
    assert (found.excluded_columns, found.hashed_columns) == (
        {"phone_number", *whatsapp} - {one},
        {one},
    )
    messages = privacy("campaigns", hash_columns=("*.email",)).json_members["campaign_messages"]
    assert messages.hashed == {"from_email", "reply_to_email", "cc_email", "bcc_email"}
    assert privacy("campaigns", hash_columns=("*.phone_number",)).json_members == {}


DEFAULT = {name: each for name, each in STREAMS.items() if not each.is_opt_in}


def test_what_a_setting_does_not_reach_is_named() -> None:
    """Free-form JSON and columns of the same kind elsewhere are named, until they are seen to."""
    (message,) = unprotected_column_warnings(
        Settings(hash_columns=("profiles.phone_number",)), STREAMS
    )
    assert "phone_number" in message
    for place in ("events.event_properties", "profiles.properties", "profiles.extra"):
        assert place in message
    assert "whatsapp" not in message
    assert "accounts.contact_information_default_sender_email" not in message
    (message,) = unprotected_column_warnings(Settings(exclude_columns=("profiles.email",)), STREAMS)
    assert "accounts.contact_information_default_sender_email" in message
    assert "campaigns.campaign_messages" in message
    every = ("*.email", "*.extra", "*.properties", "segments.definition")
    cut = ("events.event_properties:$value",)
    assert (
        unprotected_column_warnings(Settings(exclude_columns=every, json_keys=cut), DEFAULT) == []
    )
    assert (
        unprotected_column_warnings(Settings(exclude_columns=("profiles.last_name",)), STREAMS)
        == []
    )


def test_keys_of_json_are_those_listed() -> None:
    """An allow-list holds the names between the bars as they are, blanks and dollars included."""
    found = privacy("events", json_keys=("events.event_properties:$value|Item Names",))
    assert dict(found.allowed_json_keys) == {"event_properties": {"$value", "Item Names"}}


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("people.email", "no stream is called people"),
        ("profiles.birthday", "profiles has a column birthday"),
        ("*.birthday", "no stream has a column birthday"),
        ("*.metric_name", "no stream has a column metric_name"),
        ("profiles.id", "key"),
        ("profiles.updated", "cursor"),
        ("*.updated", "cursor"),
        ("profiles.synced_at", "key"),
        ("events.metric_id", "joined by"),
        ("events.profile_id", "joined by"),
        ("events_detailed.metric_name", "made of events and metrics"),
        ("event_attributions.campaign_id", "made of events, so"),
        ("campaigns.api_revision", "joined by"),
        ("campaign_messages.campaign_id", "joined by"),
        ("flow_series_reports.flow_name", "no person's data"),
    ],
)
def test_what_cannot_be_excluded_is_refused(entry: str, reason: str) -> None:
    """The refusal names the variable, the entry, and why it cannot be."""
    [message] = refusals(exclude_columns=(entry,))
    assert f"KLAVIYO_EXCLUDE_COLUMNS='{entry}' cannot be used" in message
    assert reason in message


@pytest.mark.parametrize(
    ("column", "origin"),
    [
        ("campaign_messages", "campaign_messages.campaign_variations"),
        ("status", "campaign_messages.status"),
    ],
)
def test_what_is_computed_is_excluded_where_it_is_stored(column: str, origin: str) -> None:
    """A value that is stored in another table cannot be left out of this one."""
    excluded = (f"campaigns.{column}",)
    (refused,) = refusals(exclude_columns=excluded)
    assert f"{column} of campaigns is computed from {origin}, so name the column there" in refused
    july = streams_at_revision(STREAMS, "2026-07-15")
    assert privacy_setting_errors(Settings(exclude_columns=excluded), july) == []


def test_only_text_is_hashed_and_only_json_has_keys() -> None:
    """A number's hash is found by counting, and text has no keys: both are refused."""
    assert "not text" in refusals(hash_columns=("events.event_properties",))[0]
    assert "not text" in refusals(hash_columns=("profiles.location_latitude",))[0]
    assert "not JSON" in refusals(json_keys=("profiles.email:domain",))[0]
    assert refusals(hash_columns=("*.email",), json_keys=("profiles.extra:a",)) == []


@pytest.mark.parametrize("salt", ["", "short", " " * 40])
def test_a_salt_that_is_no_secret_is_refused_unquoted(salt: str) -> None:
    """A missing or short salt is refused by its variable; the text never holds it."""
    with pytest.raises(SettingError, match="KLAVIYO_HASH_SALT cannot be used") as refused:
        validate_salt(salt)
    assert not salt.strip() or salt not in str(refused.value)


def test_the_salt_is_in_no_text_of_its_holder() -> None:
    """What holds the salt can be printed without showing it."""
    assert SALT not in repr(PrivacyRules(salt=validate_salt(SALT)))


@pytest.mark.parametrize(
    ("stream", "column"),
    [
        ("profiles", "id"),
        ("global_exclusions", "id"),
        ("events", "profile_id"),
        ("list_members", "profile_id"),
        ("segment_members", "profile_id"),
        ("campaigns", None),
        ("lists", None),
    ],
)
def test_the_person_of_a_row_is_known(stream: str, column: str | None) -> None:
    """Each stream about people says which column holds whose row it is."""
    assert profile_id_column(STREAMS[stream]) == column


@pytest.mark.parametrize("stream", STREAMS.values(), ids=lambda stream: stream.name)
def test_a_preview_has_no_column_of_a_person(stream: Stream) -> None:
    """What Dagster keeps of rows, an erasure does not find: no id of a profile, no address."""
    shown = set(preview_columns(stream))
    assert not shown & {profile_id_column(stream), "extra", "email", "phone_number", "first_name"}
    for column in stream.columns:
        is_private = column.personal_kind or column.personal_members or column.is_free_form
        assert column.name not in shown or not (is_private or column.type == "json")
