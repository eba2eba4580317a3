"""Decodes the bytes of a page into an Arrow record batch, by the fast path or the fallback.

A page that contains only declared fields, of the declared types, is decoded in one go by
`fast_path`. Any other is read record by record by `fallback`, and the decoder adds what was new to
its fast path, so that later pages with the same drift are fast again.
"""

from dataclasses import dataclass, replace
from datetime import datetime

import msgspec
import pyarrow as pa
from msgspec import Raw, Struct

from klaviyo_assets.decode.batch import BatchBuilder, cursor_range, filter_rows_with_cursor
from klaviyo_assets.decode.fallback import parse_page_by_record, salvage_page
from klaviyo_assets.decode.fast_path import FastPath, can_name_struct_field
from klaviyo_assets.decode.jsonapi import (
    PageIssues,
    ParsedPage,
    QuarantinedRecord,
    check_page_envelope,
    repair_json,
    strip_bom,
)
from klaviyo_assets.decode.masking import ColumnMasker
from klaviyo_assets.decode.schema import PageLayout, build_page_layout
from klaviyo_assets.errors import BrokenBodyError, KlaviyoAssetsError, MalformedPageError
from klaviyo_assets.model.column import EXTRA_FIELD
from klaviyo_assets.model.privacy import PrivacyRules
from klaviyo_assets.model.stream import WHOLE_COLLECTION, Collection, Slice, Stream


class _AttributesRecord(Struct, gc=False):
    attributes: dict[str, Raw]


class _AttributesPage(Struct, gc=False):
    data: list[_AttributesRecord]


_attributes_page_decoder = msgspec.json.Decoder(_AttributesPage)


def missing_attributes(body: bytes, layout: PageLayout) -> list[str]:
    """Return the declared members of `attributes` that no record of a page has, sorted.

    Deeper members do not count, because they differ between records by design, as the strategies of
    campaigns do. Empty for a page with malformed records, and for a response with a single record:
    that may be a placeholder for a 404.
    """
    try:
        records = _attributes_page_decoder.decode(body).data
    except msgspec.ValidationError:
        return []
    declared = {path[0] for _, _, path in layout.attributes}
    return sorted(declared.difference(*(each.attributes for each in records)))


MAX_LEARNED_FIELDS = 500
"""Undeclared fields that the fast path may learn; beyond that, pages with new ones stay slow."""


