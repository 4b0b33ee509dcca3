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
# Misfit that is left at the true pose even without noise, as a part of a patch's contrast: noise well below it does
# not matter.
_MISMATCH = 0.3
# Residuals (in patch standard deviations) are never called outliers below this scale.
_SMALLEST_SCALE = 0.05
# A pixel keeps a quarter of its say when its residual is this many robust scales. Smaller numbers slow convergence, for
# what does not fit yet is what pulls; larger ones let instruments and scatter pull too.
_OUTLIER = 3.0
# Residual scale that solutions are ranked with.
_RANKING_SCALE = 0.25
# What a pixel that cannot be compared adds to the bounded misfit of a pose, at most: a little, or poses that move the
# CT until hardly anything is left to compare would rank first. One whose patch agrees all the same adds no more than
# that patch's misfit: what the CT lacks is often little, and no one can say how much.
_UNSEEN = 0.14
# A pose that leaves less than this part of the image to compare is worth less and less: it cannot be told from chance.
_LEAST_SEEN, _CHANCE = 0.25, 0.15
# About as many pixels tell a median of all: to 2 %.
_ENOUGH = 4096
# Rounds of weights from residuals and residuals from weights.
_REWEIGHTINGS = 3
# Patches whose rays miss anatomy beyond the CT's ends are believed as far as they agree all the same: from the first
# of these correlations on, and wholly from the second. What the CT lacks is often little, and no one can say how much.
_AGREE = (0.88, 0.96)
# They move the pose only where the rest of the image is less than the second of these parts of it, wholly below the
# first: what they lack pulls a little, and does no harm only where there is little else.
_NEED = (0.2, 0.5)


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

    def block(self, values: Float) -> Float:
        """Values in patches as the part of the image they tile: (B, P * K, ...) -> (B, rows, columns, ...)."""
        rows, columns, side = self._tiling()
        shaped = values.reshape(len(values), rows, columns, side, side, *values.shape[2:])
        return np.swapaxes(shaped, 2, 3).reshape(len(values), rows * side, columns * side, *values.shape[2:])

    def unblock(self, block: Float) -> Float:
        """The reverse: (B, rows, columns, ...) -> (B, P * K, ...)."""
        rows, columns, side = self._tiling()
        shaped = block.reshape(len(block), rows, side, columns, side, *block.shape[3:])
        return np.swapaxes(shaped, 2, 3).reshape(len(block), -1, *block.shape[3:])

    def _tiling(self) -> tuple[int, int, int]:
        """Patches along rows and columns, and a patch's side."""
        side = round(self.size**0.5)
        columns = round((self.pixels[:, 0].max() - self.pixels[:, 0].min() + 1) / side)
        return self.count // columns, columns, side


@dataclass(frozen=True)
class Terms:
    """What the solver needs at B poses.

    Robust weights are held while a step is judged, so that costs before and after it differ by the pose alone and the
    gradient is exact; an accepted step brings weights of its own.

    Attributes:
        judged: (B,) weighted mean of squared residuals under the weights handed in.
        cost: (B,) the same under the weights measured at these poses; 0 for a perfect fit, 2 for unrelated images.
        ncc: (B,) weighted mean of the patches' correlation.
        score: (B,) agreement of all pixels, misfits bounded by a scale that all poses share: what solutions are
            ranked by; 1 is perfect.
        gradient: (B, 6) half the derivative of `cost`, or None.
        matrix: (B, 6, 6) Gauss-Newton matrix of `cost`, or None.
        weights: per view, (B, P, K) weights measured at these poses and (B, P) patch shares.
        evidence: (B,) sum of the patch weights that took part, in pixels.
    """

    judged: NDArray[np.float64]
    cost: NDArray[np.float64]
    ncc: NDArray[np.float64]
    score: NDArray[np.float64]
    gradient: NDArray[np.float64] | None
    matrix: NDArray[np.float64] | None
    weights: list[Weights]
    evidence: NDArray[np.float64]

    def rows(self, rows: NDArray[np.intp]) -> Terms:
        """The terms of some of the poses."""
        take = lambda x: None if x is None else x[rows]  # noqa: E731
        values = {name: take(x) for name, x in vars(self).items() if name != "weights"}
        return Terms(**values, weights=[w.rows(rows) for w in self.weights])  # type: ignore[arg-type]

    def put(self, rows: NDArray[np.intp], new: Terms) -> None:
        """Replace the terms of some of the poses, in place."""
        for name, value in vars(self).items():
            if name != "weights" and value is not None:
                value[rows] = getattr(new, name)
        for mine, other in zip(self.weights, new.weights, strict=True):
            mine.pixel[rows], mine.share[rows], mine.seen[rows] = other.pixel, other.share, other.seen


