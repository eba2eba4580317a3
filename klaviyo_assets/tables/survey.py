"""The slow path: a page is read record by record, and what the tree does not know is found.

What belongs here: sorting each value into a column, into `extra`, or the record into quarantine;
and noting what the fast path could learn. What does not: building columns.
"""

import msgspec
from msgspec import Raw

from klaviyo_assets.errors import BrokenBodyError
from klaviyo_assets.redaction import without_keys
from klaviyo_assets.tables.coercion import coerced
from klaviyo_assets.tables.envelope import WITHOUT_DATA, links_of
from klaviyo_assets.tables.findings import Findings, is_null, json_type
from klaviyo_assets.tables.gathered import Gathered, Quarantined
from klaviyo_assets.tables.resources import (
    ABSENT,
    NOTHING,
    Envelope,
    Relationships,
    relations_of,
    relationships_of,
)
from klaviyo_assets.tables.tree import Branch, Field, Path, extra_key

_OF_A_RECORD = frozenset({"type", "id", "attributes", "relationships", "links"})

_envelope = msgspec.json.Decoder(Envelope)
_list = msgspec.json.Decoder(list[Raw])
_members = msgspec.json.Decoder(dict[str, Raw])


class BrokenRecordError(ValueError):
    """A record that cannot be stored; the text is the reason. It never leaves this file."""


def surveyed(body: bytes, root: Branch, stream: str) -> Gathered:
    """Return the values of a page, read record by record.

    Args:
        body: the page, JSON in UTF-8.
        root: the tree of declared fields alone, without what was learned.
        stream: the stream's name, for errors.

    Raises:
        BrokenBodyError: JSON, but not an object; or an object that is no page.
        msgspec.DecodeError: not JSON.
    """
    # Names of fields end in notices and in `extra`: a page that repeats the key comes this way.
    body = without_keys(body)
    try:
        page = _envelope.decode(body)
    except msgspec.ValidationError:
        raise BrokenBodyError("the answer is JSON, but not an object", stream=stream) from None
    links = links_of(page.links, stream)
    survey = _Survey(root)
    records, is_list = _records(page.data, stream)
    for record in records:
        survey.add(record)
    return Gathered(
        ids=survey.ids,
        values=survey.values,
        relations=relations_of(survey.relations),
        records=len(records),
        findings=survey.findings,
        included=page.included,
        links=links,
        errors=page.errors,
        is_list=is_list,
        is_fast=False,
        raws=survey.raws,
        quarantined=survey.quarantined,
    )


def _records(data: Raw, stream: str) -> tuple[list[Raw], bool]:
    """Return the records, and whether they came as a list."""
    if not len(data):
        raise BrokenBodyError(WITHOUT_DATA, stream=stream)
    match json_type(data):
        case "array":
            return _list.decode(data), True
        case "object":
            return [data], False
        case found:
            text = f"the answer is no page: its `data` is neither a list nor an object but {found}"
            raise BrokenBodyError(text, stream=stream)


class _Survey:
    """Reads records into rows."""

    def __init__(self, root: Branch) -> None:
        self._root = root
        self.ids: list[str] = []
        self._fields = _fields(root)
        self.values: dict[Path, list[object]] = {field.path: [] for field in self._fields}
        self.relations: list[Relationships | None] = []
        self.raws: list[Raw] = []
        self.quarantined: list[Quarantined] = []
        self.findings = Findings()

    def add(self, raw: Raw) -> None:
        """Read one record into the next row, or put it into quarantine."""
        try:
            members, id_ = _opened(raw)
        except BrokenRecordError as broken:
            self.quarantined.append(Quarantined(str(broken), bytes(raw)))
            return
        row = len(self.ids)
        self.ids.append(id_)
        self.raws.append(raw)
        for field in self._fields:
            self.values[field.path].append(ABSENT if field.type == "json" else None)
        self._walk(self._root, members["attributes"], row)
        self.relations.append(self._relationships(members.get("relationships", ABSENT), row))
        self._beside(members, row)

    def _walk(self, branch: Branch, members: Raw, row: int) -> None:
        for name, value in _members.decode(members).items():
            child = branch.children.get(name)
            path = (*branch.path, name)
            if isinstance(child, Field):
                self._read(child, value, row)
            elif child is None:
                self.findings.new_fields.add(path)
                if not is_null(value):
                    key = extra_key(self._root, path)
                    self.findings.without_column(row, key, bytes(value))
            elif json_type(value) == "object":
                self._walk(child, value, row)
            elif not is_null(value):
                outcome = "where an object is declared, left NULL"
                key = extra_key(self._root, path)
                self.findings.misfit(row, key, bytes(value), outcome=outcome)

    def _read(self, field: Field, value: Raw, row: int) -> None:
        if field.purpose == "ignored":
            return
        if field.type == "json":
            self.values[field.path][row] = value
            return
        at = (row, extra_key(self._root, field.path))
        found, fits = self.findings.typed(bytes(value), field.type, at=at)
        self.values[field.path][row] = found
        if not fits:
            self.findings.loose_fields.add(field.path)

    def _relationships(self, raw: Raw, row: int) -> Relationships | None:
        if bytes(raw) in NOTHING:
            return None
        try:
            shaped, odd = relationships_of(raw)
        except msgspec.ValidationError:
            self.findings.without_column(row, "record.relationships", bytes(raw))
            return None
        for name, each in odd.items():
            self.findings.without_column(row, f"relationships.{name}", bytes(each))
        return shaped

    def _beside(self, members: dict[str, Raw], row: int) -> None:
        if json_type(members["id"]) != "string":
            self.findings.note("id", f"{json_type(members['id'])}, read as text")
        for name in members.keys() - _OF_A_RECORD:
            if bytes(members[name]) not in NOTHING:
                self.findings.without_column(row, f"record.{name}", bytes(members[name]))


def _opened(raw: Raw) -> tuple[dict[str, Raw], str]:
    """Return the members of a record and its id.

    Raises:
        BrokenRecordError: it cannot be stored.
    """
    if (found := json_type(raw)) != "object":
        raise BrokenRecordError(f"the record is not an object but {found}")
    members = _members.decode(raw)
    if "id" not in members:
        raise BrokenRecordError("the record has no id")
    id_, _ = coerced(bytes(members["id"]), "string")
    if not isinstance(id_, str) or json_type(members["id"]) == "boolean":
        raise BrokenRecordError(f"the record's id is {json_type(members['id'])}")
    if not id_:
        raise BrokenRecordError("the record's id is empty")
    if "attributes" not in members:
        raise BrokenRecordError("the record has no attributes")
    if (found := json_type(members["attributes"])) != "object":
        raise BrokenRecordError(f"the record's attributes are not an object but {found}")
    return members, id_


def _fields(branch: Branch) -> list[Field]:
    fields: list[Field] = []
    for child in branch.children.values():
        if isinstance(child, Branch):
            fields += _fields(child)
        elif child.purpose != "ignored":
            fields.append(child)
    return fields
