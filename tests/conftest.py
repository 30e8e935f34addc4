"""What every test shares."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes says more of what else runs here than of our code.
settings.register_profile("jsspy", deadline=None)
settings.load_profile("jsspy")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the cache of derived binary facts out of the user's home.

    One directory for the whole run: what a version costs cold is paid once.
    """
    base = tmp_path_factory.getbasetemp() / "cache"
    base.mkdir(exist_ok=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(base))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by the directory that they live in."""
    for item in items:
        parts = Path(item.path).parts
        if "live" in parts:
            item.add_marker(pytest.mark.live)
        if "browser" in parts:
            item.add_marker(pytest.mark.chromium)
        if "consumers" in parts:
            item.add_marker(pytest.mark.consumer)
