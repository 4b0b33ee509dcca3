"""Collimators by their shape: one circle or four straight blades, found as closed outlines that are brighter inside.

Noise, scatter that reaches behind the blades and display processing hide single stretches of an edge. A shape is
therefore judged as a whole: by how consistently the image darkens outwards all along it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]

# Shapes are looked for in an image of about this many pixels along its shorter side.
_WORKING_SIZE = 128
# With fewer pixels than this anatomy's own outlines are as sharp as blades.
_FEWEST = 64
# Half the distance, in working pixels, between the two sides of an edge that are compared.
_REACH = 2.0
# How consistently an outline must darken outwards (see `_consistency`), and by how much of the logarithm on average.
_CONSISTENT, _STEP = 0.9, 0.15
# An edge is as sharp as this: so much of the step over +-_WIDE working pixels lies within +-_REACH.
_WIDE, _SHARP = 5.0, 0.5
# One very dark stretch says no more than this.
_LARGEST_STEP = 0.5
# The edge is soft: this much (working pixels) inside of it is left out.
_MARGIN = 2.5
# Radii and half-widths looked at, as parts of the shorter side; blades turned by up to this many degrees.
_SMALLEST, _LARGEST, _TILT = 0.28, 0.62, 20.0
_SAMPLES = 48

# One straight edge: angle of its normal (rad, from the row axis towards the column axis) and its distance from the
# image's middle along that normal, working pixels.
Side = tuple[float, float]


def collimated_field(stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """The field that a round or a four-bladed collimator leaves open in a transmission image [row, column], or None."""
    rows, columns = stored.shape
    if min(rows, columns) < _FEWEST or float(np.ptp(stored)) <= 0:
        return None
    factor = max(1, round(min(rows, columns) / _WORKING_SIZE))
    level = _level(np.asarray(stored, np.float32), factor)
    v, u = (np.mgrid[:rows, :columns] + 0.5) / factor - 0.5
    circle, round_agreement = _circle(level)
    sides, straight_agreement = _box(level)
    if circle is not None and round_agreement >= straight_agreement:
        return np.hypot(v - circle[0], u - circle[1]) < circle[2] - _MARGIN
    if sides is None:
        return None
    inside = np.ones((rows, columns), bool)
    for angle, distance in sides:
        along = np.cos(angle) * (v - (level.shape[0] - 1) / 2) + np.sin(angle) * (u - (level.shape[1] - 1) / 2)
        inside &= along < distance - _MARGIN
    return inside


def _level(image: Float, factor: int) -> Float:
    """Logarithm of the image, reduced and lightly smoothed, so that a blade makes the same step wherever it lies."""
    rows, columns = (length - length % factor for length in image.shape)
    blocks = image[:rows, :columns].reshape(rows // factor, factor, columns // factor, factor).mean((1, 3))
    low, high = float(blocks.min()), float(np.percentile(blocks, 99))
    level = np.log(blocks - min(low, 0.0) + 0.01 * max(high, 1e-12))
    for axis in (0, 1):
        for _ in range(2):
            padded = np.pad(level, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
            parts = [np.take(padded, np.arange(level.shape[axis]) + shift, axis=axis) for shift in (0, 1, 2)]
            level = (parts[0] + 2 * parts[1] + parts[2]) / 4
    return level


def _steps(level: Float, v: Float, u: Float, dv: Float, du: Float, reach: float = _REACH) -> Float:
    """How much darker the image is outwards (dv, du) of points (v, u); NaN where that leaves the image."""
    rows, columns = level.shape

    def at(v: Float, u: Float) -> Float:
        outside = (v < 0) | (u < 0) | (v > rows - 1) | (u > columns - 1)
        v, u = np.clip(v, 0, rows - 1.001), np.clip(u, 0, columns - 1.001)
        i, j = v.astype(np.int32), u.astype(np.int32)
        a, b = v - i, u - j
        flat, index = level.ravel(), i * columns + j
        upper = (1 - b) * flat[index] + b * flat[index + 1]
        lower = (1 - b) * flat[index + columns] + b * flat[index + columns + 1]
        return np.where(outside, np.nan, (1 - a) * upper + a * lower)

    return at(v - reach * dv, u - reach * du) - at(v + reach * dv, u + reach * du)


def _consistency(steps: Float, scale: float) -> tuple[Float, Float]:
    """Mean over the last axis of the steps, each bounded by one scale, and of the steps themselves, inside the image.

    Outlines that are mostly outside are worth nothing.
    """
    known = np.isfinite(steps)
    count = np.maximum(known.sum(-1), 1)
    steps = np.where(known, np.minimum(steps, _LARGEST_STEP), 0)
    inside = known.mean(-1) > 0.6
    bounded = np.clip(steps / scale, -1, 1).sum(-1) / count
    return np.where(inside, bounded, 0), np.where(inside, steps.sum(-1) / count, 0)


def _scale(level: Float) -> float:
    """A step that is not chance: more than what anatomy and noise make at most places."""
    gap = round(2 * _REACH)
    down, across = np.abs(level[gap:] - level[:-gap]), np.abs(level[:, gap:] - level[:, :-gap])
    return max(1.5 * float(np.median(np.concatenate([down.ravel(), across.ravel()]))), 0.05)


def _circle(level: Float) -> tuple[tuple[float, float, float] | None, float]:
    """(row, column, radius) of a round field, and its consistency."""
    size, scale = min(level.shape), _scale(level)
    turn = np.linspace(0, 2 * np.pi, _SAMPLES, endpoint=False)
    dv, du = np.sin(turn), np.cos(turn)
    best = np.array([level.shape[0] / 2, level.shape[1] / 2, 0.45 * size])
    reach = np.array([0.14, 0.14, 0.17]) * size
    light = np.exp(level)
    for count, sharp in ((11, False), (5, False), (5, True), (5, True)):
        axes = [np.linspace(b - r, b + r, count) for b, r in zip(best, reach, strict=True)]
        tried = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        v, u = tried[:, :1] + tried[:, 2:] * dv, tried[:, 1:2] + tried[:, 2:] * du
        consistent, step = _consistency(_steps(level, v, u, dv, du), scale)
        # Among outlines that agree all along, the one where most light is lost lies on the edge: the logarithm's own
        # largest step lies outside of it, in the dark foot of a soft edge.
        lost = np.nan_to_num(_steps(light, v, u, dv, du)).mean(-1) if sharp else step
        row = int(np.argmax(np.where(consistent > consistent.max() - 0.1, lost, -1) if sharp else consistent + step))
        best, reach = tried[row], reach * 2.4 / (count - 1)
    wide = _consistency(_steps(level, v[row], u[row], dv, du, _WIDE), scale)[1]
    if consistent[row] < _CONSISTENT or step[row] < max(_STEP, _SHARP * wide):
        return None, 0.0
    if not _SMALLEST < best[2] / size < _LARGEST:
        return None, 0.0
    return (float(best[0]), float(best[1]), float(best[2])), float(consistent[row])


def _side_steps(level: Float, angle: Float, distance: Float, start: Float, end: Float, reach: float = _REACH) -> Float:
    """Steps across straight edges (n,), sampled between `start` and `end` along each: (n, samples)."""
    angle, distance, start, end = (np.asarray(x, float)[:, None] for x in (angle, distance, start, end))
    run = start + (end - start) * np.linspace(0, 1, _SAMPLES)
    dv, du = np.cos(angle), np.sin(angle)
    v = dv * distance - du * run + (level.shape[0] - 1) / 2
    u = du * distance + dv * run + (level.shape[1] - 1) / 2
    return _steps(level, v, u, dv, du, reach)


def _box(level: Float) -> tuple[list[Side] | None, float]:
    """The four sides of a field between blades, and their consistency.

    For each angle the best line on every side of the middle is looked for, first over what any field of interest
    covers, then between its neighbours only and with a tilt of its own.
    """
    scale = _scale(level)
    quarter = np.pi / 2 * np.arange(4)
    half = np.array([level.shape[0], level.shape[1]] * 2) / 2
    best, agreement = np.zeros(4), -1.0
    turn = 0.0
    for angle in np.deg2rad(np.arange(-_TILT, _TILT + 0.1, 2.0)):
        distances, sums = np.zeros(4), 0.0
        for side in range(4):
            tried = np.arange(0.4 * half[side], half[side] - _REACH)
            reach = np.full(len(tried), 0.55 * half[(side + 1) % 4])
            steps = _side_steps(level, np.full(len(tried), angle + quarter[side]), tried, -reach, reach)
            consistent, step = _consistency(steps, scale)
            row = int(np.argmax(consistent + step))
            distances[side], sums = tried[row], sums + float(consistent[row] + step[row])
        if sums > agreement:
            best, agreement, turn = distances, sums, float(angle)
    angles = turn + quarter
    light = np.exp(level)
    for width, tilt, sharp in ((1.5, 2.0, False), (1.5, 1.0, True), (0.5, 0.5, True)):
        for side in range(4):
            offsets, tilts = np.meshgrid(np.linspace(-width, width, 7), np.deg2rad(np.linspace(-tilt, tilt, 7)))
            # Normals turn from rows to columns: the run along a side ends at its next and its previous neighbour.
            start = np.full(offsets.size, -best[(side - 1) % 4] + 2 * _REACH)
            end = np.full(offsets.size, best[(side + 1) % 4] - 2 * _REACH)
            angle, distance = angles[side] + tilts.ravel(), best[side] + offsets.ravel()
            consistent, step = _consistency(_side_steps(level, angle, distance, start, end), scale)
            if sharp:
                lost = np.nan_to_num(_side_steps(light, angle, distance, start, end)).mean(-1)
                row = int(np.argmax(np.where(consistent > consistent.max() - 0.1, lost, -1)))
            else:
                row = int(np.argmax(consistent + step))
            angles[side], best[side] = angle[row], distance[row]
    start, end = -np.roll(best, 1) + 2 * _REACH, np.roll(best, -1) - 2 * _REACH
    consistent, step = _consistency(_side_steps(level, angles, best, start, end), scale)
    wide = _consistency(_side_steps(level, angles, best, start, end, _WIDE), scale)[1]
    if consistent.mean() < _CONSISTENT or consistent.min() < 0.5 or (step < np.maximum(_STEP, _SHARP * wide)).any():
        return None, 0.0
    return list(zip(angles.tolist(), best.tolist(), strict=True)), float(consistent.mean())
