"""A browser for tests of pages; and kernels of Triton run on CPU tensors."""

import os
import shutil
import signal
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# A shell starts what it puts in the background deaf to Ctrl-C, and so would be the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Read when triton is imported, whoever does that first.
os.environ.setdefault("TRITON_INTERPRET", "1")

NO_BROWSER = "pages were NOT tested: there is no chromium; apt-get install chromium"


# Not of the session: Playwright keeps an event loop running in this thread, and asyncio.run of other tests
# would refuse to start beside it.
@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    """Headless Chromium as Debian packages it, one process for a file of tests; skipped where there is none."""
    path = shutil.which("chromium")
    if path is None:
        warnings.warn(NO_BROWSER, stacklevel=1)
        pytest.skip(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
