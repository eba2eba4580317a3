"""Keys leave no process in text: the one place that everything passes through."""

import logging
from io import StringIO
from pathlib import Path
from typing import TextIO, cast

import pytest

from klaviyo_assets import errors
from klaviyo_assets.errors import (
    BadKeyError,
    KeyRedactingFilter,
    KeyRedactingStream,
    RequestError,
    contains_key,
    redact_error_chain,
    redact_keys,
    redact_known_keys,
    register_secret,
)

KEY = "pk_0a1b2c3d4e5f60718293a4b5c6d7e8f901"
ODD = "pk_abcdefghijklmnop"
"""A key that its form does not tell from a word."""


@pytest.fixture(autouse=True)
def secrets(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Let this process have no keys but those of the test."""
    fresh: set[str] = set()
    monkeypatch.setattr(errors, "known_secrets", fresh)
    return fresh


@pytest.mark.parametrize(
    "text",
    [
        KEY,
        f"https://{KEY}.example/api",
        f"https://x:{KEY}@host/",
        f"klaviyo_{KEY}: string without a column",
        f"Authorization: Klaviyo-API-Key {KEY}",
        KEY.upper(),
        repr({"start": KEY}),
        f"{KEY[:8]}",
    ],
)
def test_a_key_is_recognized_by_its_form(text: str) -> None:
    """Wherever it stands, in either case, and cut short."""
    assert KEY[3:8] not in redact_keys(text).lower()
    assert "[key]" in redact_keys(text)


@pytest.mark.parametrize("text", ["Set it to a private key: pk_ and", "apk_version_20240101"])
def test_a_word_is_no_key(text: str) -> None:
    """What only looks alike stays."""
    assert redact_keys(text) == text
    assert not contains_key(text)


def test_the_keys_of_the_process_are_known_by_their_letters() -> None:
    """Of the process's own keys nothing is left, whatever they look like and stand in."""
    redactable = f"x{ODD}x and {ODD.upper()}"
    assert not contains_key(redactable)
    register_secret(ODD)
    assert contains_key(redactable)
    assert redact_keys(redactable) == "x[key]x and [key]"
    assert redact_known_keys(redactable.encode()) == f"x[key]x and {ODD.upper()}".encode()


def test_what_is_too_short_is_no_secret() -> None:
    """An empty variable, or a word in it, takes nothing out of texts."""
    register_secret("")
    register_secret("events")
    assert redact_keys("events: 3 rows") == "events: 3 rows"


def test_errors_redact_themselves() -> None:
    """An error's sentence has no key, however it was made, and whatever was added to it."""
    error = RequestError(f"asked with {KEY}", stream="events")
    assert error.message == "asked with [key]"
    error.message += f" and {KEY}"
    assert str(error) == "events: asked with [key] and [key]"
    assert KEY not in repr(BadKeyError(KEY))


def test_causes_are_redacted_too() -> None:
    """What led to an exception is in its trace: the whole chain is redacted."""
    outer, inner = ValueError(f"no {KEY}", 3), KeyError(KEY)
    outer.__cause__ = inner
    redact_error_chain(outer)
    assert outer.args == ("no [key]", 3)
    assert inner.args == ("[key]",)


def test_a_logger_with_the_filter_says_no_key(caplog: pytest.LogCaptureFixture) -> None:
    """The message is redacted once its arguments stand in it."""
    logger = logging.getLogger("klaviyo_assets_tests.redaction")
    logger.addFilter(KeyRedactingFilter())
    with caplog.at_level(logging.INFO, logger.name):
        logger.info("%s of %d", KEY, 5)
    assert caplog.messages == ["[key] of 5"]


def test_output_is_redacted_as_it_is_written() -> None:
    """What a verb prints passes as well."""
    out = StringIO()
    print(f"no {KEY} here", file=cast("TextIO", KeyRedactingStream(out)))
    assert out.getvalue() == "no [key] here\n"


def test_a_redacting_stream_ends_quietly_after_the_other_one(tmp_path: Path) -> None:
    """Python closes it when nobody holds it any more, and says aloud from 3.13 on if that fails."""
    with (tmp_path / "out").open("w") as out:
        stream = KeyRedactingStream(out)
    stream.close()
    assert stream.closed
