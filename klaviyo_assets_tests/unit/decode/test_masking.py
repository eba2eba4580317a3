"""Nothing that the settings keep back leaves the decoder as it came."""

import hmac
import json
from typing import Any

import pytest

from klaviyo_assets.decode.decoder import DecodedPage, PageDecoder
from klaviyo_assets.decode.masking import column_normalizer, normalize_email, normalize_phone
from klaviyo_assets.model.column import Column, Included, RelatedId, attribute_column
from klaviyo_assets.model.privacy import PrivacyRules
from klaviyo_assets.model.stream import Stream
from klaviyo_assets_tests.unit.decode.samples import (
    SYNCED_AT,
    Record,
    build_record,
    build_stream,
    page_body,
    page_rows,
    raw_page,
    resource_identifier,
    with_relationships,
)

SALT = b"correct horse battery staple"
ADDRESS = "ada@example.com"

PEOPLE = build_stream(
    Column("email", "E-mail."),
    Column("phone_number", "Phone."),
    attribute_column("location.ip", "Address."),
    attribute_column("location.city", "City."),
    Column("properties", "Own.", "json"),
    Column("list_id", "List.", declared_source=RelatedId("list")),
)
HASHED = PrivacyRules(hashed_columns=frozenset({"email", "phone_number"}), salt=SALT)
EXCLUDED = PrivacyRules(excluded_columns=frozenset({"email", "location_ip", "list_id"}))


def digest(text: str) -> str:
    """Return the hash that anybody with the salt works out."""
    return hmac.new(SALT, text.encode(), "sha256").hexdigest()


def decode_twice(privacy: PrivacyRules, body: bytes, *, stream: Stream = PEOPLE) -> DecodedPage:
    """Return a page decoded twice, by both paths, which must agree; the second of them."""
    decoder = PageDecoder(stream, privacy=privacy)
    first = decoder.decode(body, synced_at=SYNCED_AT)
    second = decoder.decode(body, synced_at=SYNCED_AT)
    assert second.batch.equals(first.batch)
    assert second.batch.schema == PageDecoder(stream).schema
    return second


def error_text(page: DecodedPage) -> str:
    """Return all that leaves the decoder, as text."""
    records = b"".join(each.record + each.reason.encode() for each in page.quarantined)
    return f"{page_rows(page)}{page.notices}{records!r}"


def test_a_hash_is_of_the_normal_form() -> None:
    """Spelling does not matter: one address and one number have one hash, NULL has none."""
    page = decode_twice(
        HASHED,
        page_body(
            build_record("a", email=" Ada@Example.com", phone_number="+1 (555) 012-3456"),
            build_record("b", email="ada@example.com", phone_number="+15550123456"),
            build_record("c", email=None),
        ),
    )
    mail, phone = digest("ada@example.com"), digest("+15550123456")
    assert page.batch["email"].to_pylist() == [mail, mail, None]
    assert page.batch["phone_number"].to_pylist() == [phone, phone, None]


def test_another_salt_makes_another_hash() -> None:
    """Without the salt no hash can be found by trying addresses."""
    other = PrivacyRules(hashed_columns=frozenset({"email"}), salt=b"another salt altogether")
    page = decode_twice(other, page_body(build_record("a", email=ADDRESS)))
    assert page.batch["email"].to_pylist() != [digest(ADDRESS)]


@pytest.mark.parametrize(
    ("name", "text", "normal"),
    [
        ("email", " A@B.C ", "a@b.c"),
        ("contact_information_default_sender_email", "A@B.C", "a@b.c"),
        ("subscriptions_whatsapp_marketing_phone_number", "+49 30 1", "+49301"),
        ("phone_number", "555-0123", "5550123"),
        ("phone_number", " none ", "none"),
        ("last_name", " O'Hara ", " O'Hara "),
    ],
)
def test_the_form_goes_by_the_name(name: str, text: str, normal: str) -> None:
    """E-mail addresses and phone numbers have a form of their own; other text stays as it is."""
    assert column_normalizer(name)(text) == normal
    assert normalize_email("x") == normalize_phone("x") == "x"


def test_no_value_slips_into_extra() -> None:
    """A masked value of another type is stored nowhere, also not in `extra`."""
    odd = [
        build_record("a", email={"address": ADDRESS}, phone_number=[ADDRESS]),
        build_record("b", location=ADDRESS),
        with_relationships(
            build_record("c", email=[ADDRESS]), list=[resource_identifier("list", ADDRESS)]
        ),
        build_record("d") | {"relationships": [ADDRESS]},
    ]
    both = PrivacyRules(
        excluded_columns=EXCLUDED.excluded_columns,
        hashed_columns=frozenset({"phone_number", "location_city"}),
        salt=SALT,
    )
    assert ADDRESS not in error_text(decode_twice(both, page_body(*odd)))
    assert ADDRESS in error_text(decode_twice(PrivacyRules(), page_body(*odd)))


