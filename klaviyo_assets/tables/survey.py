"""The slow path: a page is read record by record, and what the tree does not know is found.

What belongs here: sorting each value into a column, into `extra`, or the record into quarantine;
and noting what the fast path could learn. What does not: building columns.
"""

from dataclasses import dataclass

import msgspec
from msgspec import Raw, Struct

from klaviyo_assets.errors import BrokenBodyError, MalformedPageError
from klaviyo_assets.tables.coercion import coerced
from klaviyo_assets.tables.findings import Findings, json_type
from klaviyo_assets.tables.gathered import Gathered, Quarantined
from klaviyo_assets.tables.resources import (
    ABSENT,
    Envelope,
    Links,
    Relationships,
    relationships_of,
)
from klaviyo_assets.tables.structs import typed
from klaviyo_assets.tables.tree import Branch, Field, Path, extra_key

_envelope = msgspec.json.Decoder(Envelope)
_links = msgspec.json.Decoder(Links | None)
_list = msgspec.json.Decoder(list[Raw])
_members = msgspec.json.Decoder(dict[str, Raw])

_NOTHING = frozenset({b"", b"null", b"[]", b"{}"})
_OF_A_RECORD = frozenset({"type", "id", "attributes", "relationships", "links"})


class BrokenRecordError(ValueError):
    """A record that cannot be stored; the text is the reason. It never leaves this room."""


class _Record(Struct, gc=False):
    id: Raw = ABSENT
    attributes: Raw = ABSENT
    relationships: Raw = ABSENT


_record = msgspec.json.Decoder(_Record)


@dataclass(slots=True)
class _Survey:
    root: Branch
    gathered: Gathered

    def add(self, raw: Raw) -> None:
        """Read one record into the next row, or put it into quarantine."""
        try:
            members, id_ = _opened(raw)
        except BrokenRecordError as broken:
            self.gathered.quarantined.append(Quarantined(str(broken), bytes(raw)))
            return
        row = len(self.gathered.ids)
        self.gathered.ids.append(id_)
        if not bytes(members["id"]).startswith(b'"'):
            self.gathered.findings.note("id", f"{json_type(members['id'])}, read as text")
        for values in self.gathered.values.values():
            values.append(None)
        self._walk(self.root, _members.decode(members["attributes"]), row)
        self.gathered.relations.append(self._relationships(members, row))
        self._beside(members, row)
        if self.gathered.raws is not None:
            self.gathered.raws.append(raw)

    def _walk(self, branch: Branch, members: dict[str, Raw], row: int) -> None:
        for name, value in members.items():
            child = branch.children.get(name)
            path = (*branch.path, name)
            if isinstance(child, Field):
                self._read(child, value, row)
            elif isinstance(child, Branch) and bytes(value).startswith(b"{"):
                self._walk(child, _members.decode(value), row)
            else:
                self._unknown(path, value, row, is_branch=child is not None)

    def _read(self, field: Field, value: Raw, row: int) -> None:
        if field.purpose == "ignored":
            return
        if field.type == "json":
            self.gathered.values[field.path][row] = value
            return
        raw = bytes(value)
        key = extra_key(self.root, field.path)
        findings = self.gathered.findings
        self.gathered.values[field.path][row] = typed(
            raw, field.type, at=(row, key), findings=findings
        )
        if not coerced(raw, field.type)[1]:
            findings.loose_fields.add(field.path)

    def _unknown(self, path: Path, value: Raw, row: int, *, is_branch: bool) -> None:
        raw = bytes(value)
        findings = self.gathered.findings
        if not is_branch:
            findings.new_fields.add(path)
        if raw == b"null":
            return
        key = extra_key(self.root, path)
        if is_branch:
            findings.misfit(row, key, raw, outcome="where an object is declared, left NULL")
        else:
            findings.without_column(row, key, raw)

    def _relationships(self, members: dict[str, Raw], row: int) -> Relationships | None:
        raw = members.get("relationships", ABSENT)
        if bytes(raw) in _NOTHING:
            return None
        try:
            shaped, odd = relationships_of(raw)
        except msgspec.ValidationError:
            self.gathered.findings.without_column(row, "record.relationships", bytes(raw))
            return None
        for name, each in odd.items():
            self.gathered.findings.without_column(row, f"relationships.{name}", bytes(each))
        return shaped

    def _beside(self, members: dict[str, Raw], row: int) -> None:
        for name in members.keys() - _OF_A_RECORD:
            raw = bytes(members[name])
            if raw not in _NOTHING:
                self.gathered.findings.without_column(row, f"record.{name}", raw)


def _opened(raw: Raw) -> tuple[dict[str, Raw], str]:
    """Return the members of a record and its id.

    Raises:
        BrokenRecordError: it cannot be stored.
    """
    try:
        members = _members.decode(raw)
    except msgspec.ValidationError:
        raise BrokenRecordError(f"the record is not an object but {json_type(raw)}") from None
    if "id" not in members:
        raise BrokenRecordError("the record has no id")
    value, _ = coerced(bytes(members["id"]), "string")
    if not isinstance(value, str) or not value or json_type(members["id"]) == "boolean":
        raise BrokenRecordError(f"the record's id is {json_type(members['id'])}, or empty")
    if "attributes" not in members:
        raise BrokenRecordError("the record has no attributes")
    if (found := json_type(members["attributes"])) != "object":
        raise BrokenRecordError(f"the record's attributes are not an object but {found}")
    return members, value


def surveyed(body: bytes, root: Branch, stream: str) -> Gathered:
    """Return the values of a page, read record by record.

    Args:
        body: the page, JSON in UTF-8.
        root: the tree of declared fields alone, without what was learned.
        stream: the stream's name, for errors.

    Raises:
        BrokenBodyError: JSON, but not an object.
        MalformedPageError: an object that is no page.
        msgspec.DecodeError: not JSON.
    """
    try:
        page = _envelope.decode(body)
    except msgspec.ValidationError:
        raise BrokenBodyError("the answer is JSON, but not an object", stream=stream) from None
    next_link = _next_link(page.links, stream)
    records = _records(page.data, stream)
    gathered = Gathered(
        ids=[],
        values={path: [] for path in _paths(root)},
        relations=[],
        records=len(records),
        findings=Findings(),
        included=page.included,
        next_link=next_link,
        raws=[],
    )
    survey = _Survey(root, gathered)
    for record in records:
        survey.add(record)
    return gathered


def _records(data: Raw, stream: str) -> list[Raw]:
    if not len(data):
        raise MalformedPageError("the answer is an object without `data`", stream=stream)
    match json_type(data):
        case "array":
            return _list.decode(data)
        case "object":
            return [data]
        case found:
            raise MalformedPageError(
                f"`data` of the answer is neither a list nor an object but {found}", stream=stream
            )


def _next_link(links: Raw, stream: str) -> str | None:
    if bytes(links) in _NOTHING:
        return None
    try:
        found = _links.decode(links)
    except msgspec.ValidationError:
        raise MalformedPageError(
            "where the next page is cannot be read: `links.next` is no text", stream=stream
        ) from None
    return found.next if found is not None else None


def _paths(branch: Branch) -> list[Path]:
    paths: list[Path] = []
    for child in branch.children.values():
        if isinstance(child, Branch):
            paths += _paths(child)
        elif child.purpose != "ignored":
            paths.append(child.path)
    return paths
