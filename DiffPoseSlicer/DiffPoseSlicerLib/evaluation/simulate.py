"""Fluoroscopies simulated by our own renderer, with the true pose of each.

Scatter, noise and the rest come from `stress.expose`. Images of an independent simulator, for honest tests, are in
`cases`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import Cancelled
from ..geometry.carm import CArm
from ..geometry.files import write_json
from ..geometry.pose import Pose, view_rotation
from ..imaging.ct import CTVolume
from ..imaging.orientation import stored_spacing, to_stored
from ..pretraining.sampling import sample_offsets
from ..rendering.renderer import render
from .images import write_pixels
from .stress import CLEAN, Exposure, expose

_WHITE = 65535
# Line integral that a simulated image stored as attenuation shows as white.
_ATTENUATION_MAX = 12.0


@dataclass(frozen=True, eq=False)
class Simulated:
    """One simulated fluoroscopy.

    Attributes:
        stored: [row, column] uint16, as a detector with this C-arm stores it.
        carm: its geometry, `intensity` filled in.
        truth: the true pose.
        center: (3,) RAS mm, where the nominal view has its isocentre.
    """

    stored: NDArray[np.uint16]
    carm: CArm
    truth: Pose
    center: NDArray[np.float64]

    def truth_json(self) -> dict[str, Any]:
        """The content of a truth file: a pose file that also knows the C-arm and the centre."""
        return self.truth.to_json() | {"carm": self.carm.to_json(), "center": self.center.tolist()}


def simulate(
    ct: CTVolume,
    carm: CArm,
    view: str = "AP",
    *,
    lao_rao: float = 0.0,
    cran_caud: float = 0.0,
    rotation: ArrayLike = (30, 30, 30),
    translation: ArrayLike = (50, 50, 100),
    center: ArrayLike | None = None,
    n: int = 20,
    seed: int = 0,
    exposure: Exposure = CLEAN,
    device: str = "auto",
    cancel: Callable[[], bool] | None = None,
) -> Iterator[Simulated]:
    """Fluoroscopies at poses uniform in a box about a view. The same seed gives the same images, whatever n is.

    Args:
        ct: the CT.
        carm: the C-arm; where it does not state an intensity, images are transmission. `mirrored` and `rotation` are
            applied.
        view, lao_rao, cran_caud, center: the nominal view and its isocentre (default the CT's centre).
        rotation, translation: half-ranges per camera axis (right, down, depth), degrees and mm.
        n, seed: how many, and which.
        exposure: scatter, noise and so on.
        device: "auto", "cpu" or "cuda:N".
        cancel: asked before every image.

    Raises:
        InputError: a value is not possible.
        Cancelled: `cancel` said so.
    """
    carm = replace(carm, intensity=carm.intensity or "transmission")
    center = np.asarray(ct.center if center is None else center, float)
    nominal = view_rotation(view, lao_rao, cran_caud)
    for number in range(n):
        if cancel and cancel():
            raise Cancelled
        rng = np.random.default_rng([seed, number])
        pose = Pose.about(nominal, center, carm, sample_offsets(rng, 1, rotation, translation)[0])
        seen = expose(render(ct, carm, pose, device=device), exposure, rng).pixels.astype(float)
        if carm.intensity == "attenuation":
            darkest = np.exp(-_ATTENUATION_MAX)
            seen = -np.log(np.maximum(seen, darkest)) / _ATTENUATION_MAX
        yield Simulated(to_stored(np.rint(seen * _WHITE).astype(np.uint16), carm), carm, pose, center)


def write_simulated(images: Iterator[Simulated], folder: Path, ending: str = ".png") -> Iterator[Path]:
    """Make the folder and write carm.json, then, image by image, xray_000.png (or .tiff) and truth_000.json.

    Gives the path of each image once it is written.
    """
    for number, image in enumerate(images):
        if number == 0:
            folder.mkdir(parents=True, exist_ok=True)
            image.carm.write(folder / "carm.json")
        path = folder / f"xray_{number:03d}{ending}"
        write_pixels(path, image.stored, stored_spacing(image.carm))
        write_json(folder / f"truth_{number:03d}.json", image.truth_json())
        yield path
