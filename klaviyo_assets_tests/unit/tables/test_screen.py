"""Nothing that the settings keep back leaves the decoder as it came."""

import hmac
import json
from typing import Any

import pytest

from klaviyo_assets.model.column import Column, Included, RelatedId, attribute
from klaviyo_assets.model.privacy import Privacy
from klaviyo_assets.model.stream import Stream
from klaviyo_assets.tables.decode import Page, PageDecoder
from klaviyo_assets.tables.hashing import email_form, form_of, phone_form
from klaviyo_assets_tests.unit.tables.samples import (
    SYNCED_AT,
    Record,
    identifier,
    page_of,
    raw_page,
    record,
    related,
    rows,
    stream_of,
)

SALT = b"correct horse battery staple"
ADDRESS = "ada@example.com"

PEOPLE = stream_of(
    Column("email", "E-mail."),
    Column("phone_number", "Phone."),
    attribute("location.ip", "Address."),
    attribute("location.city", "City."),
    Column("properties", "Own.", "json"),
    Column("list_id", "List.", place=RelatedId("list")),
)
HASHED = Privacy(hashed=frozenset({"email", "phone_number"}), salt=SALT)
EXCLUDED = Privacy(excluded=frozenset({"email", "location_ip", "list_id"}))


def digest(text: str) -> str:
    """Return the hash that anybody with the salt works out."""
    return hmac.new(SALT, text.encode(), "sha256").hexdigest()


def screened(privacy: Privacy, body: bytes, *, stream: Stream = PEOPLE) -> Page:
    """Return a page decoded twice, by both paths, which must agree; the second of them."""
    decoder = PageDecoder(stream, privacy=privacy)
    first = decoder.decode(body, synced_at=SYNCED_AT)
    second = decoder.decode(body, synced_at=SYNCED_AT)
    assert second.batch.equals(first.batch)
    assert second.batch.schema == PageDecoder(stream).schema
    return second


def said(page: Page) -> str:
    """Return all that leaves the decoder, as text."""
    records = b"".join(each.record + each.reason.encode() for each in page.quarantined)
    return f"{rows(page)}{page.notices}{records!r}"


def test_a_hash_is_of_the_normal_form() -> None:
    """Spelling does not matter: one address and one number have one hash, NULL has none."""
    page = screened(
        HASHED,
        page_of(
            record("a", email=" Ada@Example.com", phone_number="+1 (555) 012-3456"),
            record("b", email="ada@example.com", phone_number="+15550123456"),
            record("c", email=None),
        ),
    )
    mail, phone = digest("ada@example.com"), digest("+15550123456")
    assert page.batch["email"].to_pylist() == [mail, mail, None]
    assert page.batch["phone_number"].to_pylist() == [phone, phone, None]


def test_another_salt_makes_another_hash() -> None:
    """Without the salt nobody can try addresses until one fits."""
    other = Privacy(hashed=frozenset({"email"}), salt=b"another salt altogether")
    page = screened(other, page_of(record("a", email=ADDRESS)))
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
    assert form_of(name)(text) == normal
    assert email_form("x") == phone_form("x") == "x"


def test_no_value_slips_into_extra() -> None:
    """A value of another type, or an object in the place of what holds it, is kept nowhere."""
    odd = [
        record("a", email={"address": ADDRESS}, phone_number=[ADDRESS]),
        record("b", location=ADDRESS),
        related(record("c", email=[ADDRESS]), list=[identifier("list", ADDRESS)]),
        record("d") | {"relationships": [ADDRESS]},
    ]
    both = Privacy(
        excluded=EXCLUDED.excluded, hashed=frozenset({"phone_number", "location_city"}), salt=SALT
    )
    assert ADDRESS not in said(screened(both, page_of(*odd)))
    assert ADDRESS in said(screened(Privacy(), page_of(*odd)))


