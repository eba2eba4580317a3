"""F61 to F63, F81: the key and people's addresses stay out of everything that is written."""

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pyarrow.parquet as pq
import pytest

from klaviyo_assets.cli.command import main
from klaviyo_assets.sandbox.account.config import PrivateApiKey
from klaviyo_assets_tests.e2e.conftest import StartHome
from klaviyo_assets_tests.e2e.home import Home, environment_variables
from klaviyo_assets_tests.e2e.instance import open_instance
from klaviyo_assets_tests.e2e.processes import fork_parallel_sync
from klaviyo_assets_tests.e2e.sandbox_account import open_sandbox_account
from klaviyo_assets_tests.faults.webserver import (
    ASSETS_QUERY,
    RESOURCES_QUERY,
    RUNS_QUERY,
    WebserverClient,
    run_webserver,
)

KEY = "pk_5e1f0c7a9d2b4836e0f1a2b3c4d5e6f708"
HINT = KEY[:12]

ADDRESS = "ada.lovelace@example.com"

FAILURES: dict[str, dict[str, object]] = {
    "refused": {"kind": "error", "status": 401},
    "the key echoed": {"kind": "error", "status": 400, "detail": f"Bad key {KEY} in header."},
    "the key echoed by a proxy": {
        "kind": "error", "status": 502, "body": f"Authorization: Klaviyo-API-Key {KEY}",
    },
    "no scope": {"kind": "error", "status": 403},
    "a challenge": {"kind": "challenge"},
    "not found": {"kind": "error", "status": 404, "detail": f"No {KEY} found"},
    "retired": {"kind": "error", "status": 410},
    "broken": {"kind": "error", "status": 500},
    "throttled for the day": {"kind": "throttle", "retry_after": 73473},
    "reset": {"kind": "reset"},
    "cut": {"kind": "truncated_json"},
    "a page of HTML": {"kind": "html_body"},
    "a text": {"kind": "text_body", "text": f"denied for {KEY}"},
    "sent elsewhere": {"kind": "redirect", "location": f"http://127.0.0.1:9/?key={KEY}"},
    "paged elsewhere": {"kind": "next_host"},
    "sent to a host named by it": {"kind": "redirect", "location": f"https://{KEY}.example/"},
    "paged to a host named by it": {"kind": "next_link", "url": f"https://{KEY}.example/api"},
}  # fmt: skip
"""How a sync can fail; some of these repeat the key, as a careless server or proxy would."""

OF_EVERY_KIND = (
    *("accounts", "campaigns", "campaign_messages", "event_attributions", "events"),
    *("events_detailed", "lists", "lists_detailed", "metrics", "profiles"),
)
"""Collections with a cursor and without, views, and what is requested parent by parent."""

BAD_KEYS = {
    "pk_0123456789 abcdef0123456789": "holds a blank or a line end",
    " pk_0123456789abcdef0123456789": "holds a blank or a line end",
    "pk_0123456789abcdef0123\r\nX-Evil: 1": "holds a blank or a line end",
    "AbC123": "holds the public key",
    "hunter2-hunter2-hunter2": "has not the form of a private key",
    "": "is empty",
}

pytestmark = pytest.mark.usefixtures("fast_retries")


