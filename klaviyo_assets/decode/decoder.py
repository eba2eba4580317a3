"""Decodes the bytes of a page into an Arrow record batch, by the fast path or the fallback.

A page that holds what was declared is decoded at once (`structs`). One that holds more, or other
types, is read record by record (`survey`), and the decoder learns what was new: the next pages
with it are fast again. What belongs here: choosing between the two, and what a page tells.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import pyarrow as pa
from msgspec import Raw, Struct

from klaviyo_assets.decode.batch import BatchBuilder, cursor_range, filter_rows_with_cursor
from klaviyo_assets.decode.coercion import PageIssues, ParsedPage, QuarantinedRecord
from klaviyo_assets.decode.fallback import parse_page_by_record, salvage_page
from klaviyo_assets.decode.fast_path import FastPath, can_name_struct_field
from klaviyo_assets.decode.jsonapi import check_page_envelope, repair_json, strip_bom
from klaviyo_assets.decode.masking import ColumnMasker
from klaviyo_assets.decode.schema import (
    PageLayout,
    apply_schema_drift,
    build_page_layout,
)
from klaviyo_assets.errors import BrokenBodyError, KlaviyoAssetsError, MalformedPageError
from klaviyo_assets.model.column import EXTRA_FIELD, JsonPath
from klaviyo_assets.model.privacy import PrivacyRules
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Slice, Stream


class _AttributesRecord(Struct, gc=False):
    attributes: dict[str, Raw]


class _AttributesPage(Struct, gc=False):
    data: list[_AttributesRecord]


_attributes_page_decoder = msgspec.json.Decoder(_AttributesPage)


def missing_attributes(body: bytes, layout: PageLayout) -> list[str]:
    """Return the declared members of `attributes` that no record of a page has, sorted.

    What lies deeper does not count: it differs from record to record by design, as the strategies
    of campaigns do. Nothing is missing from a page with broken records, or from a single record
    that was asked for alone: that may be made up for a 404.
    """
    try:
        records = _attributes_page_decoder.decode(body).data
    except msgspec.ValidationError:
        return []
    declared = {path[0] for _, _, path in layout.attributes}
    return sorted(declared.difference(*(each.attributes for each in records)))


MAX_LEARNED_FIELDS = 500
"""Fields that are not declared and yet decoded fast; a page with more takes the slow path."""


_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPage:
    """One answer, decoded.

    `record_count` counts all that came; those not in `build` are in `mask_quarantined`.
    `lowest_cursor` and `highest_cursor` are of the cursor column, UTC, None without rows or cursor;
    `is_ascending` tells whether it never goes back within the page. `notices` name fields and
    types, never values. `is_fast` tells that the page held nothing new and was decoded at once.
    """

    batch: pa.RecordBatch
    next_link: str | None
    record_count: int
    lowest_cursor: datetime | None
    highest_cursor: datetime | None
    is_ascending: bool
    quarantined: tuple[QuarantinedRecord, ...]
    notices: tuple[str, ...]
    is_fast: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _SchemaDrift:
    """What real pages held beyond the declaration, and the fast path that knows it."""

    new_fields: frozenset[JsonPath] = frozenset()
    loose_fields: frozenset[JsonPath] = frozenset()
    fast_path: FastPath


class PageDecoder:
    """Decodes the pages of one stream; may be shared by threads.

    `schema` is that of every batch: the stream's, whatever is excluded.
    """

    def __init__(self, stream: Stream, *, privacy: PrivacyRules | None = None) -> None:
        """Make the structs of the stream's columns.

        What `privacy` names is neither in the batches nor in `extra` nor in quarantine as it came;
        excluded columns are NULL.

        Raises:
            ValueError: the stream's columns contradict each other, or the cursor is excluded.
        """
        privacy = privacy or PrivacyRules()
        self._layout = build_page_layout(stream, exclude=privacy.excluded_columns - {EXTRA_FIELD})
        self._masker = ColumnMasker(stream, privacy, self._layout.field_tree)
        self._schema_drift = _SchemaDrift(
            fast_path=FastPath(self._layout.field_tree, sorted(self._layout.relationships))
        )
        self._passthrough_columns = frozenset(
            {EXTRA_FIELD, *(each.name for each in stream.columns if each.type == "json")}
        )
        self._is_first_page = True
        self._is_paged = isinstance(stream.source, Collection)

    @property
    def schema(self) -> pa.Schema:
        """Return the schema of every batch."""
        return self._masker.schema

    def decode(
        self, body: bytes, *, synced_at: datetime, slice_: Slice = WHOLE_COLLECTION
    ) -> DecodedPage:
        """Return a page as a record batch, and what the sync wants to know of it.

        Args:
            body: the answer, uncompressed; `data` may be a list or a single record.
            synced_at: when it was read, UTC.
            slice_: the slice it was asked for, for the constants that the slice brings.

        Raises:
            BrokenBodyError: not JSON, not UTF-8, no JSON object, or one that is no page (without
                `data` or `links.self`, or with `errors`); asking again may help.
            MalformedPageError: nested deeper than can be read.
        """
        text = strip_bom(body, self._layout.stream)
        try:
            return self._decode_page(text, synced_at, slice_)
        except _DECODE_ERRORS as problem:
            whole, changed = repair_json(text)
            if not changed:
                return self._decode_salvaged(whole, problem, synced_at, slice_)
        try:
            page = self._decode_page(whole, synced_at, slice_)
        except _DECODE_ERRORS as problem:
            page = self._decode_salvaged(whole, problem, synced_at, slice_)
        return replace(page, notices=(*page.notices, *changed))

    def _decode_salvaged(
        self, body: bytes, problem: Exception, synced_at: datetime, slice_: Slice
    ) -> DecodedPage:
        """Return a page with the records that cannot be read in quarantine."""
        found = salvage_page(body)
        if found is None:
            raise self._undecodable_error(problem) from None
        try:
            page = self._decode_page(found.body, synced_at, slice_)
        except _DECODE_ERRORS:
            raise self._undecodable_error(problem) from None
        broken = tuple(map(self._masker.mask_quarantined, found.quarantined))
        return replace(
            page,
            record_count=page.record_count + len(broken),
            quarantined=(*page.quarantined, *broken),
        )

    def _undecodable_error(self, problem: Exception) -> KlaviyoAssetsError:
        stream = self._layout.stream
        match problem:
            case RecursionError():
                return MalformedPageError("the answer is nested too deep to read", stream=stream)
            case UnicodeDecodeError():
                return BrokenBodyError("the answer is not UTF-8", stream=stream)
            case _:
                # msgspec says what it expected and at which byte, not what stands there.
                return BrokenBodyError(f"the answer is not JSON: {problem}", stream=stream)

    def _decode_page(self, body: bytes, synced_at: datetime, slice_: Slice) -> DecodedPage:
        layout = self._layout
        gathered = self._parse_page(body)
        self._check_page(gathered)
        batch = BatchBuilder(layout, gathered, slice_).build(synced_at)
        cursor = layout.cursor
        if cursor is not None and batch[cursor].null_count:
            if gathered.is_fast:
                gathered = parse_page_by_record(body, layout.field_tree, layout.stream)
                batch = BatchBuilder(layout, gathered, slice_).build(synced_at)
            batch = filter_rows_with_cursor(batch, cursor, layout=layout, parsed_page=gathered)
        if not body.isascii():
            self._check_utf8(batch)
        if self._is_first_page and batch.num_rows:
            self._note_missing_fields(body, gathered.issues)
        lowest, highest, is_ascending = (cursor and cursor_range(batch, cursor)) or (
            None,
            None,
            True,
        )
        return DecodedPage(
            batch=self._masker.mask_batch(batch),
            next_link=gathered.links.next,
            record_count=gathered.record_count,
            lowest_cursor=lowest,
            highest_cursor=highest,
            is_ascending=is_ascending,
            quarantined=tuple(map(self._masker.mask_quarantined, gathered.quarantined)),
            notices=gathered.issues.notices(),
            is_fast=gathered.is_fast,
        )

    def _parse_page(self, body: bytes) -> ParsedPage:
        try:
            return self._schema_drift.fast_path.parse(body)
        except msgspec.ValidationError:
            gathered = parse_page_by_record(body, self._layout.field_tree, self._layout.stream)
        self._learn_schema_drift(gathered.issues)
        return gathered

    def _check_page(self, parsed_page: ParsedPage) -> None:
        """Refuse what looks like a page and is none; of a single record the links do not matter."""
        stream = self._layout.stream
        check_page_envelope(
            parsed_page.links if self._is_paged else None, parsed_page.errors, stream=stream
        )
        if self._is_paged and not parsed_page.is_list:
            text = "the answer is no page: its `data` is one record, not a list of them"
            raise BrokenBodyError(text, stream=stream)

    def _learn_schema_drift(self, issues: PageIssues) -> None:
        """Know from now on what was found; a new value each time, for other threads' sake."""
        known = self._schema_drift
        extras = known.new_fields | set(filter(can_name_struct_field, issues.new_fields))
        loose = known.loose_fields | issues.loose_fields
        if (extras, loose) == (known.new_fields, known.loose_fields) or len(
            extras
        ) > MAX_LEARNED_FIELDS:
            return
        tree = apply_schema_drift(self._layout.field_tree, new_fields=extras, loose_fields=loose)
        self._schema_drift = _SchemaDrift(
            new_fields=extras,
            loose_fields=loose,
            fast_path=FastPath(tree, sorted(self._layout.relationships)),
        )

    def _note_missing_fields(self, body: bytes, issues: PageIssues) -> None:
        """Name the declared attributes that the first page with rows does not have."""
        self._is_first_page = False
        for name in missing_attributes(body, self._layout):
            issues.add_notice(name, "declared, but no record of the page has it")

    def _check_utf8(self, batch: pa.RecordBatch) -> None:
        """Raise UnicodeDecodeError where bytes that were only passed on are not UTF-8."""
        for name in self._passthrough_columns.intersection(batch.schema.names):
            try:
                batch[name].validate(full=True)
            except pa.ArrowInvalid:
                raise UnicodeDecodeError("utf-8", b"", 0, 0, "not UTF-8") from None
