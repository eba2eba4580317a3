"""Faults that put another answer in the place of the right one."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

from klaviyo_assets.sandbox.errors import ApiError
from klaviyo_assets.sandbox.faults.script import Fault
from klaviyo_assets.sandbox.limits import throttled
from klaviyo_assets.sandbox.paging import bad_cursor
from klaviyo_assets.sandbox.reply import JSON_API, Reply

_CODES = {
    400: ("invalid", "Invalid input."),
    401: ("authentication_failed", "Incorrect authentication credentials."),
    403: ("permission_denied", "You do not have permission to perform this action."),
    404: ("not_found", "Not found."),
    410: ("gone", "Gone."),
    500: ("error", "A server error occurred."),
}
_HTML = (
    b"<!DOCTYPE html><html><head><title>Just a moment...</title></head>"
    b"<body><h1>a.klaviyo.com</h1><p>Checking your browser</p></body></html>"
)
_BODIES = {"html_body": _HTML, "empty_body": b"", "null_body": b"null", "list_body": b"[]"}


def replaced(fault: Fault, *, number: int) -> Reply:
    """The answer that the fault gives instead; `number` names the error."""
    match fault.kind:
        case "throttle":
            return refused(throttle(fault), number)
        case "invalid_cursor":
            return refused(bad_cursor(), number)
        case "challenge":
            headers = {"content-type": "text/html; charset=UTF-8", "cf-mitigated": "challenge"}
            return Reply(status=403, body=_HTML, headers=headers)
        case "redirect":
            location = fault.text("location", "http://127.0.0.1:9/")
            status = int(fault.number("status", 302))
            return Reply(status=status, body=b"", headers={"location": location})
        case "error":
            return failed(fault, number)
        case _:
            return odd_body(fault)


def odd_body(fault: Fault) -> Reply:
    """A 200 whose body is no document."""
    text = fault.text("text", "upstream connect error").encode()
    body = _BODIES.get(fault.kind, text)
    kind = "text/html" if fault.kind == "html_body" else JSON_API
    return Reply(status=200, body=body, headers={"content-type": kind})


def refused(error: ApiError, number: int) -> Reply:
    """An error of Klaviyo's form as a reply."""
    headers = {"content-type": JSON_API, **error.headers}
    return Reply(status=error.status, body=error.body(number), headers=headers)


def throttle(fault: Fault) -> ApiError:
    """A 429 with the `Retry-After` asked for: a text, `http-date`, or null for none at all."""
    if "retry_after" not in fault.options:
        return throttled(1)
    asked = fault.options["retry_after"]
    error = throttled(1, retry_after="" if asked is None else str(asked))
    if asked is None:
        error.headers = {}
    elif asked == "http-date":
        # Real time: a client compares it with its own clock.
        later = datetime.now(UTC) + timedelta(seconds=2)
        error.headers = {"retry-after": format_datetime(later, usegmt=True)}
    return error


def failed(fault: Fault, number: int) -> Reply:
    """A status with a body of Klaviyo's form, HTML, text or nothing (`"body"`).

    `code`, `detail` and `pointer` replace what Klaviyo's form would say; no pointer: "".
    """
    status = int(fault.number("status", 500))
    form = fault.text("body", "html" if status in {502, 504, 524} else "json")
    if form == "json":
        code, title = _CODES.get(status, ("error", "A server error occurred."))
        detail = fault.text("detail", title)
        code, pointer = fault.text("code", code), fault.text("pointer", "/data/")
        source = {"pointer": pointer} if pointer else {}
        return refused(ApiError(status, code, title=title, detail=detail, source=source), number)
    body = {"html": _HTML, "empty": b""}.get(form, form.encode())
    return Reply(status=status, body=body, headers={"content-type": "text/html"})
