"""What a first sync, or a stream that is added, will take, for the verb `plan`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from klaviyo_assets.cli.lake_access import open_lake, split_names
from klaviyo_assets.cli.printing import print_json
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.errors import LakeError, SettingError, format_quantity, format_seconds
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.report import ReportEndpoint
from klaviyo_assets.model.selection import DEFAULT_GROUP, selected_streams, selection_errors
from klaviyo_assets.model.stream import ViewSource
from klaviyo_assets.settings import Settings
from klaviyo_assets.streams import STREAMS
from klaviyo_assets.sync.first_read import FirstReadPrice, least_seconds, price_first_read


def plan_first_sync(
    settings: Settings, added: Sequence[str], sizes: Sequence[str], *, as_json: bool
) -> int:
    """Print the price of every collection that is on, or of streams to add and what they need."""
    lake, names = open_lake(settings), split_names(added)
    before = selected_streams(settings, STREAMS) if names else frozenset[str]()
    wanted = replace(settings, streams=(*(settings.streams or (DEFAULT_GROUP,)), *names))
    for refused in selection_errors(wanted, STREAMS):
        raise refused
    # A stream that is on already is priced as well where it is named.
    shown = (selected_streams(wanted, STREAMS) - before) | STREAMS.keys() & set(names)
    records = {**_stored_sizes(lake), **_parse_sizes(sizes)}
    row_bytes = _measure_rows(lake)
    prices = [
        price_first_read(stream, records=records, row_bytes=row_bytes, settings=settings)
        for name, stream in STREAMS.items()
        if name in shown and not isinstance(stream.source, ViewSource | ReportEndpoint)
    ]
    if as_json:
        print_json(
            {
                "streams": [asdict(each) for each in prices],
                "requests": sum(each.requests or 0 for each in prices),
                "least_seconds": round(least_seconds(prices, STREAMS)),
                "disk_bytes": sum(each.disk_bytes or 0 for each in prices),
            }
        )
        return 0
    _print_prices(prices)
    return 0


def _stored_sizes(lake: Lake) -> dict[str, int]:
    states = {name: lake.read_table_state(name) for name in STREAMS}
    return {name: state.rows for name, state in states.items() if state is not None}


def _measure_rows(lake: Lake) -> Mapping[str, float]:
    """Return the bytes on disk for each row of the stored tables."""
    found: dict[str, float] = {}
    for name, rows in _stored_sizes(lake).items():
        with suppress(LakeError):
            if rows:
                found[name] = lake.measure_table_bytes(name) / rows
    return found


def _parse_sizes(sizes: Sequence[str]) -> dict[str, int]:
    """Return the numbers of the option --rows.

    Raises:
        SettingError: one is no `stream=number`.
    """
    found: dict[str, int] = {}
    for each in split_names(sizes):
        name, _, number = each.partition("=")
        if name not in STREAMS or re.fullmatch(r"\d[\d_]{0,14}", number) is None:
            raise SettingError(f"--rows {each!a}: a stream and a number are wanted: events=1000000")
        found[name] = int(number)
    return found


def _print_prices(prices: Sequence[FirstReadPrice]) -> None:
    print_table(
        ["stream", "records", "requests", "least time", "disk", "note"],
        [
            (
                each.stream,
                "?" if each.records is None else f"{each.records:,}",
                "?" if each.requests is None else f"{each.requests:,}",
                "?" if each.seconds is None else format_seconds(each.seconds),
                "?" if each.disk_bytes is None else f"{each.disk_bytes / 1e6:,.1f} MB",
                ", ".join(_notes(each)),
            )
            for each in prices
        ],
        numbers=["records", "requests", "least time", "disk"],
    )
    requests = format_quantity(sum(each.requests or 0 for each in prices), "request")
    unknown = sum(each.requests is None for each in prices)
    more = f", without {format_quantity(unknown, 'stream')} of unknown size" if unknown else ""
    disk = sum(each.disk_bytes or 0 for each in prices) / 1e6
    least = format_seconds(least_seconds(prices, STREAMS))
    print(
        f"{requests}{more}, {disk:,.1f} MB; at least {least} where streams are read side by side, "
        "as klaviyo_first_sync does"
    )
    if unknown:
        print("--rows events=1000000 profiles=50000 says how many there are, as you know it")


def _notes(price: FirstReadPrice) -> Iterator[str]:
    if STREAMS[price.stream].is_read_by_parent:
        yield "a request for each parent, in every sync"
    elif price.requests is None and price.records_per_request is not None:
        yield f"a request for {price.records_per_request:,} records"
