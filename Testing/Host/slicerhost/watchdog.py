"""Finds what keeps the event loop waiting: a thread that samples the main thread's stack whenever the loop stalls.

with Watchdog(limit=0.05) as watchdog:
    ...                                              # use the panel
assert not watchdog.blamed("DiffPoseSlicerLib")      # stalls with a frame of ours on the stack
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import FrameType, TracebackType
from typing import Any

from PySide6 import QtCore

_BEAT = 0.005  # seconds between two signs of life of the event loop
_POLL = 0.005  # seconds between two looks of the watching thread


@dataclass
class Stall:
    """One time the event loop did not turn. ``stacks`` are the samples taken meanwhile, innermost frame first."""

    seconds: float = 0.0
    cpu_seconds: float = (
        0.0  # of the main thread: much less than ``seconds`` means that it waited, or that others computed
    )
    stacks: list[tuple[str, ...]] = field(default_factory=list)

    def blames(self, text: str) -> bool:
        """Whether a sampled frame's file or module contains ``text``."""
        return any(text in frame for stack in self.stacks for frame in stack)

    def __str__(self) -> str:
        lines = [f"stall of {1000 * self.seconds:.0f} ms ({1000 * self.cpu_seconds:.0f} ms CPU)"]
        return "\n  ".join(lines + list(self.stacks[-1] if self.stacks else ()))


class Watchdog:
    """Watches the main thread from ``start`` to ``stop``; ``stalls`` holds what took longer than ``limit`` seconds."""

    def __init__(self, limit: float = 0.05) -> None:
        self.limit = limit
        self.stalls: list[Stall] = []
        self._main = threading.get_ident()
        self._beat, self._cpu = time.monotonic(), self._cpu_time()
        self._current: Stall | None = None
        self._running = False
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> Watchdog:
        self._running = True
        self._tick()
        self._timer.start(round(1000 * _BEAT))
        self._thread.start()
        return self

    def stop(self) -> list[Stall]:
        self._tick()
        self._running = False
        self._timer.stop()
        self._thread.join()
        return self.stalls

    def blamed(self, text: str) -> list[Stall]:
        """The stalls with a frame whose file name contains ``text``."""
        return [stall for stall in self.stalls if stall.blames(text)]

    def __enter__(self) -> Watchdog:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _tick(self) -> None:
        """The event loop is alive: close the stall in progress, if any."""
        now, cpu = time.monotonic(), self._cpu_time()
        stall, self._current = self._current, None
        if now - self._beat > self.limit:
            stall = stall or Stall()
            stall.seconds, stall.cpu_seconds = now - self._beat, cpu - self._cpu
            self.stalls.append(stall)
        self._beat, self._cpu = now, cpu

    def _watch(self) -> None:
        while self._running:
            time.sleep(_POLL)
            if time.monotonic() - self._beat > self.limit:
                frame = sys._current_frames().get(self._main)
                stack = tuple(_describe(frame))
                stall = self._current = self._current or Stall()
                if not stall.stacks or stall.stacks[-1] != stack:
                    stall.stacks.append(stack)

    def _cpu_time(self) -> float:
        if hasattr(time, "pthread_getcpuclockid"):
            return time.clock_gettime(time.pthread_getcpuclockid(self._main))
        return time.process_time()


def _describe(frame: FrameType | Any) -> Iterator[str]:
    while frame is not None:
        yield f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
