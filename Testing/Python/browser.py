"""A headless browser that opens a page and tells what it saw."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest


class Seen:
    """What a page looks like to a browser: its text after loading, and a picture."""

    def __init__(self, dom: str, picture: Path) -> None:
        self.dom, self.picture = dom, picture
        self.text = html.unescape(re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", " ", dom, flags=re.DOTALL)))


def find() -> str | None:
    """Where Chromium is, or None."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((found for name in names if (found := shutil.which(name))), None)


def browse(page: Path, profile: Path, *options: str) -> str:
    """What Chromium prints on opening a page, headless and without any network."""
    browser = find()
    assert browser is not None
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", *options]
    done = subprocess.run([*command, page.resolve().as_uri()], capture_output=True, text=True, timeout=120, check=True)
    return done.stdout


def screenshot(page: Path, picture: Path, profile: Path, size: tuple[int, int]) -> None:
    """Draw a page in a window of (columns, rows)."""
    browse(page, profile, f"--window-size={size[0]},{size[1]}", f"--screenshot={picture}")


def open_page(page: Path, folder: Path) -> Seen:
    """Open a page in Chromium.

    Skips the test where there is no Chromium.
    """
    if find() is None:
        pytest.skip("needs the browser chromium, which is not installed")
    picture, profile = folder / "page.png", folder / "profile"
    screenshot(page, picture, profile, (1000, 1400))
    return Seen(browse(page, profile, "--dump-dom"), picture)


def assert_self_contained(text: str) -> None:
    """Nothing in a page asks for another file or address."""
    for address in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text):
        assert address.startswith(("data:", "#")), address[:80]
    assert "@import" not in text and "url(" not in text and "<script" not in text
