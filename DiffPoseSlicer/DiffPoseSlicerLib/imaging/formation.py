"""How line integrals become the image a fluoroscope shows: beam, scatter, noise, blur, and what else is in the beam.

The trainer of networks, their certificate and `simulate --realistic` share this code. Benchmarks do not: a network must
also hold on images made otherwise (`evaluation.stress`).

Effects are drawn on their own (:func:`draw_effects`, plain numbers, one row an image) and applied on their own
(:func:`form`), which works alike on numpy arrays and torch tensors: it only uses operators and functions both have.

Lengths are millimetres at the detector. An image of a batch is [row, column]; a batch is [image, row, column].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.carm import CArm

F32 = NDArray[np.float32]

# Never let less than this fraction of the unattenuated beam arrive: detectors have an electronic floor.
FLOOR = 2e-4


@dataclass(frozen=True, eq=False)
class Effects:
    """What happens to each of n images on its way; arrays of n rows, float32.

    Attributes:
        scale: Factor on all line integrals (tube voltage, density scale of the CT).
        hardening: Relative drop of the effective attenuation per unit of line integral (polyenergetic beam).
        blur: Sigma of focal spot and detector together, mm.
        scatter: Scatter to primary, of the image's mean primary.
        scatter_width: Sigma of the scatter's spread, mm.
        photons: Quanta a square mm of detector at the image's mean transmission.
        gamma, enhance, enhance_width: Display processing: power of the curve; gain and sigma (mm) of the unsharp mask.
        tilt: Slope of a smooth shading over half the image, in two directions (heel effect): (n, 2).
        collimator: Centre x, y, half width, half height (mm), corner exponent (2: disc, 20: rectangle), angle: (n, 6).
            A half width of infinity is an open collimator.
        leak: What the collimator lets through, of the primary.
        rods: Straight instruments: x0, y0, x1, y1, radius (mm), line integral: (n, m, 6); radius 0 is none.
        arms: Limbs across the beam: x, y, angle, radius, bone radius (mm), line integral across the middle: (n, k, 6).
    """

    scale: F32
    hardening: F32
    blur: F32
    scatter: F32
    scatter_width: F32
    photons: F32
    gamma: F32
    enhance: F32
    enhance_width: F32
    tilt: F32
    collimator: F32
    leak: F32
    rods: F32
    arms: F32

    def __len__(self) -> int:
        return len(self.scale)


def draw_effects(
    rng: np.random.Generator, n: int, carm: CArm, *, clutter: float = 0.4, display: float = 0.5
) -> Effects:
    """Random effects for n images.

    Args:
        rng: Source of randomness.
        n: How many images.
        carm: Gives the size of the detector.
        clutter: Probability of each of: instruments, collimation, limbs and couch.
        display: Probability of display processing (a curve, edge enhancement, shading).
    """
    extent = np.array([carm.image_size[1] * carm.pixel_spacing[1], carm.image_size[0] * carm.pixel_spacing[0]])
    chance = lambda p: rng.random(n) < p  # noqa: E731
    uniform = lambda low, high, *shape: rng.uniform(low, high, (n, *shape))  # noqa: E731
    log_uniform = lambda low, high: np.exp(uniform(np.log(low), np.log(high)))  # noqa: E731
    shown = chance(display)
    drawn: dict[str, NDArray] = {
        "scale": log_uniform(0.75, 1.25),
        "hardening": uniform(0, 0.05),
        "blur": uniform(0, 1.2),
        "scatter": uniform(0, 1.0) * chance(0.85),
        "scatter_width": log_uniform(25, 150),
        "photons": log_uniform(60, 6000),
        "gamma": np.where(shown, log_uniform(0.6, 1.6), 1),
        "enhance": np.where(chance(display / 2), uniform(0.2, 1.5), 0),
        "enhance_width": uniform(2, 10),
        "tilt": np.where(shown[:, None], rng.normal(0, 0.15, (n, 2)), 0),
        "collimator": _draw_collimator(rng, n, extent, chance(clutter)),
        "leak": log_uniform(0.003, 0.05),
        "rods": _draw_rods(rng, n, extent, chance(clutter)),
        "arms": _draw_arms(rng, n, extent, chance(clutter / 2)),
    }
    return Effects(**{name: values.astype(np.float32) for name, values in drawn.items()})


def _draw_collimator(rng: np.random.Generator, n: int, extent: NDArray, used: NDArray) -> NDArray:
    """Openings that leave at least half of the image's width and height in view."""
    half = rng.uniform(0.55, 1.0, (n, 2)) * extent / 2
    disc = rng.random(n) < 0.4
    half[disc] = (rng.uniform(0.65, 1.1, (int(disc.sum()), 1)) * extent.min() / 2).repeat(2, 1)
    center = rng.uniform(-0.15, 0.15, (n, 2)) * extent * np.where(disc, 0.5, 1.0)[:, None]
    half[~used] = np.inf
    corner = np.where(disc, 2.0, 20.0)
    return np.column_stack([center, half, corner, rng.normal(0, 0.15, n)])


