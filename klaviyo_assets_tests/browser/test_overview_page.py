"""The page of the marketing overview in a real browser: what it shows, on a phone and a desk."""

import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from klaviyo_assets.dashboard.figures import RequestQuota
from klaviyo_assets.dashboard.page import build_overview
from klaviyo_assets.dashboard.questions import OverviewReader
from klaviyo_assets_tests.browser.screen import TIMEOUT_MS
from klaviyo_assets_tests.integration.dashboard.shop import (
    EVIL_NAME,
    NOW,
    open_empty_shop,
    open_shop,
)

WIDTHS = (390, 1400)
SCHEMES = ("light", "dark")
QUOTAS = [RequestQuota(report="campaign_values_reports", used=45, limit=225)]
HIDDEN_OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
PAINTED = """canvas => {
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    const colors = new Set();
    for (let at = 0; at < data.length; at += 4)
        if (data[at + 3] === 255) colors.add(data.slice(at, at + 3).join());
    return [...colors];
}"""
"""The colours of a canvas: every solid one."""


@contextmanager
def open_browser(chromium: str) -> Generator[Browser]:
    """Run the system's Chromium without a display and without a network."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def write_pages(folder: Path) -> dict[str, Path]:
    """Write the page of a full shop, of one without a row, and of one without a table."""
    pages: dict[str, Path] = {}
    openers = {"full": open_shop, "empty": open_empty_shop, "nothing": None}
    for name, opener in openers.items():
        with open_shop() if opener is None else opener() as shop:
            if opener is None:
                shop.execute("DROP TABLE events; DROP TABLE profiles; DROP TABLE accounts")
            reader = OverviewReader(shop)
            html = build_overview(reader, now=NOW, quotas=QUOTAS).html
        pages[name] = folder / f"{name}.html"
        pages[name].write_text(html, encoding="utf-8")
    return pages


@pytest.mark.takes(15)
def test_the_page_in_a_browser(chromium: str, tmp_path: Path, subtests: pytest.Subtests) -> None:
    """No complaint, no request, nothing wider than the screen, and the numbers of the shop."""
    pages = write_pages(tmp_path)
    complaints: list[str] = []
    requested: list[str] = []
    with open_browser(chromium) as browser:
        page = browser.new_page()
        page.set_default_timeout(TIMEOUT_MS)
        page.on(
            "console", lambda each: complaints.append(each.text) if each.type == "error" else None
        )
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda each: requested.append(each.url))
        for name, path in pages.items():
            for width in WIDTHS:
                for scheme in SCHEMES:
                    with subtests.test(name, width=width, scheme=scheme):
                        look_at(page, path, width, scheme)
        with subtests.test("its numbers"):
            check_numbers(page, pages["full"])
        with subtests.test("dark and light are different pictures"):
            page.emulate_media(color_scheme="light")
            wait_for_colour(page, "68,83,196")
            page.emulate_media(color_scheme="dark")
            wait_for_colour(page, "135,148,245")
            assert "68,83,196" not in page.locator("canvas").first.evaluate(PAINTED)
        with subtests.test("its names are text"):
            assert page.get_by_text(EVIL_NAME).count() >= 1
    assert complaints == []
    assert {url for url in requested if not url.startswith(("file:", "data:"))} == set()


def wait_for_colour(page: Page, colour: str) -> None:
    """Wait until the first picture has a colour: it is painted again some time after the scheme."""
    end = monotonic() + TIMEOUT_MS / 1000
    while colour not in (painted := page.locator("canvas").first.evaluate(PAINTED)):
        assert monotonic() < end, painted
        page.wait_for_timeout(100)


def look_at(page: Page, path: Path, width: int, scheme: str) -> None:
    """Open a page as a reader would, and keep a picture of it."""
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(path.as_uri())
    assert page.evaluate(HIDDEN_OVERFLOW) == 0
    cards = page.locator("section.card")
    assert cards.count() == 10
    for each in range(10):
        card = cards.nth(each)
        assert card.locator("h2").inner_text().endswith("?")
        assert card.locator(".answer, .missing").count() >= 1, card.inner_text()
    # Unfolded, the tables with all numbers must fit too.
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    assert page.evaluate(HIDDEN_OVERFLOW) == 0
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false })")
    page.screenshot(path=path.with_name(f"{path.stem}-{width}-{scheme}.png"), full_page=True)


def check_numbers(page: Page, path: Path) -> None:
    """Compare what a reader sees with what the shop's docstring and tables say."""
    page.goto(path.as_uri())
    headlines = {
        name: page.locator(f"#headline-{name} .number").inner_text()
        for name in ("revenue", "orders", "email_subscribers", "unengaged_share")
    }
    assert headlines == {
        "revenue": "EUR 240",
        "orders": "5",
        "email_subscribers": "8",
        "unengaged_share": "80%",
    }
    answers = {
        name: page.locator(f"#{name} .answer").inner_text()
        for name in ("revenue_by_day", "funnel", "list_growth", "deliverability_by_domain")
    }
    assert answers == {
        "revenue_by_day": "EUR 240 in 90 days: 67% from campaigns, 21% from flows, "
        "12% from neither.",
        "funnel": "Of 1,000 emails sent, 360 were opened, 60 clicked, 16 led to an order.",
        "list_growth": "All 2 largest lists have grown in 25 weeks, Newsletter by 1 person.",
        "deliverability_by_domain": "91% of 11 emails arrived; 1 complaint of spam.",
    }
    assert "82% used" in page.locator("#quota .answer").inner_text()
    domains = page.locator("#deliverability_by_domain tbody th").all_inner_texts()
    assert domains == ["big.example", "other"]
    heat = page.locator("#cohorts tbody tr").first.inner_text()
    assert re.split(r"\s+", heat)[:6] == ["May", "2026", "2", "100", "0", "50"]
    assert not re.search(r"p10|\bp\d+\b|@", page.locator("body").inner_text())
