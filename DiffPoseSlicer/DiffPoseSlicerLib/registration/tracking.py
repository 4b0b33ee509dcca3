"""A run of fluoroscopy frames followed from pose to pose: fast while it is held, searched for again once it is lost.

Each frame starts from where the last one ended, and from where the movement would carry it, at low resolution; a few
steps at full resolution settle it. Instruments and contrast agent have no say, by the robust weights of every
registration. A frame that agrees clearly worse than those before it is looked for again around the last good pose, ever
farther, and called lost where it is not found.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import Cancelled, InputError
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse, nearest_rigid
from . import starts
from .descent import Level
from .intensity import Scatter
from .result import RegistrationResult, Trust
from .solver import solve
from .views import Prior, RigidObjective, View, reduced, window

if TYPE_CHECKING:
    from ..imaging.ct import CTVolume
    from ..imaging.xray import XrayImage
    from .register import Registrar

COARSE = Level(64, 16, 1.25, 7, 1, tolerance=5e-3, narrow=(2, 1))
FINE = Level(128, 16, 1.25, 3, 1, tolerance=2e-3)
# A frame is looked at again when its similarity falls by this below what the run has had, and lost below the second.
_DOUBT, _LOST = 0.04, 0.10
# Frames that say what similarity the run has.
_MEMORY = 15
# Where a doubtful frame is looked for: starts, degrees, mm; each failure goes on to the next.
_AGAIN = ((24, 10.0, 20.0), (48, 15.0, 30.0), (96, 30.0, 60.0))
TRACKED, FOUND, LOST = "tracked", "found", "lost"


@dataclass(frozen=True)
class TrackedFrame:
    """One frame of a run.

    Attributes:
        number: counted from 0.
        pose: where the C-arm is; of a lost frame, the last pose that held.
        similarity: weighted mean local correlation, at most 1.
        state: "tracked", "found" (again, by a search) or "lost".
        trust: whether the pose may be relied on.
        seconds: what the frame took.
    """

    number: int
    pose: Pose
    similarity: float
    state: str
    trust: Trust
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """An entry of a track file's "frames"."""
        return {
            "frame": self.number,
            "cameraToRAS": self.pose.camera_to_ras.tolist(),
            "similarity": self.similarity,
            "state": self.state,
            "trust": self.trust.to_json(),
            "seconds": self.seconds,
        }


