"""The command: `klaviyo-assets sandbox`, also `python -m klaviyo_assets.sandbox`.

Options to an `AccountConfig`, one line with the address and the key, and serving until it is told
to stop.
"""

import argparse
import signal
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from klaviyo_assets.sandbox import AccountConfig, serve
from klaviyo_assets.sandbox.account.config import (
    ACCOUNT_SIZES,
    BURST_PRESETS,
    DEFAULT_KEY,
    PrivateApiKey,
)

_COUNT_OPTIONS = (
    "events",
    "profiles",
    "lists",
    "segments",
    "campaigns",
    "templates",
    "flows",
    "objects",
)


def parse_time_option(text: str) -> datetime:
    """An ISO time, UTC where it names no offset."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def parse_zone_option(text: str) -> str:
    """An IANA zone that exists."""
    try:
        return ZoneInfo(text).key
    except (ZoneInfoNotFoundError, ValueError) as error:
        message = f"unknown zone {text!r}"
        raise argparse.ArgumentTypeError(message) from error


def parse_key_option(text: str) -> PrivateApiKey:
    """`pk_...`, or `pk_...=scope,scope` for a key with only these scopes."""
    value, sign, scopes = text.partition("=")
    return PrivateApiKey(value=value, scopes=frozenset(scopes.split(",")) if sign else None)


def build_sandbox_parser() -> argparse.ArgumentParser:
    """The options and their defaults."""
    found = argparse.ArgumentParser(
        prog="klaviyo-assets sandbox", description="Serve a Klaviyo account on 127.0.0.1."
    )
    found.add_argument("--port", type=int, default=8765, help="0 picks a free one")
    found.add_argument("--size", choices=sorted(ACCOUNT_SIZES), default="demo")
    for name in _COUNT_OPTIONS:
        found.add_argument(f"--{name}", type=int, metavar="N")
    found.add_argument(
        "--bursts",
        choices=sorted(BURST_PRESETS),
        action="append",
        default=[],
        help="records in bursts, as imports and sends bring them, instead of evenly",
    )
    found.add_argument("--seed", type=int, default=1)
    found.add_argument("--days", type=int, default=365, help="days of history")
    found.add_argument("--now", type=parse_time_option, help="sandbox time at the start, ISO")
    found.add_argument("--frozen", action="store_true", help="the clock moves only by /__clock")
    found.add_argument("--timezone", type=parse_zone_option, default="America/New_York")
    found.add_argument("--rate-limit-scale", type=float, default=1.0)
    found.add_argument("--latency-ms", type=float, default=0.0)
    found.add_argument("--spread-share", type=float, default=0.3)
    found.add_argument("--report-page", type=int, default=200, help="rows in a report's page")
    found.add_argument(
        "--omni-campaigns",
        action="store_true",
        help="campaigns that only revisions since 2026-10-15 can list",
    )
    found.add_argument("--no-gzip", action="store_true", help="never compress answers")
    found.add_argument(
        "--key", type=parse_key_option, action="append", help="pk_... or pk_...=scope,scope"
    )
    return found


class SandboxOptions(argparse.Namespace):
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
    omni_campaigns: bool
    no_gzip: bool
    key: list[PrivateApiKey] | None


def build_account_config(options: SandboxOptions) -> AccountConfig:
    """The account that the options describe."""
    given: dict[str, int | None] = {name: getattr(options, name) for name in _COUNT_OPTIONS}
    counts = {name: value for name, value in given.items() if value is not None}
    account = AccountConfig(
        seed=options.seed,
        days=options.days,
        now=options.now,
        frozen=options.frozen,
        timezone=options.timezone,
        rate_limit_scale=options.rate_limit_scale,
        latency_ms=options.latency_ms,
        spread_share=options.spread_share,
        report_page=options.report_page,
        omni_campaigns=options.omni_campaigns,
        gzip=not options.no_gzip,
        keys=tuple(options.key or (PrivateApiKey(value=DEFAULT_KEY),)),
        event_bursts=tuple(each for name in options.bursts for each in BURST_PRESETS[name].events),
        profile_bursts=tuple(
            each for name in options.bursts for each in BURST_PRESETS[name].profiles
        ),
    )
    return replace(account, **{**ACCOUNT_SIZES[options.size], **counts})


def parse_sandbox_options(argv: list[str]) -> SandboxOptions:
    """The options of a command line; a bad one ends the program with exit code 2."""
    return build_sandbox_parser().parse_args(argv, namespace=SandboxOptions())


def run_sandbox(argv: list[str]) -> int:
    """Serve until SIGTERM or Ctrl-C; exit code 0."""
    options = parse_sandbox_options(argv)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stopped.set())
    try:
        with serve(build_account_config(options), port=options.port) as sandbox:
            line = f"Klaviyo sandbox on {sandbox.url} with key {sandbox.key}"
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            stopped.wait()
    except OSError as error:
        sys.stderr.write(f"cannot listen on port {options.port}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run_sandbox(sys.argv[1:]))