def _draw_rods(rng: np.random.Generator, n: int, extent: NDArray, used: NDArray, most: int = 4) -> NDArray:
    """Needles, wires, clamps: from thin and long to short and thick."""
    start = rng.uniform(-0.5, 0.5, (n, most, 2)) * extent
    angle = rng.uniform(0, 2 * np.pi, (n, most))
    length = np.exp(rng.uniform(np.log(15), np.log(400), (n, most)))
    end = start + length[..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    radius = np.exp(rng.uniform(np.log(0.5), np.log(7), (n, most)))
    shown = used[:, None] & (np.arange(most) < rng.integers(1, most + 1, n)[:, None])
    dense = np.exp(rng.uniform(np.log(0.3), np.log(5), (n, most)))
    return np.concatenate([start, end, (radius * shown)[..., None], dense[..., None]], -1)


def _draw_arms(rng: np.random.Generator, n: int, extent: NDArray, used: NDArray) -> NDArray:
    """A limb, a cable bundle or the edge of a couch: a long band of soft material, with a denser core or without."""
    place = rng.uniform(-0.7, 0.7, (n, 1, 2)) * extent
    angle = rng.normal(np.pi / 2, 0.5, (n, 1))
    radius = rng.uniform(15, 90, (n, 1))
    core = rng.uniform(8, 16, (n, 1)) * (rng.random((n, 1)) < 0.5)
    amount = radius * 2 * 0.019 / 1.5 * rng.uniform(0.3, 1.0, (n, 1)) * used[:, None]
    return np.concatenate([place, angle[..., None], radius[..., None], core[..., None], amount[..., None]], -1)


def form(paths: Any, effects: Effects, carm: CArm, noise: Any, xp: Any = np) -> tuple[Any, Any]:
    """The images a fluoroscope makes of line integrals.

    Args:
        paths: Line integrals (n, rows, columns).
        effects: n rows; arrays of `xp` on the device of `paths`.
        carm: Whose pixels these are.
        noise: Standard normal numbers, shaped as `paths`.
        xp: numpy or torch.

    Returns:
        Attenuation as displayed, -log of the transmission, bone bright (n, rows, columns), and which pixels the
        collimator left open, booleans of the same shape.
    """
    e = effects
    x, y = _coordinates(carm, paths, xp)
    column = lambda values: values[:, None, None]  # noqa: E731
    paths = (paths + _rods(e.rods, x, y, paths, xp) + _arms(e.arms, x, y, paths, xp)) * column(e.scale)
    primary = xp.exp(-paths / (1 + column(e.hardening) * paths))
    primary = _smooth(primary, e.blur, carm, xp)
    lit = _opening(e.collimator, x, y, paths, xp)
    primary = primary * (lit + (1 - lit) * column(e.leak))
    mean = (primary * lit).sum((1, 2)) / lit.sum((1, 2))
    scatter = column(e.scatter * mean / 2) + column(e.scatter / 2) * _smooth(primary, e.scatter_width, carm, xp)
    total = primary + scatter
    quanta = e.photons * (carm.pixel_spacing[0] * carm.pixel_spacing[1])
    total = total + noise * xp.sqrt(total * column(mean * (1 + e.scatter) / quanta))
    image = -xp.log(xp.clip(total, FLOOR, None))
    image = image + column(e.tilt[:, 0]) * (x / abs(x).max()) + column(e.tilt[:, 1]) * (y / abs(y).max())
    sharp = e.enhance > 0
    if sharp.any():
        some = image[sharp]
        image[sharp] = some + column(e.enhance[sharp]) * (some - _smooth(some, e.enhance_width[sharp], carm, xp))
    curved = e.gamma != 1
    if curved.any():
        # The display curve bends between the image's own ends, so it stays monotonic whatever they are.
        some = image[curved]
        low, high = _ends(some, xp)
        unit = xp.clip((some - low) / (high - low + 1e-6), 0, 1)
        image[curved] = low + (high - low) * unit ** column(e.gamma[curved])
    return image, lit > 0.5


def _coordinates(carm: CArm, like: Any, xp: Any) -> tuple[Any, Any]:
    """Detector x (1, 1, columns) and y (1, rows, 1) in mm about the middle of the image."""
    rows, columns = carm.image_size
    x = (np.arange(columns) - (columns - 1) / 2) * carm.pixel_spacing[1]
    y = (np.arange(rows) - (rows - 1) / 2) * carm.pixel_spacing[0]
    return _as(x[None, None].astype(np.float32), like, xp), _as(y[None, :, None].astype(np.float32), like, xp)


def _as(array: NDArray, like: Any, xp: Any) -> Any:
    return array if xp is np else xp.as_tensor(array, device=like.device)


def _smooth(images: Any, sigma: Any, carm: CArm, xp: Any) -> Any:
    """Gaussian blur, each image by its own sigma in mm (n,), as two matrix products; borders renormalised."""
    matrices = []
    for size, spacing in zip(carm.image_size, carm.pixel_spacing):
        distance = (np.arange(size)[:, None] - np.arange(size)[None]) * spacing
        squared = _as((distance**2).astype(np.float32)[None], images, xp)
        # A sigma far below a pixel is the identity; the floor keeps the division finite.
        weight = xp.exp(-squared / (2 * (sigma**2 + (0.15 * spacing) ** 2))[:, None, None])
        matrices.append(weight / weight.sum(-1)[..., None])
    return matrices[0] @ images @ xp.swapaxes(matrices[1], -1, -2)


def _ends(images: Any, xp: Any) -> tuple[Any, Any]:
    flat = images.reshape(len(images), -1)
    if xp is np:
        return flat.min(1)[:, None, None], flat.max(1)[:, None, None]
    return flat.amin(1)[:, None, None], flat.amax(1)[:, None, None]


def _opening(collimator: Any, x: Any, y: Any, like: Any, xp: Any) -> Any:
    """1 inside the collimator's opening, 0 outside, with an edge about a mm wide."""
    lit = xp.ones_like(like)
    used = xp.isfinite(collimator[:, 2])
    if used.any():
        cx, cy, half_x, half_y, corner, angle = (collimator[used, i, None, None] for i in range(6))
        u = abs((x - cx) * xp.cos(angle) + (y - cy) * xp.sin(angle)) / half_x
        v = abs((y - cy) * xp.cos(angle) - (x - cx) * xp.sin(angle)) / half_y
        inside = 1 - (xp.clip(u, 1e-6, 10) ** corner + xp.clip(v, 1e-6, 10) ** corner) ** (1 / corner)
        lit[used] = xp.clip(0.5 + inside * 100, 0, 1)
    return lit


def _rods(rods: Any, x: Any, y: Any, like: Any, xp: Any) -> Any:
    """Line integrals through straight round rods, summed over each image's."""
    total = xp.zeros_like(like)
    for one in range(rods.shape[1]):
        used = rods[:, one, 4] > 0
        if not used.any():
            continue
        x0, y0, x1, y1, radius, amount = (rods[used, one, i, None, None] for i in range(6))
        dx, dy = x1 - x0, y1 - y0
        along = xp.clip(((x - x0) * dx + (y - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        squared = (x - x0 - along * dx) ** 2 + (y - y0 - along * dy) ** 2
        total[used] += amount * xp.sqrt(xp.clip(1 - squared / radius**2, 0, None))
    return total


def _arms(arms: Any, x: Any, y: Any, like: Any, xp: Any) -> Any:
    """Line integrals through long bands with a round cross-section and a denser core."""
    total = xp.zeros_like(like)
    for one in range(arms.shape[1]):
        used = arms[:, one, 5] > 0
        if not used.any():
            continue
        px, py, angle, radius, core, amount = (arms[used, one, i, None, None] for i in range(6))
        squared = ((y - py) * xp.cos(angle) - (x - px) * xp.sin(angle)) ** 2
        soft = xp.sqrt(xp.clip(1 - squared / radius**2, 0, None))
        hard = xp.sqrt(xp.clip(1 - squared / (core**2 + 1e-9), 0, None)) * core / radius
        total[used] += amount * (soft + 1.5 * hard)
    return total