def test_an_excluded_column_is_null_and_its_neighbours_stay() -> None:
    """Only what is named goes: the rest of the record is as without the setting."""
    one = related(
        record("a", email=ADDRESS, location={"ip": "203.0.113.7", "city": "Köln"}, new=1),
        list=identifier("list", "L"),
    )
    [row] = rows(screened(EXCLUDED, page_of(one)))
    assert (row["email"], row["location_ip"], row["list_id"]) == (None, None, None)
    assert (row["location_city"], json.loads(row["extra"])) == ("Köln", {"new": 1})


def test_extra_can_be_excluded_like_any_column() -> None:
    """Without `extra` nothing undeclared is stored."""
    page = screened(Privacy(excluded=frozenset({"extra"})), page_of(record("a", new=ADDRESS)))
    assert page.batch["extra"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("sent", "kept"),
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
def test_of_json_the_listed_keys_stay(sent: object, kept: object) -> None:
    """An allow-list keeps these members of an object, or of each object of an array, as sent."""
    thin = Privacy(json_keys={"properties": frozenset({"a"})})
    [row] = rows(screened(thin, page_of(record("x", properties=sent))))
    assert json.loads(row["properties"] or "null") == kept


def test_a_quarantined_record_keeps_reason_and_id_alone() -> None:
    """What cannot be stored is not kept whole where the settings keep anything back."""
    broken = [
        '{"id":"a-1","attributes":"ada@example.com"}',
        '{"id":"ada@example.com","attributes":7}',
        '{"attributes":{"email":"ada@example.com"}}',
        '"ada@example.com"',
    ]
    page = screened(HASHED, raw_page(*broken))
    assert [each.record for each in page.quarantined] == [b'{"id":"a-1"}', b"{}", b"{}", b"{}"]
    assert ADDRESS not in said(page)
    whole = screened(Privacy(), raw_page(*broken))
    assert [each.record.decode() for each in whole.quarantined] == broken


WEBHOOK: dict[str, Any] = {
    "type": "send-webhook",
    "data": {"message": {"url": "https://x", "headers": {"Authorization": ADDRESS}, "body": "{}"}},
}
STEPS = stream_of(
    Column("definition", "What is done.", "json"),
    Column("steps", "The steps, whole.", "json", place=Included("steps")),
    Column("properties", "Own.", "json"),
)


def without(definition: Record) -> Record:
    """Return a definition as it may be stored."""
    message = {"url": "https://x", "body": "{}"}
    return definition | {"data": {"message": message}}


def test_headers_of_webhooks_are_dropped_by_default() -> None:
    """Tokens in a webhook's headers are stored nowhere, whichever way its definition comes."""
    step = identifier("step", "s") | {"attributes": {"definition": WEBHOOK}}
    one = related(record("a", definition=WEBHOOK, properties={"headers": [1]}), steps=[step])
    body = page_of(one, included=[step | {"relationships": {}}])
    [row] = rows(screened(Privacy(), body, stream=STEPS))
    assert json.loads(row["definition"]) == without(WEBHOOK)
    assert json.loads(row["steps"])[0]["attributes"] == {"definition": without(WEBHOOK)}
    assert json.loads(row["properties"]) == {"headers": [1]}


def test_headers_are_dropped_where_no_column_is() -> None:
    """A definition that no column is for, or of a record that cannot be stored, has none either."""
    page = screened(Privacy(), page_of(record("a", definition=WEBHOOK), {"definition": WEBHOOK}))
    [row] = rows(page)
    assert json.loads(row["extra"]) == {"definition": without(WEBHOOK)}
    assert ADDRESS not in said(page)
    assert json.loads(page.quarantined[0].record) == {"definition": without(WEBHOOK)}


def test_a_definition_without_headers_stays_as_it_was_sent() -> None:
    """Bytes that need no change are not written anew: blanks and numbers are Klaviyo's."""
    sent = '{"url": "https://x",  "n": 1.50}'
    body = raw_page(f'{{"id":"a","attributes":{{"definition":{sent}}}}}')
    assert rows(screened(Privacy(), body, stream=STEPS))[0]["definition"] == sent