class Tracker:
    """Follows one run of frames, all by the same C-arm.

    Args:
        registrar: of the CT, or of the structure to be followed.
        xray: the first frame.
        result: its registration.
    """

    def __init__(self, registrar: Registrar, xray: XrayImage, result: RegistrationResult) -> None:
        self.registrar = registrar
        self.trust = result.trust
        pose = result.pose.ras_to_camera
        self._last, self._before = pose, pose
        self._failures = 0
        # The first frame's for the whole run: estimated beside contrast agent or a tool, scatter would shift depth.
        self._scatter = Scatter()
        if not registrar.isolated:
            small = reduced(xray, FINE.pixels)
            self._scatter = self._objective(FINE, small).fitted_scatter(0, small, pose)
        self._last, similarity = self._track(xray, pose)
        self._before = self._last
        self._similarities = deque([similarity], maxlen=_MEMORY)

    def first(self, number: int, began: float) -> TrackedFrame:
        """The first frame, as it was settled; `began` by time.perf_counter()."""
        pose = Pose(inverse(self._last))
        return TrackedFrame(number, pose, self._similarities[0], FOUND, self.trust, time.perf_counter() - began)

    def next(self, xray: XrayImage, number: int = 0) -> TrackedFrame:
        """The pose of the next frame."""
        began = time.perf_counter()
        usual = float(np.median(self._similarities))
        pose, similarity = self._last, 0.0
        state = TRACKED
        if not self._failures:
            pose, similarity = self._track(xray)
        if similarity < usual - _DOUBT:
            count, degrees, mm = _AGAIN[min(self._failures, len(_AGAIN) - 1)]
            # Settled like every frame of the run, by its scatter.
            tried = self._track(xray, self._search(xray, count, degrees, mm))
            if tried[1] > similarity:
                state, (pose, similarity) = FOUND, tried
        if similarity < usual - _LOST:
            state, pose = LOST, self._last
            self._failures += 1
            self._before = self._last
        else:
            self._failures = 0
            self._before, self._last = (self._last if state == TRACKED else pose), pose
            self._similarities.append(similarity)
        return TrackedFrame(
            number, Pose(inverse(pose)), similarity, state, self._judged(state), time.perf_counter() - began
        )

    def _judged(self, state: str) -> Trust:
        """The start's trust, while the run is held."""
        if state == LOST:
            return Trust(False, 0.0, ("the anatomy was lost in this frame; its last pose is shown",))
        return self.trust

    def _track(self, xray: XrayImage, start: Array | None = None) -> tuple[Array, float]:
        """The pose and its similarity, from a start or else from the last pose's surroundings."""
        carried = self._last @ inverse(self._before) @ self._last
        poses = np.stack([self._last, carried]) if start is None else start[None]
        if self.registrar.isolated:
            xray = window(xray, self.registrar.corners(), poses)
        for level in (COARSE, FINE):
            small = reduced(xray, level.pixels)
            objective = self._objective(level, small)
            solution = solve(objective, poses, level.iterations, level.tolerance, level.narrow)
            best = int(np.argmax(solution.terms.score))
            poses, similarity = solution.ras_to_camera[best][None], float(solution.terms.ncc[best])
        # Products of poses would let rounding grow from frame to frame.
        return nearest_rigid(poses[0]), similarity

    def _objective(self, level: Level, small: XrayImage) -> RigidObjective:
        registrar = self.registrar
        view = View.prepare(self._scatter.removed(small), level.patch, np.eye(4), True, registrar.isolated)
        depth = float(self._last[2, :3] @ registrar.center + self._last[2, 3])
        pixel = max(view.carm.pixel_spacing) * depth / view.carm.source_to_detector
        prior = Prior(self._last, registrar.prior) if registrar.isolated else None
        projector = registrar.projector(level.voxel * pixel)
        return RigidObjective([view], projector, *registrar.prisms(), registrar.center, prior)

    def _search(self, xray: XrayImage, count: int, degrees: float, mm: float) -> Array:
        """The best pose from many starts around the last one that held."""
        candidates = starts.spread(self._last, self.registrar.center, count, degrees, mm)
        result = self.registrar.register([xray], candidates, start="track", judged=False)
        return result.pose.ras_to_camera


def track(
    ct: CTVolume,
    frames: Iterable[XrayImage],
    start: Any = "search",
    *,
    on_frame: Callable[[TrackedFrame], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    registrar: Registrar | None = None,
    device: str = "auto",
    **options: Any,
) -> list[TrackedFrame]:
    """Follow the CT through a run of fluoroscopy frames by one C-arm that stands still.

    Args:
        ct: the CT, or one structure of it (see `CTVolume.structure`).
        frames: the images in order, as from `imaging.frames.read_frames`; each is asked for when it is its turn.
        start: of the first frame, as for :func:`register`; also a RegistrationResult of it.
        on_frame: called with each frame as it is done.
        cancel: asked before each frame; true ends the work with Cancelled.
        registrar: a warm Registrar of the same CT.
        device: "auto", "cpu" or "cuda:N".
        options: of :func:`register` for the first frame: view, angles, ranges, center.

    Returns:
        One entry a frame.

    Raises:
        InputError: no frame, or the start does not fit. Cancelled: `cancel` said so.
    """
    return list(follow(ct, frames, start, on_frame, cancel, registrar, device, **options))


def follow(
    ct: CTVolume,
    frames: Iterable[XrayImage],
    start: Any = "search",
    on_frame: Callable[[TrackedFrame], None] | None = None,
    cancel: Callable[[], bool] | None = None,
    registrar: Registrar | None = None,
    device: str = "auto",
    **options: Any,
) -> Iterator[TrackedFrame]:
    """As :func:`track`, frame by frame, for whoever acts on each."""
    from .register import Registrar, register

    registrar = registrar or Registrar(ct, device, options.get("center"))
    tracker: Tracker | None = None
    for number, xray in enumerate(frames):
        if cancel and cancel():
            raise Cancelled
        if tracker is None:
            began = time.perf_counter()
            if isinstance(start, RegistrationResult):
                result = start
            else:
                result = register(ct, xray, start, registrar=registrar, cancel=cancel, **options)
            tracker = Tracker(registrar, xray, result)
            frame = tracker.first(number, began)
        else:
            frame = tracker.next(xray, number)
        if on_frame:
            on_frame(frame)
        yield frame
    if tracker is None:
        raise InputError("There is no frame to follow; give a run of at least one.")
