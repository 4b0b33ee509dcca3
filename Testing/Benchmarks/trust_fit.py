"""Fitting of the trust model (see registration/trust.py) to cases, and its figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import linprog, minimize

from DiffPoseSlicerLib.registration.trust import Model

# Signs whose curves make the probability, and how many knots each curve has.
SIGNS = (
    "halves", "worst half", "blocks", "patches", "curvature", "broad halves", "broad blocks", "broad patches",
    "small patches", "large patches", "finer", "everything", "unsettled", "misfit", "detail", "bounded detail",
    "excess", "worst patches", "structure", "bounded misfit", "shift", "shift gain", "disbelieved", "outliers", "cut",
    "covered", "neighbour",
)  # fmt: skip
MILLIMETRES = (
    "unsettled", "halves", "worst half", "blocks", "patches", "curvature", "broad halves", "broad blocks",
    "broad patches", "small patches", "large patches", "finer", "everything", "shift",
)  # fmt: skip
BOUND = (
    "halves", "blocks", "patches", "curvature", "small patches", "large patches", "finer", "everything", "unsettled",
    "misfit", "detail", "structure",
)  # fmt: skip
KNOTS = 5
RIDGE = 1.0
# For another CT than those fitted to, 92 % turn out to be 90 % (leave one CT out, on the calibration cases).
QUANTILE = 0.92


def fit(rows: Sequence[dict[str, Any]], provenance: dict[str, Any], threshold: float = 0.5) -> Model:
    """The model of rows with "signs", "limit", "good" and, for the bound, "error"."""
    blank = Model(MILLIMETRES, {}, 0.0, threshold, {}, 0.0, provenance)
    logs = [blank.log_signs(row["signs"], row["limit"]) for row in rows]
    bad = np.array([not row["good"] for row in rows], float)
    knots: dict[str, np.ndarray] = {}
    columns, owners = [], []
    for name in SIGNS:
        values = np.array([log[name] for log in logs])
        places = np.unique(np.round(np.quantile(values, np.linspace(0.02, 0.98, KNOTS)), 3))
        if len(places) < 2:
            continue
        knots[name] = places
        for low, high in pairwise(places):
            columns.append(np.clip((values - low) / (high - low), 0, 1))
            owners.append(name)
    x = np.stack(columns, 1)
    rises, intercept = _rising_logistic(x, bad)
    curves = {}
    for name, places in knots.items():
        own = [rise for rise, owner in zip(rises, owners, strict=True) if owner == name]
        if sum(own) > 1e-3:
            curves[name] = (tuple(places.tolist()), tuple(np.round([0.0, *np.cumsum(own)], 4).tolist()))
    good = bad == 0
    errors = np.array([np.log(max(row["error"], 1e-3) / row["limit"]) for row in rows if row["good"]])
    signs = np.array([[log[name] for name in BOUND] for log, ok in zip(logs, good, strict=True) if ok])
    weights, base = _upper_quantile(signs, errors)
    bound = {name: round(float(w), 4) for name, w in zip(BOUND, weights, strict=True) if w > 1e-4}
    return Model(MILLIMETRES, curves, round(float(intercept), 4), threshold, bound, round(float(base), 4), provenance)


def _rising_logistic(x: np.ndarray, bad: np.ndarray) -> tuple[np.ndarray, float]:
    """Coefficients >= 0 and intercept of a logistic regression with a ridge."""

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ theta[1:] + theta[0]
        value = np.logaddexp(0, z).sum() - (bad * z).sum() + RIDGE / 2 * (theta[1:] ** 2).sum()
        slope = 1 / (1 + np.exp(-z)) - bad
        return value, np.concatenate([[slope.sum()], x.T @ slope + RIDGE * theta[1:]])

    start = np.concatenate([[-3.0], np.full(x.shape[1], 0.1)])
    bounds = [(None, None)] + [(0, None)] * x.shape[1]
    done = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 3000})
    return done.x[1:], float(done.x[0])


def _upper_quantile(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights >= 0 and intercept of the QUANTILE of y given x (Koenker and Bassett 1978, as a linear programme)."""
    count, width = x.shape
    # y = x w + b + above - below, all but b not negative.
    cost = np.concatenate(
        [np.full(width, 0.01 * count / 100), [0], np.full(count, QUANTILE), np.full(count, 1 - QUANTILE)]
    )
    equal = np.hstack([x, np.ones((count, 1)), np.eye(count), -np.eye(count)])
    bounds = [(0, None)] * width + [(None, None)] + [(0, None)] * (2 * count)
    done = linprog(cost, A_eq=equal, b_eq=y, bounds=bounds, method="highs")
    return done.x[:width], float(done.x[width])


def crossed(rows: Sequence[dict[str, Any]], groups: Callable[[dict[str, Any]], set[str]]) -> np.ndarray:
    """Probability of each row by a model fitted to the rows that share no group with it."""
    found = np.zeros(len(rows))
    for name in sorted(set().union(*(groups(row) for row in rows))):
        model = fit([row for row in rows if name not in groups(row)], {})
        for number, row in enumerate(rows):
            if row["ct"] == name:
                found[number] = model.probability(row["signs"], row["limit"])
    return found


def threshold_of(probability: np.ndarray, good: np.ndarray) -> float:
    """The lowest threshold that trusts at most one failure in 200, but flags no more than one success in 14."""
    bad = np.sort(probability[~good])[::-1]
    allowed = int(len(bad) / 200)
    safe = bad[allowed] + 1e-6
    generous = float(np.quantile(probability[good], 1 / 14))
    return float(min(safe, generous))


def auroc(probability: np.ndarray, good: np.ndarray) -> float:
    """Area under the ROC curve: how often a success has a higher probability than a failure; ties count half."""
    order = np.argsort(probability, kind="stable")
    ranks = np.empty(len(order))
    values = probability[order]
    ranks[order] = np.arange(1, len(order) + 1)
    for value in np.unique(values[np.flatnonzero(np.diff(values) == 0)]):
        same = probability == value
        ranks[same] = ranks[same].mean()
    positives = int(good.sum())
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * (len(good) - positives)))


def equal_mass(probability: np.ndarray, good: np.ndarray, bins: int = 10) -> list[tuple[float, float, int]]:
    """(mean probability, success rate, cases) of bins that hold as many cases each."""
    parts = np.array_split(np.argsort(probability, kind="stable"), bins)
    return [(float(probability[part].mean()), float(good[part].mean()), len(part)) for part in parts]
