"""The verbs `init` and `doctor`: what a first sync needs, written into `.env` and tested.

`doctor` prints a line for each thing that stands between these settings and a sync. It sends one
request for the account and one of a single record for each scope, within the rate limit, and writes
nothing below the data folder.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from getpass import getpass
from pathlib import Path
from platform import python_version

from klaviyo_assets import __version__
from klaviyo_assets.account.connection import (
    PROBE_RETRY_POLICY,
    AccountConnection,
    ScopeProbe,
    ScopeState,
    connect_account,
    fetch_account,
    is_provisional_account,
    open_rate_limiter,
    probe_scopes,
    provisional_account_id,
    state_folder,
)
from klaviyo_assets.account.metrics import find_metric_setting_problems, read_metrics
from klaviyo_assets.api.messages import validate_api_key
from klaviyo_assets.api.rate_limiter import read_daily_quota
from klaviyo_assets.cli.lake_access import open_lake, privacy_warnings
from klaviyo_assets.cli.tables import print_table
from klaviyo_assets.cli.terminal import confirm, print_errors, print_json
from klaviyo_assets.errors import (
    BadKeyError,
    KlaviyoAssetsError,
    MissingScopeError,
    SettingError,
    format_quantity,
    format_seconds,
)
from klaviyo_assets.lake.lake import Lake
from klaviyo_assets.lake.layout import LAKE_VERSION
from klaviyo_assets.model.selection import DEFAULT_GROUP, offered_streams, selected_streams
from klaviyo_assets.reports.calendar import resolve_zone
from klaviyo_assets.settings import (
    AUTOMATION_RECOMMENDED,
    DEFAULT_REVISION,
    KEY_VARIABLE,
    Settings,
    read_settings,
    unknown_variables,
)
from klaviyo_assets.streams import REPORTS, STREAMS

OK, NOTE, WARNING, WRONG, BAD_SETTING = "ok", "note", "warning", "wrong", "bad setting"
"""What a finding says: `wrong` stands in the way of a sync, as `bad setting` does."""

LOW_DISK_BYTES = 2_000_000_000
"""With less free disk than this a first sync of a shop may not fit."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what came out, and what there is to know or to do."""

    subject: str
    state: str
    text: str


def doctor(settings: Settings, *, refusals: Sequence[SettingError], as_json: bool) -> int:
    """Print what was found; return 2 for a bad setting, else 1 if something stands in the way."""
    print_errors(refusals)
    findings: list[Finding] = [
        *(Finding("setting", BAD_SETTING, str(each)) for each in refusals),
        *(Finding("setting", WARNING, each) for each in unknown_variables(os.environ)),
        *_examine_versions(settings),
        *_examine_machine(settings),
        *(_examine_lake(settings) if not refusals else ()),
        *_examine_klaviyo(settings, has_refusals=bool(refusals)),
    ]
    states = {each.state for each in findings}
    code = 2 if BAD_SETTING in states else 1 if WRONG in states else 0
    if as_json:
        rows = [
            {"subject": each.subject, "state": each.state, "text": each.text} for each in findings
        ]
        print_json({"exit_code": code, "findings": rows})
        return code
    print_table(["what", "", "found"], [(each.subject, each.state, each.text) for each in findings])
    print(_VERDICTS[code])
    return code


_VERDICTS = {
    0: "nothing stands in the way of a sync; lines that say warning tell what it leaves out",
    1: "something stands in the way: see the lines that say wrong",
    2: "a setting has to be mended first: see the lines that say bad setting",
}


def _examine_versions(settings: Settings) -> Iterator[Finding]:
    yield Finding(
        "version", OK, f"klaviyo-assets {__version__}, Python {python_version()}, {sys.platform}"
    )
    is_newest = settings.revision >= DEFAULT_REVISION
    note = "" if is_newest else f"; {DEFAULT_REVISION} is the default"
    yield Finding("revision", OK if is_newest else NOTE, f"{settings.revision}{note}")


