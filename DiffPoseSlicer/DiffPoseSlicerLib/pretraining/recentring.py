"""The second look: an X-ray turned so that the anatomy stands in the middle and upright, by a first guess of its pose.

Turning the camera about its source moves every pixel along with its ray and changes nothing else, so an X-ray can be
turned exactly, without a CT. A camera that looks straight at the isocentre and is not rolled leaves a network three
large unknowns (two rotations and depth) instead of six. What the turned detector does not show is filled, as it is
where an X-ray has a mask; training draws such images too, so a network knows them.

Frames: turns R (3, 3) act in the camera frame, x' = R x, both with the source as origin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.carm import CArm
from ..geometry.se3 import Array, so3_exp, so3_log
from ..imaging.xray import XrayImage
from .view import network_image

# How far a first guess may be off in training: sigma of each component (deg, mm), times a factor drawn in this range.
_GUESS_DEG, _GUESS_MM, _FACTOR = 3.0, (8.0, 8.0, 15.0), (0.3, 2.0)
# The second look is the mean over so many turns near the first guess's, +- these.
LOOKS, _JITTER_DEG, _JITTER_MM = 6, 2.0, 5.0
# Pixels of the X-ray that a turned pixel is the mean of, along each side.
_FINE = 3


def upright(offsets: Array, carm: CArm) -> Array:
    """Turns (n, 3, 3) after which the isocentre of offsets (n, 6) lies on the central ray and no roll is left."""
    place = offsets[:, 3:] + [0, 0, carm.source_to_isocenter]
    across = np.hypot(place[:, 0], place[:, 1])
    angle = np.arctan2(across, place[:, 2]) / np.maximum(across, 1e-9)
    # The shortest turn that takes the isocentre's direction to z is about (y, -x, 0).
    centred = so3_exp(np.stack([place[:, 1] * angle, -place[:, 0] * angle, 0 * angle], -1))
    turned = centred @ so3_exp(offsets[:, :3])
    roll = np.arctan2(turned[:, 1, 0] - turned[:, 0, 1], turned[:, 0, 0] + turned[:, 1, 1])
    return so3_exp(np.stack([0 * roll, 0 * roll, -roll], -1)) @ centred


def turned(offsets: Array, turns: Array, carm: CArm) -> Array:
    """The offsets (n, 6) as cameras turned by (n, 3, 3) see them."""
    axis = np.array([0, 0, carm.source_to_isocenter])
    place = (turns @ (offsets[:, 3:] + axis)[..., None])[..., 0]
    return np.concatenate([so3_log(turns @ so3_exp(offsets[:, :3])), place - axis], -1)


def drawn_turns(rng: np.random.Generator, offsets: Array, carm: CArm) -> Array:
    """Turns (n, 3, 3) as first guesses of offsets (n, 6), off by what first guesses are, would give."""
    factor = np.exp(rng.uniform(np.log(_FACTOR[0]), np.log(_FACTOR[1]), (len(offsets), 1)))
    sigma = np.concatenate([np.deg2rad([_GUESS_DEG] * 3), _GUESS_MM])
    return upright(offsets + factor * sigma * rng.standard_normal(offsets.shape), carm)


def looks(offset: Array, carm: CArm) -> Array:
    """Turns (LOOKS, 3, 3) for a second look at an X-ray whose first guess is an offset (6,)."""
    rng = np.random.default_rng(0)
    spread = np.concatenate([np.deg2rad([_JITTER_DEG] * 3), [_JITTER_MM] * 3])
    return upright(offset + spread * rng.uniform(-1, 1, (LOOKS, 6)), carm)


def window(turns: Array, carm: CArm) -> NDArray[np.bool_]:
    """Which pixels (n, rows, columns) of a camera turned by (n, 3, 3) lie on the detector of the unturned one."""
    column, row = _sources(turns, carm)
    rows, columns = carm.image_size
    return (abs(column - (columns - 1) / 2) <= columns / 2) & (abs(row - (rows - 1) / 2) <= rows / 2)


def turned_images(xray: XrayImage, carm: CArm, turns: Array) -> NDArray[np.float32]:
    """Images (n, rows, columns) that a camera `carm`, at the X-ray's place but turned by (n, 3, 3), would see."""
    rows, columns = carm.image_size
    fine = carm.resized((_FINE * rows, _FINE * columns))
    image, seen = network_image(xray, fine)
    column, row = _sources(turns, fine)
    shown = window(turns, fine)
    i, j = np.floor(row).clip(0, fine.image_size[0] - 2), np.floor(column).clip(0, fine.image_size[1] - 2)
    down, across = (row - i).clip(0, 1).astype(np.float32), (column - j).clip(0, 1).astype(np.float32)
    first = i.astype(np.int32) * fine.image_size[1] + j.astype(np.int32)

    def sampled(values: NDArray[np.float32]) -> NDArray[np.float32]:
        flat, below = values.ravel(), first + fine.image_size[1]
        upper = flat[first] + across * (flat[first + 1] - flat[first])
        lower = flat[below] + across * (flat[below + 1] - flat[below])
        return upper + down * (lower - upper)

    weight = shown.astype(np.float32) if seen.all() else shown * sampled(seen.astype(np.float32))
    blocks = lambda values: values.reshape(len(turns), rows, _FINE, columns, _FINE).mean((2, 4))  # noqa: E731
    share = blocks(weight)
    images = blocks(sampled(image) * weight) / np.maximum(share, 1e-6)
    return filled(images, share > 0.5)


def filled(images: Any, seen: Any) -> Any:
    """Images (n, rows, columns), numpy or torch, with the mean of what is seen where nothing is."""
    mean = ((images * seen).sum((1, 2)) / seen.sum((1, 2)).clip(1))[:, None, None]
    if isinstance(images, np.ndarray):
        return np.where(seen, images, mean).astype(np.float32, copy=False)
    return images.where(seen, mean)


def _sources(turns: Array, carm: CArm) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Column and row (n, rows, columns) on the unturned detector of each pixel of cameras turned by (n, 3, 3)."""
    rows, columns = carm.image_size
    x = (np.arange(columns) - carm.principal_point[0]) * carm.pixel_spacing[1] / carm.source_to_detector
    y = (np.arange(rows) - carm.principal_point[1]) * carm.pixel_spacing[0] / carm.source_to_detector
    rays = np.stack([*np.broadcast_arrays(x[None], y[:, None]), np.ones((rows, columns))], -1).astype(np.float32)
    back = rays.reshape(-1, 3) @ turns.astype(np.float32)  # R^T d, row by row
    back = back.reshape(len(turns), rows, columns, 3)
    scale = carm.source_to_detector / back[..., 2]
    column = back[..., 0] * scale / carm.pixel_spacing[1] + carm.principal_point[0]
    row = back[..., 1] * scale / carm.pixel_spacing[0] + carm.principal_point[1]
    return column.astype(np.float32, copy=False), row.astype(np.float32, copy=False)
