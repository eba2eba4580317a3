"""The console command `klaviyo-assets`, also `python -m klaviyo_assets`.

What belongs here: verbs and exit codes: 0 success, 1 a failed sync or check, 2 a bad setting or
option. What does not: what the verbs do.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from klaviyo_assets.errors import KlaviyoAssetsError, SettingError
from klaviyo_assets.lake import Lake, relation_of
from klaviyo_assets.model.settings import Settings, read_settings
from klaviyo_assets.model.stream import Join
from klaviyo_assets.sandbox.__main__ import main as sandbox
from klaviyo_assets.streams import COLLECTIONS, STREAMS


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["sandbox"]:
        # The sandbox knows nothing of the product, so it reads its own options.
        return sandbox(words[1:])
    options = _parser().parse_args(words)
    verb: Callable[[Settings], int] = options.verb
    settings, refusals = read_settings(os.environ)
    if refusals:
        print("\n".join(str(each) for each in refusals), file=sys.stderr)
        return 2
    try:
        return verb(settings)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 2
    except KlaviyoAssetsError as error:
        print(error, file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="klaviyo-assets", description="Klaviyo, brought home.")
    verbs = parser.add_subparsers(required=True, metavar="verb")
    for name, verb, about in (
        ("streams", _streams, "list the streams: table, grain, cursor, tier, scopes"),
        ("publish", _publish, "write klaviyo.duckdb anew from the lake, after a move or a loss"),
        ("check", _check, "read every file of the lake and say what is wrong with it"),
    ):
        added = verbs.add_parser(name, help=about, description=about)
        added.set_defaults(verb=verb)
    verbs.add_parser("sandbox", help="run a Klaviyo on loopback, to try things on")
    return parser


def _streams(_settings: Settings) -> int:
    for stream in COLLECTIONS:
        cursor = stream.cursor.column if stream.cursor else "-"
        tier = stream.tier.name if stream.tier else "-"
        print(f"{stream.name:<20} {cursor:<14} {tier:<4} {', '.join(stream.scopes)}")
        print(f"{'':<20} {stream.about}")
    return 0


def _lake(settings: Settings) -> Lake:
    return Lake(Path(settings.data_dir).absolute(), clock=lambda: datetime.now(tz=UTC))


def _publish(settings: Settings) -> int:
    problems = _lake(settings).publish([relation_of(each, STREAMS) for each in STREAMS.values()])
    for problem in problems:
        print(problem, file=sys.stderr)
    rest = ", but for what cannot be read" if problems else ""
    print(f"{settings.data_dir}/klaviyo.duckdb shows the lake as it is now{rest}")
    return 1 if problems else 0


def _check(settings: Settings) -> int:
    lake = _lake(settings)
    lake.check()
    for stream in COLLECTIONS:
        state = None if isinstance(stream.source, Join) else lake.state(stream.name)
        if state is not None:
            print(f"{stream.name:<20} {state.rows:>12,} rows, version {state.version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
