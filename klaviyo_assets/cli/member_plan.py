"""What reading the members of lists and segments costs, for the verb `plan`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from klaviyo_assets.errors import format_quantity, format_seconds
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.model.stream import Children, Stream
from klaviyo_assets.reconcile.counts import GroupSize, find_count_stream, read_group_sizes
from klaviyo_assets.settings import Settings


def member_plan_lines(
    streams: Mapping[str, Stream], *, lake: Lake, settings: Settings
) -> Iterator[str]:
    """Yield the lines of the plan: each list and segment with its price, and the sums."""
    known = set[str]()
    for stream in streams.values():
        source = stream.source
        if not isinstance(source, Children) or not source.has_parent_filter:
            continue
        counts = find_count_stream(stream, streams)
        sizes = read_group_sizes(stream, counts, lake=lake, settings=settings)
        known |= {each.id for each in sizes}
        if not sizes:
            yield f"{stream.name}: {source.parent} were never read; materialize them first"
            continue
        yield from _sum_lines(stream, source, sizes, settings=settings)
        yield from _group_lines(sizes, source.page_size or 1)
        if counts is not None and any(each.counted is None for each in sizes):
            yield f"  materialize klaviyo/{counts.name} for the sizes as Klaviyo counts them"
    if unknown := sorted(set(settings.members_of) - known):
        yield f"warning: KLAVIYO_MEMBERS_OF names no stored list or segment: {', '.join(unknown)}"


def _sum_lines(
    stream: Stream, source: Children, sizes: Sequence[GroupSize], *, settings: Settings
) -> Iterator[str]:
    chosen = [each for each in sizes if each.is_chosen]
    full_reads = [each.full_read_requests(source.page_size or 1) for each in chosen]
    full, unknown = sum(filter(None, full_reads)), full_reads.count(None)
    steady = stream.tier.steady if stream.tier is not None else 1
    seconds = 60 * full / (steady * settings.rate_limit_share)
    more = f", without {unknown} of unknown size" if unknown else ""
    yield f"{stream.name}: {len(chosen)} of {len(sizes)} {source.parent} are read"
    yield (
        f"  a full read takes {format_quantity(full, 'request')}{more}, at least "
        f"{format_seconds(seconds)}; a sync of joins {format_quantity(len(chosen), 'request')} "
        "or more"
    )


def _group_lines(sizes: Iterable[GroupSize], page_size: int) -> Iterator[str]:
    for each in sizes:
        requests = each.full_read_requests(page_size)
        members = each.counted if each.counted is not None else each.stored
        size = "size unknown" if members is None else format_quantity(members, "profile")
        price = "" if requests is None else format_quantity(requests, "request")
        note = "" if each.is_chosen else "  not in KLAVIYO_MEMBERS_OF"
        yield f"  {each.id:<12} {each.name[:32]:<32} {size:>20} {price:>16}{note}".rstrip()
