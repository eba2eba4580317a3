"""The command: `klaviyo-assets sandbox`, also `python -m klaviyo_assets.sandbox`.

Options to an `Account`, one line with the address and the key, and serving until it is told to
stop.
"""

import argparse
import signal
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from klaviyo_assets.sandbox import DEFAULT_KEY, MIXTURES, SIZES, Account, Key, serve

_COUNTS = ("events", "profiles", "lists", "segments", "campaigns", "templates", "flows")


def moment_option(text: str) -> datetime:
    """An ISO time, UTC where it names no offset."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def zone_option(text: str) -> str:
    """An IANA zone that exists."""
    try:
        return ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError) as error:
        message = f"unknown zone {text!r}"
        raise argparse.ArgumentTypeError(message) from error


def key_option(text: str) -> Key:
    """`pk_...`, or `pk_...=scope,scope` for a key with only these scopes."""
    value, sign, scopes = text.partition("=")
    return Key(value=value, scopes=frozenset(scopes.split(",")) if sign else None)


def parser() -> argparse.ArgumentParser:
    """The options and their defaults."""
    found = argparse.ArgumentParser(
        prog="klaviyo-assets sandbox", description="Serve a Klaviyo account on 127.0.0.1."
    )
    found.add_argument("--port", type=int, default=8765, help="0 picks a free one")
    found.add_argument("--size", choices=sorted(SIZES), default="demo")
    for name in _COUNTS:
        found.add_argument(f"--{name}", type=int, metavar="N")
    found.add_argument(
        "--bursts",
        choices=sorted(MIXTURES),
        action="append",
        default=[],
        help="records in bursts, as imports and sends bring them, instead of evenly",
    )
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--days", type=int, default=365, help="days of history")
    found.add_argument("--now", type=moment_option, help="sandbox time at the start, ISO")
    found.add_argument("--frozen", action="store_true", help="the clock moves only when told")
    found.add_argument("--timezone", type=zone_option, default="America/New_York")
    found.add_argument("--rate-limit-scale", type=float, default=1.0)
    found.add_argument("--latency-ms", type=float, default=0.0)
    found.add_argument("--spread-share", type=float, default=0.3)
    found.add_argument("--report-page", type=int, default=200, help="rows in a report's page")
    found.add_argument("--no-gzip", action="store_true", help="never compress answers")
    found.add_argument(
        "--key", type=key_option, action="append", help="pk_... or pk_...=scope,scope"
    )
    return found


class Options(argparse.Namespace):
    """The parsed options, by their types."""

    port: int
    size: str
    bursts: list[str]
    seed: int
    days: int
    now: datetime | None
    frozen: bool
    timezone: str
    rate_limit_scale: float
    latency_ms: float
    spread_share: float
    report_page: int
    no_gzip: bool
    key: list[Key] | None


def account_of(options: Options) -> Account:
    """The account that the options describe."""
    given: dict[str, int | None] = {name: getattr(options, name) for name in _COUNTS}
    counts = {name: value for name, value in given.items() if value is not None}
    account = Account(
        seed=options.seed,
        days=options.days,
        now=options.now,
        frozen=options.frozen,
        timezone=options.timezone,
        rate_limit_scale=options.rate_limit_scale,
        latency_ms=options.latency_ms,
        spread_share=options.spread_share,
        report_page=options.report_page,
        gzip=not options.no_gzip,
        keys=tuple(options.key or (Key(value=DEFAULT_KEY),)),
        event_bursts=tuple(each for name in options.bursts for each in MIXTURES[name].events),
        profile_bursts=tuple(each for name in options.bursts for each in MIXTURES[name].profiles),
    )
    return replace(account, **{**SIZES[options.size], **counts})


def parse(argv: list[str]) -> Options:
    """The options of a command line; a bad one ends the program with exit code 2."""
    return parser().parse_args(argv, namespace=Options())


def main(argv: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; exit code 0."""
    options = parse(argv)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    try:
        with serve(account_of(options), port=options.port) as sandbox:
            line = f"Klaviyo sandbox on {sandbox.url} with key {sandbox.key}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            stopped.wait()
    except OSError as error:
        sys.stderr.write(f"cannot listen on port {options.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
