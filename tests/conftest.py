"""What all tests share."""

from collections.abc import Generator, Iterator
from typing import Any

import pytest
import system_browser


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    "Reports travel between test processes as UTF-8; a captured file name need not be."
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "What takes longest first, the lessons in one process and the walkthroughs in the other; the rest runs after and beside them."
    longest = ["test_lessons.py", "test_walkthroughs_in_lab.py"]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    "A browser without a window, one for all tests of this process: the system's, else playwright's own."
    sync_api = pytest.importorskip("playwright.sync_api", reason="the browser tests need playwright: pip install 'ivdr[dev]'")
    found = system_browser.find()
    if found is None:
        pytest.skip(system_browser.NO_BROWSER)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()
