"""The command starts a sandbox that a user can reach, and stops at a signal."""

import os
import re
import signal
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import pytest

from klaviyo_assets.sandbox.__main__ import build_account_config, parse_sandbox_options, run_sandbox
from klaviyo_assets.sandbox.account.config import DEFAULT_KEY

LINE = re.compile(r"http://127\.0\.0\.1:(\d+) with key (pk_\S+)")


def start_process(*options: str) -> tuple["subprocess.Popen[str]", int, str]:
    """A sandbox in a process of its own: the process, its port and its key."""
    process = subprocess.Popen(
        [sys.executable, "-m", "klaviyo_assets.sandbox", "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": ""},
    )
    assert process.stdout is not None
    match = LINE.search(process.stdout.readline())
    assert match is not None
    return process, int(match.group(1)), match.group(2)


def stop_process(process: "subprocess.Popen[str]", number: signal.Signals) -> int:
    """The exit code after a signal."""
    process.send_signal(number)
    code = process.wait(timeout=300)
    assert process.stdout is not None
    process.stdout.close()
    return code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_serves_until_a_signal_stops_it(number: signal.Signals) -> None:
    """One line names address and key, requests are answered, and a signal ends it with exit 0."""
    process, port, key = start_process("--size", "tiny")
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Authorization": f"Klaviyo-API-Key {key}", "revision": "2026-07-15"}
    connection.request("GET", "/api/events", headers=headers)
    response = connection.getresponse()
    body = response.read()
    code = stop_process(process, number)
    connection.close()
    assert (key, response.status) == (DEFAULT_KEY, 200)
    assert b'"type":"event"' in body
    assert code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_million_events_start_in_seconds_and_little_memory() -> None:
    """A big account responds within three seconds of CPU, in less than 200 MB."""
    process, port, key = start_process("--events", "2000000", "--profiles", "100000")
    connection = HTTPConnection("127.0.0.1", port, timeout=300)
    headers = {"Authorization": f"Klaviyo-API-Key {key}", "revision": "2026-07-15"}
    connection.request("GET", "/api/events?page%5Bsize%5D=1000", headers=headers)
    body = connection.getresponse().read()
    about = Path(f"/proc/{process.pid}")
    peak = int(re.findall(r"VmHWM:\s+(\d+)", (about / "status").read_text("ascii"))[0])
    ticks = (about / "stat").read_text("ascii").rpartition(")")[2].split()[11:13]
    seconds = sum(int(each) for each in ticks) / os.sysconf("SC_CLK_TCK")
    connection.close()
    stop_process(process, signal.SIGTERM)
    assert body.count(b'"type":"event"') == 1000
    assert seconds < 3
    assert peak < 200_000


def test_options_become_an_account() -> None:
    """Counts override the size, keys can be narrowed, times without an offset are UTC."""
    account = build_account_config(
        parse_sandbox_options(
            [
                *("--size", "tiny", "--events", "7", "--seed", "3", "--now", "2026-01-01T00:00:00"),
                *("--key", "pk_a", "--key", "pk_b=events:read,metrics:read"),
                *("--rate-limit-scale", "2.5", "--timezone", "Europe/Berlin"),
            ]
        )
    )
    assert (account.events, account.profiles, account.seed) == (7, 60, 3)
    assert account.now is not None
    assert account.now.isoformat() == "2026-01-01T00:00:00+00:00"
    assert [key.scopes for key in account.keys] == [None, {"events:read", "metrics:read"}]
    assert (account.rate_limit_scale, account.timezone) == (2.5, "Europe/Berlin")


@pytest.mark.parametrize(
    "options", [["--timezone", "Mars/Olympus"], ["--events", "many"], ["--nonsense"]]
)
def test_a_bad_option_is_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A bad option ends with exit code 2 and names the option."""
    with pytest.raises(SystemExit) as ended:
        run_sandbox(options)
    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_bursts_become_an_account() -> None:
    """`--bursts` replaces the even history of the streams that it names, and adds up."""
    account = build_account_config(
        parse_sandbox_options(["--bursts", "imports", "--bursts", "second"])
    )
    assert sum(burst.records for burst in account.profile_bursts) == 15_000 + 3_100
    assert sum(burst.records for burst in account.event_bursts) == 3_500
    assert build_account_config(parse_sandbox_options([])).event_bursts == ()
