"""Trials of the whole pipeline on simulated fluoroscopies no network has seen: network, refinement and trust.

Each case draws a pose from the trained range, renders the CT finer than training does, with its anatomy continued
beyond the cut faces, forms a fluoroscopy, and registers it from the network's guesses. Training ends early by such
trials and the certificate is made of them, from different cases: nothing that stopped or calibrated a model certifies
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.carm import CArm
from ..geometry.coordinates import transform_points
from ..geometry.pose import Pose
from ..imaging.ct import CTVolume
from ..imaging.formation import Effects, draw_effects, form
from ..imaging.xray import XrayImage
from ..registration.register import Registrar, register
from ..rendering.renderer import Projector
from ..rendering.threads import cores
from .anatomy import continued
from .model import PoseModel
from .sampling import sample_offsets
from .settings import Task

SUCCESS_MM = 1.0
# Cases are seeded beyond every number a training batch has; those that may end a training beyond the certificate's.
CERTIFICATE_CASES, STOPPING_CASES = 2**41, 2**42
# Points that errors are measured at lie within +- this of the isocentre, mm.
_EXTENT = 80.0
_RENDER_MM = 1.5
# How far anatomy goes on beyond the CT's cut faces: what a cautious crop of the bones of interest lacks. Images that
# show much more than the CT has are another matter, which the trust of each result judges (docs/trust.md).
_BEYOND_MM = 15.0
# The success rate of fewer cases would tell who watches nothing.
_FEWEST = 10


@dataclass(frozen=True)
class Outcome:
    """One case: where it was, what the network and the registration made of it.

    Attributes:
        offset: (omega, v) of the true pose, rad and mm.
        network_mm, error_mm: mTRE of the network's guess and of the result.
        seconds: Network and registration together.
        trusted: What the result said of itself.
        seen: How much of the trained field of view the image showed.
        doubt: The network's largest expected error, in units of the range.
    """

    offset: tuple[float, ...]
    network_mm: float
    error_mm: float
    seconds: float
    trusted: bool
    seen: float
    doubt: float

    @property
    def success(self) -> bool:
        """Whether the pose was found."""
        return self.error_mm < SUCCESS_MM

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Outcome:
        """What `dataclasses.asdict` gave, by way of JSON."""
        return cls(**data | {"offset": tuple(data["offset"])})


def fluoroscopy(
    paths: NDArray[np.float32], carm: CArm, rng: np.random.Generator, *, clutter: float = 0.0, display: float = 0.0
) -> XrayImage:
    """What trials take for a fluoroscopy of line integrals (rows, columns); see :class:`Trials`."""
    carm = replace(carm, intensity="transmission")
    effects = draw_effects(rng, 1, carm, clutter=clutter, display=display)
    # Doses at which a person would still call it an image; training goes lower.
    effects = Effects(
        **{f.name: getattr(effects, f.name) for f in fields(effects)}
        | {"photons": np.exp(rng.uniform(np.log(400), np.log(6000), 1)).astype(np.float32)}
    )
    noise = rng.standard_normal((1, *paths.shape), dtype=np.float32)
    image, lit = form(np.asarray(paths, np.float32)[None], effects, carm, noise)
    return XrayImage(image[0], carm, None if lit.all() else lit[0])


class Trials:
    """A CT and a task made ready for trials of any model of theirs.

    Args:
        ct: The CT as registration will use it.
        task: Poses and C-arm.
        clutter, display: Probabilities of instruments and collimation, and of display processing, in the images.
        device: "auto", "cpu" or "cuda:N".
    """

    def __init__(
        self, ct: CTVolume, task: Task, *, clutter: float = 0.0, display: float = 0.0, device: str = "auto"
    ) -> None:
        self.ct, self.task, self.clutter, self.display = ct, task, clutter, display
        self._registrar = Registrar(ct, device, task.center)
        self._projector = Projector(continued(ct.level(_RENDER_MM), "reflect", _BEYOND_MM), device)

    @property
    def backend(self) -> str:
        """What renders."""
        return str(self._projector.backend)

    def simulated(self, seed: list[int]) -> tuple[XrayImage, NDArray[np.float64]]:
        """A fluoroscopy of a random pose of the range, and the pose's offset (6,)."""
        rng = np.random.default_rng(seed)
        task = self.task
        offset = sample_offsets(rng, 1, task.rotation, task.translation, task.carm)[0]
        paths = self._projector.project(task.carm, task.pose(offset).camera_to_ras).reshape(task.carm.image_size)
        return fluoroscopy(paths, task.carm, rng, clutter=self.clutter, display=self.display), offset

    def attempt(self, model: PoseModel, seed: list[int]) -> Outcome:
        """One case."""
        xray, offset = self.simulated(seed)
        began = time.perf_counter()
        said = model.read(xray)
        result = register(self.ct, [xray], start=model, registrar=self._registrar)
        seconds = time.perf_counter() - began
        points = np.random.default_rng(0).uniform(-_EXTENT, _EXTENT, (50, 3)) + self.task.center
        true_points = transform_points(self.task.pose(offset).ras_to_camera, points)

        def distance(pose: Pose) -> float:
            return float(np.linalg.norm(transform_points(pose.ras_to_camera, points) - true_points, axis=1).mean())

        return Outcome(
            tuple(offset.tolist()),
            distance(self.task.pose(said.offset)),
            distance(result.pose),
            seconds,
            result.trust.trusted,
            said.seen,
            float((said.spread / self.task.ranges).max()),
        )

    def run(
        self, model: PoseModel, count: int, seed: int, first: int, going_on: Callable[[], bool] = lambda: True
    ) -> Iterator[Outcome]:
        """Cases `first` to `first` + `count` in order, while `going_on`, in this process: for models not on disk."""
        yield from in_order(lambda case: self.attempt(model, case), count, seed, first, min(cores(), 2), going_on)


