"""All cores for one kernel: a launch of Warp on the CPU runs on the thread that makes it, and lets go of Python's lock.

`ThreadPoolExecutor` costs 50-100 us a call, as much as a small image; a queue per thread costs about 10.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Sequence


def cores() -> int:
    """Cores this process may use; the environment variable DIFFPOSESLICER_THREADS sets another number."""
    asked = os.environ.get("DIFFPOSESLICER_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


class Workers:
    """Threads that run one call each, side by side with the caller's own. Safe to call from several threads at once."""

    def __init__(self) -> None:
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], queue.SimpleQueue]] = queue.SimpleQueue()
        self._started = 0
        self._lock = threading.Lock()

    def run(self, tasks: Sequence[Callable[[], None]]) -> None:
        """Run all tasks, the first one on this thread; return when all are done. Raises what a task raised."""
        if len(tasks) > 1 and self._started < len(tasks) - 1:
            with self._lock:
                while self._started < len(tasks) - 1:
                    threading.Thread(target=self._work, name="DiffPoseSlicer ray worker", daemon=True).start()
                    self._started += 1
        done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        for task in tasks[1:]:
            self._tasks.put((task, done))
        error: BaseException | None = None
        try:
            tasks[0]()
        except BaseException as caught:  # raised again below
            error = caught
        for _ in tasks[1:]:  # also after an error: the others still write into the caller's arrays
            error = done.get() or error
        if error is not None:
            raise error

    def _work(self) -> None:
        while True:
            task, done = self._tasks.get()
            try:
                task()
                done.put(None)
            except BaseException as error:  # handed to who waits
                done.put(error)


workers = Workers()


def _after_fork() -> None:
    workers.__init__()  # type: ignore[misc]  # a forked child has none of its parent's threads


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
