"""The registration objective at one resolution: one or several X-rays of the same anatomy, seen with one rigid pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..geometry.coordinates import transform_points
from ..geometry.se3 import Array, inverse, so3_log
from .detail import Detail
from .evidence import CutPrism, ray_weights
from .intensity import Scatter, fit_scatter
from .similarity import LocalCorrelation, Patches, Terms, Weights, noise_map

if TYPE_CHECKING:
    from ..geometry.carm import CArm
    from ..imaging.xray import XrayImage
    from ..rendering.renderer import Projector


@dataclass(frozen=True)
class View:
    """One X-ray at one resolution.

    Attributes:
        carm: camera at this resolution.
        patches: pixels compared.
        correlation: the X-ray's side of the comparison.
        points: (N, 3) detector points of the pixels, camera frame, mm.
        from_first: (4, 4) x_cam(this view) = from_first @ x_cam(first view).
        detail: what both images and the derivatives are filtered by, or None.
    """

    carm: CArm
    patches: Patches
    correlation: LocalCorrelation
    points: Array
    from_first: Array
    detail: Detail | None = None

    @classmethod
    def prepare(
        cls, small: XrayImage, patch: int, from_first: Array, robust: bool, isolated: bool, sigma: float = 0.0
    ) -> View:
        """An X-ray, already reduced to the resolution wanted, cut into patches; with `sigma`, its fine detail only."""
        patches = Patches.tile(small.carm.image_size, patch)
        mask = np.ones(small.pixels.shape, np.float32) if small.mask is None else small.mask.astype(np.float32)
        pixels, counts = patches.take(small.pixels), patches.take(mask)
        noise = patches.take(noise_map(small.pixels, small.mask))
        detail = Detail(patches, counts, sigma) if sigma else None
        if detail:
            pixels = detail(pixels.reshape(1, -1)).reshape(pixels.shape)
        correlation = LocalCorrelation(pixels, counts, noise, robust, isolated)
        return cls(small.carm, patches, correlation, small.carm.detector_points(patches.pixels), from_first, detail)


def window(xray: XrayImage, corners: Array, camera_from_ras: Array, margin: float = 0.1) -> XrayImage:
    """The part of an X-ray where a structure may be seen, so that a small one is not looked at through coarse pixels.

    Args:
        corners: (8, 3) of the structure's bounding box, RAS mm.
        camera_from_ras: (B, 4, 4) every pose it may be seen at.
        margin: added on each side, as a part of the window's size.

    Returns:
        The window, or the X-ray as it is where the window covers nearly all of it.
    """
    camera = np.einsum("bij,nj->bni", camera_from_ras[:, :3, :3], corners) + camera_from_ras[:, None, :3, 3]
    pixels = xray.carm.project(camera).reshape(-1, 2)
    if not np.isfinite(pixels).all():
        return xray
    low, high = pixels.min(0), pixels.max(0)
    grown = margin * (high - low) + 2
    columns, rows = xray.pixels.shape[1], xray.pixels.shape[0]
    left, top = np.clip(np.floor(low - grown), 0, [columns - 16, rows - 16]).astype(int)
    right, bottom = np.clip(np.ceil(high + grown), [left + 16, top + 16], [columns, rows]).astype(int)
    if (right - left) * (bottom - top) > 0.7 * rows * columns:
        return xray
    part = np.s_[top:bottom, left:right]
    return replace(
        xray,
        pixels=np.ascontiguousarray(xray.pixels[part]),
        mask=None if xray.mask is None else xray.mask[part],
        carm=xray.carm.cropped(int(top), int(left), (int(bottom - top), int(right - left))),
    )


def reduced(xray: XrayImage, long_side: int) -> XrayImage:
    """The X-ray with at most `long_side` pixels along its longer side.

    Means are taken of the transmission, as a detector with larger pixels would: noise biases a mean of logarithms.
    """
    rows, columns = xray.carm.image_size
    factor = min(1.0, long_side / max(rows, columns))
    if factor == 1:
        return xray
    through = replace(xray, pixels=np.exp(-xray.pixels))
    small = through.resized(max(round(rows * factor), 2), max(round(columns * factor), 2))
    return replace(small, pixels=-np.log(np.maximum(small.pixels, np.float32(1e-9))))


@dataclass(frozen=True)
class Prior:
    """A pull towards a pose, for images that alone would let a single bone slide away.

    Attributes:
        ras_to_camera: (4, 4) of the first view.
        precision: (6,) cost of a squared unit of each component of (omega, v), rad and mm, camera axes.
    """

    ras_to_camera: Array
    precision: Array

    def cost(self, ras_to_camera: Array, center: Array) -> tuple[Array, Array]:
        """Cost (B,) and half its gradient (B, 6) at poses (B, 4, 4)."""
        turned = so3_log(ras_to_camera[:, :3, :3] @ self.ras_to_camera[:3, :3].T)
        moved = transform_points(self.ras_to_camera, center)
        shifted = ras_to_camera[:, :3, :3] @ center + ras_to_camera[:, :3, 3] - moved
        xi = np.concatenate([turned, shifted], 1)
        return (self.precision * xi**2).sum(1), self.precision * xi

    def add(self, terms: Terms, ras_to_camera: Array, center: Array) -> Terms:
        """Terms with this prior's cost, gradient and matrix at poses (B, 4, 4)."""
        cost, gradient = self.cost(ras_to_camera, center)
        assert terms.gradient is not None and terms.matrix is not None
        return replace(
            terms,
            judged=terms.judged + cost,
            cost=terms.cost + cost,
            score=terms.score - cost,
            gradient=terms.gradient + gradient,
            matrix=terms.matrix + np.diag(self.precision),
        )


