"""Hashes that join: of texts in the form in which the same address or number is always the same.

What belongs here: forms and the hash. What does not: which columns are hashed (`model/privacy`).
"""

import hmac
import re
from collections.abc import Callable
from typing import cast

from klaviyo_assets.tables.values import Array, strings


def hashed(values: Array, *, salt: bytes, form: Callable[[str], str]) -> Array:
    """Return HMAC-SHA-256 of the texts in their normal form, in hexadecimal; NULL stays NULL."""
    texts = cast("list[str | None]", values.to_pylist())
    known = {
        text: hash_of_text(text, salt=salt, form=form) for text in set(texts) if text is not None
    }
    return strings([None if text is None else known[text] for text in texts])


def hash_of_text(text: str, *, salt: bytes, form: Callable[[str], str]) -> str:
    """Return HMAC-SHA-256 of a text in its normal form, in hexadecimal."""
    return hmac.digest(salt, form(text).encode(), "sha256").hex()


def form_of(name: str) -> Callable[[str], str]:
    """Return what makes texts that mean the same the same, by the name of their column."""
    words = name.split("_")
    if "email" in words:
        return email_form
    return phone_form if "phone" in words else str


def email_form(text: str) -> str:
    """Return an e-mail address trimmed and in lower case."""
    return text.strip().lower()


def phone_form(text: str) -> str:
    """Return a phone number as its digits behind a leading plus; without a digit as it is."""
    digits = re.sub(r"[^0-9]", "", text)
    if not digits:
        return text.strip()
    return f"+{digits}" if text.strip().startswith("+") else digits
