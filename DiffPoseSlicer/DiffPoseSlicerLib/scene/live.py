"""A transform node that follows an optimiser: the latest pose wins, and not more often than the eye needs."""

from __future__ import annotations

import time
from typing import Any

from ..geometry.se3 import Array
from .placement import set_ct_to_world

MAX_HZ = 30.0


class LivePose:
    """Moves one transform node. Poses come as fast as they like; those between two updates are left out."""

    def __init__(self, max_hz: float = MAX_HZ) -> None:
        self._interval = 1.0 / max_hz
        self._waiting: tuple[Any, Array] | None = None
        self._last = 0.0
        self.moving = False  # true while the node is moved from here, so that observers can tell a user's hand
        self.updates = 0

    def show(self, transform: Any, ct_to_world: Array, *, now: bool = False) -> None:
        """Move `transform`, at once if `now` or if the last update is long enough ago, else at a later flush."""
        self._waiting = (transform, ct_to_world)
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