def _examine_machine(settings: Settings) -> Iterator[Finding]:
    home = os.environ.get("DAGSTER_HOME")
    if home is None:
        text = "not set: Dagster keeps no history between runs; cursors are in the lake"
        yield Finding("Dagster home", NOTE, text)
    else:
        exists = Path(home).is_dir()
        text = home if exists else f"{home} is no folder: make it, or unset DAGSTER_HOME"
        yield Finding("Dagster home", OK if exists else WRONG, text)
    if settings.automation != AUTOMATION_RECOMMENDED:
        text = "off: nothing runs by itself until it is switched on in the UI"
        yield Finding("automation", NOTE, text)
    try:
        folder = state_folder(settings)
    except SettingError as refused:
        yield Finding("state folder", BAD_SETTING, str(refused))
    else:
        yield _examine_folder("state folder", folder)
    data = Path(settings.data_dir).absolute()
    yield _examine_folder("data folder", data)
    free = shutil.disk_usage(_existing_parent(data)).free
    text = f"{free / 1e9:,.1f} GB free"
    yield Finding("disk", OK if free >= LOW_DISK_BYTES else WARNING, text)


def _existing_parent(folder: Path) -> Path:
    """Return the folder, or the nearest one above it that exists."""
    return next(each for each in (folder, *folder.parents) if each.is_dir())


def _examine_folder(subject: str, folder: Path) -> Finding:
    existing = _existing_parent(folder)
    if not os.access(existing, os.W_OK | os.X_OK):
        return Finding(subject, WRONG, f"{existing} cannot be written by this user")
    return Finding(subject, OK, f"{folder}{'' if existing == folder else ' (not made yet)'}")


def _examine_lake(settings: Settings) -> Iterator[Finding]:
    lake = open_lake(settings)
    try:
        if not lake.has_tables():
            yield Finding("lake", NOTE, "none yet: the first sync makes it")
            return
        count = sum(lake.read_table_state(name) is not None for name in STREAMS)
        accounts = lake.stored_accounts()
        tables = format_quantity(count, "table")
        text = f"{tables}, format {LAKE_VERSION}, account {', '.join(sorted(accounts)) or 'none'}"
        yield Finding("lake", OK if len(accounts) <= 1 else WRONG, text)
        metrics = read_metrics(lake)
        for problem in find_metric_setting_problems(settings, metrics, mapped=None):
            yield Finding("metrics", WARNING, problem)
    except KlaviyoAssetsError as failure:
        yield Finding("lake", WRONG, str(failure))
    for each in privacy_warnings(settings):
        yield Finding("personal data", WARNING, each)


def _examine_klaviyo(settings: Settings, *, has_refusals: bool) -> Iterator[Finding]:
    try:
        key = validate_api_key(os.environ.get(KEY_VARIABLE, ""))
    except SettingError as refused:
        yield Finding("key", BAD_SETTING, str(refused))
        print_errors([refused])
        return
    if has_refusals:
        yield Finding("key", NOTE, "has the form of a private key; not tried with a bad setting")
        return
    yield Finding("API", OK, f"{settings.base_url}, {settings.rate_limit_share:.0%} of its limits")
    try:
        with closing(connect_account(settings, key, accounts=STREAMS["accounts"])) as connection:
            connection.client.retry_policy = PROBE_RETRY_POLICY
            yield from _examine_account(settings, connection)
    except BadKeyError as refused:
        yield Finding("key", WRONG, str(refused))
    except SettingError as refused:
        yield Finding("API", BAD_SETTING, str(refused))
        print_errors([refused])
    except KlaviyoAssetsError as failure:
        yield Finding("API", WRONG, str(failure))


