"""Several structures in several views at once, by a geometry that is only nearly known.

The state holds a pose for each structure, and for each view how far its place relative to the first view and its
calibration (source-to-detector distance, principal point) are from what is stated. The rendered image of a view is the
sum of what its structures add, so bones that overlap explain the image together. Priors hold what the images do not
say: with exact knowledge (sigma 0) a parameter stays as it is stated, and in a single view the calibration is never
free, for there a longer distance looks like a nearer patient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..errors import Cancelled, InputError
from ..geometry.coordinates import transform_points
from ..geometry.se3 import Array, hat, inverse, so3_log, turn_about
from .evidence import CutPrism, ray_weights
from .intensity import Scatter, fit_scatter
from .similarity import Terms, Weights, noise_map
from .solver import LEVER_MM, LOSS, RISE
from .views import Prior, View

if TYPE_CHECKING:
    from ..geometry.carm import CArm
    from ..imaging.xray import XrayImage
    from ..rendering.renderer import Projector

# So many pixels count as one observation when images are weighed against priors: more than noise is correlated over,
# for what a renderer does not know of an image (scatter, beam hardening, voxels) is alike over wide parts of it.
# In fine detail it is mostly noise that is left, and little of it is shared by neighbours.
_CORRELATED_PIXELS, _CORRELATED_DETAIL = 50.0, 2.0
# A shifted principal point and a shifted patient differ by a faint perspective alone, which the same unknowns imitate:
# on exact geometry it was found up to 1 mm off. What the images say of it counts less by the square of this.
_PERSPECTIVE_DOUBT = 4.0
# The images' misfit is never taken for smaller than this, or priors would lose all weight on rendered images.
_LEAST_COST = 0.005
_FIRST_DAMPING, _LARGEST_DAMPING = 1e-3, 1e4
_SMALLEST_STEP = 0.01  # mm, rotations at the lever


@dataclass(frozen=True)
class GeometryPriors:
    """How well the geometry of several views is known: standard deviations; 0 means exactly.

    Attributes:
        angle: of the turn from the first view to each other one, degrees about each axis (angle readout).
        shift: of the place of each other view relative to the first, mm along each axis (table, sag of the C-arm).
        distance: of each source-to-detector distance, as a part of it.
        principal_point: of each principal point, mm at the detector along columns and rows.

    Raises:
        InputError: one is negative or not finite.
    """

    angle: float = 0.0
    shift: float = 0.0
    distance: float = 0.02
    principal_point: float = 5.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (np.isfinite(value) and value >= 0):
                raise InputError(f"The uncertainty {name.replace('_', ' ')} is {value!r}: give 0 (exact) or more.")

    @property
    def exact(self) -> bool:
        """Whether nothing is to be estimated."""
        return not any(vars(self).values())


@dataclass(frozen=True)
class Structure:
    """What moves as one: how it is rendered, where its CT cuts it off, and the point its pose turns about (RAS mm)."""

    projector: Projector
    prisms: list[CutPrism]
    prism_frame: Array
    center: Array


@dataclass(frozen=True)
class State:
    """What is estimated, for S structures in V views.

    Attributes:
        poses: (S, 4, 4) ras_to_camera of the first view.
        deviations: (V, 4, 4) rigid maps after the stated ones: x_cam(view) = deviation @ from_first @ x_cam(first).
        calibration: (V, 3) what is to be added to the distance and to the principal point's column and row, mm.
    """

    poses: Array
    deviations: Array
    calibration: Array

    @classmethod
    def stated(cls, poses: Array, views: int) -> State:
        """Poses, and everything else as it is stated."""
        return cls(np.array(poses, float), np.tile(np.eye(4), (views, 1, 1)), np.zeros((views, 3)))


def calibrated(carm: CArm, calibration: Array) -> CArm:
    """A camera with (distance, column, row) changes in mm."""
    row, column = carm.pixel_spacing
    u, v = carm.principal_point
    return replace(
        carm,
        source_to_detector=carm.source_to_detector + float(calibration[0]),
        principal_point=(u + float(calibration[1]) / column, v + float(calibration[2]) / row),
    )


class JointObjective:
    """Local correlation of all views, and priors, as a function of a :class:`State`.

    Parameters, in order: a twist (omega, v) for each structure, in the first camera's axes about its centre; for each
    view a twist of its camera frame about `pivots`; for each view distance, column and row in mm. Those that are known
    exactly have no part in gradients.

    Args:
        views: as for one rigid body; `from_first` as stated.
        structures: what is seen.
        priors: see :class:`GeometryPriors`.
        start: where the views' pivots are taken from.
        pulls: one for each structure, or none.
    """

    def __init__(
        self,
        views: Sequence[View],
        structures: Sequence[Structure],
        priors: GeometryPriors,
        start: State,
        pulls: Sequence[Prior] = (),
    ) -> None:
        self.views, self.structures = list(views), list(structures)
        self._pulls = list(pulls)
        count, number = len(self.structures), len(self.views)
        middle = np.mean(
            [transform_points(pose, s.center) for pose, s in zip(start.poses, structures, strict=True)], axis=0
        )
        self.pivots = np.stack([transform_points(view.from_first, middle) for view in views])
        turn = np.deg2rad(priors.angle)
        sigma = np.zeros((number, 9))
        if number > 1:
            sigma[1:, :6] = [turn] * 3 + [priors.shift] * 3
            sigma[:, 6] = priors.distance * np.array([view.carm.source_to_detector for view in views])
            sigma[:, 7:] = priors.principal_point / _PERSPECTIVE_DOUBT
        self._first = 6 * count
        self.sigma = np.concatenate([sigma[:, :6].ravel(), sigma[:, 6:].ravel()])
        self.free = np.concatenate([np.ones(self._first, bool), self.sigma > 0])
        # Sizes that steps of each parameter are compared by.
        self.scale = np.concatenate(
            [np.tile([1 / LEVER_MM] * 3 + [1.0] * 3, count), np.where(self.sigma > 0, self.sigma, 1.0)]
        )
        self.weight = 0.0
        images = self._image_terms(start, None)
        correlated = _CORRELATED_DETAIL if self.views[0].detail else _CORRELATED_PIXELS
        self.weight = max(float(images.cost[0]), _LEAST_COST) * correlated / max(float(images.evidence[0]), 1.0)

    def moved(self, state: State, xi: Array) -> State:
        """The state after a step xi of all parameters."""
        count, number = len(self.structures), len(self.views)
        centers = np.stack(
            [transform_points(pose, s.center) for pose, s in zip(state.poses, self.structures, strict=True)]
        )
        rest = xi[self._first :]
        twists, change = rest[: 6 * number].reshape(number, 6), rest[6 * number :].reshape(number, 3)
        return State(
            turn_about(xi[: self._first].reshape(count, 6), centers) @ state.poses,
            turn_about(twists, self.pivots) @ state.deviations,
            state.calibration + change,
        )

    def camera(self, index: int, state: State) -> tuple[CArm, Array]:
        """A view's camera, and its x_cam from x_cam of the first view, at a state."""
        view = self.views[index]
        return calibrated(view.carm, state.calibration[index]), state.deviations[index] @ view.from_first

    def evaluate(self, state: State, held: list[Weights] | None) -> Terms:
        """Terms, with a batch of one, at a state; `held` per view."""
        terms = self._image_terms(state, held)
        turned = so3_log(state.deviations[:, :3, :3])
        moved = np.stack([transform_points(d, p) - p for d, p in zip(state.deviations, self.pivots, strict=True)])
        off = np.concatenate([np.concatenate([turned, moved], 1).ravel(), state.calibration.ravel()])
        precision = np.divide(self.weight, self.sigma**2, out=np.zeros_like(off), where=self.sigma > 0)
        cost = float((precision * off**2).sum())
        assert terms.gradient is not None and terms.matrix is not None
        terms.gradient[0, self._first :] += precision * off
        terms.matrix[0] += np.diag(np.concatenate([np.zeros(self._first), precision]))
        for row, (prior, structure) in enumerate(zip(self._pulls, self.structures, strict=False)):
            part, slope = prior.cost(state.poses[row][None], structure.center)
            rows = slice(6 * row, 6 * row + 6)
            cost += float(part[0])
            terms.gradient[0, rows] += slope[0]
            terms.matrix[0, rows, rows] += np.diag(prior.precision)
        return replace(terms, judged=terms.judged + cost, cost=terms.cost + cost)

    def render(self, index: int, state: State) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """One view's images of each structure (S, N), and their derivatives (S, N, 9): own twist, then calibration."""
        carm, from_first = self.camera(index, state)
        parts = [
            structure.projector.project(
                carm,
                inverse(from_first @ pose),
                pixels=self.views[index].patches.pixels,
                center=structure.center,
                jacobian=True,
                intrinsics=True,
            )
            for structure, pose in zip(self.structures, state.poses, strict=True)
        ]
        return np.stack([image for image, _ in parts]), np.stack([columns for _, columns in parts])

    def missing(self, index: int, state: State) -> NDArray[np.float32] | None:
        """Weights (1, N) of one view's rays by what of the structures the CT cuts off."""
        carm, from_first = self.camera(index, state)
        weight: NDArray[np.float32] | None = None
        for structure, pose in zip(self.structures, state.poses, strict=True):
            if structure.prisms:
                points = carm.detector_points(self.views[index].patches.pixels)
                seen = ray_weights(structure.prisms, structure.prism_frame, inverse(from_first @ pose)[None], points)
                weight = seen if weight is None else np.minimum(weight, seen)
        return weight

    def similarities(self, state: State) -> Array:
        """(S, V): agreement of each view's image with all structures, over the pixels where each structure shows."""
        found = np.zeros((len(self.structures), len(self.views)))
        for index, view in enumerate(self.views):
            images, _ = self.render(index, state)
            extra = self.missing(index, state)
            for row, image in enumerate(images):
                shown = (image > 0.02 * image.max()).astype(np.float32)[None]
                weight = shown if extra is None else shown * extra
                found[row, index] = view.correlation(images.sum(0)[None], None, weight).ncc[0]
        return found

    def fitted_scatter(self, index: int, xray: XrayImage, state: State, before: Scatter | None) -> Scatter:
        """As :meth:`views.RigidObjective.fitted_scatter`, at a state."""
        view = self.views[index]
        rendered = self.render(index, state)[0].sum(0)[None]
        extra = self.missing(index, state)

        def agreement(scatter: Scatter) -> float:
            pixels = scatter.removed(xray).pixels
            noise = view.patches.take(noise_map(pixels, xray.mask))
            correlation = view.correlation.like(view.patches.take(pixels), noise)
            return float(correlation(rendered, None, extra).score[0])

        return fit_scatter(agreement, before)

    def _image_terms(self, state: State, held: list[Weights] | None) -> Terms:
        size = self._first + len(self.sigma)
        parts, maps = [], []
        for index, view in enumerate(self.views):
            images, columns = self.render(index, state)
            row, column = view.carm.pixel_spacing
            camera = columns[..., 6:].sum(0) / np.array([1, column, row], np.float32)
            image, jacobian = images.sum(0)[None], np.concatenate([*columns[..., :6], camera], -1)[None]
            if view.detail:
                image, jacobian = view.detail(image), view.detail(jacobian)
            missing = self.missing(index, state)
            parts.append(view.correlation(image, jacobian, missing, held[index] if held else None))
            maps.append(self._map(index, state, size))
        weight = np.array([part.evidence[0] for part in parts])
        share = weight / max(weight.sum(), 1e-9)
        gradient, matrix = np.zeros((1, size)), np.zeros((1, size, size))
        for part, part_share, onto in zip(parts, share, maps, strict=True):
            assert part.gradient is not None and part.matrix is not None
            gradient[0] += part_share * (onto.T @ part.gradient[0])
            matrix[0] += part_share * (onto.T @ part.matrix[0] @ onto)
        judged, cost, ncc, score = (
            np.array([sum(s * getattr(part, name)[0] for s, part in zip(share, parts, strict=True))])
            for name in ("judged", "cost", "ncc", "score")
        )
        return Terms(judged, cost, ncc, score, gradient, matrix, [p.weights[0] for p in parts], weight.sum()[None])

    def _map(self, index: int, state: State, size: int) -> Array:
        """(6 S + 3, parameters): what each parameter does to one view's own twists and calibration."""
        count, number = len(self.structures), len(self.views)
        _, from_first = self.camera(index, state)
        onto = np.zeros((6 * count + 3, size))
        twist = self._first + 6 * index
        for row, (structure, pose) in enumerate(zip(self.structures, state.poses, strict=True)):
            rows = slice(6 * row, 6 * row + 6)
            onto[rows, rows] = np.kron(np.eye(2), from_first[:3, :3])
            onto[rows, twist : twist + 6] = np.eye(6)
            # A turn about the pivot shifts a structure whose centre lies elsewhere.
            lever = transform_points(from_first @ pose, structure.center) - self.pivots[index]
            onto[6 * row + 3 : 6 * row + 6, twist : twist + 3] = -hat(lever)
        first = self._first + 6 * number + 3 * index
        onto[6 * count :, first : first + 3] = np.eye(3)
        return onto


