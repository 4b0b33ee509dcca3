"""Test cases for registration: an X-ray by plastimatch, what the registration is told, and the truth.

Images come from the whole CT; the registration gets a copy that is 15 mm shorter at each face where the scan cuts
tissue, because no real image shows the edge that a cut makes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..geometry.carm import CArm
from ..geometry.pose import Pose, view_rotation
from ..geometry.se3 import Array
from ..imaging.attenuation import hu_to_mu
from ..imaging.ct import CTVolume
from ..imaging.xray import XrayImage
from ..registration.starts import turned
from .metrics import default_points
from .plastimatch import AttenuationCurve, Plastimatch
from .stress import CLEAN, Exposure, expose, given_carm, given_ct

# The C-arm that benchmarks use: 256 x 256 pixels over 300 mm, 1020 mm from source to detector.
BENCH_CARM = CArm(1020.0, (256, 256), (300 / 256, 300 / 256), intensity="transmission")
SHORTENED_MM = 15.0


@dataclass(frozen=True, eq=False)
class Case:
    """One registration problem.

    Attributes:
        number: its place in the series.
        xray: what the registration sees, with the geometry it is told.
        ct: the CT it is given.
        truth: the true pose; its true camera is `carm`.
        points: (50, 3) RAS mm that errors are measured at.
        covered: pixels that an instrument hides.
    """

    number: int
    xray: XrayImage
    ct: CTVolume
    truth: Pose
    carm: CArm
    points: Array
    covered: NDArray[np.bool_]


def shortened(ct: CTVolume, mm: float = SHORTENED_MM) -> CTVolume:
    """The CT without `mm` at each face where it cuts tissue."""
    cut = ct.level(4.0).cut_faces
    return ct.cropped([mm * bool(face) for face in cut])


def random_poses(
    ct: CTVolume, count: int, rng: np.random.Generator, rotation: ArrayLike, translation: ArrayLike, view: str = "AP"
) -> list[Pose]:
    """Poses uniform in the box of half-ranges (degrees, mm; camera axes) about a view of the CT's centre."""
    half = np.concatenate([np.deg2rad(np.broadcast_to(rotation, 3)), np.broadcast_to(translation, 3)])
    offsets = rng.uniform(-1, 1, (count, 6)) * half
    return [Pose.about(view_rotation(view), ct.center, BENCH_CARM, offset) for offset in offsets]


def offset_start(truth: Pose, center: ArrayLike, rng: np.random.Generator, degrees: float, mm: float) -> Pose:
    """A start uniform in the box of +-degrees and +-mm on each axis about the true pose. No redraws."""
    offset = rng.uniform(-1, 1, 6) * np.repeat([np.deg2rad(degrees), mm], 3)
    return Pose(np.linalg.inv(turned(truth.ras_to_camera, np.asarray(center, float), offset[None])[0]))


def line_integrals(
    ct: CTVolume, poses: list[Pose], carm: CArm, cache: Path | None = None, hu_to_mu: AttenuationCurve = hu_to_mu
) -> Iterator[NDArray]:
    """plastimatch's exact line integrals at each pose; kept in the folder `cache`, one for each `hu_to_mu`."""
    tracer: Plastimatch | None = None
    try:
        for pose in poses:
            key = hashlib.sha256(
                ct.fingerprint.encode() + pose.camera_to_ras.tobytes() + repr(carm.to_json()).encode()
            ).hexdigest()
            file = cache / f"{key[:32]}.npy" if cache else None
            if file is not None and file.exists():
                yield np.load(file).astype(np.float32)
                continue
            tracer = tracer or Plastimatch(ct, hu_to_mu)
            image = tracer.drr(carm, pose)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, image.astype(np.float16))
            yield image
    finally:
        if tracer:
            tracer.close()


def cases(
    ct: CTVolume,
    poses: list[Pose],
    exposures: list[Exposure] | None = None,
    seed: int = 0,
    cache: Path | None = None,
    images: Iterable[NDArray] | None = None,
) -> Iterator[Case]:
    """One case per pose; exposures default to clean ones, `images` (line integrals) to plastimatch's."""
    short = shortened(ct)
    points = default_points(short.center)
    exposures = exposures or [CLEAN] * len(poses)
    for number, (pose, exposure, image) in enumerate(
        zip(poses, exposures, images or line_integrals(ct, poses, BENCH_CARM, cache), strict=True)
    ):
        rng = np.random.default_rng([seed, number])
        stored = expose(image, exposure, rng)
        carm = given_carm(BENCH_CARM, exposure)
        yield Case(
            number,
            XrayImage.from_array(stored.integers, carm),
            given_ct(short, exposure, rng),
            pose,
            BENCH_CARM,
            points,
            stored.covered,
        )
