"""Registrations whose outcome is known, good and bad ones, to calibrate trust with and to test it.

Images are plastimatch's, of the whole CT; the registration gets the CT shortened (see `cases`). Calibration and test
draw from other seeds, and their disturbances have other severities: the range of each is cut into ten bands, which they
take in turn. Failures come by themselves (far starts, disturbed images) and on purpose:

- vertebra: started one vertebra off, to be registered without looking around;
- mirrored: the image mirrored, against what its geometry says;
- deformed: another patient's CT, made by bending the right one by 10 to 20 mm, smoothly;
- stranger: another patient's CT, the other chest's;
- outside: started far outside the range that registration is made for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..geometry.pose import Pose
from ..geometry.se3 import Array
from ..imaging.attenuation import AIR_HU
from ..imaging.ct import CTVolume
from ..imaging.xray import XrayImage
from .cases import BENCH_CARM, line_integrals, offset_start, random_poses, shortened
from .metrics import default_points
from .public_ct import public_ct
from .stress import CLEAN, Exposure, expose, given_ct

# The calibration needs fewer cases than the test, for it has few parameters.
SPLITS = {"calibration": 0.42, "test": 1.0}
KINDS = ("natural", "vertebra", "mirrored", "deformed", "stranger", "outside")
# How many of each kind per CT in the test, at a size of 1.
COUNTS = {"natural": 260, "vertebra": 45, "mirrored": 25, "deformed": 45, "stranger": 25, "outside": 25}
FACTORS = (
    "clean", "noise", "scatter", "gamma", "clahe", "8 bit", "saturation", "circle", "rectangle", "instruments",
    "covered", "truncation", "several",
)  # fmt: skip
# Half-ranges of starts about the truth, degrees and mm, and how often each is drawn.
STARTS = (((20.0, 40.0), 0.7), ((35.0, 60.0), 0.2), ((8.0, 15.0), 0.1))
OUTSIDE = (70.0, 150.0)
# Half-ranges of the true poses about the AP view.
POSES = ((30, 30, 30), (50, 50, 100))
# How far vertebrae lie apart in each CT, mm.
VERTEBRAE_MM = {"chest": (20, 28), "chest-metal": (20, 28), "pelvis": (30, 40)}
STRANGERS = {"chest": "chest-metal", "chest-metal": "chest"}
# True poses per CT and split: cases share them, each with a disturbance and a start of its own.
POOL = 100
# So many bent copies of each CT per split, and images of each.
_COPIES = 5


@dataclass(frozen=True)
class Recipe:
    """One case, as numbers and words: the same recipe gives the same case.

    Attributes:
        ct: the CT that the registration is given (a key of `PUBLIC_CTS`).
        split, kind, number: see the module.
        factor: what disturbs the image, one of FACTORS.
    """

    ct: str
    split: str
    kind: str
    number: int
    factor: str

    @property
    def key(self) -> str:
        """Unique among all recipes."""
        return f"{self.split}/{self.ct}/{self.kind}/{self.number}"


@dataclass(frozen=True, eq=False)
class TrustCase:
    """A recipe made real.

    Attributes:
        recipe: it.
        xray: what the registration sees.
        ct: what it is given.
        start: where it starts.
        truth: the true pose, or None where there is none: no pose is right.
        points: (50, 3) RAS mm that errors are measured at.
    """

    recipe: Recipe
    xray: XrayImage
    ct: CTVolume
    start: Pose
    truth: Pose | None
    points: Array


def recipes(ct: str, split: str, size: float = 1.0) -> list[Recipe]:
    """All recipes of a CT and split; a smaller `size` is a part of each kind. Those that share a CT come together."""
    found = []
    for kind in KINDS:
        if kind == "stranger" and ct not in STRANGERS:
            continue
        for number in range(max(round(COUNTS[kind] * SPLITS[split] * size), 1)):
            found.append(Recipe(ct, split, kind, number, FACTORS[number % len(FACTORS)]))
    return sorted(
        found,
        key=lambda r: (
            r.factor == "truncation",
            r.kind == "deformed",
            r.number % _COPIES if r.kind == "deformed" else 0,
        ),
    )


def make(recipe: Recipe, cache: Path | None = None) -> TrustCase:
    """The case of a recipe.

    Args:
        cache: folder that keeps plastimatch's images.
    """
    imaged = STRANGERS[recipe.ct] if recipe.kind == "stranger" else recipe.ct
    rng = np.random.default_rng(
        [list(SPLITS).index(recipe.split), KINDS.index(recipe.kind), recipe.number, *map(ord, recipe.ct)]
    )
    full = _ct(imaged)
    truth = _poses(imaged, recipe.split)[recipe.number % POOL]
    integrals = next(iter(line_integrals(full, [truth], BENCH_CARM, cache)))
    exposure, plate = disturbance(recipe.factor, _severity(recipe.split, rng), rng, integrals.shape)
    stored = expose(integrals + plate, exposure, rng).integers
    if recipe.kind == "mirrored":
        stored = stored[:, ::-1]
    ct = _short(recipe.ct)
    if recipe.kind == "deformed":
        ct = _bent(recipe.ct, recipe.split, recipe.number % _COPIES)
    ct = given_ct(ct, exposure, rng)
    center = ct.center
    if recipe.kind == "vertebra":
        axis = full.affine[:3, 2] / full.spacing[2]
        shift = axis * rng.uniform(*VERTEBRAE_MM[imaged]) * rng.choice([-1, 1])
        moved = truth.camera_to_ras.copy()
        moved[:3, 3] += shift
        start = offset_start(Pose(moved), center, rng, 1.0, 2.0)
    elif recipe.kind == "stranger":
        # The same view of another patient: the camera keeps its place relative to the CT's centre.
        moved = truth.camera_to_ras.copy()
        moved[:3, 3] += ct.center - full.center
        start = offset_start(Pose(moved), center, rng, *STARTS[0][0])
    else:
        ranges = OUTSIDE if recipe.kind == "outside" else STARTS[rng.choice(len(STARTS), p=[p for _, p in STARTS])][0]
        start = offset_start(truth, center, rng, *ranges)
    return TrustCase(
        recipe,
        XrayImage.from_array(stored, BENCH_CARM),
        ct,
        start,
        None if recipe.kind in ("mirrored", "deformed", "stranger") else truth,
        default_points(_short(recipe.ct).center),
    )


def disturbance(
    factor: str, severity: float, rng: np.random.Generator, shape: tuple[int, int]
) -> tuple[Exposure, NDArray[np.float64]]:
    """How an image is spoilt: its exposure, and line integrals of what covers it.

    Args:
        factor: one of FACTORS.
        severity: 0 (mild) to 1.
    """
    plate = np.zeros(shape)
    one: dict[str, Callable[[], dict]] = {
        "clean": dict,
        "noise": lambda: {"photons": 10 ** (3.5 - 1.3 * severity)},
        "scatter": lambda: {"scatter": 0.5 + 1.5 * severity},
        "gamma": lambda: {"gamma": 2 ** (2 * severity - 1)},
        "clahe": lambda: {"clahe": True},
        "8 bit": lambda: {"bits": 8},
        "saturation": lambda: {"saturated": 0.1 + 0.2 * severity},
        "circle": lambda: {"collimator": "circle"},
        "rectangle": lambda: {"collimator": "rectangle"},
        "instruments": lambda: {"instruments": 1 + int(4 * severity)},
        "truncation": lambda: {"ct_truncation": 0.2 + 0.25 * severity},
    }
    if factor == "covered":
        # A plate, retractor or arm of the table in front of a part of the image, from one side.
        v, u = np.mgrid[: shape[0], : shape[1]]
        angle = rng.uniform(0, 2 * np.pi)
        along = np.cos(angle) * v + np.sin(angle) * u
        plate = rng.uniform(2, 6) * (along < np.quantile(along, 0.15 + 0.5 * severity))
        return CLEAN, plate
    if factor == "several":
        chosen = rng.choice([n for n in one if n not in ("clean", "truncation")], 3, replace=False)
        changes: dict = {}
        for name in chosen:
            changes |= one[name]()
        return replace(CLEAN, **changes), plate
    return replace(CLEAN, **one[factor]()), plate


def _severity(split: str, rng: np.random.Generator) -> float:
    """0 to 1, in every other tenth: the calibration's and the test's never meet."""
    return float((2 * rng.integers(5) + list(SPLITS).index(split) + rng.uniform()) / 10)


@lru_cache(maxsize=3)
def _ct(name: str) -> CTVolume:
    return CTVolume.read(public_ct(name, say=print))


@lru_cache(maxsize=3)
def _short(name: str) -> CTVolume:
    return shortened(_ct(name))


@lru_cache(maxsize=6)
def _poses(name: str, split: str) -> list[Pose]:
    rng = np.random.default_rng([11, list(SPLITS).index(split), *map(ord, name)])
    return random_poses(_ct(name), POOL, rng, *POSES)


@lru_cache(maxsize=1)
def _bent(name: str, split: str, copy: int) -> CTVolume:
    rng = np.random.default_rng([13, list(SPLITS).index(split), copy, *map(ord, name)])
    return bent(_short(name), rng.uniform(10, 20), rng)


def bent(ct: CTVolume, mm: float, rng: np.random.Generator, wavelength_mm: float = 120.0) -> CTVolume:
    """The CT bent smoothly: a random displacement whose largest length within the tissue is `mm`.

    Args:
        wavelength_mm: distance of the field's control points.
    """
    import SimpleITK as sitk

    size = ct.spacing * ct.hu.shape[::-1]
    nodes = np.maximum(np.ceil(size / wavelength_mm).astype(int) + 2, 4)
    # The field is smooth: every 8 mm is enough, and the rest is linear in between.
    every = np.maximum(np.rint(8 / ct.spacing).astype(int), 1)
    tissue = sitk.GetImageFromArray((ct.hu[:: every[2], :: every[1], :: every[0]] > -500).astype(np.uint8))
    tissue.SetSpacing((ct.spacing * every).tolist())
    field = []
    for _ in range(3):
        coarse = sitk.GetImageFromArray(rng.normal(size=nodes[::-1]))
        coarse.SetSpacing((size / (nodes - 1)).tolist())
        filled = sitk.Resample(coarse, tissue, sitk.Transform(), sitk.sitkBSpline, 0.0, sitk.sitkFloat64)
        field.append(sitk.GetArrayFromImage(filled))
    vectors = np.stack(field, -1)
    inside = sitk.GetArrayFromImage(tissue) > 0
    vectors -= vectors[inside].mean(0)  # a common part would only be another pose
    vectors *= mm / np.linalg.norm(vectors[inside], axis=-1).max()
    displacement = sitk.GetImageFromArray(vectors, isVector=True)
    displacement.CopyInformation(tissue)
    grid = sitk.GetImageFromArray(ct.hu)
    grid.SetSpacing(ct.spacing.tolist())
    warp = sitk.DisplacementFieldTransform(displacement)
    moved = sitk.Resample(grid, grid, warp, sitk.sitkLinear, float(AIR_HU))
    return CTVolume.from_array(sitk.GetArrayFromImage(moved), ct.affine, ct.name)


def prepare(name: str, split: str, size: float, cache: Path) -> None:
    """Have plastimatch draw all images of a CT and split into the folder `cache`: one by one costs far more."""
    wanted = min(max(max(round(n * SPLITS[split] * size), 1) for n in COUNTS.values()), POOL)
    for _ in line_integrals(_ct(name), _poses(name, split)[:wanted], BENCH_CARM, cache):
        pass
