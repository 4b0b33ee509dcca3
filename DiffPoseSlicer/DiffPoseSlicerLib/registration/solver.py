"""Levenberg-Marquardt in se(3) for many starts at once.

All starts step together: one rendering call a step for the whole batch, each start with its own damping, its own
acceptance and its own reason to stop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled
from ..geometry.se3 import Array, turn_about
from .similarity import Terms, Weights

# 1 rad weighs as much as this many mm: about the distance of the anatomy's outline from its centre.
LEVER_MM = 100.0
_SCALE = np.array([LEVER_MM] * 3 + [1.0] * 3)
_LARGEST_STEP = 40.0  # mm, with rotations taken at the lever
_LARGEST_POLISH = 3.0  # likewise, where the pose is nearly found
SMALLEST_STEP = 0.02  # mm likewise: a shorter one is not worth a rendering
LAST_STEP = 0.05  # mm likewise: a shorter one is not worth looking at where it leads
ROUGH_STEP = 0.1  # mm likewise, where finer images will correct it
# A step judged good under held weights must not cost more than this of the agreement of all pixels: as the pose moves,
# pixels whose rays left the CT come into play, and the held weights know nothing of them.
LOSS = 5e-4
RISE = 1.05
_LEAST_CORRELATION = 0.15
# Cosine between steps that are taken for a series, and how much farther than the last of them to go at most.
_ALIGNED, _FARTHEST = 0.9, 4.0
_FIRST_DAMPING, _LARGEST_DAMPING = 1e-3, 1e4

REASONS = ("converged", "stalled", "iterations", "budget", "dominated")


class Objective(Protocol):
    """What is minimised: terms at poses given as ras_to_camera (B, 4, 4) of the first view."""

    center: Array

    def evaluate(self, ras_to_camera: Array, held: list[Weights] | None) -> Terms: ...


@dataclass
class Solution:
    """Where a batch of starts ended.

    Attributes:
        ras_to_camera: (B, 4, 4).
        terms: at those poses.
        reasons: why each stopped: one of REASONS.
        evaluations: rendering calls made.
    """

    ras_to_camera: Array
    terms: Terms
    reasons: list[str]
    evaluations: int


def solve(
    objective: Objective,
    ras_to_camera: Array,
    iterations: int,
    tolerance: float = 1e-3,
    narrow: tuple[int, int] | None = None,
    on_step: Callable[[Array, Terms], None] | None = None,
    stop: Callable[[], str | None] | None = None,
) -> Solution:
    """Minimise from each start.

    Args:
        objective: see :class:`Objective`; twists are (omega, v) in camera axes about `objective.center` (RAS).
        ras_to_camera: (B, 4, 4) starts.
        iterations: largest number of steps tried, per start.
        tolerance: a start has converged when an accepted step lowers its cost by less than this part of it.
        narrow: (after, keep): once `after` steps are done, only the `keep` starts with the best scores go on.
        on_step: called after each step with all poses and terms.
        stop: asked before each step; "cancelled" raises Cancelled, "budget" ends here.

    Raises:
        Cancelled: `stop` said so.
    """
    poses = np.array(ras_to_camera, float)
    batch = len(poses)
    terms = objective.evaluate(poses, None)
    damping = np.full(batch, _FIRST_DAMPING)
    reasons = ["iterations"] * batch
    active = np.ones(batch, bool)
    evaluations = 1
    for number in range(iterations):
        if narrow and number == narrow[0]:
            for row in np.argsort(-terms.score)[narrow[1] :]:
                if active[row]:
                    reasons[row], active[row] = "dominated", False
        word = stop() if stop else None
        if word == "cancelled":
            raise Cancelled
        if word == "budget":
            reasons = ["budget" if on else reason for on, reason in zip(active, reasons, strict=True)]
            break
        rows = np.flatnonzero(active)
        if not len(rows):
            break
        present = terms.rows(rows)
        candidates, lengths = _moved(objective.center, poses[rows], _step(present, damping[rows]), _LARGEST_STEP)
        tried = objective.evaluate(candidates, present.weights)
        evaluations += 1
        gain = present.cost - tried.judged
        better = (gain > 0) & (tried.score > present.score - LOSS) & (tried.cost < RISE * present.cost)
        small = (gain < tolerance * present.cost) | (lengths < SMALLEST_STEP)
        poses[rows[better]] = candidates[better]
        terms.put(rows[better], tried.rows(np.flatnonzero(better)))
        damping[rows] = np.where(better, np.maximum(damping[rows] / 5, 1e-7), damping[rows] * 8)
        for row, good, tiny, length in zip(rows, better, small, lengths, strict=True):
            if tiny and (good or length < SMALLEST_STEP):
                reasons[row], active[row] = "converged", False
            elif damping[row] > _LARGEST_DAMPING:
                reasons[row], active[row] = "stalled", False
        if on_step:
            on_step(poses, terms)
    return Solution(poses, terms, reasons, evaluations)


def polish(
    objective: Objective,
    ras_to_camera: Array,
    iterations: int,
    shortest: float = LAST_STEP,
    on_step: Callable[[Array, Terms], None] | None = None,
    stop: Callable[[], str | None] | None = None,
) -> Solution:
    """Follow the gradient to its zero from a pose nearby, whether or not each step lowers the cost.

    Seen finely, the cost ripples: with the samples along the rays, and with which pixels count. In a noisy image the
    ripples are as high as what a step gains, and steps that must lower the cost stall. The gradient does not ripple,
    for its part along the rays is taken out.

    Args:
        ras_to_camera: (4, 4) the start.
        shortest: mm with rotations at the lever: a step shorter than this is the last, and taken unseen: the terms
            returned are those before it.
        objective, iterations, on_step, stop: see :func:`solve`.

    Returns:
        Where the steps end; where all pixels agree less there than at the start, the best of what was passed.

    Raises:
        Cancelled: `stop` said so.
    """
    pose = np.array(ras_to_camera, float)[None]
    terms = objective.evaluate(pose, None)
    first, best = float(terms.score[0]), (pose, terms)
    before, reason, evaluations = np.zeros((1, 6)), "iterations", 1
    for _ in range(iterations):
        word = stop() if stop else None
        if word == "cancelled":
            raise Cancelled
        if word == "budget":
            reason = word
            break
        assert terms.matrix is not None
        # Of images that correlate by rho at best, the cost bends less than Gauss and Newton take it to, by rho.
        rho = np.clip(terms.ncc, _LEAST_CORRELATION, 1)[:, None, None]
        step = _step(replace(terms, matrix=terms.matrix * rho), np.zeros(1))
        length = float(np.linalg.norm(step))
        before, step = step, step * _series(before[0], step[0])
        pose = _moved(objective.center, pose, step, _LARGEST_POLISH)[0]
        if length >= shortest:
            terms = objective.evaluate(pose, None)
            evaluations += 1
            best = max(best, (pose, terms), key=lambda passed: float(passed[1].score[0]))
        if on_step:
            on_step(pose, terms)
        if length < shortest:
            reason = "converged"
            break
    if terms.score[0] < first - LOSS:
        (pose, terms), reason = best, "stalled"
    return Solution(pose, terms, [reason], evaluations)


def _series(before: Array, step: Array) -> float:
    """The sum of steps that go on as this one (6,) follows the one before, as a multiple of it (Aitken).

    Weights that hold what does not fit yet let each step go only a part of the way.
    """
    along, square = float(before @ step), float(before @ before)
    if along < _ALIGNED * np.sqrt(square * float(step @ step)) or along >= square:
        return 1.0
    return min(1 / (1 - along / square), _FARTHEST)


def _step(terms: Terms, damping: NDArray[np.float64]) -> Array:
    """Damped Gauss-Newton steps (B, 6), in mm: rotations at the lever."""
    assert terms.matrix is not None and terms.gradient is not None
    matrix = terms.matrix / (_SCALE[:, None] * _SCALE)
    diagonal = np.einsum("bii->bi", matrix)
    # A direction that the image says nothing about must not make the system singular.
    floor = 1e-6 * diagonal.max(1, keepdims=True) + 1e-12
    matrix = matrix + np.eye(6) * (damping[:, None] * np.maximum(diagonal, floor) + floor)[:, None, :]
    return -np.linalg.solve(matrix, (terms.gradient / _SCALE)[..., None])[..., 0]


def _moved(center: Array, poses: Array, steps: Array, largest: float) -> tuple[Array, Array]:
    """Poses (B, 4, 4) after steps of at most `largest` mm, and the steps' lengths (B,)."""
    length = np.linalg.norm(steps, axis=1)
    xi = steps * np.minimum(1, largest / np.maximum(length, 1e-12))[:, None] / _SCALE
    center_cam = poses[:, :3, :3] @ center + poses[:, :3, 3]
    return turn_about(xi, center_cam) @ poses, np.minimum(length, largest)
