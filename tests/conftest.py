"""What all tests share."""

from collections.abc import Generator
from typing import Any

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    "Reports travel between test processes as UTF-8; a captured file name need not be."
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    "The lessons first: one after the other in one process, they take longest, and the rest runs beside them."
    items.sort(key=lambda item: item.path.name != "test_lessons.py")
