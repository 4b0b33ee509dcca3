"""Local normalised cross-correlation as least squares: cost, gradient and Gauss-Newton matrix, for many poses at once.

Each patch of the X-ray is compared with the same patch of the rendered image after both are reduced to zero mean and
unit variance, so that the display curve and scatter of the X-ray only need to be smooth. Masks and robust weights enter
the patch means and variances themselves; multiplying residuals by a mask afterwards would leave the masked pixels'
influence in the moments, which is what throws registration off under a collimator or an instrument.

With weights w (sum s), residual r = a - f of the normalised patches a (rendered) and f (X-ray), and J the derivative of
the rendered pixels, the derivative of the normalised patch is (J0 - a mean(a J0)) / sd(a), where J0 = J - mean(J) and
means are weighted. Hence gradient and Gauss-Newton matrix follow from a few weighted sums of J and J J^T per patch, and
the residual Jacobian itself is never formed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.floating]

# Standard deviation floors, as fractions of the whole image's: below it a patch counts as flat.
_FLAT = 0.01
# A patch's weight grows with its contrast up to this fraction of the whole image's contrast.
_FULL_CONTRAST = 0.5
# Residuals (in patch standard deviations) are never called outliers below this scale.
_SMALLEST_SCALE = 0.05
# Rounds of weights from residuals and residuals from weights.
_REWEIGHTINGS = 3


@dataclass(frozen=True)
class Patches:
    """Square patches tiling an image: the pixels of each in a row, so that patch sums run over contiguous memory.

    Attributes:
        pixels: (P * K, 2) (column, row), patch after patch.
        count, size: P patches of K pixels.
    """

    pixels: NDArray[np.float64]
    count: int
    size: int

    @classmethod
    def tile(cls, image_size: tuple[int, int], side: int, shift: int = 0) -> Patches:
        """Patches of side x side pixels, centred in the image; `shift` moves the tiling by that many pixels."""
        rows, columns = image_size
        side = min(side, rows, columns)
        starts = []
        for length in (rows, columns):
            first = (length % side) // 2 + shift
            starts.append(np.arange(first if first <= length - side else first - side, length - side + 1, side))
        starts = [s[s >= 0] for s in starts]
        corner_v, corner_u = np.meshgrid(*starts, indexing="ij")
        dv, du = np.mgrid[0:side, 0:side]
        v = corner_v.ravel()[:, None] + dv.ravel()
        u = corner_u.ravel()[:, None] + du.ravel()
        return cls(np.stack([u.ravel(), v.ravel()], -1).astype(float), v.shape[0], side * side)

    def take(self, image: Float) -> Float:
        """An image's values in patches: (rows, columns) -> (P, K)."""
        index = self.pixels.astype(int)
        return image[index[:, 1], index[:, 0]].reshape(self.count, self.size)


@dataclass(frozen=True)
class Terms:
    """What the solver needs at B poses.

    Attributes:
        cost: (B,) weighted mean of robust squared residuals; 0 for a perfect fit, 2 for unrelated images.
        ncc: (B,) weighted mean of the patches' correlation.
        gradient: (B, 6), half the gradient of the quadratic model, or None.
        matrix: (B, 6, 6) Gauss-Newton matrix, or None.
        scale: (B,) robust residual scale that outliers were judged by.
        next_scale, next_cost: the scale measured at these poses, and the cost restated with it: what the next step is to
            be compared with, once this one is accepted.
        evidence: (B,) sum of the patch weights that took part, in pixels.
    """

    cost: NDArray[np.float64]
    ncc: NDArray[np.float64]
    gradient: NDArray[np.float64] | None
    matrix: NDArray[np.float64] | None
    scale: NDArray[np.float64]
    next_scale: NDArray[np.float64]
    next_cost: NDArray[np.float64]
    evidence: NDArray[np.float64]


