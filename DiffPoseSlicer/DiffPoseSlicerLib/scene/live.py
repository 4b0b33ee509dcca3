"""What follows while things move: the transform node, the synthetic X-ray. The latest wins, the rest is left out."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ..geometry.se3 import Array
from .placement import set_ct_to_world

MAX_HZ = 60.0


class LivePose:
    """Moves one transform node. Poses come as fast as they like; those between two updates are left out."""

    def __init__(self, max_hz: float = MAX_HZ) -> None:
        self._interval = 1.0 / max_hz
        self._waiting: tuple[Any, Array] | None = None
        self._last = 0.0
        self.moving = False  # true while the node is moved from here, so that observers can tell a user's hand
        self.updates = 0

    def show(self, transform: Any, ct_to_world: Array, *, now: bool = False) -> None:
        """Move `transform`, at once if `now`, else at the next flush: to the newest of the poses that have come."""
        self._waiting = (transform, ct_to_world)
        if now:
            self.flush(now)

    def flush(self, now: bool = False) -> bool:
        """Apply the pose that waits, if it is time. Whether a pose still waits."""
        if self._waiting is None:
            return False
        clock = time.perf_counter()
        if not now and clock - self._last < self._interval:
            return True
        (transform, matrix), self._waiting, self._last = self._waiting, None, clock
        if transform.GetScene() is not None:
            self.moving = True
            try:
                set_ct_to_world(transform, matrix)
            finally:
                self.moving = False
            self.updates += 1
        return False

    def drop(self) -> None:
        """Forget the pose that waits."""
        self._waiting = None


class LiveDrr:
    """Keeps the synthetic X-ray in step with a CT that moves: one rendering at a time, the latest wish wins.

    While things move it renders few pixels, as many as come back in a twentieth of a second; when they have rested a
    moment, all of them.

    Args:
        logic: The scene's logic, whose `render` is used.
        on_drawn: Called whenever a synthetic X-ray has come.
        on_error: Called with what went wrong.
    """

    FEWEST_PIXELS, MOST_PIXELS = 96, 256
    COARSE_S = 0.05
    REST_S = 0.3

    def __init__(self, logic: Any, on_drawn: Callable[[], None], on_error: Callable[[Exception], None]) -> None:
        self._logic, self._on_drawn, self._on_error = logic, on_drawn, on_error
        self._wanted: tuple[Any, Any] | None = None
        self._fine: tuple[Any, Any, float] | None = None
        self._task: Any = None
        self._began: float | None = None  # when the coarse rendering that is under way was asked for
        self.pixels = 192
        self.drawn = 0

    def want(self, ct: Any, node: Any, *, coarse_first: bool = True) -> None:
        """Ask for the synthetic X-ray of where the CT lies now."""
        if coarse_first:
            self._wanted = (ct, node)
            self._fine = (ct, node, time.perf_counter() + self.REST_S)
        else:
            self._wanted, self._fine = None, (ct, node, 0.0)

    def drop(self) -> None:
        """Forget what is wanted."""
        self._wanted = self._fine = None

    def pump(self) -> bool:
        """Start the next rendering if it is time. Whether something is still to come."""
        if self._task is None:
            pixels: int | None = None
            if self._wanted is not None:
                (ct, node), self._wanted, pixels = self._wanted, None, self.pixels
            elif self._fine is not None and time.perf_counter() >= self._fine[2]:
                (ct, node, _), self._fine = self._fine, None
            else:
                return self._fine is not None
            if ct.GetScene() is not None and node.GetScene() is not None:
                self._began = None if pixels is None else time.perf_counter()
                self._task = self._logic.render(
                    ct, node, pixels=pixels, blocking=False, on_done=self._done, on_error=self._failed
                )
        return True

    def _done(self, _node: Any) -> None:
        self._task = None
        if self._began is not None:  # half of the way to what would have taken COARSE_S, by area
            ratio = min(max(self.COARSE_S / max(time.perf_counter() - self._began, 1e-3), 0.25), 4.0)
            pixels = round(self.pixels * ratio**0.25)
            self.pixels = min(max(pixels, self.FEWEST_PIXELS), self.MOST_PIXELS)
        self.drawn += 1
        self._on_drawn()

    def _failed(self, error: Exception) -> None:
        self._task = None
        self._fine = None
        self._on_error(error)
