"""Picks the fault of a request and carries it out on the response, or replaces it.

The right answer is always made first, so that rate windows count; a refusal stays a refusal.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from urllib.parse import parse_qsl

from klaviyo_assets.sandbox.access import throttling_error
from klaviyo_assets.sandbox.faults import documents, rules, transport
from klaviyo_assets.sandbox.faults.documents import PageFaults
from klaviyo_assets.sandbox.faults.rules import Fault, FaultScript
from klaviyo_assets.sandbox.http_messages import JSON_API_TYPE, ApiError, HttpRequest, HttpResponse
from klaviyo_assets.sandbox.json_types import (
    JsonObject,
    as_list,
    as_object,
    dump_json,
    load_json_object,
)
from klaviyo_assets.sandbox.query import encode_query, invalid_cursor_error

_ERROR_CODES = {
    400: ("invalid", "Invalid input."),
    401: ("authentication_failed", "Incorrect authentication credentials."),
    403: ("permission_denied", "You do not have permission to perform this action."),
    404: ("not_found", "Not found."),
    410: ("gone", "Gone."),
    500: ("error", "A server error occurred."),
}
_HTML_PAGE = (
    b"<!DOCTYPE html><html><head><title>Just a moment...</title></head>"
    b"<body><h1>a.klaviyo.com</h1><p>Checking your browser</p></body></html>"
)
_ODD_BODIES = {"html_body": _HTML_PAGE, "empty_body": b"", "null_body": b"null", "list_body": b"[]"}


def build_fault_response(fault: Fault, *, number: int) -> HttpResponse:
    """The answer that the fault gives instead; `number` names the error."""
    match fault.kind:
        case "throttle":
            return build_error_response(build_throttling_error(fault), number)
        case "invalid_cursor":
            return build_error_response(invalid_cursor_error(), number)
        case "challenge":
            headers = {"content-type": "text/html; charset=UTF-8", "cf-mitigated": "challenge"}
            return HttpResponse(status=403, body=_HTML_PAGE, headers=headers)
        case "redirect":
            location = fault.text("location", "http://127.0.0.1:9/")
            status = int(fault.number("status", 302))
            return HttpResponse(status=status, body=b"", headers={"location": location})
        case "error":
            return build_failure(fault, number)
        case _:
            return build_odd_body(fault)


def build_odd_body(fault: Fault) -> HttpResponse:
    """A 200 whose body is no document."""
    text = fault.text("text", "upstream connect error").encode()
    body = _ODD_BODIES.get(fault.kind, text)
    kind = "text/html" if fault.kind == "html_body" else JSON_API_TYPE
    return HttpResponse(status=200, body=body, headers={"content-type": kind})


def build_error_response(error: ApiError, number: int) -> HttpResponse:
    """An error of Klaviyo's form as a reply."""
    headers = {"content-type": JSON_API_TYPE, **error.headers}
    return HttpResponse(status=error.status, body=error.render_body(number), headers=headers)


def build_throttling_error(fault: Fault) -> ApiError:
    """A 429 with the `Retry-After` of the rule: a text, `http-date`, or null for none at all."""
    if "retry_after" not in fault.options:
        return throttling_error(1)
    requested = fault.options["retry_after"]
    error = throttling_error(1, retry_after="" if requested is None else str(requested))
    if requested is None:
        error.headers = {}
    elif requested == "http-date":
        # Real time: a client compares it with its own clock.
        later = datetime.now(UTC) + timedelta(seconds=2)
        error.headers = {"retry-after": format_datetime(later, usegmt=True)}
    return error