class LocalCorrelation:
    """Compares one X-ray, cut into patches, with rendered ones.

    Args:
        fixed: (P, K) X-ray values (bone bright).
        mask: (P, K) 1 where a pixel counts, 0 where it does not.
        noise: standard deviation of the X-ray's noise in its own units: flat patches of pure noise get no weight.
        robust: whether pixels that do not fit lose their say (iteratively reweighted, Geman-McClure).
        isolated: the rendered image shows one structure of several: patches where it shows nothing have no say.
    """

    def __init__(
        self, fixed: Float, mask: Float, noise: float = 0.0, robust: bool = True, isolated: bool = False
    ) -> None:
        self.fixed = np.ascontiguousarray(fixed, np.float32)
        self.mask = np.ascontiguousarray(mask, np.float32)
        self.noise, self.robust, self.isolated = float(noise), robust, isolated
        total = max(float(self.mask.sum()), 1.0)
        mean = float((self.mask * self.fixed).sum()) / total
        self.contrast = float(np.sqrt((self.mask * (self.fixed - mean) ** 2).sum() / total)) + 1e-12
        # Pixels that do not count take their patch's mean, so that not even an extreme value leaks through a tiny weight.
        _, patch_mean, _ = _moments(self.mask + np.float32(1e-6), np.where(self.mask > 0, self.fixed, 0))
        self.fixed = np.where(self.mask > 0, self.fixed, patch_mean)
        _, _, self._fixed_variance = _moments(self.mask + np.float32(1e-6), self.fixed)

    def __call__(self, moving: Float, jacobian: Float | None, extra: Float | None, scale: Float | None = None) -> Terms:
        """Compare.

        Args:
            moving: (B, P * K) rendered values.
            jacobian: (B, P * K, 6), or None where only the cost is wanted.
            extra: (B, P * K) weights in [0, 1] of this pose (anatomy that the CT lacks), or None.
            scale: (B,) residual scale to judge outliers by; default measured here.
        """
        batch, (count, size) = len(moving), self.fixed.shape
        a = np.asarray(moving, np.float32).reshape(batch, count, size)
        base = np.broadcast_to(self.mask, a.shape) if extra is None else self.mask * extra.reshape(a.shape)
        base = base + np.float32(1e-6)
        spread = a.reshape(batch, -1).std(1)[:, None, None] + 1e-9
        floor_a, floor_f = (_FLAT * spread) ** 2, (_FLAT * self.contrast) ** 2

        weight = base
        measured = np.zeros(batch) if scale is None else np.asarray(scale, float)
        for turn in range(1 + _REWEIGHTINGS if self.robust else 1):
            total, mean_a, var_a = _moments(weight, a)
            _, mean_f, var_f = _moments(weight, self.fixed)
            sd_a, sd_f = np.sqrt(var_a + floor_a), np.sqrt(var_f + floor_f)
            an, fn = (a - mean_a) / sd_a, (self.fixed - mean_f) / sd_f
            if not self.robust:
                break
            if turn == 0 and scale is None:
                measured = _residual_scale(an - fn, base)
            if turn < _REWEIGHTINGS:
                ratio = (an - fn) / (2 * measured[:, None, None]).astype(np.float32)
                weight = base / (1 + ratio * ratio) ** 2

        residual = an - fn
        # A patch counts by its contrast over noise, free of the image's scale, and by how much of it may be seen.
        signal = np.sqrt(np.maximum(self._fixed_variance - self.noise**2, 0)) / (_FULL_CONTRAST * self.contrast)
        seen = base.sum(-1, keepdims=True)
        importance = np.minimum(signal, 1) * np.minimum(seen / (0.3 * size), 1) * size  # (B, P, 1)
        if self.isolated:
            importance = importance * np.minimum(np.sqrt(var_a) / (_FULL_CONTRAST * spread), 1)
        evidence = importance.sum((1, 2))
        share = importance / np.maximum(evidence, 1e-9)[:, None, None]

        def total_cost(scale: NDArray[np.float64]) -> NDArray[np.float64]:
            square = residual * residual
            if self.robust:
                square = square / (1 + square / (4 * scale[:, None, None] ** 2).astype(np.float32))
            return (share[..., 0] * (base * square).sum(-1) / seen[..., 0]).sum(1).astype(float)

        after = _residual_scale(residual, base) if self.robust else measured
        tail = (measured, after, total_cost(after), np.asarray(evidence, float))
        cost = total_cost(measured)
        correlation = (weight * an * fn).sum(-1, keepdims=True) / total
        ncc = (share * correlation).sum((1, 2))
        if jacobian is None:
            return Terms(cost, ncc.astype(float), None, None, *tail)

        j = np.asarray(jacobian, np.float32).reshape(batch, count, size, 6)
        wj = j * weight[..., None]
        sums = np.matmul(np.stack([np.ones_like(an), an, fn], -2), wj) / total[..., None]  # (B, P, 3, 6)
        mean_j, along_a, along_f = sums[..., 0, :], sums[..., 1, :], sums[..., 2, :]
        power = (weight * an * an).sum(-1, keepdims=True) / total
        gradient = (along_a * (1 - power + correlation) - along_f) / sd_a
        second = np.matmul(np.swapaxes(wj, -1, -2), j) / total[..., None] - _outer(mean_j)
        matrix = (second - (2 - power)[..., None] * _outer(along_a)) / (sd_a**2)[..., None]
        # Patches weigh in as a whole by the part of their pixels that still counts after the robust weights.
        kept = share * total / seen
        return Terms(
            cost,
            ncc.astype(float),
            (kept * gradient).sum(1).astype(float),
            (kept[..., None] * matrix).sum(1).astype(float),
            *tail,
        )


def noise_level(image: Float) -> float:
    """Standard deviation of white noise in an image (rows, columns), by the Laplacian's median (Immerkaer 1996)."""
    image = np.asarray(image, float)
    if min(image.shape) < 8:
        return 0.0
    c = image[1:-1]
    middle = image[:-2] - 2 * c + image[2:]
    laplacian = middle[:, :-2] - 2 * middle[:, 1:-1] + middle[:, 2:]
    return float(np.median(np.abs(laplacian)) / 0.6745 / 6)


def _moments(weight: Float, values: Float) -> tuple[Float, Float, Float]:
    """Sum of weights, weighted mean and variance over the last axis, kept as an axis of one."""
    total = weight.sum(-1, keepdims=True)
    mean = (weight * values).sum(-1, keepdims=True) / total
    centred = values - mean
    return total, mean, (weight * centred * centred).sum(-1, keepdims=True) / total


def _residual_scale(residual: Float, base: Float) -> NDArray[np.float64]:
    """1.48 times the median absolute residual of the pixels that count, per pose, floored."""
    flat, counts = np.abs(residual).reshape(len(residual), -1), base.reshape(len(residual), -1) > 0.5
    scale = [np.median(f[c]) if c.any() else 1.0 for f, c in zip(flat, counts, strict=True)]
    return np.maximum(1.4826 * np.asarray(scale, float), _SMALLEST_SCALE)


def _outer(x: Float) -> Float:
    return x[..., :, None] * x[..., None, :]