class RigidObjective:
    """Local correlation of all views as a function of the first view's ras_to_camera (the solver's Objective).

    `background`, one (N,) for each view, is added to what is rendered: structures whose pose is known already.
    """

    def __init__(
        self,
        views: Sequence[View],
        projector: Projector,
        prisms: Sequence[CutPrism],
        prism_frame: Array,
        center: Array,
        prior: Prior | None = None,
        background: Sequence[NDArray[np.float32]] | None = None,
    ) -> None:
        self.views, self.projector, self.center = list(views), projector, np.asarray(center, float)
        self._prisms, self._prism_frame, self._prior = list(prisms), prism_frame, prior
        self._background = background

    def evaluate(self, ras_to_camera: Array, held: list[Weights] | None) -> Terms:
        """Terms at poses (B, 4, 4); `held` per view."""
        terms = self._image_terms(ras_to_camera, held)
        return self._prior.add(terms, ras_to_camera, self.center) if self._prior else terms

    def _image_terms(self, ras_to_camera: Array, held: list[Weights] | None) -> Terms:
        parts = [
            self._view_terms(index, ras_to_camera, held[index] if held else None) for index in range(len(self.views))
        ]
        if len(parts) == 1:
            return parts[0]
        weight = np.stack([part.evidence for part in parts], 1)
        share = weight / np.maximum(weight.sum(1, keepdims=True), 1e-9)
        gradient, matrix = np.zeros((len(ras_to_camera), 6)), np.zeros((len(ras_to_camera), 6, 6))
        for index, (view, part) in enumerate(zip(self.views, parts, strict=True)):
            assert part.gradient is not None and part.matrix is not None
            # A twist of the first camera's axes, about the same point, seen in this camera's axes.
            turn = np.kron(np.eye(2), view.from_first[:3, :3])
            gradient += share[:, index, None] * (part.gradient @ turn)
            matrix += share[:, index, None, None] * (turn.T @ part.matrix @ turn)
        judged, cost, ncc, score = (
            (share * np.stack([getattr(part, name) for part in parts], 1)).sum(1)
            for name in ("judged", "cost", "ncc", "score")
        )
        weights = [part.weights[0] for part in parts]
        return Terms(judged, cost, ncc, score, gradient, matrix, weights, weight.sum(1))

    def fits(self, ras_to_camera: Array) -> tuple[list[float], list[float]]:
        """Each view's own correlation, and its agreement (`Terms.score`), at one pose (4, 4)."""
        terms = [self._view_terms(index, ras_to_camera[None], None, False) for index in range(len(self.views))]
        return [float(one.ncc[0]) for one in terms], [float(one.score[0]) for one in terms]

    def fitted_scatter(
        self, index: int, xray: XrayImage, ras_to_camera: Array, before: Scatter | None = None
    ) -> Scatter:
        """The scatter of one view that agrees best with what is rendered at a pose (4, 4) of the first view.

        Args:
            xray: that view's X-ray at this objective's resolution, nothing taken off it.
            before: an earlier estimate; None for a first one.
        """
        view = self.views[index]
        camera_to_ras = inverse(view.from_first @ ras_to_camera)[None]
        rendered = self.projector.project(view.carm, camera_to_ras, pixels=view.patches.pixels)
        if self._background is not None:
            rendered = rendered + self._background[index]
        extra = self._missing(view, camera_to_ras)
        noise = noise_map(xray.pixels, xray.mask)

        def agreement(scatter: Scatter) -> float:
            pixels = scatter.removed(xray).pixels
            amplified = noise * scatter.amplification(xray.pixels, pixels)
            correlation = view.correlation.like(view.patches.take(pixels), view.patches.take(amplified))
            return float(correlation(rendered, None, extra).score[0])

        return fit_scatter(agreement, before)

    def _missing(self, view: View, camera_to_ras: Array) -> NDArray[np.float32] | None:
        if not self._prisms:
            return None
        # Where all starts are still far off nothing agrees yet: the half that misses least is compared.
        least = 0.5 if not view.correlation.robust else 0.0
        return ray_weights(self._prisms, self._prism_frame, camera_to_ras, view.points, least)

    def _view_terms(self, index: int, ras_to_camera: Array, held: Weights | None, derivatives: bool = True) -> Terms:
        view = self.views[index]
        camera_to_ras = inverse(view.from_first @ ras_to_camera)
        rendered = self.projector.project(
            view.carm, camera_to_ras, pixels=view.patches.pixels, center=self.center, jacobian=derivatives
        )
        images, jacobians = rendered if derivatives else (rendered, None)
        if self._background is not None:
            images = images + self._background[index]
        if view.detail:
            images, jacobians = view.detail(images), None if jacobians is None else view.detail(jacobians)
        return view.correlation(images, jacobians, self._missing(view, camera_to_ras), held)
