"""The kinds of faults by what they change, and those a patient client gets over.

Names only; each group is carried out by the room of the same name.
"""

REPLIES = frozenset(
    {
        "throttle",
        "error",
        "challenge",
        "invalid_cursor",
        "redirect",
        "html_body",
        "empty_body",
        "null_body",
        "list_body",
        "text_body",
    }
)
LINKS = frozenset(
    {
        "same_next",
        "cycle",
        "next_link",
        "next_host",
        "no_links",
        "empty_page",
        "duplicates",
        "page_factor",
        "short_series",
    }
)
LIES = frozenset({"bare_page", "errors_beside", "cut_list", "endless", "unsorted"})
RECORDS = frozenset(
    {
        "no_id",
        "null_id",
        "null_attributes",
        "string_record",
        "new_field",
        "new_relationship",
        "new_value",
        "type_change",
        "removed_field",
        "huge_integer",
        "overflow",
        "nan_text",
        "nan_literal",
        "infinity_literal",
        "stray_byte",
        "bare_control",
        "deep_nesting",
        "huge_string",
        "nul_character",
        "lone_surrogate",
        "odd_text",
    }
)
WIRE = frozenset(
    {
        "reset",
        "close",
        "short_body",
        "long_body",
        "truncated_json",
        "slow",
        "hang",
        "bad_gzip",
        "bom",
        "charset",
        "latency",
        "bandwidth",
        "chunks",
        "broken_chunks",
        "date",
        "gzip_bomb",
        "flood",
    }
)
OTHER = frozenset({"mutate"})
KINDS = REPLIES | LINKS | LIES | RECORDS | WIRE | OTHER

# Half of a body does not count as shown, however much of it was read.
UNREAD = frozenset(
    {
        "reset",
        "close",
        "short_body",
        "long_body",
        "truncated_json",
        "slow",
        "hang",
        "bad_gzip",
        "charset",
        "broken_chunks",
        "gzip_bomb",
        "flood",
    }
)
LENIENT = ("nan_literal", "infinity_literal", "stray_byte", "bare_control")
"""No JSON to the letter, and read as if it were by most readers."""

TOO_LARGE = ("gzip_bomb", "flood")

RECOVERABLE = (
    "throttle",
    "error",
    "challenge",
    "html_body",
    "empty_body",
    "reset",
    "close",
    "short_body",
    "truncated_json",
    "bad_gzip",
    "bare_page",
    "errors_beside",
    "empty_page",
    "duplicates",
    "chunks",
)
