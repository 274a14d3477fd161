"""A headless Chromium for the tests of the page: the system's, driven by Playwright; nothing is fetched for it."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from playwright.async_api import Page, async_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-color-profile=srgb",
]


@asynccontextmanager
async def browser(profile: Path, **options: Any) -> AsyncGenerator[Page, None]:
    """A page in a browser of its own, with a fresh profile.

    options: of Playwright's launch_persistent_context (viewport, color_scheme, …).
    """
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            str(profile), executable_path=CHROMIUM, headless=True, args=FLAGS, **options
        )
        try:
            page = context.pages[0]
            page.set_default_timeout(30_000)
            yield page
        finally:
            await context.close()
