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


def open_page(page: Path, folder: Path) -> Seen:
    """Open a page in Chromium, without any network.

    Skips the test where there is no Chromium.
    """
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next((found for name in names if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("needs the browser chromium, which is not installed")
    picture = folder / "page.png"
    profile = folder / "profile"
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command += [f"--user-data-dir={profile}", "--window-size=1000,1400", "--host-resolver-rules=MAP * ~NOTFOUND"]
    url = page.resolve().as_uri()
    dom = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=120, check=True).stdout
    subprocess.run([*command, f"--screenshot={picture}", url], capture_output=True, timeout=120, check=True)
    return Seen(dom, picture)


def assert_self_contained(text: str) -> None:
    """Nothing in a page asks for another file or address."""
    for address in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", text):
        assert address.startswith(("data:", "#")), address[:80]
    assert "@import" not in text and "url(" not in text and "<script" not in text
