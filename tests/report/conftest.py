"""A browser for the tests of pages; without one they are skipped, and say so."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

#: A browser that neither needs a screen nor asks the network for anything of its own.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run"),
]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install playwright)"
    )
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no browser: neither chromium nor chromium-browser or google-chrome is installed")
    with playwright.sync_playwright() as runner:
        browser = runner.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


class Opened:
    """A page of a report, with what went wrong and what it asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(5000)
        self.problems: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.problems.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("dialog", lambda dialog: self.problems.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def check(self, path: Path) -> None:
        """Assert that nothing went wrong, and that the file alone was read."""
        assert self.problems == []
        assert set(self.requests) == {path.as_uri()}


@pytest.fixture
def open_page(chromium):
    """Return what opens a report; after the test, no page may have complained or asked for anything."""
    opened: list[tuple[Opened, Path]] = []

    def opens(path: Path, **options: Any) -> Any:
        opened.append((Opened(chromium, path, **options), path))
        return opened[-1][0].page

    yield opens
    for each, path in opened:
        each.check(path)
        each.context.close()