def test_an_excluded_column_is_null_and_its_neighbours_stay() -> None:
    """Only what is named goes: the rest of the record is as without the setting."""
    one = with_relationships(
        build_record("a", email=ADDRESS, location={"ip": "203.0.113.7", "city": "Köln"}, new=1),
        list=resource_identifier("list", "L"),
    )
    [row] = page_rows(decode_twice(EXCLUDED, page_body(one)))
    assert (row["email"], row["location_ip"], row["list_id"]) == (None, None, None)
    assert (row["location_city"], json.loads(row["extra"])) == ("Köln", {"new": 1})


def test_extra_can_be_excluded_like_any_column() -> None:
    """Without `extra` nothing undeclared is stored."""
    page = decode_twice(
        PrivacyRules(excluded_columns=frozenset({"extra"})),
        page_body(build_record("a", new=ADDRESS)),
    )
    assert page.batch["extra"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ({"a": 1, "b": ADDRESS}, {"a": 1}),
        ({"b": ADDRESS}, {}),
        ([{"a": 1, "b": ADDRESS}, ADDRESS, {"b": 2}], [{"a": 1}, {}]),
        (ADDRESS, None),
        (7, None),
        (None, None),
        ({"a": {"b": 10**30}}, {"a": {"b": 10**30}}),
    ],
)
def test_of_json_the_listed_keys_stay(sent: object, expected: object) -> None:
    """An allow-list keeps these members of an object, or of each object of an array, as sent."""
    thin = PrivacyRules(allowed_json_keys={"properties": frozenset({"a"})})
    [row] = page_rows(decode_twice(thin, page_body(build_record("x", properties=sent))))
    assert json.loads(row["properties"] or "null") == expected


def test_a_quarantined_record_keeps_reason_and_id_alone() -> None:
    """With any privacy setting the quarantine stores reason and id, not the record."""
    broken = [
        '{"id":"a-1","attributes":"ada@example.com"}',
        '{"id":"ada@example.com","attributes":7}',
        '{"attributes":{"email":"ada@example.com"}}',
        '"ada@example.com"',
    ]
    page = decode_twice(HASHED, raw_page(*broken))
    assert [each.record for each in page.quarantined] == [b'{"id":"a-1"}', b"{}", b"{}", b"{}"]
    assert ADDRESS not in error_text(page)
    whole = decode_twice(PrivacyRules(), raw_page(*broken))
    assert [each.record.decode() for each in whole.quarantined] == broken


WEBHOOK: dict[str, Any] = {
    "type": "send-webhook",
    "data": {"message": {"url": "https://x", "headers": {"Authorization": ADDRESS}, "body": "{}"}},
}
STEPS = build_stream(
    Column("definition", "What is done.", "json"),
    Column("steps", "The steps, whole.", "json", declared_source=Included("steps")),
    Column("properties", "Own.", "json"),
)


def without(definition: Record) -> Record:
    """Return a definition as it may be stored."""
    message = {"url": "https://x", "body": "{}"}
    return definition | {"data": {"message": message}}


def test_headers_of_webhooks_are_dropped_by_default() -> None:
    """Tokens in a webhook's headers are stored nowhere, whichever way its definition comes."""
    step = resource_identifier("step", "s") | {"attributes": {"definition": WEBHOOK}}
    one = with_relationships(
        build_record("a", definition=WEBHOOK, properties={"headers": [1]}), steps=[step]
    )
    body = page_body(one, included=[step | {"relationships": {}}])
    [row] = page_rows(decode_twice(PrivacyRules(), body, stream=STEPS))
    assert json.loads(row["definition"]) == without(WEBHOOK)
    assert json.loads(row["steps"])[0]["attributes"] == {"definition": without(WEBHOOK)}
    assert json.loads(row["properties"]) == {"headers": [1]}


def test_headers_are_dropped_where_no_column_is() -> None:
    """A definition that no column is for, or of a record that cannot be stored, has none either."""
    page = decode_twice(
        PrivacyRules(), page_body(build_record("a", definition=WEBHOOK), {"definition": WEBHOOK})
    )
    [row] = page_rows(page)
    assert json.loads(row["extra"]) == {"definition": without(WEBHOOK)}
    assert ADDRESS not in error_text(page)
    assert json.loads(page.quarantined[0].record) == {"definition": without(WEBHOOK)}


def test_a_definition_without_headers_stays_as_it_was_sent() -> None:
    """Bytes that need no change are not written anew: blanks and numbers are Klaviyo's."""
    sent = '{"url": "https://x",  "n": 1.50}'
    body = raw_page(f'{{"id":"a","attributes":{{"definition":{sent}}}}}')
    assert page_rows(decode_twice(PrivacyRules(), body, stream=STEPS))[0]["definition"] == sent