_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedPage:
    """One page, decoded.

    `record_count` counts all records received; those that are not in `batch` are in `quarantined`.
    `lowest_cursor` and `highest_cursor`: of the cursor column, in UTC, None without rows or cursor.
    `is_ascending`: whether the cursor never decreases within the page. `notices` name fields and
    types, never values. `is_fast`: the fast path decoded the page.
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


class PageDecoder:
    """Decodes the pages of one stream. Thread-safe.

    Every batch has the same `schema`: the stream's, whatever columns are excluded.
    """

    def __init__(self, stream: Stream, *, privacy: PrivacyRules | None = None) -> None:
        """Build the structs of the stream's columns.

        Values that `privacy` names are excluded or hashed in batches, in `extra` and in quarantine;
        excluded columns are NULL.

        Raises:
            ValueError: the stream's columns contradict each other, or the cursor is excluded.
        """
        privacy = privacy or PrivacyRules()
        excluded = (privacy.excluded_columns - {EXTRA_FIELD}) | stream.ignored_attributes
        self._layout = build_page_layout(stream, exclude=excluded)
        self._masker = ColumnMasker(stream, privacy, self._layout.field_tree)
        self._fast_path = FastPath(self._layout.field_tree, self._layout.relationships)
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
        """Return a page as a record batch, with its next link, cursors, quarantine and notices.

        Args:
            body: the response's body, decompressed; `data` may be a list or a single record.
            synced_at: when it was read, UTC; the value of the column.
            slice_: the slice that was requested; its constants fill columns.

        Raises:
            BrokenBodyError: not JSON, not UTF-8, not a JSON object, or an object that is not a page
                (without `data` or `links.self`, or with `errors`); a retry may help.
            MalformedPageError: nested too deeply to be read.
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
        """Return a page whose unreadable records are in quarantine."""
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
                return MalformedPageError("the response is nested too deep to read", stream=stream)
            case UnicodeDecodeError():
                return BrokenBodyError("the response is not UTF-8", stream=stream)
            case _:
                # msgspec's text has the expected type and the position, and no value of the page.
                return BrokenBodyError(f"the response is not JSON: {problem}", stream=stream)

    def _decode_page(self, body: bytes, synced_at: datetime, slice_: Slice) -> DecodedPage:
        layout = self._layout
        parsed = self._parse_page(body)
        self._check_page(parsed)
        batch = BatchBuilder(layout, parsed, slice_).build(synced_at)
        cursor = layout.cursor
        if cursor is not None and batch[cursor].null_count:
            if parsed.is_fast:
                parsed = parse_page_by_record(body, layout.field_tree, layout.stream)
                batch = BatchBuilder(layout, parsed, slice_).build(synced_at)
            batch = filter_rows_with_cursor(batch, cursor, layout=layout, parsed_page=parsed)
        if not body.isascii():
            self._check_utf8(batch)
        if self._is_first_page and batch.num_rows:
            self._note_missing_fields(body, parsed.issues)
        no_range = None, None, True
        lowest, highest, is_ascending = (cursor and cursor_range(batch, cursor)) or no_range
        if self._masker.has_transforms or parsed.issues.extra_values:
            batch = self._masker.mask_batch(batch)
        return DecodedPage(
            batch=batch,
            next_link=parsed.links.next,
            record_count=parsed.record_count,
            lowest_cursor=lowest,
            highest_cursor=highest,
            is_ascending=is_ascending,
            quarantined=tuple(map(self._masker.mask_quarantined, parsed.quarantined)),
            notices=parsed.issues.notices(),
            is_fast=parsed.is_fast,
        )

    def _parse_page(self, body: bytes) -> ParsedPage:
        try:
            return self._fast_path.parse(body)
        except msgspec.ValidationError:
            parsed = parse_page_by_record(body, self._layout.field_tree, self._layout.stream)
        self._learn_schema_drift(parsed)
        return parsed

    def _check_page(self, parsed_page: ParsedPage) -> None:
        """Refuse a body that only looks like a page; links are not checked for a single record.

        Raises:
            BrokenBodyError: a retry may help.
        """
        stream = self._layout.stream
        check_page_envelope(
            parsed_page.links if self._is_paged else None, parsed_page.errors, stream=stream
        )
        if self._is_paged and not parsed_page.is_list:
            text = "the response is no page: its `data` is one record, not a list of them"
            raise BrokenBodyError(text, stream=stream)

    def _learn_schema_drift(self, page: ParsedPage) -> None:
        """Learn fields, loose types and relationships, by replacing one value: thread-safe."""
        known = self._fast_path
        names = {each for each in page.relationships if can_name_struct_field((each,))}
        relationships = known.relationships | names
        extras = known.new_fields | set(filter(can_name_struct_field, page.issues.new_fields))
        loose = known.loose_fields | page.issues.loose_fields
        before = (known.relationships, known.new_fields, known.loose_fields)
        if (relationships, extras, loose) != before and (
            len(extras) + len(relationships) <= MAX_LEARNED_FIELDS
        ):
            self._fast_path = FastPath(
                self._layout.field_tree, relationships, new_fields=extras, loose_fields=loose
            )

    def _note_missing_fields(self, body: bytes, issues: PageIssues) -> None:
        """Add a notice for each declared attribute that the first page with rows lacks."""
        self._is_first_page = False
        for name in missing_attributes(body, self._layout):
            issues.add_notice(name, "declared, but no record of the page has it")

    def _check_utf8(self, batch: pa.RecordBatch) -> None:
        """Check columns whose bytes were passed on undecoded.

        Raises:
            UnicodeDecodeError: they are not UTF-8.
        """
        for name in self._passthrough_columns.intersection(batch.schema.names):
            try:
                batch[name].validate(full=True)
            except pa.ArrowInvalid:
                raise UnicodeDecodeError("utf-8", b"", 0, 0, "not UTF-8") from None
