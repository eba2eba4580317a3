"""The verb `init`: asks for what a first sync needs, and writes it into `.env`."""

import os
import re
import shutil
import sys
from contextlib import closing
from getpass import getpass
from pathlib import Path

from klaviyo_assets.account.connection import connect_account, fetch_account
from klaviyo_assets.account.scopes import PROBE_RETRY_POLICY
from klaviyo_assets.api.request_guard import validate_api_key
from klaviyo_assets.cli.printing import confirm
from klaviyo_assets.errors import MissingScopeError, SettingError
from klaviyo_assets.settings import KEY_VARIABLE, Settings, read_settings
from klaviyo_assets.streams import STREAMS

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
