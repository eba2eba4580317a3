"""Dagster's UI as a browser meets it: a real webserver over a home, and its pages."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator
from contextlib import closing, contextmanager
from subprocess import DEVNULL
from urllib.error import HTTPError, URLError

from klaviyo_assets_tests.contract.checkout import ROOT
from klaviyo_assets_tests.e2e.home import Home

RUNS_QUERY = """{ runsOrError(limit: 200) { ... on Runs { results {
  runId status runConfigYaml tags { key value }
  eventConnection(limit: 1000) { events {
    __typename
    ... on MessageEvent { message level stepKey }
    ... on ErrorEvent { error { message stack className errorChain { error { message stack } } } }
    ... on ExecutionStepUpForRetryEvent { error { message stack cause { message stack } } }
    ... on DisplayableEvent { label description metadataEntries { label description
      ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } } }
    ... on LogsCapturedEvent { fileKey stepKeys }
  } } } } } }"""

RESOURCES_QUERY = """{ repositoriesOrError { ... on RepositoryConnection { nodes {
  allTopLevelResourceDetails { name description resourceType
    configFields { name description isRequired defaultValueAsJson configTypeKey }
    configuredValues { key value type } }
  pipelines { name presets { runConfigYaml } runConfigSchema: name }
} } } }"""

ASSETS_QUERY = """{ assetsOrError { ... on AssetConnection { nodes { key { path }
  assetMaterializations(limit: 50) { message metadataEntries { label description
    ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } } }
  assetObservations(limit: 50) { description metadataEntries { label
    ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } } }
} } } }"""


class WebserverClient:
    """A webserver that answers."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, query: str) -> str:
        """Return the answer to a GraphQL question, as text; an error of ours is an answer, too.

        Raises:
            AssertionError: the question is wrong.
        """
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(  # noqa: S310 - loopback, by us
            f"{self.url}/graphql", body, {"Content-Type": "application/json"}
        )
        try:
            answer = urllib.request.urlopen(request, timeout=300)  # noqa: S310 - loopback
        except HTTPError as refused:
            answer = refused
        with answer:
            text = answer.read().decode()
        assert "errors" not in json.loads(text), text[:2000]
        return text

    def read_compute_logs(self, run_id: str, file_key: str) -> str:
        """Return what a step wrote to its output and its errors."""
        key = json.dumps([run_id, "compute_logs", file_key])
        return self.query(f"{{ capturedLogs(logKey: {key}) {{ stdout stderr }} }}")


@contextmanager
def run_webserver(home: Home) -> Generator[WebserverClient]:
    """Run the UI of the code location on a free port of loopback until the block ends."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "dagster_webserver", "-m", "klaviyo_assets.definitions",
            "-h", "127.0.0.1", "-p", str(port),
        ],
        cwd=ROOT,
        env={**os.environ, **home.variables, "DAGSTER_HOME": str(home.dagster_home)},
        stdout=DEVNULL,
        stderr=DEVNULL,
    )  # fmt: skip
    try:
        pages = WebserverClient(f"http://127.0.0.1:{port}")
        wait_until_ready(pages, process)
        yield pages
    finally:
        process.terminate()
        process.wait(300)


def wait_until_ready(client: WebserverClient, process: "subprocess.Popen[bytes]") -> None:
    """Ask until there is an answer; a server that ended fails at once."""
    end = time.monotonic() + 300
    while True:
        assert process.poll() is None, "the webserver ended"
        assert time.monotonic() < end, "the webserver does not answer"
        try:
            client.query("{ version }")
        except (URLError, ConnectionError):
            time.sleep(0.2)
        else:
            return
