"""The data dictionary and the picture of joins, made from the declarations.

`python -m klaviyo_assets_tests.contract.golden_streams` writes docs/dictionary.md and
docs/joins.md anew.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from klaviyo_assets.lake.read.computed import RatesRelation, build_rates_relation
from klaviyo_assets.lake.read.views import PROFILE_MERGES_DESCRIPTION
from klaviyo_assets.model.stream import base_stream_name, relation_columns
from klaviyo_assets.streams import MERGE_RULES, STREAMS, VIEWS
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.stream_pages import COLUMN_TYPES

DICTIONARY_PAGE = ROOT / "docs" / "dictionary.md"
JOINS_PAGE = ROOT / "docs" / "joins.md"

OTHER_NAMES = {
    "flow_trigger": "flows",
    "item": "catalog_items",
    "template": "email_templates",
    "universal_content": "universal_content",
    "variant": "catalog_variants",
}
"""Words for a record that are not the singular of its stream's name."""

IDS_OF_NO_TABLE = {
    "attribution_id",
    "consent_page_id",
    "current_schema_id",
    "draft_schema_id",
    "external_id",
    "flow_message_variation_id",
    "metadata_app_id",
    "metadata_device_id",
    "product_external_id",
    "text_messaging_sender_registration_id",
}
"""Columns with ids of what no stream has, or of another system."""

MORE_JOINS = (
    ("global_exclusions", "id", "profiles"),
    ("profile_merges", "old_id", "profiles"),
    ("profile_merges", "survivor_id", "profiles"),
)
"""Joins that the names of columns do not tell."""

PICTURES = (
    (
        "People and what they do",
        frozenset({"Profiles", "Events", "Metrics", "Lists", "Segments"}),
    ),
    (
        "Messages and what came of them",
        frozenset({"Campaigns", "Flows", "Templates", "Tags", "Reporting"}),
    ),
    ("All others", frozenset[str]()),
)
"""Titles, and the sections of Klaviyo's reference whose streams each shows; the last: the rest."""

SECTION_OF_VIEWS = {
    "profiles": "Profiles",
    "campaign_values_reports": "Reporting",
    "flow_series_reports": "Reporting",
}
"""The section of a view, by the first table that it reads."""


DICTIONARY_HEAD = """\
# Data dictionary

Every relation of `klaviyo.duckdb` with its columns, by section of Klaviyo's API reference. How they
join, with pictures: [joins](joins.md). Questions to begin with: [queries](queries.md).

A relation is there once its stream was read, a view once those that it is made of were. A table
that append modes or `KLAVIYO_HISTORY` write is `<stream>_history`, with the columns of the stream,
`sync_started_at`, and where it is dated `valid_from` and `valid_to`. Times are in UTC. JSON text is
VARCHAR: `json_extract_string(event_properties, '$."Email Domain"')`. Statistics say whether their
days may be added up.
"""

