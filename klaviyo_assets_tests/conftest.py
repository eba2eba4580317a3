"""The ground every test stands on: no settings, a home of its own, no network, no lost test.

Fixtures that more than one folder needs belong here; those of one folder lie in its own conftest.
"""

import gc
import os
import sys
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from klaviyo_assets.sync.memory import GC_THRESHOLD_OBJECTS

FOLDERS_FROM_SLOW_TO_QUICK = (("browser", "e2e", "faults"), ("integration", "sandbox"))
"""Those whose tests run Dagster, and those whose tests have servers; the others have neither."""

WORKERS_BY_FILE: dict[str, set[str]] = {}

# A deadline measures the machine, not the promise; two cores are shared by several workers.
# The examples are the same in every run, as in hypothesis's own profile for CI: one found by chance
# fails a change that has nothing to do with it. To search: --hypothesis-profile=search.
settings.register_profile(
    "house", deadline=None, max_examples=50, print_blob=True, derandomize=True
)
settings.register_profile("search", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("house")


class NetworkAccessError(BaseException):
    """A test reached for an address that is not loopback.

    Not an `Exception`: a client that retries after any failure must not hide it.
    """


def block_network(event: str, args: tuple[Any, ...]) -> None:
    """Raise `NetworkAccessError` for a connection or a name look-up beyond loopback.

    An audit hook of Python: the arguments are those of the event in Python's audit events table.
    Child processes are not seen.
    """
    match event, args:
        case "socket.connect", (_, (host, *_)):
            pass
        case "socket.getaddrinfo", (host, *_):
            pass
        case _:
            # Anything else, a connection to a Unix socket (its address is text) included.
            return
    if not is_loopback(host):
        raise NetworkAccessError(host)


def is_loopback(host: object) -> bool:
    """Tell whether a host, as text, bytes or None, stays on this machine."""
    name = host.decode() if isinstance(host, bytes) else host
    if name in {None, "", "localhost", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
        return True
    try:
        return ip_address(str(name)).is_loopback
    except ValueError:
        return False


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `tests_at_least`, the floor that pyproject.toml sets under a whole run."""
    parser.addini("tests_at_least", "fewer tests than this in a whole run is a failure", type="int")


def pytest_configure() -> None:
    """Close the network for this process, once; a hook of this kind cannot be taken away."""
    sys.addaudithook(block_network)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest tests first, the folders of quick ones last; the rest is left to chance.

    A worker takes a file at a time, in the order in which their first tests come: what begins last
    must be short, for the others have nothing left to do by then.
    """
    items.sort(key=lambda each: (-declared_seconds(each), quickness(each.path)))


def pytest_collection_finish() -> None:
    """Keep the collector from traversing what lives as long as this process.

    Dagster's modules and the collected tests are most of it: an end-to-end test takes a seventh
    less. The threshold is the one that a sync sets.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD_OBJECTS, 20, 50)


def pytest_unconfigure() -> None:
    """Let the collector take everything apart: a library reports leaks otherwise."""
    gc.unfreeze()


def declared_seconds(item: pytest.Item) -> float:
    """Return the seconds that a test says it takes; 0 where it says nothing."""
    mark = item.get_closest_marker("takes")
    return float(mark.args[0]) if mark is not None else 0.0


@cache
def quickness(path: Path) -> int:
    """Return how quick the tests of a file's folder are; 0: the slowest."""
    parts = set(path.relative_to(Path(__file__).parent).parts)
    order = FOLDERS_FROM_SLOW_TO_QUICK
    return next((rank for rank, names in enumerate(order) if parts & set(names)), len(order))


def is_whole_run(config: pytest.Config) -> bool:
    """Tell whether nothing was requested by name: no path, no -k, no -m, no --lf."""
    selecting = ("keyword", "markexpr", "lf", "deselect", "ignore", "ignore_glob", "maxfail")
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS
    return whole and not any(config.getoption(name, None) for name in selecting)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note which workers run the tests of a file; the process that starts them hears of all."""
    if (worker := getattr(report, "worker_id", None)) is not None:
        WORKERS_BY_FILE.setdefault(report.nodeid.partition("::")[0], set()).add(worker)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a whole run that lost a folder, or in which workers shared the tests of a file.

    What the tests of a file share would be made by each. Only this shows it: the groups of xdist
    3.8 have no effect under pytest 9.2, without a word.
    """
    config = session.config
    floor = int(config.getini("tests_at_least"))
    if "workerinput" in vars(config) or not is_whole_run(config):
        return
    complaints: list[str] = []
    if session.testscollected < floor:
        complaints.append(f"{session.testscollected} tests collected; the floor is {floor}")
    if config.getoption("dist", "no") == "loadfile":
        shared = sorted(file for file, workers in WORKERS_BY_FILE.items() if len(workers) > 1)
        complaints += [f"{file}: its tests ran on several workers" for file in shared]
    if complaints:
        sys.stderr.write("\n".join(["", *complaints, ""]))
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def used_homes() -> list[Path]:
    """Give the homes of the tests so far; the last one may be empty."""
    return []


@pytest.fixture(autouse=True)
def bare_environment(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    used_homes: list[Path],
) -> Path:
    """Give each test an environment without settings of ours or Dagster's, and an empty home.

    Return the home: the state folder's default and Dagster's telemetry lie below it. Most tests
    leave it empty for the next one: thousands of folders take seconds to make and to remove.
    """
    for name in os.environ:
        if name.startswith(("KLAVIYO_", "DAGSTER_", "XDG_")):
            monkeypatch.delenv(name)
    if not used_homes or any(used_homes[-1].iterdir()):
        used_homes.append(tmp_path_factory.mktemp("home"))
    home = used_homes[-1]
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DAGSTER_DISABLE_TELEMETRY", "1")
    return home
