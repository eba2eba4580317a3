"""What a person does in Dagster's UI: opens a page, presses a button, types, waits for green."""

import re
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import ConsoleMessage, Locator, Page, expect, sync_playwright

TIMEOUT_MS = 180_000
"""Only what hangs reaches it: with sixty programs beside it a page took more than a minute."""

RUN_TIMEOUT_SECONDS = 480
"""The daemon looks for backfills every thirty seconds, and for sensors every minute."""

QUIET_PAGE, QUIET_WORD = "deployment/config", "run_monitoring"
"""A page of the UI on which nothing moves, and what stands there alone: it shows `dagster.yaml`."""

FOLLOW_LINK = """path => {
    history.pushState(null, "", path);
    dispatchEvent(new PopStateEvent("popstate", {state: null}));
}"""

RUN_STATUS = "query($name: ID!) { runOrError(runId: $name) { ... on Run { status } } }"
BACKFILL_STATUS = (
    "query($name: String!) { partitionBackfillOrError(backfillId: $name)"
    " { ... on PartitionBackfill { status } } }"
)
SENSOR_RUN_STATUSES = (
    "query($name: String!) { runsOrError("
    'filter: {tags: [{key: "dagster/sensor_name", value: $name}]})'
    " { ... on Runs { results { status } } } }"
)
ENDED = {
    *("SUCCESS", "FAILURE", "CANCELED"),
    *("COMPLETED_SUCCESS", "COMPLETED_FAILED", "COMPLETED", "FAILED"),
}
"""Statuses of runs and of backfills that have ended."""

WINDOW_SIZE = {"width": 1400, "height": 1000}


class BrowserWindow:
    """One window of the browser on one Dagster."""

    def __init__(self, page: Page, url: str, pictures: Path) -> None:
        self.page = page
        self.complaints: list[str] = []
        self._url = url
        self._pictures = pictures
        page.set_default_timeout(TIMEOUT_MS)
        expect.set_options(timeout=TIMEOUT_MS)
        page.on("console", self._record_console_message)
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))

    def _record_console_message(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"{self.page.url}: {message.text}")

    def open(self, path: str) -> None:
        """Open a page of the UI, as its own links do: the UI itself is loaded once.

        Loading it takes seconds of a processor.
        """
        self.leave_page()
        self.page.evaluate(FOLLOW_LINK, f"/{path}")

    def leave_page(self) -> None:
        """Show a page on which nothing moves, and nothing of the page before is left."""
        if self.page.url.startswith(self._url):
            self.page.evaluate(FOLLOW_LINK, f"/{QUIET_PAGE}")
        else:
            self.page.goto(f"{self._url}/{QUIET_PAGE}")
        self.page.locator(".CodeMirror-line", has_text=QUIET_WORD).first.wait_for()

    def take_screenshot(self, name: str, *, once: str | None = None) -> None:
        """Keep a picture of what is to be seen, once a text is there."""
        if once is not None:
            self.page.get_by_text(once).first.wait_for()
        self.page.screenshot(path=self._pictures / f"{name}.png")

    def find_button(self, name: str) -> Locator:
        """Return the last button of that name: a dialog's lies over the page's."""
        return self.page.get_by_role("button", name=name).last

    def materialize(self, asset: str) -> str:
        """Press Materialize on the page of an asset; return the run's id."""
        self.open(f"assets/{asset}")
        self.find_button("Materialize").click()
        return self.follow_notice("Launched run")

    def open_launchpad(self, asset: str) -> None:
        """Open the launchpad from the menu beside the Materialize button of an asset."""
        self.open(f"assets/{asset}")
        self.find_button("Materialize").locator("xpath=following::button[1]").click()
        self.page.get_by_text("Open launchpad").click()
        expect(self.page.get_by_text("No errors")).to_be_visible()

    def read_editor(self) -> str:
        """Return what stands in the launchpad's editor."""
        lines = self.page.locator(".CodeMirror-line").all_inner_texts()
        return "\n".join(line.replace("\u200b", "").rstrip() for line in lines).strip()

    def set_option(self, name: str, value: str) -> None:
        """Type a value in the place of what stands after an option's name."""
        line = self.page.locator(".CodeMirror-line", has_text=f"{name}:")
        line.click()
        self.page.keyboard.press("End")
        length = len(line.inner_text().partition(": ")[2])
        for _ in range(length):
            self.page.keyboard.press("Shift+ArrowLeft")
        self.page.keyboard.insert_text(value)
        self.page.keyboard.press("Escape")

    def launch_from_launchpad(self) -> str:
        """Press the launchpad's own button; return the id of the run, whose page opens."""
        self.find_button("Materialize").click()
        self.page.wait_for_url("**/runs/*")
        return self.page.url.rpartition("/")[2]

    def follow_notice(self, words: str) -> str:
        """Press View in the notice of a launch; return the id of what was launched."""
        notice = self.page.get_by_text(words)
        notice.wait_for()
        notice.locator("xpath=following::*[normalize-space()='View'][1]").click()
        self.page.wait_for_url("**/runs/**")
        return re.split(r"[/?]", self.page.url.partition("/runs/")[2].removeprefix("b/"))[0]

    def wait_for_success(self, run_id: str) -> None:
        """Wait for the end of a run; its page then says Success."""
        self.wait_for_end(RUN_STATUS, run_id)
        self.open(f"runs/{run_id}")
        ended = self.page.get_by_text(re.compile("^(Success|Failure|Canceled)$")).first
        ended.wait_for()
        assert ended.inner_text() == "Success", self.page.url

    def wait_for_end(self, query: str, name: str) -> set[str]:
        """Wait until the statuses that a query of Dagster's returns are of what has ended.

        Returns these statuses.

        What runs would be drawn again on its page with every event, which takes a processor: so the
        window shows another page in the meantime.
        """
        self.leave_page()
        deadline = time.monotonic() + RUN_TIMEOUT_SECONDS
        while not (found := self._read_statuses(query, name)) or not ENDED.issuperset(found):
            assert time.monotonic() < deadline, (name, found)
            time.sleep(0.5)
        return set(found)

    def _read_statuses(self, query: str, name: str) -> list[str]:
        """Ask Dagster; return each status of its answer."""
        asked = {"query": query, "variables": {"name": name}}
        answer = self.page.request.post(f"{self._url}/graphql", data=asked).text()
        return re.findall(r'"status": *"(\w+)"', answer)

    def choose_partitions(self, dates: str, metrics: Iterable[str]) -> None:
        """Fill in the dialog of a partitioned asset's Materialize button."""
        days = self.page.get_by_placeholder("ex: 2")
        days.fill(dates)
        days.press("Enter")
        self.page.get_by_text("Select a partition or create one").click()
        for metric in metrics:
            self.page.get_by_text(metric, exact=True).first.click()
        self.page.keyboard.press("Escape")


@contextmanager
def open_browser_window(url: str, chromium: str, pictures: Path) -> Generator[BrowserWindow]:
    """Open a window of the system's Chromium on a UI, without a display."""
    pictures.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield BrowserWindow(browser.new_page(viewport=WINDOW_SIZE), url, pictures)  # pyright: ignore[reportArgumentType]
        finally:
            browser.close()
