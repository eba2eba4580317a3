"""What of Klaviyo's API is read, and what is not, and why: `docs/coverage.md`.

`collections.toml` says what there is. A path needs a stream that reads it, or its reason in
`EXCLUDED`.
"""

import tomllib
from collections.abc import Iterator, Mapping, Sequence

from klaviyo_assets.model.selection import section_group
from klaviyo_assets.model.stream import Children, Stream, revision_note
from klaviyo_assets.streams import STREAMS
from klaviyo_assets_tests.contract.read_collections import COLLECTIONS_PATH

Offered = Mapping[str, Sequence[str]]
"""The revisions that offer a path, by path."""

_DOCUMENT = tomllib.loads(COLLECTIONS_PATH.read_text(encoding="utf-8"))

REVISIONS: tuple[str, ...] = tuple(_DOCUMENT["revisions"])
COLLECTIONS: Offered = _DOCUMENT["collections"]
POSTS: Offered = _DOCUMENT["posts"]

JOB_LOG = "a log of what others wrote by the API; it says nothing that the written records do not"

EXCLUDED: Mapping[str, str] = {
    "/api/catalog-category-bulk-create-jobs": JOB_LOG,
    "/api/catalog-category-bulk-delete-jobs": JOB_LOG,
    "/api/catalog-category-bulk-update-jobs": JOB_LOG,
    "/api/catalog-item-bulk-create-jobs": JOB_LOG,
    "/api/catalog-item-bulk-delete-jobs": JOB_LOG,
    "/api/catalog-item-bulk-update-jobs": JOB_LOG,
    "/api/catalog-variant-bulk-create-jobs": JOB_LOG,
    "/api/catalog-variant-bulk-delete-jobs": JOB_LOG,
    "/api/catalog-variant-bulk-update-jobs": JOB_LOG,
    "/api/coupon-code-bulk-create-jobs": JOB_LOG,
    "/api/template-render": "fills a template with the caller's values; no data of its own",
}
"""Why no stream reads a path. A line leaves with the stream that reads it."""

PAGE = """\
# Coverage

All that Klaviyo's API lets a key read whole, by revision, and the stream that reads it or the reason why none does. Streams
read {read_collections} of {collections} collections and {read_reports} of {reports} reports. What a stream is, and how
`KLAVIYO_STREAMS` chooses: [streams](streams.md).

This page is generated: `python -m klaviyo_assets_tests.contract.golden_streams`.

## Collections

{collection_table}

## Requests by POST that read

{post_table}

## Further streams

These are made of a request for each record of another stream, or of stored tables alone: {others}.
"""  # noqa: E501 - lines of a page


def readers(path: str, streams: Mapping[str, Stream]) -> list[Stream]:
    """Return the streams that read a path: itself, or the same records parent by parent."""
    return [each for each in streams.values() if path in _whole_paths(each)]


def _whole_paths(stream: Stream) -> Iterator[str]:
    read: str | None = getattr(stream.source, "path", None)
    if read is not None:
        yield read
        if isinstance(stream.source, Children):
            yield f"/api/{read.rpartition('/')[2]}"


def coverage_problems(
    published: Offered, excluded: Mapping[str, str], streams: Mapping[str, Stream]
) -> list[str]:
    """Return what is wrong, a line each: nothing reads a path, or its reason is out of date."""
    found: list[str] = []
    for path in sorted(published.keys() | excluded.keys()):
        by = [each.name for each in readers(path, streams)]
        if path not in published:
            found.append(f"{path}: no revision offers it; delete its line in EXCLUDED")
        elif by and path in excluded:
            found.append(f"{path}: {', '.join(by)} reads it; delete its line in EXCLUDED")
        elif not by and path not in excluded:
            offered = " and ".join(published[path])
            found.append(f"{path}: offered by {offered}; add a stream, or a reason to EXCLUDED")
    return found


def coverage_page() -> str:
    """Return what `docs/coverage.md` must hold."""
    reports = [path for path in POSTS if path.endswith("-reports")]
    published = COLLECTIONS.keys() | POSTS.keys()
    others = [each.name for each in STREAMS.values() if not published & set(_whole_paths(each))]
    return PAGE.format(
        read_collections=len(COLLECTIONS.keys() - EXCLUDED.keys()),
        collections=len(COLLECTIONS),
        read_reports=len(set(reports) - EXCLUDED.keys()),
        reports=len(reports),
        collection_table="\n".join(_table(COLLECTIONS)),
        post_table="\n".join(_table(POSTS)),
        others=", ".join(f"`{name}`" for name in others),
    )


def _table(published: Offered) -> Iterator[str]:
    yield f"| path | {' | '.join(REVISIONS)} | stream, or why there is none | group | on |"
    yield "|---" * (len(REVISIONS) + 4) + "|"
    for path, revisions in published.items():
        by = readers(path, STREAMS)
        marks = " | ".join("yes" if each in revisions else "" for each in REVISIONS)
        what = ", ".join(f"`{each.name}`{revision_note(each)}" for each in by) or EXCLUDED[path]
        group = ", ".join(dict.fromkeys(section_group(each) for each in by))
        on = ", ".join(dict.fromkeys("opt-in" if each.is_opt_in else "default" for each in by))
        yield f"| `{path}` | {marks} | {what} | {group} | {on} |"