def _examine_account(settings: Settings, connection: AccountConnection) -> Iterator[Finding]:
    """Yield what Klaviyo says to the key.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key, or cannot be reached.
    """
    account, zone = provisional_account_id(connection.key_name), None
    try:
        facts = fetch_account(connection)
        account, zone = facts.account_id, facts.timezone
    except MissingScopeError:
        pass
    yield Finding("key", OK, "accepted")
    if is_provisional_account(account):
        yield Finding("account", WARNING, "not known: the key lacks accounts:read")
    else:
        yield _examine_zone(settings, account, zone)
    connection.share_rate_limit(account)
    yield from _compare_accounts(open_lake(settings), account)
    offered = offered_streams(STREAMS, settings.revision)
    selected = selected_streams(settings, STREAMS)
    named = _find_named_streams(settings)
    refused = set[str]()
    for probe in probe_scopes(connection.client, offered):
        needing = sorted(name for name in selected if probe.scope in STREAMS[name].scopes)
        refused.update(needing if probe.state in _REFUSALS else ())
        yield _describe_probe(probe, needing, stands_in_way=not named.isdisjoint(needing))
    if refused >= {name for name in selected if STREAMS[name].scopes}:
        yield Finding("scopes", WRONG, "the key may read none of the streams that are on")
    yield _examine_clock(connection)
    yield from _examine_quotas(settings, account)


def _examine_zone(settings: Settings, account: str, zone: str | None) -> Finding:
    text = f"{account}, {zone or 'without a time zone'}"
    try:
        resolve_zone(settings, zone, now=datetime.now(tz=UTC))
    except SettingError as refused:
        print_errors([refused])
        return Finding("account", BAD_SETTING, f"{text}; {refused}")
    return Finding("account", OK, text)


def _compare_accounts(lake: Lake, account: str) -> Iterator[Finding]:
    stored = lake.stored_account()
    if stored is None or is_provisional_account(stored) or is_provisional_account(account):
        return
    if stored != lake.ensure_identity().current_account_name(account):
        text = f"it holds account {stored}, and the key opens {account}: choose another data folder"
        yield Finding("lake", WRONG, text)


_REFUSALS = {ScopeState.MISSING, ScopeState.NOT_IN_PLAN}


def _find_named_streams(settings: Settings) -> frozenset[str]:
    """Return the streams that KLAVIYO_STREAMS names, and not only as the default set."""
    names = tuple(each for each in settings.streams if each != DEFAULT_GROUP)
    return selected_streams(replace(settings, streams=names), STREAMS) if names else frozenset()


def _describe_probe(probe: ScopeProbe, streams: Sequence[str], *, stands_in_way: bool) -> Finding:
    """Return what came out of a probe; `streams` are those that are on and need the scope.

    A sync skips them and ends well, so a missing scope is a warning, unless somebody asked for one
    of them by name.
    """
    subject = f"scope {probe.scope}"
    if probe.state is ScopeState.GRANTED:
        return Finding(subject, OK, "yes")
    is_wrong = stands_in_way and probe.state in _REFUSALS
    state = NOTE if not streams else WRONG if is_wrong else WARNING
    detail = f" ({probe.detail})" if probe.detail else ""
    loss = f"; skipped without it: {', '.join(streams)}" if streams else "; no stream needs it now"
    return Finding(subject, state, f"{probe.state.value}{detail}{loss}")


def _examine_clock(connection: AccountConnection) -> Finding:
    skew = connection.client.clock_skew
    seconds = skew.largest_skew.total_seconds()
    if not skew.is_skewed:
        return Finding("clock", OK, f"agrees with Klaviyo's to {format_seconds(abs(seconds))}")
    side = "behind" if seconds > 0 else "ahead of"
    text = f"this machine's is {format_seconds(abs(seconds))} {side} Klaviyo's: set it"
    return Finding("clock", WARNING, text)


def _examine_quotas(settings: Settings, account: str) -> Iterator[Finding]:
    selected = selected_streams(settings, STREAMS)
    with closing(open_rate_limiter(settings, account)) as rate_limiter:
        for stream in REPORTS:
            if stream.name not in selected:
                continue
            quota = read_daily_quota(stream, rate_limiter)
            if quota is None:
                continue
            text = f"{quota.remaining:,} of {quota.limit:,} requests left today"
            if not quota.remaining:
                text += f"; the next can go at {quota.next_free_at:%Y-%m-%d %H:%M} UTC"
            yield Finding(f"quota {stream.name}", OK if quota.remaining else WARNING, text)