@dataclass(frozen=True)
class Weights:
    """Of one view: pixel weights (B, P, K), patch shares (B, P, 1), pixels that may be seen in each patch (B, P, 1)."""

    pixel: Float
    share: Float
    seen: Float
    gate: Float | None = None

    def rows(self, rows: NDArray[np.intp]) -> Weights:
        """Those of some of the poses."""
        gate = None if self.gate is None else self.gate[rows]
        return Weights(self.pixel[rows], self.share[rows], self.seen[rows], gate)


@dataclass(frozen=True)
class PatchTerms:
    """One pose's terms, patch by patch (P patches of K pixels).

    Attributes:
        terms: the whole (B = 1).
        residual: (P, K) of the normalised patches.
        visible: (P, K) weights in [0, 1] of what may be compared.
        correlation, attainable: (P,) what is reached, and what the image's noise would leave of a perfect fit.
        share: (P,) of each patch; they sum to 1.
        gradient, matrix: (P, 6), (P, 6, 6): they sum to the whole's.
    """

    terms: Terms
    residual: Float
    visible: Float
    correlation: NDArray[np.float64]
    attainable: NDArray[np.float64]
    share: NDArray[np.float64]
    gradient: NDArray[np.float64]
    matrix: NDArray[np.float64]


class LocalCorrelation:
    """Compares one X-ray, cut into patches, with rendered ones.

    Args:
        fixed: (P, K) X-ray values (bone bright).
        mask: (P, K) 1 where a pixel counts, 0 where it does not.
        noise: (P, K) or one standard deviation of the X-ray's noise in its own units: a patch counts by its contrast
            over its noise, and pure noise gets no weight.
        robust: whether pixels that do not fit lose their say (iteratively reweighted, Geman-McClure).
        isolated: the rendered image shows one structure of several: patches where it shows nothing have no say.
    """

    def __init__(
        self, fixed: Float, mask: Float, noise: Float | float = 0.0, robust: bool = True, isolated: bool = False
    ) -> None:
        self.fixed = np.ascontiguousarray(fixed, np.float32)
        self.mask = np.ascontiguousarray(mask, np.float32)
        self.robust, self.isolated = robust, isolated
        total = max(float(self.mask.sum()), 1.0)
        mean = float((self.mask * self.fixed).sum()) / total
        self.contrast = float(np.sqrt((self.mask * (self.fixed - mean) ** 2).sum() / total)) + 1e-12
        # Pixels that do not count take their patch's mean: not even an extreme value leaks through a tiny weight.
        _, patch_mean, _ = _moments(self.mask + np.float32(1e-6), np.where(self.mask > 0, self.fixed, 0))
        self.fixed = np.where(self.mask > 0, self.fixed, patch_mean)
        _, _, variance = _moments(self.mask + np.float32(1e-6), self.fixed)
        _, noise_square, _ = _moments(self.mask + np.float32(1e-6), np.broadcast_to(np.square(noise), self.fixed.shape))
        clear = np.maximum(variance - noise_square, 0)
        self._noise_part = np.minimum(noise_square / np.maximum(variance, 1e-12), 1)
        self._signal = np.minimum(np.sqrt(clear) / (_FULL_CONTRAST * self.contrast), 1)
        self._signal = self._signal * clear / (clear + noise_square / _MISMATCH**2 + 1e-12)

    def like(self, fixed: Float, noise: Float | float) -> LocalCorrelation:
        """The same comparison with another X-ray's values."""
        return LocalCorrelation(fixed, self.mask, noise, self.robust, self.isolated)

    def __call__(
        self, moving: Float, jacobian: Float | None, extra: Float | None, held: Weights | None = None
    ) -> Terms:
        """Compare.

        Args:
            moving: (B, P * K) rendered values.
            jacobian: (B, P * K, 6), or None where only the cost is wanted.
            extra: (B, P * K) weights in [0, 1] of this pose (anatomy that the CT lacks), or None.
            held: the weights to judge by; default those measured here.
        """
        batch, (count, size) = len(moving), self.fixed.shape
        a = np.asarray(moving, np.float32).reshape(batch, count, size)
        spread = a.reshape(batch, -1).std(1)[:, None, None] + np.float32(1e-9)
        flat = (_FLAT * spread) ** 2, np.float32((_FLAT * self.contrast) ** 2)
        visible = base = whole = np.broadcast_to(self.mask + np.float32(1e-6), a.shape)
        complete = None
        if extra is not None:
            visible = base = self.mask * extra.reshape(a.shape) + np.float32(1e-6)
            if not self.isolated and (extra < 1).any():
                complete = _Compared(a, self.fixed, whole, *flat)
                base = self._believed(complete, whole, visible) if self.robust else base

        weight, judged = base, None
        if held is not None:
            seen_by = _Compared(a, self.fixed, held.pixel, *flat)
            judged = _mean_square(seen_by, held.pixel, held.share, held.seen)
            weight = self._robust(base, seen_by.residual)
        elif self.robust:
            for _ in range(_REWEIGHTINGS):
                weight = self._robust(base, _Compared(a, self.fixed, weight, *flat).residual)
        now = _Compared(a, self.fixed, weight, *flat)

        gate = None
        if self.isolated:
            # Where the structure is seen at the start: patches it leaves must count, or it would leave them all.
            gate = held.gate if held is not None else np.minimum(np.sqrt(now.variance) / (_FULL_CONTRAST * spread), 1)
        seen, importance = self._importance(base, gate)
        evidence = importance.sum((1, 2))
        share = importance / np.maximum(evidence, 1e-9)[:, None, None]
        # A patch weighs in as a whole by the part of its pixels that still has a say.
        kept = share * now.total / seen

        cost = _mean_square(now, weight, share, seen)
        correlation = (weight * now.a * now.f).sum(-1, keepdims=True) / now.total
        gradient, matrix = None, None
        if jacobian is not None:
            j = np.asarray(jacobian, np.float32).reshape(batch, count, size, -1)
            gradient, matrix = (d.sum(1).astype(float) for d in _derivatives(now, weight, correlation, kept, j))
        return Terms(
            cost if judged is None else judged,
            cost,
            (share * correlation).sum((1, 2)).astype(float),
            self._score(now.residual, visible, whole, gate, complete),
            gradient,
            matrix,
            [Weights(weight, share, seen, gate)],
            np.asarray(evidence, float),
        )

    def by_patch(self, moving: Float, jacobian: Float, extra: Float | None) -> PatchTerms:
        """Compare at one pose, patch by patch: moving (1, P * K), jacobian (1, P * K, 6), extra (1, P * K) or None."""
        terms = self(moving, None, extra)
        weights = terms.weights[0]
        shape = self.fixed.shape
        a = np.asarray(moving, np.float32).reshape(1, *shape)
        flat = np.square(_FLAT * (a.std(axis=(1, 2), keepdims=True) + np.float32(1e-9)))
        now = _Compared(a, self.fixed, weights.pixel, flat, np.float32((_FLAT * self.contrast) ** 2))
        correlation = (weights.pixel * now.a * now.f).sum(-1, keepdims=True) / now.total
        kept = weights.share * now.total / weights.seen
        j = np.asarray(jacobian, np.float32).reshape(1, *shape, 6)
        gradient, matrix = _derivatives(now, weights.pixel, correlation, kept, j)
        visible = self.mask if extra is None else self.mask * np.asarray(extra, np.float32).reshape(shape)
        return PatchTerms(
            terms,
            now.residual[0],
            visible,
            correlation[0, :, 0].astype(float),
            np.sqrt(1 - self._noise_part[..., 0]).astype(float),
            weights.share[0, :, 0].astype(float),
            gradient[0].astype(float),
            matrix[0].astype(float),
        )

    def _believed(self, complete: _Compared, whole: Float, visible: Float) -> Float:
        """Weights (B, P, K) of the pixels that move the pose: those that may be compared, and where these are few, what
        agrees all the same."""
        correlation = (whole * complete.a * complete.f).sum(-1, keepdims=True) / complete.total
        attainable = np.sqrt(1 - np.float32(0.99) * self._noise_part)
        agrees = _ramp(correlation / attainable, *_AGREE)
        known = (self._signal * visible).sum((1, 2), keepdims=True)
        known /= np.maximum((self._signal * whole).sum((1, 2), keepdims=True), np.float32(1e-9))
        return visible + np.maximum(whole - visible, 0) * agrees * (1 - _ramp(known, *_NEED))

    def _importance(self, base: Float, gate: Float | None) -> tuple[Float, Float]:
        """Pixels that may be seen in each patch, and what it counts: by its contrast over noise, free of the image's
        scale, and by how much of it may be seen. Both (B, P, 1)."""
        seen, size = base.sum(-1, keepdims=True), base.shape[-1]
        importance = self._signal * np.minimum(seen / (0.3 * size), 1) * size
        return seen, importance if gate is None else importance * gate

    def _score(
        self, residual: Float, visible: Float, whole: Float, gate: Float | None, complete: _Compared | None
    ) -> NDArray[np.float64]:
        """See `Terms.score`; `complete` compares whole patches where some may not be seen, or is None."""
        seen, importance = self._importance(visible, gate)
        pixels, most = self._importance(whole, gate)  # of a single structure: where it shows
        everything = np.maximum(most.sum((1, 2), keepdims=True), np.float32(1e-9))
        misfit = _bounded(residual, visible, importance / everything, seen)
        if whole is visible:
            return 1 - misfit
        hidden = np.maximum(most - importance, 0) / everything
        if complete is not None:
            hidden = hidden * np.minimum(_misfits(complete.residual, whole, pixels) / np.float32(_UNSEEN), 1)
        unseen = hidden.sum((1, 2)).astype(float)
        chance = np.maximum(unseen - (1 - _LEAST_SEEN), 0) * (_CHANCE / _LEAST_SEEN)
        return 1 - misfit - unseen * _UNSEEN - chance

    def _robust(self, base: Float, residual: Float) -> Float:
        """Geman-McClure weights of residuals by their own robust scale, per pose."""
        if not self.robust:
            return base
        ratio = residual / (_OUTLIER * _residual_scale(residual, base))[:, None, None].astype(np.float32)
        return np.divide(base, np.square(1 + ratio * ratio))


