"""A browser for tests of pages; the test is skipped, with the reason, where there is no chromium."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from playwright.sync_api import Page, sync_playwright


@contextmanager
def page(*, width: int = 1280, scheme: Literal["light", "dark"] = "light") -> Iterator[Page]:
    """An empty page in a window of this width, in pixels."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on PATH: this page was not looked at in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            yield browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        finally:
            browser.close()