ENV_FILE = Path(".env")

_OWNER_ALONE = 0o600


def write_env_file(settings: Settings, *, yes: bool) -> int:
    """Ask, test the key, and write `.env`; other lines of the file stay."""
    key = validate_api_key(_ask_key())
    _print_account(settings, key)
    dagster_home = os.environ.get("DAGSTER_HOME", str(Path(".dagster").absolute()))
    answers = {
        KEY_VARIABLE: key,
        "KLAVIYO_DATA_DIR": _ask("Folder for the data", settings.data_dir),
        "KLAVIYO_AUTOMATION": _ask(
            "Schedules and sensors on from the start (recommended) or off", "recommended"
        ),
        "KLAVIYO_CONVERSION_METRIC_IDS": _ask(
            "Metrics of the reports: auto (the revenue metric), all, or ids", "auto"
        ),
        "DAGSTER_HOME": _ask("Folder for Dagster's history", dagster_home),
    }
    for refused in read_settings(answers)[1]:
        raise refused
    if any(re.search(r"[\r\n\'\"\\\\]", each) for each in answers.values()):
        raise SettingError("an answer has a quote or a backslash, which .env cannot hold safely")
    question = f"Write {len(answers)} variables to {ENV_FILE.absolute()}?"
    if sys.stdin.isatty() and not confirm(question, is_confirmed=yes, without_terminal=""):
        print("nothing was written")
        return 1
    _write_variables(answers)
    _prepare_dagster_home(Path(answers["DAGSTER_HOME"]))
    print(
        f"{ENV_FILE.absolute()} is written; only you can read it. Keep it out of version control."
    )
    print("next: klaviyo-assets doctor, then klaviyo-assets sync")
    return 0


def _prepare_dagster_home(folder: Path) -> None:
    """Make Dagster's folder, with the instance's settings of the checkout where there is one.

    Without a `dagster.yaml` each command of Dagster greets, and counts what is used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    instance, recommended = folder / "dagster.yaml", Path("deploy") / "dagster.yaml"
    if instance.exists():
        return
    if recommended.is_file():
        shutil.copyfile(recommended, instance)
    else:
        instance.write_text("telemetry: {enabled: false}\nnux: {enabled: false}\n", "utf-8")


def _ask_key() -> str:
    """Return the key; on a terminal it is not shown as it is typed."""
    question = "Private key of the account, with read scopes only (pk_...): "
    if sys.stdin.isatty():
        return getpass(question).strip()
    return sys.stdin.readline().strip()


def _ask(question: str, default: str) -> str:
    print(f"{question} [{default}]: ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip() or default


def _print_account(settings: Settings, key: str) -> None:
    """Print whose key it is, or why that is not known; a refused key is an error.

    Raises:
        KlaviyoAssetsError: Klaviyo refuses the key.
    """
    with closing(connect_account(settings, key, accounts=STREAMS["accounts"])) as connection:
        connection.client.retry_policy = PROBE_RETRY_POLICY
        try:
            facts = fetch_account(connection)
        except MissingScopeError:
            print("the key is accepted; it lacks accounts:read, so its account is not known")
            return
    print(f"the key is accepted: account {facts.account_id}, {facts.timezone or 'no time zone'}")


def _write_variables(answers: dict[str, str]) -> None:
    """Write the variables into `.env`, in the place of lines that set them."""
    lines = ENV_FILE.read_text(encoding="utf-8").splitlines() if ENV_FILE.exists() else []
    names = "|".join(map(re.escape, answers))
    kept = [each for each in lines if not re.match(rf"\s*(export\s+)?({names})\s*=", each)]
    text = "\n".join([*kept, *(f"{name}='{value}'" for name, value in answers.items())]) + "\n"
    part = ENV_FILE.with_name(".env.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _OWNER_ALONE)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(ENV_FILE)
