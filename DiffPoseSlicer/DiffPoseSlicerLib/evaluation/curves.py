"""Curves over many cases: how many succeed at each threshold, from how far off, and whether stated odds hold."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

from ..geometry.se3 import Array
from .metrics import wilson_interval


def success_curve(errors: ArrayLike, thresholds: ArrayLike) -> Array:
    """Fraction of the errors below each threshold; an error that is not a number is below none."""
    errors, thresholds = np.asarray(errors, float), np.asarray(thresholds, float)
    return (errors[None, :] < thresholds[:, None]).mean(1)


def capture_range(
    starts: ArrayLike, errors: ArrayLike, limit: float, edges: Sequence[float]
) -> list[tuple[float, float, int, int]]:
    """(from, to, successes, cases) for each bin of start error that holds a case."""
    starts, good = np.asarray(starts, float), np.asarray(errors, float) < limit
    bins = []
    for low, high in pairwise(edges):
        inside = (starts >= low) & (starts < high)
        if inside.any():
            bins.append((float(low), float(high), int(good[inside].sum()), int(inside.sum())))
    return bins


def reliability(
    probabilities: ArrayLike, succeeded: ArrayLike, bins: int = 5
) -> list[tuple[float, float, float, float]]:
    """(mean stated probability, share that succeeded, Wilson's low, high) for each equal bin of stated probability."""
    stated, good = np.asarray(probabilities, float), np.asarray(succeeded, bool)
    places = np.minimum((stated * bins).astype(int), bins - 1)
    rows = []
    for place in range(bins):
        inside = places == place
        if inside.any():
            low, high = wilson_interval(int(good[inside].sum()), int(inside.sum()))
            rows.append((float(stated[inside].mean()), float(good[inside].mean()), low, high))
    return rows


def calibration_error(probabilities: ArrayLike, succeeded: ArrayLike, bins: int = 5) -> float:
    """Expected calibration error: the mean gap between stated and observed success, weighted by cases."""
    stated, good = np.asarray(probabilities, float), np.asarray(succeeded, bool)
    places = np.minimum((stated * bins).astype(int), bins - 1)
    gaps = [abs(stated[places == b].sum() - good[places == b].sum()) for b in range(bins)]
    return float(sum(gaps) / max(len(stated), 1))
