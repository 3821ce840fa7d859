from __future__ import annotations

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """What test_fused.py takes over from test_statistics.py is long: the kernel is interpreted."""
    for item in items:
        borrowed = item.function.__module__ != item.module.__name__
        if item.path.name == "test_fused.py" and borrowed:
            item.add_marker(pytest.mark.long)
