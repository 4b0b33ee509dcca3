"""Finds what keeps the event loop waiting: samples of the main thread's stack whenever the loop stalls.

with Watchdog(limit=0.05) as watchdog:
    ...                                              # use the panel
assert not watchdog.blamed("DiffPoseSlicerLib")      # stalls with a frame of ours on the stack

A timer of the operating system is wound up again at every turn of the event loop. If the loop does not turn for
``limit`` seconds, it goes off and `faulthandler` writes the main thread's stack down, in the middle of whatever runs,
C++ included. (A Python thread would have to wait for the interpreter's lock, which VTK keeps while it renders, and to
look into another thread's frames from outside can crash.) Windows has no such timer: there stalls are timed without
stacks. Drawing a view, which software OpenGL does slowly, is a turn of its own: what runs after is not blamed for it;
what draws from within its own code is.
"""

from __future__ import annotations

import faulthandler
import re
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from PySide6 import QtCore

from .views import RenderWidget

_BEAT = 0.005  # seconds between two signs of life of the event loop
_SAMPLES = 0.010  # seconds between two looks at the stack during a stall
_FRAME = re.compile(r'^  File "(.*)", line (\S+) in (.*)$')
_CAN_SAMPLE = hasattr(signal, "setitimer") and hasattr(faulthandler, "register")


@dataclass
class Stall:
    """One time the event loop did not turn. ``stacks`` are the samples taken meanwhile, innermost frame first.

    Attributes:
        seconds: By the clock.
        cpu_seconds: Computed by the main thread itself.
        queued_seconds: What the main thread could have run but other threads had the processor (0 where unknown).
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    queued_seconds: float = 0.0
    stacks: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def own_seconds(self) -> float:
        """What it would have lasted with a processor for itself: computing and waiting, less the wait for a turn."""
        return self.seconds - self.queued_seconds

    def blames(self, text: str) -> bool:
        """Whether a sampled frame's file or module contains ``text``."""
        return any(text in frame for stack in self.stacks for frame in stack)

    def describe(self, text: str) -> str:
        """The stall with each sample's innermost frame and its innermost frame that contains ``text``, counted."""
        seen: dict[str, int] = {}
        for stack in self.stacks:
            line = " <- ".join([stack[0], *[frame for frame in stack if text in frame][:2]])
            seen[line] = seen.get(line, 0) + 1
        return "\n    ".join([str(self).partition("\n")[0], *(f"{count} x {line}" for line, count in seen.items())])

    def __str__(self) -> str:
        figures = f"{1000 * self.cpu_seconds:.0f} ms CPU, {1000 * self.queued_seconds:.0f} ms queued"
        lines = [f"stall of {1000 * self.seconds:.0f} ms ({figures})"]
        return "\n  ".join(lines + list(self.stacks[-1] if self.stacks else ()))


class Watchdog:
    """Watches the main thread from ``start`` to ``stop``; ``stalls`` holds what took longer than ``limit`` seconds.

    To be made, started and stopped on the main thread. Only one can run at a time.
    """

    def __init__(self, limit: float = 0.05) -> None:
        self.limit = limit
        self.stalls: list[Stall] = []
        self._main = threading.get_ident()
        self._clocks = (0.0, 0.0, 0.0)
        self._timer = QtCore.QTimer()
        self._timer.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
        self._timer.timeout.connect(self._tick)

    def start(self) -> Watchdog:
        self._clocks = self._read_clocks()
        if _CAN_SAMPLE:
            self._file = tempfile.TemporaryFile("w+b")  # noqa: SIM115
            faulthandler.register(signal.SIGALRM, self._file, all_threads=False)
        self._wind(self.limit)
        self._timer.start(round(1000 * _BEAT))
        RenderWidget.after_drawing.append(self._tick)
        return self

    def stop(self) -> list[Stall]:
        self._tick()
        RenderWidget.after_drawing.remove(self._tick)
        self._wind(0.0)
        self._timer.stop()
        if _CAN_SAMPLE:
            faulthandler.unregister(signal.SIGALRM)
            self._file.close()
        return self.stalls

    def skip(self) -> None:
        """What the main thread did since the last turn of the event loop is no stall: a test's own work."""
        self._wind(0.0)
        self._clocks = self._read_clocks()
        self._stacks()  # forgotten
        self._wind(self.limit)

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
        before, self._clocks = self._clocks, self._read_clocks()
        passed = [now - then for now, then in zip(self._clocks, before, strict=True)]
        if passed[0] > self.limit:
            self._wind(0.0)
            self.stalls.append(Stall(*passed, stacks=self._stacks()))
        self._wind(self.limit)

    def _wind(self, seconds: float) -> None:
        if _CAN_SAMPLE:
            signal.setitimer(signal.ITIMER_REAL, seconds, _SAMPLES if seconds else 0.0)

    def _stacks(self) -> list[tuple[str, ...]]:
        """The samples written since the last stall, each once."""
        if not _CAN_SAMPLE:
            return []
        self._file.seek(0)
        text = self._file.read().decode(errors="replace")
        self._file.seek(0)
        self._file.truncate()
        stacks: list[tuple[str, ...]] = []
        for sample in re.split(r"^(?:Current thread|Thread|Stack) .*$", text, flags=re.MULTILINE)[1:]:
            frames = [_FRAME.match(line) for line in sample.splitlines()]
            stack = tuple(f"{frame[1]}:{frame[2]} {frame[3]}" for frame in frames if frame)
            if stack and (not stacks or stacks[-1] != stack):
                stacks.append(stack)
        return stacks

    def _read_clocks(self) -> tuple[float, float, float]:
        """Seconds: the clock, the main thread's computing, the main thread's waiting for a processor."""
        if hasattr(time, "pthread_getcpuclockid"):
            computed = time.clock_gettime(time.pthread_getcpuclockid(self._main))
        else:
            computed = time.process_time()
        try:
            queued = int(Path("/proc/self/schedstat").read_bytes().split()[1]) / 1e9
        except (OSError, IndexError, ValueError):
            queued = 0.0
        return time.monotonic(), computed, queued
