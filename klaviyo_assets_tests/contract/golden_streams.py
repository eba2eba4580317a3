"""What each stream promises: a text file each (`golden/<stream>.txt`), and the pages of streams.

`python -m klaviyo_assets_tests.contract.golden_streams` writes the files and the pages anew, and
the facts of each revision where Klaviyo's documents lie beside the checkout. A diff of these files
is what a change of a stream means to its users.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from textwrap import fill
from typing import Any, cast

from klaviyo_assets.model.selection import offered_streams
from klaviyo_assets.model.stream import RateTier, Stream, revision_note
from klaviyo_assets.settings import DEFAULT_REVISION
from klaviyo_assets.streams import DEFAULT_COLLECTIONS, DEFAULT_REPORTS, STREAMS
from klaviyo_assets_tests.benchmarks.model_account import (
    FULL_COUNTS,
    count_steady_requests,
    format_steady_requests,
    format_table,
    least_seconds,
    plan_requests,
)
from klaviyo_assets_tests.contract import read_facts
from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.contract.coverage import coverage_page
from klaviyo_assets_tests.contract.dictionary_pages import expected_dictionary_pages
from klaviyo_assets_tests.contract.fan_outs import fan_out_tables
from klaviyo_assets_tests.contract.stream_pages import PAGES_FOLDER, expected_stream_files
from klaviyo_assets_tests.contract.superset_files import expected_superset_files

GOLDEN_FOLDER = Path(__file__).with_name("golden")
README_PATH = ROOT / "README.md"
START_PAGE = ROOT / "docs" / "start.md"
STREAMS_PAGE = ROOT / "docs" / "streams.md"
COVERAGE_PAGE = ROOT / "docs" / "coverage.md"
REQUESTS_PAGE = ROOT / "docs" / "requests.md"
TABLE_HEAD = "| stream | one row per | cursor | tier | scopes |\n|---|---|---|---|---|\n"
NOT_IN_THE_HEAD = {"name", "description", "source", "columns"}


def render_value(value: Any) -> str:  # noqa: ANN401  (any field of a declaration)
    """Return a value of a declaration as text; of a dataclass, only what is not a default."""
    match value:
        case None:
            return "none"
        case RateTier(name=name):
            return name
        case tuple():
            members = cast("tuple[Any, ...]", value)
            return ", ".join(render_value(each) for each in members)
        case Mapping():
            items = cast("Mapping[str, Any]", value).items()
            return ", ".join(f"{key} = {render_value(each)}" for key, each in items)
        case _ if is_dataclass(value):
            chosen = [f"{name}={render_value(each)}" for name, each in non_default_fields(value)]
            return f"{type(value).__name__}({', '.join(chosen)})"
        case _:
            return str(value)


def non_default_fields(value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401  (any dataclass)
    """Yield name and value of each field of a dataclass that is not at its default."""
    for field in fields(value):
        made = field.default_factory
        default = field.default if made is MISSING else made()
        if (given := getattr(value, field.name)) != default:
            yield field.name, given


def golden_text(stream: Stream) -> str:
    """Return what the stream's golden file must hold."""
    lines = [stream.description, ""]
    for name, value in non_default_fields(stream):
        if name not in NOT_IN_THE_HEAD:
            lines.append(f"{name}: {render_value(value)}")
    lines.append(f"source: {type(stream.source).__name__}")
    for name, value in non_default_fields(stream.source):
        members = cast("tuple[Any, ...]", value) if isinstance(value, tuple) else ()
        if len(members) > 1:
            lines += [f"  {name}:", *(f"    {render_value(each)}" for each in members)]
        else:
            lines.append(f"  {name}: {render_value(value)}")
    lines += ["", f"{len(stream.columns)} columns:"]
    for column in stream.columns:
        private = f", personal: {column.personal_kind}" if column.personal_kind else ""
        lines.append(f"  {column.name}: {column.type}, {render_value(column.source)}{private}")
    return "\n".join(lines) + "\n"


def stream_row(stream: Stream, *, is_linked: bool) -> str:
    """Return the stream's line in a table of streams, with or without a link to its page."""
    grain = stream.description.removeprefix("One row per ").rstrip(".") + revision_note(stream)
    cursor = f"`{stream.cursor.column}`" if stream.cursor else ""
    tier = stream.tier.name if stream.tier else ""
    name = f"[{stream.name}](streams/{stream.name}.md)" if is_linked else f"`{stream.name}`"
    return f"| {name} | {grain} | {cursor} | {tier} | {', '.join(stream.scopes)} |"


