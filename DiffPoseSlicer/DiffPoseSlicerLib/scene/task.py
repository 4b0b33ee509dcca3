"""Work that goes on while Slicer stays responsive: small steps on the main thread, the rest in the engine.

A task is a generator of steps. Each `next` does a little (a few milliseconds) and yields; a timer, or a waiting call,
moves it on. Nothing here knows of Qt or threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from ..engine.client import EngineClient
from ..errors import Cancelled

Steps = Generator[None, None, Any]


class Task:
    """Something under way.

    Attributes:
        kind: What it is ("register"), for those who show it.
        state: "running", then "done", "failed" or "cancelled".
        result: What it gave, when done.
        error: Why it failed or ended.
    """

    def __init__(
        self,
        kind: str,
        on_done: Callable[[Any], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self.kind, self.state = kind, "running"
        self.result: Any = None
        self.error: Exception | None = None
        self._on_done, self._on_error = on_done, on_error
        self._steps: Steps | None = None
        self._client: EngineClient | None = None
        self._request: int | None = None
        self._stop = False

    @property
    def running(self) -> bool:
        """Whether it is still under way."""
        return self.state == "running"

    def begin(self, steps: Steps) -> Task:
        """Give the task its steps."""
        self._steps = steps
        return self

    def cancel(self) -> None:
        """Ask it to end. It then ends as "cancelled" soon, or as "done" where it was too late."""
        self._stop = True
        if self._client is not None and self._request is not None:
            self._client.cancel(self._request)

    def advance(self, seconds: float = 0.005) -> None:
        """Do steps for about so long, or until the task has to wait. Errors end up in the task, not here."""
        if not self.running or self._steps is None:
            return
        until = time.perf_counter() + seconds
        try:
            while True:
                if self._stop and self._request is None:
                    raise Cancelled("Stopped as asked.")
                next(self._steps)
                if self._request is not None or time.perf_counter() >= until:
                    return
        except StopIteration as end:
            self._finish("done", end.value, None)
        except Cancelled as error:
            self._finish("cancelled", None, error)
        except Exception as error:  # whatever it is, the task ends here and says so
            self._finish("failed", None, error)

    def ask(
        self,
        client: EngineClient,
        method: str,
        params: dict[str, Any],
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Generator[None, None, dict[str, Any]]:
        """Steps that send a request and wait for its answer: `answer = yield from task.ask(...)`."""
        outcome: list[dict[str, Any] | Exception] = []
        self._client = client
        self._request = client.submit(
            method, params, on_progress=on_progress, on_result=outcome.append, on_error=outcome.append
        )
        if self._stop:
            client.cancel(self._request)
        try:
            while not outcome:
                yield
        finally:
            self._request = None
        if isinstance(outcome[0], Exception):
            raise outcome[0]
        return outcome[0]

    def _finish(self, state: str, result: Any, error: Exception | None) -> None:
        self.state, self.result, self.error = state, result, error
        self._steps = None
        if state == "done" and self._on_done:
            self._on_done(result)
        if error is not None and self._on_error:
            self._on_error(error)


def finish(steps: Steps) -> Any:
    """Do all of some steps at once; what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value