class _Compared:
    """Both images' patches, normalised under weights: total, a, f, sd_a, variance (of the rendered), residual a - f."""

    def __init__(self, moving: Float, fixed: Float, weight: Float, floor_a: Float, floor_f: np.floating) -> None:
        self.total = weight.sum(-1, keepdims=True)
        part = weight / self.total
        mean_a, mean_f = (part * moving).sum(-1, keepdims=True), (part * fixed).sum(-1, keepdims=True)
        a, f = moving - mean_a, fixed - mean_f
        self.variance = (part * a * a).sum(-1, keepdims=True)
        self.sd_a = np.sqrt(self.variance + floor_a)
        self.a = a / self.sd_a
        self.f = f / np.sqrt((part * f * f).sum(-1, keepdims=True) + floor_f)
        self.residual = self.a - self.f


def _mean_square(compared: _Compared, weight: Float, share: Float, seen: Float) -> NDArray[np.float64]:
    """(B,) mean over patches, by their shares, of the weighted squared residual."""
    square = (weight * compared.residual**2).sum(-1, keepdims=True)
    return (share * square / seen).sum((1, 2)).astype(float)


def _bounded(residual: Float, base: Float, share: Float, seen: Float) -> NDArray[np.float64]:
    """(B,) mean of the patches' misfits by their shares."""
    return (share * _misfits(residual, base, seen)).sum((1, 2)).astype(float)