def with_table(page: Path, streams: Iterable[Stream]) -> str:
    """Return a page with its table of streams as it must be."""
    before, head, rest = page.read_text(encoding="utf-8").partition(TABLE_HEAD)
    assert head, f"{page} has no table of streams"
    is_linked = page == STREAMS_PAGE
    rows = "".join(f"{stream_row(stream, is_linked=is_linked)}\n" for stream in streams)
    return before + head + rows + re.sub(r"\A(\|.*\n)*", "", rest)


def with_scopes(text: str) -> str:
    """Return a page with its list of scopes as it must be: what the default streams need."""
    streams = (*DEFAULT_COLLECTIONS, *DEFAULT_REPORTS)
    scopes = sorted({scope for stream in streams for scope in stream.scopes})
    pattern = r"(?m)^```text\n(?:[a-z:-]+:read\s)+```$"
    assert re.search(pattern, text), "the page has no list of scopes"
    block = f"```text\n{fill(' '.join(scopes), 100, break_on_hyphens=False)}\n```"
    return re.sub(pattern, block, text, count=1)


FIRST_SYNC_TEXT = """\
A first sync with `KLAVIYO_STREAMS=all`, of an account with 2,000,000 events of a year, 300,000
profiles, 1,000 campaigns, 150 flows with 1,200 steps, 200 lists with 900,000 members and 60
segments with 600,000, 25,000 items and variants of the catalog, and the last 365 days of reports
for 20 metrics. No plan takes fewer requests: one for each page that holds a record, one for each
slice or parent without any. The least minutes follow from our share of Klaviyo's limits (90 %),
where all streams begin at once; streams of one endpoint end together. Tests hold the requests to
those of real syncs, and the minutes to what our rate limiter allows: it ends within 5 % of them, or
within 5 seconds of a stream of a minute. Of this account it ends 1.1 % later with the profiles, the
slowest without reports, and 0.1 % with the reports by month."""


def requests_page() -> str:
    """Return the text of docs/requests.md: what syncs of the model account ask for."""
    streams = tuple(offered_streams(STREAMS, DEFAULT_REVISION).values())
    planned = plan_requests(FULL_COUNTS, streams=streams)
    return "\n".join(
        (
            "# Requests",
            "",
            str(count_steady_requests()),
            "",
            "An hour of them, `python -m klaviyo_assets_tests.benchmarks.model_account --hourly`:",
            "",
            format_steady_requests(count_steady_requests()),
            "",
            FIRST_SYNC_TEXT,
            "",
            format_table(planned, least_seconds(planned, share=0.9)),
            "",
            fan_out_tables(),
            "",
            "Generated. [All streams](streams.md)",
            "",
        )
    )


def with_steady_requests(text: str) -> str:
    """Return docs/streams.md with the requests of the default set as they are."""
    pattern = r"(?m)^The default set takes (?:.+\n)+"
    assert re.search(pattern, text), "docs/streams.md does not say what the default set takes"
    said = fill(str(count_steady_requests()), 128, break_on_hyphens=False)
    return re.sub(pattern, f"{said}\n", text, count=1)


def expected_stream_pages() -> dict[Path, str]:
    """Return the README with the default streams, and what docs say of all, a page each."""
    default = (*DEFAULT_COLLECTIONS, *DEFAULT_REPORTS)
    return {
        README_PATH: with_scopes(with_table(README_PATH, default)),
        START_PAGE: with_scopes(START_PAGE.read_text(encoding="utf-8")),
        STREAMS_PAGE: with_steady_requests(with_table(STREAMS_PAGE, STREAMS.values())),
        REQUESTS_PAGE: requests_page(),
        COVERAGE_PAGE: coverage_page(),
        **expected_dictionary_pages(),
        **expected_superset_files(),
        **expected_stream_files(),
    }


def expected_golden_files() -> dict[str, str]:
    """Return every golden file's text by its name."""
    return {f"{name}.txt": golden_text(stream) for name, stream in STREAMS.items()}


def main() -> None:
    """Write all of it anew, and remove the files of streams that are no more."""
    files = {GOLDEN_FOLDER / name: text for name, text in expected_golden_files().items()}
    expected = {**files, **expected_stream_pages()}
    for folder in (GOLDEN_FOLDER, PAGES_FOLDER):
        folder.mkdir(exist_ok=True)
        for path in set(folder.iterdir()) - expected.keys():
            path.unlink()
    for path, text in expected.items():
        path.write_text(text, encoding="utf-8")
    read_facts.write_all_facts()


if __name__ == "__main__":
    main()
