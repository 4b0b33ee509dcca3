"""What a job's process tells those who watch: status.json, progress.jsonl and log.txt. No torch."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..geometry.files import read_json
from .disk import write_atomically

OnProgress = Callable[[dict[str, Any]], None]
# Of all a job's files but the tensors.
FORMAT = 1
_STATUS_SIZE = 4095


class Reporter:
    """Writes a job's status, progress and log. A full disk never stops the training because of these."""

    def __init__(self, folder: Path, leader: bool = True, on_progress: OnProgress | None = None) -> None:
        self.folder, self.leader = folder, leader
        self._on_progress = on_progress
        self._next = 0.0
        self.latest: dict[str, Any] = {}
        if leader:
            with suppress(InputError):
                self.latest = read_json(folder / "status.json", "status")
            self._mend()

    def _mend(self) -> None:
        """End a line that a crash tore, so that the next report is a line of its own."""
        try:
            with open(self.folder / "progress.jsonl", "rb+") as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":
                        file.write(b"\n")
        except OSError:
            pass

    def tell(self, **figures: Any) -> None:
        """Figures between reports: the status and, at most once a second, the caller's callback."""
        due = time.time() >= self._next
        self.status(**figures)
        if due and self.leader and self._on_progress:
            self._on_progress(dict(self.latest))

    def status(self, force: bool = False, **figures: Any) -> None:
        """Bring status.json up to date, at most once a second unless forced: the heartbeat."""
        self.latest |= figures
        now = time.time()
        if not self.leader or (now < self._next and not force):
            return
        self._next = now + 1
        self.latest |= {"format": FORMAT, "pid": os.getpid(), "host": platform.node(), "heartbeat": now}
        # Padded to one size, so that on a full disk it can be written over where it lies.
        text = json.dumps(self.latest, indent=2).ljust(_STATUS_SIZE) + "\n"
        try:
            write_atomically(self.folder / "status.json", text)
        except OSError:
            with suppress(OSError), open(self.folder / "status.json", "r+b") as file:
                file.write(text.encode())

    def progress(self, report: dict[str, Any]) -> None:
        """A report: a line in progress.jsonl, the figures of the status, and the caller's callback."""
        if not self.leader:
            return
        self.status(force=True, **report)
        self._append("progress.jsonl", json.dumps(report))
        if self._on_progress:
            self._on_progress(dict(self.latest))

    def log(self, text: str) -> None:
        """An event: a line in log.txt with the time."""
        if self.leader:
            self._append("log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")

    def _append(self, name: str, line: str) -> None:
        try:
            with open(self.folder / name, "a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError:
            pass