def _misfits(residual: Float, base: Float, seen: Float) -> Float:
    """(B, P, 1) each patch's mean of r^2 / (1 + r^2 / (2 s)^2) under one scale s for all."""
    square = residual * residual
    square = base * square / (1 + square * np.float32(1 / (2 * _RANKING_SCALE) ** 2))
    return square.sum(-1, keepdims=True) / seen


def _derivatives(
    now: _Compared, weight: Float, correlation: Float, kept: Float, j: Float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each patch adds to half the gradient (B, P, 6) and Gauss-Newton matrix (B, P, 6, 6); j is (B, P, K, 6)."""
    wj = j * weight[..., None]
    sums = np.matmul(np.stack([np.ones_like(now.a), now.a, now.f], -2), wj) / now.total[..., None]  # (B, P, 3, 6)
    mean_j, along_a, along_f = sums[..., 0, :], sums[..., 1, :], sums[..., 2, :]
    # Below 1 only where the floor of the standard deviation shows.
    power = (weight * now.a * now.a).sum(-1, keepdims=True) / now.total
    gradient = (along_a * (1 - power + correlation) - along_f) / now.sd_a
    second = np.matmul(np.swapaxes(wj, -1, -2), j) / now.total[..., None] - _outer(mean_j)
    matrix = (second - (2 - power)[..., None] * _outer(along_a)) / (now.sd_a**2)[..., None]
    return kept * gradient, kept[..., None] * matrix


def noise_level(image: Float) -> float:
    """Standard deviation of white noise in an image (rows, columns), by the Laplacian's median (Immerkaer 1996)."""
    image = np.asarray(image, float)
    if min(image.shape) < 8:
        return 0.0
    return float(np.median(np.abs(_laplacian(image))) / 0.6745 / 6)


def noise_map(image: Float, mask: NDArray[np.bool_] | None = None, bins: int = 8) -> NDArray[np.float32]:
    """Standard deviation of the noise of each pixel (rows, columns), taken to depend on the pixel's value.

    Where little comes through, few photons and coarse grey levels make an attenuation image noisy.
    """
    image = np.asarray(image, float)
    if min(image.shape) < 8:
        return np.zeros(image.shape, np.float32)
    rough = np.zeros_like(image)
    rough[1:-1, 1:-1] = np.abs(_laplacian(image))
    counts = np.ones(image.shape, bool) if mask is None else np.asarray(mask, bool).copy()
    counts[[0, -1]] = counts[:, [0, -1]] = False
    if counts.sum() < 16 * bins:
        return np.full(image.shape, noise_level(image), np.float32)
    values, roughness = image[counts], rough[counts]
    thin = slice(None, None, _thinned(len(values) // 2))
    values, roughness = values[thin], roughness[thin]
    edges = np.quantile(values, np.linspace(0, 1, bins + 1))
    place = np.clip(np.searchsorted(edges, values, "right") - 1, 0, bins - 1)
    filled = [n for n in range(bins) if (place == n).any()]
    sigma = [_middle(roughness[place == n]) / 0.6745 / 6 for n in filled]
    middle = [_middle(values[place == n]) for n in filled]
    return np.interp(image, middle, sigma).astype(np.float32)


def _laplacian(image: Float) -> Float:
    c = image[1:-1]
    middle = image[:-2] - 2 * c + image[2:]
    return middle[:, :-2] - 2 * middle[:, 1:-1] + middle[:, 2:]


def _moments(weight: Float, values: Float) -> tuple[Float, Float, Float]:
    """Sum of weights, weighted mean and variance over the last axis, kept as an axis of one."""
    total = weight.sum(-1, keepdims=True)
    mean = (weight * values).sum(-1, keepdims=True) / total
    centred = values - mean
    return total, mean, (weight * centred * centred).sum(-1, keepdims=True) / total


def _residual_scale(residual: Float, base: Float) -> NDArray[np.float64]:
    """1.48 times the median absolute residual of the pixels that count, per pose, floored."""
    thin = np.s_[:, :: _thinned(residual[0].size)]
    flat = np.abs(residual.reshape(len(residual), -1)[thin])
    counts = base.reshape(len(residual), -1)[thin] > 0.5
    scale = [_middle(f[c]) if c.any() else 1.0 for f, c in zip(flat, counts, strict=True)]
    return np.maximum(1.4826 * np.asarray(scale, float), _SMALLEST_SCALE)


def _middle(values: Float) -> float:
    """The (upper) median of values without NaN: numpy's own looks for these first."""
    half = len(values) // 2
    return float(np.partition(values, half)[half])


def _thinned(count: int) -> int:
    """The stride at which so many pixels tell a median; odd, for rows and patches have even lengths."""
    return count // _ENOUGH | 1


def _ramp(x: Float, low: float, high: float) -> Float:
    """0 below `low`, 1 above `high`, straight between."""
    return np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)


def _outer(x: Float) -> Float:
    return x[..., :, None] * x[..., None, :]
