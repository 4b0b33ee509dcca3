"""What a pretraining job is to do: the task (which poses of which view) and how to learn it. No torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose, view_rotation
from ..geometry.se3 import Array
from .sampling import half_ranges


@dataclass(frozen=True)
class Task:
    """Which poses a network is to recognise.

    Attributes:
        carm: The C-arm; its whole image is what the network sees.
        view, lao_rao, cran_caud: The nominal view; angles in degrees.
        center: Isocentre, RAS mm.
        rotation, translation: Half-ranges about the view, per camera axis (right, down, depth), degrees and mm.

    Raises:
        InputError: a value is not possible.
    """

    carm: CArm
    view: str
    center: tuple[float, float, float]
    rotation: tuple[float, float, float]
    translation: tuple[float, float, float]
    lao_rao: float = 0.0
    cran_caud: float = 0.0

    def __post_init__(self) -> None:
        for name in ("center", "rotation", "translation"):
            values = np.asarray(getattr(self, name), float)
            if values.shape != (3,) or not np.isfinite(values).all():
                raise InputError(f"The {name} is {getattr(self, name)!r}: three numbers are needed.")
            object.__setattr__(self, name, tuple(values.tolist()))
        self.ranges  # noqa: B018  (checks)
        self.nominal  # noqa: B018

    @property
    def ranges(self) -> Array:
        """Half-ranges (6,) of (omega, v), rad and mm."""
        return half_ranges(self.rotation, self.translation, self.carm)

    @property
    def axes(self) -> Array:
        """R0 (3, 3) of the view."""
        return view_rotation(self.view, self.lao_rao, self.cran_caud)

    @property
    def nominal(self) -> Pose:
        """The nominal pose."""
        return Pose.about(self.axes, self.center, self.carm)

    def pose(self, offset: ArrayLike) -> Pose:
        """The pose of an offset (omega, v)."""
        return Pose.about(self.axes, self.center, self.carm, offset)

    def to_json(self) -> dict[str, Any]:
        return {
            "carm": self.carm.to_json(),
            "view": self.view,
            "laoRao": self.lao_rao,
            "cranCaud": self.cran_caud,
            "center": list(self.center),
            "rotation": list(self.rotation),
            "translation": list(self.translation),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Task:
        return cls(
            carm=CArm.from_json(data["carm"]),
            view=data["view"],
            lao_rao=data["laoRao"],
            cran_caud=data["cranCaud"],
            center=data["center"],
            rotation=data["rotation"],
            translation=data["translation"],
        )


@dataclass(frozen=True)
class Settings:
    """How to learn.

    Attributes:
        seconds: Time for learning. It decides the schedule, so training ends on time on any machine.
        pixels: Longer side of the network's input.
        width, depths, stem, hidden: See `network.NetworkConfig`.
        voxel_mm: Resolution of the CT the training images are rendered from. Much above a pixel's size at the
            isocentre, a network takes blur for nearness and reads sharper images too far.
        batch: Images a step, over all processes together.
        rate: Peak learning rate.
        optimiser: "muon" or "adamw"; see `optimiser.Muon`.
        warm_up: Fraction of the time in which the rate rises.
        decay: Weight decay.
        average: Decay of the running average of the weights, which is what is used.
        loss: See `losses.PoseLoss`.
        similarity: Weight of 1 - NCC between the image and the rendering at the predicted pose, beside the loss; 0 for
            none. It needs a rendering with derivatives for every image.
        similarity_from: Fraction of the time after which it counts: fine-tuning.
        depth_weight: What an error in depth counts against one across the beam.
        second_looks: Share of the training images that are turned as a second look turns them (`recentring`); 0 for
            networks that look once.
        clutter, display: See `imaging.formation.draw_effects`.
        target: Success rate of the whole pipeline that ends the training early; 0 for never.
        target_mm: Median validation error of the network's first look that must be reached before that is tried, as a
            margin for images that are unlike the simulated ones; 0 for none.
        trial_cases: Held-back fluoroscopies that must show it.
        cases: Cases of the certificate; 0 for none.
        certify_seconds: The most time the certificate may take, on top of `seconds`.
        most_steps: Stop after so many steps (tests); 0 for no limit.
    """

    seconds: float
    pixels: int = 64
    width: int = 48
    depths: tuple[int, ...] = (1, 1, 1)
    stem: int = 4
    hidden: int = 256
    voxel_mm: float = 4.0
    batch: int = 32
    rate: float = 2e-3
    optimiser: str = "muon"
    warm_up: float = 0.1
    decay: float = 1e-2
    average: float = 0.995
    loss: str = "landmark"
    similarity: float = 0.0
    similarity_from: float = 0.0
    depth_weight: float = 0.5
    second_looks: float = 0.0
    clutter: float = 0.2
    display: float = 0.5
    target: float = 0.0
    target_mm: float = 0.0
    trial_cases: int = 100
    cases: int = 0
    certify_seconds: float = 0.0
    most_steps: int = 0

    def shape(self) -> tuple[Any, ...]:
        """What decides the network's tensors."""
        return self.pixels, self.width, self.depths, self.stem, self.hidden

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "depths": list(self.depths)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Settings:
        known: dict[str, Any] = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        return cls(**known | {"depths": tuple(data["depths"])})


# By name; users choose among the first three. `tiny` is for tests: it learns next to nothing.
PRESETS = {
    "quick": Settings(
        seconds=85, second_looks=0.5, target=0.99, target_mm=15.0, trial_cases=30, cases=200, certify_seconds=150
    ),
    "standard": Settings(
        seconds=640,
        width=64,
        second_looks=0.5,
        clutter=0.45,
        target=0.99,
        target_mm=7.0,
        cases=300,
        certify_seconds=245,
    ),
    "thorough": Settings(
        seconds=3000,
        pixels=96,
        width=64,
        depths=(1, 2, 2),
        voxel_mm=3.0,
        second_looks=0.5,
        clutter=0.4,
        target=0.995,
        target_mm=6.0,
        trial_cases=200,
        cases=500,
        certify_seconds=1200,
    ),
    # DiffPose's recipe (Gopalakrishnan, CVPR 2024) on our images and renderer, to compare with: ResNet-18's layout,
    # 256 pixels, batches of 8, its pose loss and global NCC in its proportions, no clutter.
    "paper": Settings(
        seconds=85,
        pixels=256,
        width=64,
        depths=(2, 2, 2, 2),
        batch=8,
        rate=1e-3,
        optimiser="adamw",
        decay=0.0,
        loss="geodesic",
        similarity=100.0,
        clutter=0.0,
        display=0.0,
    ),
    "tiny": Settings(seconds=3, pixels=32, width=16, depths=(1, 1), hidden=64, voxel_mm=12.0, batch=16),
}


def for_processes(settings: Settings, world: int) -> Settings:
    """The settings of `world` processes that work on one job: each brings the batch that one alone would take.

    The rate grows with the square root of the batch, as AdamW's steps, whose size does not follow the gradient's, want
    it (Malladi et al., NeurIPS 2022).
    """
    return replace(settings, batch=settings.batch * world, rate=settings.rate * world**0.5)


def preset(name: str, **changes: Any) -> Settings:
    """The settings of a name, with changes.

    Raises:
        InputError: there is no such preset.
    """
    if name not in PRESETS:
        raise InputError(f"The preset is {name!r}: use quick, standard or thorough.")
    return replace(PRESETS[name], **changes)