def solve_jointly(
    objective: JointObjective,
    state: State,
    iterations: int,
    tolerance: float = 1e-3,
    on_step: Callable[[State, Terms], None] | None = None,
    stop: Callable[[], str | None] | None = None,
) -> tuple[State, Terms, str]:
    """Levenberg-Marquardt from one state: the state reached, its terms, why it stopped (see `solver.REASONS`).

    Raises:
        Cancelled: `stop` said "cancelled".
    """
    terms, damping, reason = objective.evaluate(state, None), _FIRST_DAMPING, "iterations"
    for _ in range(iterations):
        word = stop() if stop else None
        if word == "cancelled":
            raise Cancelled
        if word == "budget":
            reason = "budget"
            break
        xi = _step(objective, terms, damping)
        candidate = objective.moved(state, xi)
        tried = objective.evaluate(candidate, terms.weights)
        gain, length = float(terms.cost[0] - tried.judged[0]), float(np.linalg.norm(xi / objective.scale))
        small = gain < tolerance * terms.cost[0] or length < _SMALLEST_STEP
        better = gain > 0 and tried.score[0] > terms.score[0] - LOSS and tried.cost[0] < RISE * terms.cost[0]
        if better:
            state, terms, damping = candidate, tried, max(damping / 5, 1e-7)
        else:
            damping *= 8
        if on_step:
            on_step(state, terms)
        if small and (better or length < _SMALLEST_STEP):
            reason = "converged"
            break
        if damping > _LARGEST_DAMPING:
            reason = "stalled"
            break
    return state, terms, reason


