"""Registration as DiffPose and xvr do it at test time: Adam on an image score, from one start, through our renderer.

To compare with and for ablations; `registration.register` is what to use. The gradient is exact, as everywhere here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...errors import Cancelled, InputError
from ...geometry.pose import Pose
from ...geometry.se3 import Array, inverse
from ..result import Hypothesis, Progress, RegistrationResult, Trust
from ..versions import versions
from .parameters import PARAMETERISATIONS
from .scores import SCORES, ncc

if TYPE_CHECKING:
    from ...geometry.carm import CArm
    from ...imaging.ct import AttenuationGrid
    from ...imaging.xray import XrayImage
    from ...rendering.renderer import Projector
    from ..register import Registrar

# A gradient by the image's pixels -> one by the twist (omega, v) of the anatomy about the centre.
Pull = Callable[[Array], Array]
# (C-arm, camera_to_ras, pixels or None, centre) -> the image's pixels and their Pull.
Renderer = Callable[..., tuple[Array, Pull]]
# A spread so wide that it says nothing.
UNKNOWN_COVARIANCE = 1e6 * np.eye(6)
UNKNOWN = Trust(False, 0.0, ("this method says nothing of its own success",))


@dataclass(frozen=True)
class FirstOrder:
    """How to optimise; the defaults are DiffPose's, with fewer pixels and iterations.

    Attributes:
        score: one of SCORES.
        parameterisation: one of PARAMETERISATIONS.
        pixels: of the image's longer side, stage by stage; the CT is averaged to match.
        iterations: most iterations a stage.
        rate: of Adam, in mm (rotations at the solver's lever), in the first stage; then a half, an eighth, a 64th
            of it, as in xvr.
        decay, every: the rate is multiplied by `decay` after `every` iterations.
        patches: compare only so many square patches of `window` pixels, drawn where the X-ray has structure; 0: all.
        window: side of the local windows and patches, pixels.
        patience: a stage ends after so many iterations without a gain of 1e-5.
        plateau: instead of `decay` and `patience`: after so many iterations without a gain of a ten-thousandth the rate
            falls to a tenth, and the stage ends the second time (torch's ReduceLROnPlateau, as xvr uses it); 0: off.
        seed: of the patches.
    """

    score: str = "multiscale"
    parameterisation: str = "se3"
    pixels: tuple[int, ...] = (64, 128)
    iterations: int = 120
    rate: float = 3.0
    decay: float = 0.9
    every: int = 25
    patches: int = 0
    window: int = 13
    patience: int = 30
    plateau: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise InputError(f"The score is {self.score!r}: use one of {', '.join(SCORES)}.")
        if self.parameterisation not in PARAMETERISATIONS:
            raise InputError(
                f"The parameterisation is {self.parameterisation!r}: use one of {', '.join(PARAMETERISATIONS)}."
            )
        object.__setattr__(self, "pixels", tuple(np.atleast_1d(self.pixels).tolist()))


def register_first_order(
    registrar: Registrar,
    xrays: XrayImage | Sequence[XrayImage],
    start: Pose,
    how: FirstOrder | None = None,
    *,
    projector: Callable[[AttenuationGrid], Renderer] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Callable[[], bool] | None = None,
) -> RegistrationResult:
    """Register one X-ray from one start.

    Args:
        registrar: the CT made ready.
        xrays: the X-ray.
        start: its pose.
        how: settings.
        projector: makes another renderer than ours for a CT's grid.
        on_progress, cancel: see `registration.register`.

    Raises:
        InputError: more than one X-ray.
        Cancelled: `cancel` said so.
    """
    views = list(xrays) if isinstance(xrays, Sequence) else [xrays]
    if len(views) != 1:
        raise InputError("First-order optimisation is for one X-ray; use the method 'ours' for several.")
    how, xray, began = how or FirstOrder(), views[0], time.perf_counter()
    kind, center = PARAMETERISATIONS[how.parameterisation], registrar.center
    matrix = start.ras_to_camera
    history: list[Progress] = []
    score, reason = float("nan"), "iterations"
    for stage, pixels in enumerate(how.pixels):
        evaluate = _objective(registrar, xray, pixels, how, projector)
        origin = matrix
        center_cam = origin[:3, :3] @ center + origin[:3, 3]
        parameters, adam = kind.start.copy(), Adam(how.rate / 2 ** (stage * (stage + 1) // 2))
        best: tuple[float, Array] = (-np.inf, origin)
        waited, cuts, threshold, flat = 0, 0, -np.inf, 0
        for number in range(how.iterations):
            if cancel and cancel():
                raise Cancelled
            matrix = _about(kind.motion(parameters), center_cam) @ origin
            score, gradient = evaluate(matrix)
            waited = 0 if score > best[0] + 1e-5 else waited + 1
            best = (score, matrix) if score > best[0] else best
            history.append(Progress(len(history) + 1, stage, Pose(inverse(matrix)), score, time.perf_counter() - began))
            if on_progress:
                on_progress(history[-1])
            if score > threshold:
                flat, threshold = 0, score + 1e-4 * abs(score)
            else:
                flat += 1
            if how.plateau and flat > how.plateau:
                cuts, flat = cuts + 1, 0
            if cuts == 2 if how.plateau else waited >= how.patience:
                reason = "stalled"
                break
            slower = 0.1**cuts if how.plateau else how.decay ** (number // how.every)
            parameters += adam.step(gradient @ kind.twists(parameters), how.rate / 2**stage * slower)
        score, matrix = best
    pose = Pose(inverse(matrix))
    return RegistrationResult(
        poses=[pose],
        similarities=[score],
        trust=UNKNOWN,
        covariance=UNKNOWN_COVARIANCE,
        expected_error_mm=None,
        center=center,
        c0=start.camera_to_ras,
        hypotheses=[Hypothesis(pose, score, 1.0)],
        iterations=len(history),
        seconds=time.perf_counter() - began,
        start="pose",
        reason=reason,
        history=history,
        versions=versions(registrar.projector(8.0).backend),
    )


class Adam:
    """Adam (Kingma and Ba, 2015), going up."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self._count = 0
        self._mean: Array = np.zeros(1)
        self._square: Array = np.zeros(1)

    def step(self, gradient: Array, rate: float | None = None) -> Array:
        """What to add to the parameters."""
        self._count += 1
        self._mean = 0.9 * self._mean + 0.1 * gradient
        self._square = 0.999 * self._square + 0.001 * gradient**2
        mean = self._mean / (1 - 0.9**self._count)
        square = self._square / (1 - 0.999**self._count)
        return (rate or self.rate) * mean / (np.sqrt(square) + 1e-12)


def _about(motion: Array, center: Array) -> Array:
    """A motion about the origin, about `center` instead."""
    moved = motion.copy()
    moved[:3, 3] += center - motion[:3, :3] @ center
    return moved


def _objective(
    registrar: Registrar,
    xray: XrayImage,
    pixels: int,
    how: FirstOrder,
    other: Callable[[AttenuationGrid], Renderer] | None,
) -> Callable[[Array], tuple[float, Array]]:
    """What gives, at ras_to_camera (4, 4), the score and its derivative (6,) by the twist about the centre."""
    rows, columns = xray.carm.image_size
    factor = min(1.0, pixels / max(rows, columns))
    small = xray.resized(max(2, round(rows * factor)), max(2, round(columns * factor)))
    carm, size = small.carm, small.carm.image_size
    voxel = 1.25 * carm.pixel_spacing[1] * carm.source_to_isocenter / carm.source_to_detector
    render = other(registrar.ct.level(voxel)) if other else _ours(registrar.projector(voxel))
    fixed = small.pixels.astype(float)
    fixed = (fixed - fixed.mean()) / max(fixed.std(), 1e-9)
    score = SCORES[how.score]
    chosen = _patches(fixed, how) if how.patches else None
    grid = None if chosen is None else carm.pixel_grid().reshape(*size, 2)[chosen].reshape(-1, 2)

    def evaluate(matrix: Array) -> tuple[float, Array]:
        moving, pull = render(carm, inverse(matrix), grid, registrar.center)
        spread = max(moving.std(), 1e-9)
        if chosen is None:
            value, gradient = score(fixed, moving.reshape(size) / spread)
        else:
            value, gradient = _patchwise(fixed[chosen], moving.reshape(fixed[chosen].shape) / spread)
        # Correlations do not see the scale: the derivative of `spread` cancels.
        return value, pull(gradient.ravel() / spread)

    return evaluate


def _ours(projector: Projector) -> Renderer:
    def render(carm: CArm, camera_to_ras: Array, pixels: Array | None, center: Array) -> tuple[Array, Pull]:
        image, jacobian = projector.project(carm, camera_to_ras, pixels, center, jacobian=True)
        return image.astype(float).ravel(), lambda gradient: gradient @ jacobian.reshape(-1, 6).astype(float)

    return render


def _patches(fixed: Array, how: FirstOrder) -> tuple[NDArray[np.int_], NDArray[np.int_]]:
    """Rows and columns (patches, window, window) of patches, drawn more often where the X-ray has slopes."""
    half = how.window // 2
    slope = np.hypot(*np.gradient(fixed))[half : -half or None, half : -half or None]
    rng = np.random.default_rng(how.seed)
    drawn = rng.choice(slope.size, how.patches, p=(slope / slope.sum()).ravel())
    row, column = np.unravel_index(drawn, slope.shape)
    offset = np.arange(how.window)
    return row[:, None, None] + offset[:, None] + 0 * offset, column[:, None, None] + offset + 0 * offset[:, None]


def _patchwise(fixed: Array, moving: Array) -> tuple[float, Array]:
    """Half the correlation of all values, half the mean one of each patch: multiscale correlation on patches."""
    whole, gradient = ncc(fixed, moving)
    gradient = gradient / 2
    value = whole / 2
    for number in range(len(fixed)):
        one, by_one = ncc(fixed[number], moving[number])
        value += one / 2 / len(fixed)
        gradient[number] += by_one / 2 / len(fixed)
    return value, gradient
