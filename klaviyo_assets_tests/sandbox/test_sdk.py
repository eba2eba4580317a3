"""Klaviyo's own SDK reads the sandbox, every stream to its last page, at both revisions.

Each release speaks the revision of its day, and runs in a process of its own. Answers pass through
the SDK's own models, so that these check every field of them.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from klaviyo_assets.sandbox import serve
from klaviyo_assets.sandbox.facts.reporting import REPORT_FACTS, ReportFacts
from klaviyo_assets_tests.package_releases import install_package
from klaviyo_assets_tests.sandbox.conftest import build_account
from klaviyo_assets_tests.sandbox.sandbox_client import SandboxClient

REVISION_BY_RELEASE = {"24.0.0": "2026-07-15", "25.0.0": "2026-10-15"}
READER = Path(__file__).with_name("sdk_reader.py")
BY_BOTH = (
    *("profiles", "events", "metrics", "lists", "segments", "templates", "tags", "flows"),
    *("accounts", "custom-metrics", "mapped-metrics", "campaigns"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SdkReading:
    """What a release of the SDK has read of a sandbox, and a client at its revision."""

    client: SandboxClient
    found: dict[str, Any]


@pytest.fixture(scope="module", params=REVISION_BY_RELEASE)
def reading(request: pytest.FixtureRequest) -> Iterator[SdkReading]:
    """Give what one release reads."""
    release = str(request.param)
    with (
        serve(build_account()) as sandbox,
        closing(SandboxClient(sandbox, revision=REVISION_BY_RELEASE[release])) as client,
    ):
        yield SdkReading(client=client, found=read_by_release(release, client))


def read_by_release(release: str, client: SandboxClient) -> dict[str, Any]:
    """Return what a process with that release reads; the installed one needs no installation."""
    is_installed = version("klaviyo-api") == release
    folder = "" if is_installed else str(install_package(f"klaviyo-api=={release}"))
    orders = {
        "url": client.url,
        "key": client.sandbox.key,
        "estimate": next(iter(client.read_truth("campaign-recipient-estimations"))),
        "reports": {
            kind: (
                f"query_{kind.removesuffix('-report').replace('-', '_')}",
                report_request(client, kind, facts),
            )
            for kind, facts in REPORT_FACTS.items()
        },
    }
    done = subprocess.run(
        [sys.executable, str(READER)],
        input=json.dumps(orders),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": folder},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    return json.loads(done.stdout)


def report_request(client: SandboxClient, kind: str, facts: ReportFacts) -> dict[str, object]:
    """Return the body of a report with all statistics."""
    asked: dict[str, object] = {
        "statistics": list(facts.statistics),
        "timeframe": {"start": "2026-10-01T00:00:00", "end": "2026-10-31T23:59:59"},
    }
    if facts.has_conversion_metric:
        asked["conversion_metric_id"] = client.sandbox.store.metrics.id_of(5)
    if facts.is_series:
        asked["interval"] = "daily"
    return {"data": {"type": kind, "attributes": asked}}


def test_each_release_speaks_its_own_revision(reading: SdkReading) -> None:
    """What follows is read at the revision of the release."""
    assert reading.found["revision"] == reading.client.revision


@pytest.mark.parametrize("stream", BY_BOTH)
def test_the_sdk_reads_a_stream_whole(reading: SdkReading, stream: str) -> None:
    """Page by page, slice by slice, the SDK sees each living record once."""
    found = reading.found["ids"][stream]
    assert len(found) == len(set(found))
    assert set(found) == set(reading.client.read_truth(stream))


def test_the_sdk_reads_the_messages_of_campaigns(reading: SdkReading) -> None:
    """A campaign has up to two messages; since October they are a stream of their own."""
    assert 1 <= max(reading.found["messages"]) <= 2
    if reading.client.revision >= "2026-10-15":
        found = reading.found["ids"]["campaign-messages"]
        assert len(found) == len(set(found))
        assert set(found) == set(reading.client.read_truth("campaign-messages"))


@pytest.mark.parametrize("kind", ["list", "segment"])
def test_the_sdk_reads_members_and_counts(reading: SdkReading, kind: str) -> None:
    """Members of lists and segments, and the profile count."""
    group, found, count = reading.found["members"][kind]
    assert set(found) == set(reading.client.read_truth(f"{kind}s/{group}/profiles"))
    assert count == len(found)


def test_the_sdk_reads_recipient_estimates(reading: SdkReading) -> None:
    """The estimate of a campaign is a number."""
    assert reading.found["estimate"] >= 0


@pytest.mark.parametrize("kind", sorted(REPORT_FACTS))
def test_the_sdk_reads_every_report(reading: SdkReading, kind: str) -> None:
    """Each report passes the models of the SDK, request and response."""
    facts, results = REPORT_FACTS[kind], reading.found["reports"][kind]
    assert len(results) > 1
    for row in results:
        assert set(row["groupings"]) == set(facts.default_groupings)
        assert set(row["statistics"]) == set(facts.statistics)