def _step(objective: JointObjective, terms: Terms, damping: float) -> Array:
    assert terms.matrix is not None and terms.gradient is not None
    free, scale = objective.free, objective.scale[objective.free]
    matrix = terms.matrix[0][np.ix_(free, free)] * np.outer(scale, scale)
    gradient = terms.gradient[0][free] * scale
    diagonal = np.diag(matrix)
    # A direction that neither images nor priors say anything about must not make the system singular.
    floor = 1e-6 * diagonal.max() + 1e-12
    matrix = matrix + np.diag(damping * np.maximum(diagonal, floor) + floor)
    xi = np.zeros(len(objective.free))
    xi[free] = -np.linalg.solve(matrix, gradient) * scale
    return xi


def covariances(objective: JointObjective, terms: Terms) -> Array:
    """(S, 6, 6): of each structure's twist, with what is not known of the geometry counted in."""
    assert terms.matrix is not None
    free = objective.free
    matrix = terms.matrix[0][np.ix_(free, free)] + 1e-12 * np.eye(int(free.sum()))
    evidence = max(float(terms.evidence[0]) - free.sum(), 1.0)
    inverse_matrix = np.linalg.pinv(matrix, hermitian=True) * float(terms.cost[0]) / evidence
    return np.stack([inverse_matrix[6 * n : 6 * n + 6, 6 * n : 6 * n + 6] for n in range(len(objective.structures))])
