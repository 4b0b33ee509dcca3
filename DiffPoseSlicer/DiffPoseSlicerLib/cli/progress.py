"""How far a command is, on stderr: one live line on a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import shutil
import sys
import time


class ProgressLine:
    """Shows the latest of many texts.

    with ProgressLine() as line:
        line("3 of 20")
    """

    def __init__(self, every: float = 5.0) -> None:
        self._live = sys.stderr.isatty()
        self._every, self._next = (0.1 if self._live else every), 0.0
        self._text = self._shown = ""

    def __call__(self, text: str) -> None:
        """The text of the moment; it need not be shown."""
        self._text = text
        if time.monotonic() >= self._next:
            self._show()

    def _show(self) -> None:
        if self._text == self._shown:
            return
        self._next = time.monotonic() + self._every
        self._shown = self._text
        if self._live:
            width = max(20, shutil.get_terminal_size().columns - 1)
            print(f"\r{self._text[:width]:<{width}}", end="", file=sys.stderr, flush=True)
        else:
            print(self._text, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Show the last text; what is printed next has a line of its own."""
        self._show()
        if self._live and self._shown:
            print(file=sys.stderr, flush=True)
        self._text = self._shown = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
