"""One history, one lake: Dagster's history of an asset is refused where another lake lies.

What belongs here: what metadata says of the lake, and the refusal. What does not: telling lakes
apart (`lake.identity`). A container that came up without its disk would otherwise read everything
again, and each of two lakes would take the other's mark for its own.
"""

import dagster as dg

from klaviyo_assets.errors import OtherLakeError
from klaviyo_assets.lake import Lake, Whereabouts, read_whereabouts
from klaviyo_assets.model.report import Report
from klaviyo_assets.model.stream import Stream

LAKE = "klaviyo/lake"
"""Metadata of materializations and of marks: which lake they are of, and where it lay."""


def refuse_other_lake(
    key: dg.AssetKey, stream: Stream, *, before: str | None, lake: Lake
) -> Whereabouts:
    """Return where the lake is, unless the asset's history is that of another one elsewhere.

    `before` is what the history says; None where it says nothing.

    Raises:
        OtherLakeError: nothing was asked and nothing written; the text has both ways out.
        StorageError: the lake's folder cannot be written.
    """
    now = lake.whereabouts()
    known = read_whereabouts(before) if before is not None else None
    if known is None or not now.is_other(known):
        return now
    name = key.to_user_string()
    wipe = f"wipe its history (`dagster asset wipe {name}`, or in the UI)"
    begin = (
        f"{wipe} and launch its partitions again"
        if isinstance(stream.source, Report)
        else f"materialize it once with sync_mode full_refresh_overwrite, or {wipe}"
    )
    raise OtherLakeError(
        f"Dagster's history of {name} was written for the lake in {known.place}, and this run has "
        f"another one in {now.place}: was a disk not mounted, or KLAVIYO_DATA_DIR changed? Nothing "
        f"was read. To go on with the former lake, mount it there or set KLAVIYO_DATA_DIR to where "
        f"it lies; to begin anew in this one, {begin}",
        stream=stream.name,
    )