JOINS_HEAD = """\
# How tables join

A column `<name>_id` has the `id` of a row of another table, `<name>_ids` a list of them:

```sql
FROM klaviyo.events AS e JOIN klaviyo.metrics AS m ON m.id = e.metric_id;
FROM klaviyo.campaigns AS c JOIN klaviyo.tags AS t ON list_contains(c.tag_ids, t.id);
```

Since revision 2026-10-15 `campaign_message_id` of reports and events may be a variation:
[campaigns](campaigns.md). In the pictures a line ends in a fork where many rows have the id of one;
tables that no id leads to or from are left out.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentedRelation:
    """A relation of klaviyo.duckdb: `columns` with type and meaning; `base`: what it extends."""

    name: str
    section: str
    description: str
    key: tuple[str, ...]
    columns: tuple[tuple[str, str, str], ...]
    base: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPath:
    """A column of one relation that has the id of a row of another, or a list of them."""

    relation: str
    column: str
    target: str

    @property
    def is_list(self) -> bool:
        """Return whether the column has several ids."""
        return self.column.endswith("_ids")


def documented_relations() -> list[DocumentedRelation]:
    """Return the relations of all streams, rates, merges and views, by section and name."""
    found = [*_streams(), *_rates(), *_merges(), *_views()]
    return sorted(found, key=lambda each: (each.section, each.name))


def _streams() -> Iterator[DocumentedRelation]:
    for stream in STREAMS.values():
        base = base_stream_name(stream) or ""
        own = {column.name for column in relation_columns(STREAMS[base], STREAMS)} if base else ()
        yield DocumentedRelation(
            name=stream.name,
            section=stream.section,
            description=stream.description,
            key=stream.key,
            base=base,
            note=f"[requests, scopes](streams/{stream.name}.md)",
            columns=tuple(
                (each.name, COLUMN_TYPES[each.type], each.description)
                for each in relation_columns(stream, STREAMS)
                if each.name not in own
            ),
        )


def _rates() -> Iterator[DocumentedRelation]:
    for stream in STREAMS.values():
        rates = build_rates_relation(stream)
        if rates is None:
            continue
        yield DocumentedRelation(
            name=rates.name,
            section=stream.section,
            description=rates.description.summary,
            key=("period", "date", "level", *rates.levels[0][1]),
            note=f"a view of [{stream.name}](#{stream.name})",
            columns=tuple(
                (name, _type_of_rates(rates, name), about)
                for name, about in rates.description.columns.items()
            ),
        )


def _type_of_rates(rates: RatesRelation, name: str) -> str:
    if name == "date":
        return "DATE"
    numbers = {*rates.counts, *(rate for rate, _, _ in rates.rates)}
    return "DOUBLE" if name in numbers else "VARCHAR"


def _merges() -> Iterator[DocumentedRelation]:
    for rule in MERGE_RULES:
        yield DocumentedRelation(
            name=rule.name,
            section=STREAMS[rule.people].section,
            description=PROFILE_MERGES_DESCRIPTION.summary,
            key=("old_id", "survivor_id"),
            note=f"a view of [{rule.people}](#{rule.people})",
            columns=tuple(
                (name, "TIMESTAMPTZ" if name == "noticed_at" else "VARCHAR", about)
                for name, about in PROFILE_MERGES_DESCRIPTION.columns.items()
            ),
        )


def _views() -> Iterator[DocumentedRelation]:
    for view in VIEWS:
        tables = ", ".join(f"[{each.name}](#{each.name})" for each in view.tables)
        yield DocumentedRelation(
            name=view.name,
            section=SECTION_OF_VIEWS[view.tables[0].name],
            description=view.description,
            key=(),
            note=f"a view of {tables}: [more](query.md#views-for-analysts)",
            columns=tuple(
                (each.name, COLUMN_TYPES[each.type], each.description) for each in view.columns
            ),
        )


def find_target(column: str) -> str | None:
    """Return the relation whose rows a column has the ids of; None where it has none.

    The longest ending of the column's name that names a record of a stream: `metric` of
    `attributed_event_metric_id`.
    """
    if not column.endswith(("_id", "_ids")) or column in IDS_OF_NO_TABLE:
        return None
    words = column.removesuffix("s").removesuffix("_id").split("_")
    for first in range(len(words)):
        word = "_".join(words[first:])
        name = OTHER_NAMES.get(word, f"{word}s")
        if name in STREAMS:
            return name
    return None


def join_paths(relations: Iterable[DocumentedRelation]) -> list[JoinPath]:
    """Return how relations join, in order; columns of the relation that one extends are its own."""
    found = [
        JoinPath(relation=each.name, column=column, target=target)
        for each in relations
        for column, _, _ in each.columns
        if (target := find_target(column)) is not None
    ]
    more = (JoinPath(relation=one, column=column, target=to) for one, column, to in MORE_JOINS)
    return sorted([*found, *more], key=lambda each: (each.relation, each.column))


def dictionary_page() -> str:
    """Return the text of docs/dictionary.md."""
    relations = documented_relations()
    lines = DICTIONARY_HEAD.splitlines()
    for section in dict.fromkeys(each.section for each in relations):
        own = [each for each in relations if each.section == section]
        lines += ["", f"## {section}", ""]
        lines += [f"* [{each.name}](#{each.name}): {_grain(each)}" for each in own]
        for each in own:
            lines += ["", f"### {each.name}", "", *_describe(each)]
    return "\n".join([*lines, "", "Generated from the declarations.", ""])


def _grain(relation: DocumentedRelation) -> str:
    return relation.description.removeprefix("One row per ").rstrip(".")


def _describe(relation: DocumentedRelation) -> Iterator[str]:
    key = f" Key: {', '.join(f'`{name}`' for name in relation.key)}." if relation.key else ""
    yield f"{relation.description}{key} {relation.note[0].upper()}{relation.note[1:]}."
    yield ""
    if relation.base:
        yield f"All columns of [{relation.base}](#{relation.base}), and:"
        yield ""
    yield "| column | type | meaning |"
    yield "|---|---|---|"
    for name, kind, about in relation.columns:
        target = find_target(name)
        to = f" [{target}](#{target})" if target else ""
        yield f"| `{name}` | {kind} | {about.replace('|', chr(92) + '|')}{to} |"


def joins_page() -> str:
    """Return the text of docs/joins.md: pictures, and a list of all joins."""
    relations = documented_relations()
    paths = join_paths(relations)
    lines = JOINS_HEAD.splitlines()
    shown: set[str] = set()
    for title, sections in PICTURES:
        names = {
            each.name
            for each in relations
            if (each.section in sections if sections else each.name not in shown)
        }
        shown |= names
        lines += ["", f"## {title}", "", "```mermaid", *_picture(relations, paths, names), "```"]
    lines += ["", "## All joins", "", "| table | column | has the id of |", "|---|---|---|"]
    lines += [
        f"| [{each.relation}](dictionary.md#{each.relation}) | `{each.column}` "
        f"| {'rows' if each.is_list else 'a row'} of [{each.target}](dictionary.md#{each.target}) |"
        for each in paths
    ]
    return "\n".join([*lines, "", "Generated from the declarations.", ""])


def _picture(
    relations: Iterable[DocumentedRelation], paths: Iterable[JoinPath], names: set[str]
) -> Iterator[str]:
    """Yield the lines of an entity relationship diagram of Mermaid about some relations."""
    own = [each for each in paths if each.relation in names]
    drawn = {each.relation for each in own} | {each.target for each in own}
    yield "erDiagram"
    for relation in relations:
        if relation.name in names & drawn:
            foreign = [each.column for each in own if each.relation == relation.name]
            keys = [name for name in relation.key if name not in foreign]
            yield f"    {relation.name} {{"
            yield from (f"        key {name} PK" for name in keys)
            yield from (
                f"        id {name} {'PK, FK' if name in relation.key else 'FK'}"
                for name in foreign
            )
            yield "    }"
    for each in own:
        ends = "}o--o{" if each.is_list else "||--o{"
        yield f"    {each.target} {ends} {each.relation} : {each.column}"


def expected_dictionary_pages() -> dict[Path, str]:
    """Return both pages by their places."""
    return {DICTIONARY_PAGE: dictionary_page(), JOINS_PAGE: joins_page()}
