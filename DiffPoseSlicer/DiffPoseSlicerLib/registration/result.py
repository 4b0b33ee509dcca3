"""What a registration gives back, and how it is written to result.json."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..geometry.carm import CArm
from ..geometry.files import write_json
from ..geometry.pose import Pose
from ..geometry.se3 import Array


@dataclass(frozen=True)
class Progress:
    """One iteration as it happened: the best pose so far of the stage at hand."""

    iteration: int
    level: int
    pose: Pose
    similarity: float
    seconds: float


def odds(probability: float) -> str:
    """A probability in words: none is so near 1 that a registration is certain."""
    return "more than 99%" if probability >= 0.99 else f"{probability:.0%}"


@dataclass(frozen=True)
class Trust:
    """Whether the result may be relied on: a probability of success, and where not, reasons in words."""

    trusted: bool
    probability: float
    reasons: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The "trust" entry of result.json."""
        return {"trusted": self.trusted, "probability": self.probability, "reasons": list(self.reasons)}


@dataclass(frozen=True)
class Hypothesis:
    """A distinct minimum that was found: pose of the first view, its similarity, its share of the belief."""

    pose: Pose
    similarity: float
    probability: float


def hypotheses(found: list[tuple[Pose, float]]) -> list[Hypothesis]:
    """Distinct minima with a share of belief that falls by e for each 0.02 of correlation lost.

    The first is the one that was chosen, if not by correlation: none has a larger share.
    """
    scores = np.array([score for _, score in found])
    belief = np.exp((np.minimum(scores, scores[0]) - scores[0]) / 0.02)
    belief /= belief.sum()
    return [Hypothesis(p, s, float(b)) for (p, s), b in zip(found, belief, strict=True)]


@dataclass(frozen=True, eq=False)
class RegistrationResult:
    """The outcome of a registration.

    Attributes:
        poses: one per view.
        similarities: one per view: weighted mean local correlation, at most 1.
        agreements: one per view: agreement of all pixels, also of those that the CT may not explain; what poses are
            ranked by; 1 is perfect. With the geometry taken as stated, also where it was then estimated.
        trust: see :class:`Trust`.
        covariance: (6, 6) of the twist (omega, v), rad and mm, camera axes of the first view, about `center`.
        expected_error_mm: what the mean error (mm) of points within 80 mm of `center` stays below in nine of ten
            successful registrations that look like this one, or None where it is not known.
        center: (3,) RAS mm: the point twists turn about.
        c0: (4, 4) where the C-arm stands in the scene: cameraToRAS of the nominal pose.
        hypotheses: distinct minima, best first.
        history: every iteration.
        iterations, seconds, start, reason: how many steps, how long, where it started, why it stopped.
        warnings: what the user must know, in sentences that say what to do: an image that seems mirrored or turned.
        carms: each view's camera as it was estimated along with the pose, or None where it was taken as stated.
        signs: what trust was judged by (see docs/trust.md).
    """

    poses: list[Pose]
    similarities: list[float]
    trust: Trust
    covariance: NDArray[np.float64]
    expected_error_mm: float | None
    center: Array
    c0: Array
    hypotheses: list[Hypothesis]
    iterations: int
    seconds: float
    start: str
    reason: str
    history: list[Progress] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    carms: list[CArm] | None = None
    signs: dict[str, float] = field(default_factory=dict)
    agreements: list[float] = field(default_factory=list)

    @property
    def pose(self) -> Pose:
        """The first view's pose."""
        return self.poses[0]

    @property
    def ct_to_world(self) -> Array:
        """(4, 4) that moves the CT under a C-arm standing at `c0`: the identity for a patient lying as planned."""
        return self.c0 @ self.pose.ras_to_camera

    def to_json(self) -> dict[str, Any]:
        """The content of result.json."""
        return {
            "views": [
                {"cameraToRAS": p.camera_to_ras.tolist(), "similarity": s}
                | ({"carm": self.carms[n].to_json()} if self.carms else {})
                for n, (p, s) in enumerate(zip(self.poses, self.similarities, strict=True))
            ],
            "ctToWorld": self.ct_to_world.tolist(),
            "trust": self.trust.to_json(),
            "expectedErrorMm": self.expected_error_mm,
            "covariance": self.covariance.tolist(),
            "center": self.center.tolist(),
            "c0": self.c0.tolist(),
            "hypotheses": [
                {
                    "cameraToRAS": h.pose.camera_to_ras.tolist(),
                    "similarity": h.similarity,
                    "probability": h.probability,
                }
                for h in self.hypotheses
            ],
            "iterations": self.iterations,
            "seconds": self.seconds,
            "start": self.start,
            "stopped": self.reason,
            "warnings": list(self.warnings),
            "signs": self.signs,
            "versions": self.versions,
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write result.json."""
        write_json(path, self.to_json())