@pytest.fixture
def debug_home(open_home: StartHome, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Give a home with a key of its own that logs everything at DEBUG and keeps its temp files."""
    home = open_home(keys=(PrivateApiKey(value=KEY),))
    keep_everything(home, monkeypatch)
    return home


def keep_everything(home: Home, patch: pytest.MonkeyPatch) -> None:
    """Log everything of a home at DEBUG, and have temporary files lie in it."""
    settings = home.dagster_home / "dagster.yaml"
    logs = {"python_logs": {"python_log_level": "DEBUG", "managed_python_loggers": ["root"]}}
    settings.write_text(settings.read_text() + "\n" + json.dumps(logs)[1:-1] + "\n")
    temporary = home.root / "tmp"
    temporary.mkdir()
    patch.setenv("TMPDIR", str(temporary))
    patch.setattr(tempfile, "tempdir", None)


@pytest.fixture(scope="module")
def shown_home(
    tmp_path_factory: pytest.TempPathFactory, dagster_template: Path
) -> Iterator[tuple[Home, WebserverClient]]:
    """Give a home like that with its UI, whose two processes take longer to start than it does."""
    with (
        pytest.MonkeyPatch.context() as patch,
        open_sandbox_account(keys=(PrivateApiKey(value=KEY),), lists=15) as account,
    ):
        root = tmp_path_factory.mktemp("shown")
        home = Home(account=account, root=root, dagster_template=dagster_template)
        keep_everything(home, patch)
        with run_webserver(home) as pages:
            yield home, pages


def places(home: Home, *, secret: str) -> Iterator[str]:
    """Yield every file below the home that holds a text, compressed columns looked into."""
    for path in home.root.rglob("*"):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += repr(pq.read_table(path).to_pydict()).encode()
        if secret.encode() in content:
            yield str(path)


def read_event_log(home: Home) -> str:
    """Return everything that Dagster recorded of all runs, serialized as it is stored."""
    with open_instance(home.dagster_home) as instance:
        runs = instance.get_runs()
        entries = [entry for run in runs for entry in instance.all_logs(run.run_id)]
        return "\n".join([*map(repr, runs), *(dg.serialize_value(entry) for entry in entries)])


def arguments() -> str:
    """Return the command lines of all processes that are there now."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


@pytest.mark.takes(20)
def test_f61_the_key_is_nowhere_after_success_and_failures(
    shown_home: tuple[Home, WebserverClient],
) -> None:
    """Streams of every kind, then seventeen kinds of failure: no file, record or page has the key.

    Nor its first twelve characters. The UI's page of the resource names the variable instead.
    """
    home, pages = shown_home
    assert home.sync(*OF_EVERY_KIND).success
    failed: set[str] = set()
    for name, fault in FAILURES.items():
        options = {option: value for option, value in fault.items() if option != "kind"}
        with home.account.inject_fault(
            str(fault["kind"]), match={"path": "/api/lists*"}, **options
        ):
            run = home.sync("lists", config={"sync_mode": "full_refresh_overwrite"})
        failed |= {name} if run.failures else set()
        assert HINT not in "".join([*run.failures.values(), run.warnings]), name
        home.settings["KLAVIYO_STATE_DIR"] = str(home.root / f"state-{len(failed)}")
    # A missing scope is a skip, not a failure.
    assert failed >= FAILURES.keys() - {"no scope"}
    assert list(places(home, secret=HINT)) == []
    assert HINT not in read_event_log(home)
    shown = pages.query(RESOURCES_QUERY)
    assert "KLAVIYO_API_KEY" in shown
    runs = pages.query(RUNS_QUERY)
    assert "Klaviyo does not know this key" in runs
    logs = compute_logs(runs, pages.read_compute_logs)
    answers = [shown, runs, pages.query(ASSETS_QUERY), *logs]
    assert HINT not in arguments()
    assert not any(HINT in answer for answer in answers)
    assert list(places(home, secret=HINT)) == []


def compute_logs(runs: str, fetch: Callable[[str, str], str]) -> Iterator[str]:
    """Yield what each step of each run wrote, as the UI shows it."""
    for run in json.loads(runs)["data"]["runsOrError"]["results"]:
        for event in run["eventConnection"]["events"]:
            if "fileKey" in event:
                yield fetch(run["runId"], event["fileKey"])


def test_f61_the_key_is_in_no_process_arguments(open_home: StartHome) -> None:
    """While a job of several processes runs, no command line on the machine holds the key."""
    home = open_home(keys=(PrivateApiKey(value=KEY),), latency_ms=150)
    child = fork_parallel_sync(home, "lists", has_own_server=True)
    seen: list[str] = []
    while not child.has_ended(within=0.1):
        seen.append(arguments())
    assert child.exit_code == 0
    assert any("multiprocessing" in each or "dagster" in each for each in seen)
    assert HINT not in "\n".join(seen)
    assert list(places(home, secret=HINT)) == []


def test_f62_an_address_in_an_error_is_not_passed_on(debug_home: Home) -> None:
    """An e-mail address in a refusal is removed from failures and logs."""
    home = debug_home
    for detail in (
        f"Invalid filter: equals(email,'{ADDRESS}')",
        f"Profile {ADDRESS} (+4512345678) is suppressed",
    ):
        with home.account.inject_fault(
            "error", match={"path": "/api/lists"}, status=400, detail=detail
        ):
            run = home.sync("lists")
        assert "400" in run.failures["lists"]
        assert ADDRESS not in run.failures["lists"]
    assert ADDRESS not in read_event_log(home)
    assert list(places(home, secret=ADDRESS)) == []


def test_f63_a_key_that_cannot_be_one_is_refused(debug_home: Home) -> None:
    """Blanks, line ends, a public key, nothing: refused unquoted, before any request."""
    home = debug_home
    for key, sentence in BAD_KEYS.items():
        run = home.sync("lists", api_key=key)
        assert f"KLAVIYO_API_KEY {sentence}" in run.failures["lists"]
        assert run.attempts["lists"] == 1
    recorded = read_event_log(home)
    for key in filter(None, BAD_KEYS):
        assert key not in recorded
        assert list(places(home, secret=key)) == []
    assert home.account.request_counts().total() == 0
    assert home.sync("lists").success


WORD = "pk_abcdefghijklmnopqrstuvwxyz"
"""A key that nothing but its place tells from a word."""

ELSEWHERE: dict[str, str] = {
    "timezone": "{}",
    "base_url": "https://{}@a.klaviyo.com",
    "start_date": "{}",
    "event_metric_ids": "AbC123,{}",
    "lookback_days": "{}",
    "exclude_columns": "profiles.{}",
    "json_keys": "events.event_properties:{}",
    "state_dir": "/srv/{}/state",
    "automation": "{}",
}
"""Where people put the key by mistake."""


@pytest.mark.parametrize("key", [KEY, WORD], ids=["by its form", "by the environment"])
def test_f81_a_key_in_another_variable_is_not_quoted(
    debug_home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    """Runs and verbs name the variable and where the key belongs; no request is sent."""
    home = debug_home
    wrong = {name: form.format(key) for name, form in ELSEWHERE.items()}
    home.settings |= environment_variables({"api_key": key, **wrong})
    run = home.sync("lists")
    for name in ELSEWHERE:
        variable = f"KLAVIYO_{name.upper()}"
        assert f"{variable} cannot be used: a private key stands in it" in run.failures["lists"]
    for name, value in home.variables.items():
        monkeypatch.setenv(name, value)
    assert main(["status"]) == 2
    with pytest.raises(SystemExit):
        main(["plan", "--start", key, "--end", "2026-01-01"])
    output = capsys.readouterr()
    assert "KLAVIYO_TIMEZONE cannot be used" in output.err
    assert "is no date" in output.err
    assert key[:12] not in output.out + output.err
    assert key[:12] not in read_event_log(home)
    assert list(places(home, secret=key[:12])) == []
    assert home.account.request_counts().total() == 0


JOB = """{ repositoryLocationName: "klaviyo_assets.definitions"
  repositoryName: "__repository__" pipelineName: "__ASSET_JOB"
  assetSelection: [{ path: ["klaviyo", "%s"] }] }"""
RUN_CONFIG = "{ops: {klaviyo__%s: {config: {start: '%s'}}}}"

LAUNCH = f"""mutation {{ launchPipelineExecution(executionParams: {{ mode: "default"
  selector: {JOB} runConfigData: "{RUN_CONFIG}" }})
{{ __typename ... on PythonError {{ message }} }} }}"""

VALIDATE = f"""{{ isPipelineConfigValid(mode: "default"
  pipeline: {JOB} runConfigData: "{RUN_CONFIG}") {{ __typename }} }}"""


def test_f81_a_key_in_run_config_is_refused_before_it_is_stored(
    shown_home: tuple[Home, WebserverClient],
) -> None:
    """Typed into a field of the launchpad, of an asset that has the field and of one that has not.

    Dagster keeps no run of it. The same run config with a date is one that it would launch.
    """
    home, pages = shown_home
    with open_instance(home.dagster_home) as instance:
        before = instance.get_runs_count()
        for stream in ("events", "lists"):
            refused = pages.query(LAUNCH % (stream, stream, KEY))
            assert "a private key stands in the run config" in refused
            assert HINT not in refused
        assert instance.get_runs_count() == before
    assert list(places(home, secret=HINT)) == []
    accepted = pages.query(VALIDATE % ("events", "events", "2026-09-29"))
    assert "PipelineConfigValidationValid" in accepted


def test_f81_a_page_that_repeats_the_key_stores_it_nowhere(debug_home: Home) -> None:
    """Echoed as the name of an attribute, on pages that are then read as usual."""
    home = debug_home
    with home.account.inject_fault(
        "new_field", match={"path": "/api/events"}, field=f"x_{KEY}", value=1
    ):
        run = home.sync("events")
    assert run.success
    assert "x_[key]" in str(run.materializations["events"]["klaviyo/notices"])
    assert HINT not in read_event_log(home)
    assert list(places(home, secret=HINT)) == []
    extra = home.query("SELECT extra FROM events WHERE extra IS NOT NULL")
    assert {text for (text,) in extra} == {'{"x_[key]":1}'}
