"""The solver on closed forms: what it accepts, what it refuses, how fast it comes to the end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from DiffPoseSlicerLib.errors import Cancelled
from DiffPoseSlicerLib.registration.similarity import Terms, Weights
from DiffPoseSlicerLib.registration.solver import SMALLEST_STEP, polish, solve


class AlongX:
    """An objective that knows one direction: functions of x, the first component of the translation, mm."""

    center = np.zeros(3)

    def __init__(self, cost: Callable, slope: Callable, score: Callable, bend: float = 1.0, ncc: float = 1.0) -> None:
        self.cost, self.slope, self.score, self.bend, self.ncc = cost, slope, score, bend, ncc

    def evaluate(self, poses, held):
        x = poses[:, 0, 3]
        ones = np.ones(len(x))
        weights = Weights(*(np.ones((len(x), 1, 1), np.float32),) * 3)
        gradient = np.zeros((len(x), 6))
        gradient[:, 3] = self.slope(x)
        matrix = np.tile(self.bend * np.eye(6), (len(x), 1, 1))
        cost = self.cost(x) * ones
        return Terms(cost, cost, self.ncc * ones, self.score(x) * ones, gradient, matrix, [weights], ones)


def at(x: float) -> np.ndarray:
    pose = np.eye(4)
    pose[0, 3] = x
    return pose


def end(solution) -> float:
    return float(solution.ras_to_camera[0, 0, 3])


def test_a_step_that_brings_unexplained_pixels_into_play_is_refused():
    """Held weights know nothing of rays that leave the CT as the pose moves; the agreement of all pixels does."""
    # Under held weights farther is always better, by all pixels it is worse.
    drifting = AlongX(lambda x: 1 - 0.1 * x, lambda x: -1.0, lambda x: 1 - 0.01 * x)
    assert end(solve(drifting, at(0)[None], 10)) < 0.2


def test_ripples_of_the_cost_hold_steps_that_must_lower_it_but_not_those_that_follow_the_gradient():
    def rippling(x):
        return 0.5 + 1e-3 * x**2 + 1e-3 * np.cos(2 * np.pi * x / 0.7)

    objective = AlongX(rippling, lambda x: 1e-3 * x, lambda x: 1 - 1e-3 * x**2, 2e-3)
    assert abs(end(solve(objective, at(1.75)[None], 30))) > 10 * SMALLEST_STEP
    assert abs(end(polish(objective, at(1.75), 30))) < SMALLEST_STEP


def test_images_that_hardly_correlate_bend_the_cost_less():
    """With a correlation of 0.2 at best, Gauss and Newton's matrix is five times the cost's own."""
    objective = AlongX(lambda x: 1.6 + 0.1 * x**2, lambda x: 0.2 * x, lambda x: 1 - x**2 / 100, ncc=0.2)
    result = polish(objective, at(2.0), 20)
    assert abs(end(result)) < 1e-6 and result.reasons == ["converged"] and result.evaluations <= 4


def test_steps_that_go_a_part_of_the_way_each_are_summed():
    """Robust weights hold what does not fit yet; here each step goes a seventh of the way."""
    objective = AlongX(lambda x: x**2 / 100, lambda x: x / 7, lambda x: 1 - x**2 / 1000)
    result = polish(objective, at(8.0), 40)
    plain = int(np.ceil(np.log(8.0 / 7 / SMALLEST_STEP) / np.log(7 / 6))) + 2
    assert abs(end(result)) < 0.2 and result.reasons == ["converged"] and result.evaluations < 0.7 * plain


def test_polishing_ends_where_all_pixels_agree_best_when_the_gradient_leads_away():
    away = AlongX(lambda x: 1 - 0.1 * x, lambda x: -1.0, lambda x: 1 - 0.01 * x)
    result = polish(away, at(0.5), 5)
    assert end(result) == 0.5 and result.reasons == ["stalled"]
    over = AlongX(lambda x: 1 - 0.1 * x, lambda x: -1.0, lambda x: 1 - 0.01 * (x - 1.5) ** 2)
    assert end(polish(over, at(0.5), 5)) == pytest.approx(1.5, abs=1e-4)


def test_polishing_stops_when_told_to():
    objective = AlongX(lambda x: x**2, lambda x: x, lambda x: 1 - x**2 / 1000)
    with pytest.raises(Cancelled):
        polish(objective, at(2.0), 5, stop=lambda: "cancelled")
    spent = polish(objective, at(2.0), 5, stop=lambda: "budget")
    assert spent.reasons == ["budget"] and end(spent) == 2.0 and spent.evaluations == 1
