"""How many cores the network learns on: all, or all but the one that makes images, whichever is faster just now.

On an idle machine the images leave most of their core unused, and a network on all cores learns faster. Where somebody
else's work takes a core, all threads of a convolution wait for the one on it, and leaving a core out is several times
faster (docs/pretraining.md). Which of the two it is changes while a training runs, so both are timed again and again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

# Steps not timed after a change (what was prepared for the former count is used up), steps timed, and seconds between
# comparisons.
_SETTLE, _TIMED, _EVERY_S = 2, 8, 45.0


class Cores:
    """Chooses torch's number of threads by timing steps; call :meth:`before_step` before each.

    Args:
        counts: The numbers to choose from, the first one to begin with; a single one is kept.
        use: Sets a number.
        now: A clock, seconds.
    """

    def __init__(
        self,
        counts: Sequence[int],
        use: Callable[[int], None] = torch.set_num_threads,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._counts, self._use, self._now = list(dict.fromkeys(counts)), use, now
        self._untried: list[int] = []
        self._seconds: dict[int, float] = {}
        self._next = -float("inf")
        self.count = self._counts[0]
        self._steps, self._since = 0, 0.0
        use(self.count)

    def before_step(self) -> None:
        """Change the number of threads where a comparison is under way or due."""
        if len(self._counts) < 2:
            return
        now = self._now()
        if not self._untried:
            if now >= self._next:
                self._untried, self._seconds = list(self._counts), {}
                self._try(self._untried[0])
            return
        self._steps += 1
        if self._steps == _SETTLE:
            self._since = now
        elif self._steps == _SETTLE + _TIMED:
            self._seconds[self._untried.pop(0)] = now - self._since
            if self._untried:
                self._try(self._untried[0])
            else:
                self._try(min(self._counts, key=self._seconds.__getitem__))
                self._next = now + _EVERY_S

    def interrupted(self) -> None:
        """Something else than steps took time: begin a comparison that was under way anew."""
        if self._untried:
            self._untried, self._seconds = list(self._counts), {}
            self._try(self._untried[0])

    def _try(self, count: int) -> None:
        self.count, self._steps = count, 0
        self._use(count)