def build_failure(fault: Fault, number: int) -> HttpResponse:
    """A status with a body of Klaviyo's form, HTML, text or nothing (`"body"`).

    `code`, `detail` and `pointer` replace what Klaviyo's form would say; no pointer: "".
    `parameter` names a parameter of the query instead of a pointer.
    """
    status = int(fault.number("status", 500))
    form = fault.text("body", "html" if status in {502, 504, 524} else "json")
    if form == "json":
        code, title = _ERROR_CODES.get(status, ("error", "A server error occurred."))
        detail = fault.text("detail", title)
        code, pointer = fault.text("code", code), fault.text("pointer", "/data/")
        source = {"pointer": pointer} if pointer else {}
        if "parameter" in fault.options:
            source = {"parameter": fault.text("parameter", "")}
        return build_error_response(
            ApiError(status, code, title=title, detail=detail, source=source), number
        )
    body = {"html": _HTML_PAGE, "empty": b""}.get(form, form.encode())
    return HttpResponse(status=status, body=body, headers={"content-type": "text/html"})


MutationCallback = Callable[[JsonObject], object]


class FaultInjector:
    """The script and the memory of pages."""

    def __init__(self, mutate: MutationCallback) -> None:
        self.script = FaultScript()
        self.page_faults = PageFaults()
        self.mutate = mutate

    def pick_fault(self, request: HttpRequest) -> Fault | None:
        """The fault of this request; a mutation is made at once."""
        fault = self.script.pick_fault(request)
        if fault is not None and fault.kind == "mutate":
            for mutation in as_list(fault.options.get("mutations")):
                self.mutate(as_object(mutation))
        return fault

    def rewrite_request(self, request: HttpRequest, fault: Fault | None) -> HttpRequest:
        """The request that is really answered: aliases resolved, page size stretched."""
        if self.page_faults.aliases:
            request = self.page_faults.resolve_alias(request)
        if fault is not None and fault.kind == "page_factor":
            return request.with_page_factor(fault.number("factor", 2))
        if fault is not None and fault.kind == "unsorted":
            return replace_sort(request, fault.text("sort", "id"))
        return request

    def apply_fault(
        self, fault: Fault | None, request: HttpRequest, response: HttpResponse, request_number: int
    ) -> HttpResponse:
        """The answer after the fault."""
        if fault is None or fault.kind in rules.SIDE_EFFECT_KINDS:
            self.remember_sound_page(request, response)
            return response
        if fault.kind in rules.RESPONSE_FAULT_KINDS:
            return build_fault_response(fault, number=request_number)
        if response.status != HTTPStatus.OK:
            return response
        if (
            fault.kind
            in rules.PAGE_FAULT_KINDS | rules.CLAIM_FAULT_KINDS | rules.RECORD_FAULT_KINDS
        ):
            self.rework_document(fault, request, response)
        body, headers = transport.recode_body(fault, response.body)
        response.body = body
        response.headers.update(headers)
        if fault.kind in rules.UNREADABLE_KINDS:
            response.shown_ordinals = []
        return response

    def remember_sound_page(self, request: HttpRequest, response: HttpResponse) -> None:
        """Remember a sound page where a later fault may need it; costs nothing without a script."""
        if (
            response.status == HTTPStatus.OK
            and request.method == "GET"
            and self.script.needs_previous_page()
        ):
            rows = as_list(load_json_object(response.body).get("data"))
            self.page_faults.remember_page(request, rows, response)

    def rework_document(self, fault: Fault, request: HttpRequest, response: HttpResponse) -> None:
        """The document read, changed and written again."""
        document = load_json_object(response.body)
        rows, shown = as_list(document.get("data")), list(response.shown_ordinals)
        if fault.kind in rules.RECORD_FAULT_KINDS:
            documents.apply_record_fault(fault, response, document)
        elif fault.kind in rules.CLAIM_FAULT_KINDS:
            documents.apply_claim_fault(fault, request, response, document, self.page_faults)
        elif fault.kind != "page_factor":
            self.page_faults.apply_page_fault(fault, request, response, document)
        sound = HttpResponse(status=200, body=b"", shown_ordinals=shown)
        self.page_faults.remember_page(request, rows, sound)
        response.body = documents.insert_raw_value(fault, dump_json(document))


def replace_sort(request: HttpRequest, sort: str) -> HttpRequest:
    """The same request with another sort."""
    pairs = [pair for pair in parse_qsl(request.query) if pair[0] != "sort"]
    return request.with_query(encode_query((*pairs, ("sort", sort))))
