"""`klaviyo-assets compare`: our ids beside those in another tool's tables, month by month."""

from dataclasses import asdict
from pathlib import Path

from klaviyo_assets.cli.lake_access import open_lake
from klaviyo_assets.cli.printing import print_json
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.errors import format_quantity
from klaviyo_assets.lake.read.views import build_relations
from klaviyo_assets.model.selection import shown_streams
from klaviyo_assets.model.view import StreamComparison
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import DERIVED_RELATIONS, STREAMS
from klaviyo_assets.streams.other_tools import COMPARED_STREAMS

NUMBERS = ("here", "there", "only here", "only there")


def compare(settings: Settings, *, other: Path, schema: str, as_json: bool) -> int:
    """Print the comparison; return 1 where the other side has ids that the lake lacks."""
    compared = open_lake(settings).compare_with(
        other.absolute(),
        schema,
        COMPARED_STREAMS,
        build_relations(shown_streams(settings, STREAMS), DERIVED_RELATIONS),
    )
    is_complete = not any(each.total.only_there for each in compared)
    if as_json:
        streams = [asdict(each) | {"total": asdict(each.total)} for each in compared]
        print_json({"is_complete": is_complete, "streams": streams})
        return 0 if is_complete else 1
    for each in compared:
        _print_stream(each)
    named = {each.stream for each in compared}
    left_out = [each.stream for each in COMPARED_STREAMS if each.stream not in named]
    if left_out:
        print(f"not on both sides, so not compared: {', '.join(left_out)}")
    if is_complete:
        print(f"complete: every id of {other} is in the lake")
    else:
        lacking = [each.stream for each in compared if each.total.only_there]
        print(f"incomplete: the lake lacks ids of {', '.join(lacking)}")
    return 0 if is_complete else 1


def _print_stream(compared: StreamComparison) -> None:
    """Print a stream's months that differ, its sums, and what they mean."""
    total = compared.total
    different = [each for each in compared.months if each.only_here or each.only_there]
    print(f"{compared.stream} and {compared.table}: {_describe(compared)}")
    if different:
        print_table(
            ("month", *NUMBERS),
            [
                (each.month, *(f"{count:,}" for count in counts))
                for each in (*different, total)
                for counts in [(each.here, each.there, each.only_here, each.only_there)]
            ],
            numbers=NUMBERS,
        )
    if compared.examples:
        print(f"only there, for example: {', '.join(compared.examples)}")
    print()


def _describe(compared: StreamComparison) -> str:
    total = compared.total
    if not total.only_here and not total.only_there:
        return f"the same {format_quantity(total.here, 'id')} in every month"
    equal = sum(not each.only_here and not each.only_there for each in compared.months)
    months = format_quantity(len(compared.months), "month")
    return (
        f"{total.here - total.only_here:,} on both sides, {total.only_here:,} only here, "
        f"{total.only_there:,} only there; {equal} of {months} alike"
    )
