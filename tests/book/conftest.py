"""The built book and a browser, for the tests of the book as a book."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
REQUIRED = bool(os.environ.get("REFIMPL_REQUIRE_BROWSER"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def unavailable(reason: str) -> None:
    """Skip, or fail where the browser tests must run (CI)."""
    if REQUIRED:
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def html() -> Path:
    if not (HTML / "book" / "intro.html").exists():
        unavailable("the book is not built: run `make book`")
    return HTML


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        unavailable("no Chromium on this machine")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=found,
            args=[
                "--no-sandbox",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield started
        started.close()