def in_order(
    attempt: Callable[[list[int]], Outcome],
    count: int,
    seed: int,
    first: int,
    side_by_side: int,
    going_on: Callable[[], bool] = lambda: True,
) -> Iterator[Outcome]:
    """Outcomes of the cases `first` to `first` + `count`, in order, so many attempted at a time, while `going_on`."""
    with ThreadPoolExecutor(side_by_side, "trial") as pool:
        waiting: list[Future[Outcome]] = []
        try:
            for number in range(count):
                while len(waiting) >= side_by_side:
                    yield waiting.pop(0).result()
                if not going_on():
                    return
                waiting.append(pool.submit(attempt, [seed, first + number]))
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


class Goal:
    """Whether a model under training is good enough to stop: few failures among `cases` that nothing else uses.

    Args:
        target: Success rate that must be reached.
        cases: Of a trial; it ends as soon as the target is out of reach.
        seed: Of the job. Each trial takes cases of its own.
    """

    def __init__(self, target: float, cases: int, seed: int) -> None:
        self.target, self.cases, self.seed = target, cases, seed

    def passed(
        self, trials: Trials, model: PoseModel, number: int, going_on: Callable[[], bool] = lambda: True
    ) -> tuple[bool, float | None]:
        """Whether trial `number` was passed, and the success rate of the cases tried, None of too few to say one."""
        allowed = int(self.cases * (1 - self.target) + 1e-9)
        outcomes: list[Outcome] = []
        failures = 0
        for outcome in trials.run(model, self.cases, self.seed, STOPPING_CASES + number * self.cases, going_on):
            outcomes.append(outcome)
            failures += not outcome.success
            if failures > allowed and len(outcomes) >= _FEWEST:
                break
        rate = 1 - failures / len(outcomes) if len(outcomes) >= min(_FEWEST, self.cases) else None
        return len(outcomes) == self.cases and failures <= allowed, rate
