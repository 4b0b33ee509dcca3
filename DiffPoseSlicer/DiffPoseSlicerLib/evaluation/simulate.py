"""Fluoroscopies simulated by our own renderer, with the true pose of each.

Scatter and noise come from `stress.expose`, or everything that training draws from `imaging.formation`. Images of an
independent simulator, for honest tests, are in `cases`.
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
from ..imaging.dicom_export import write_dicom_xray
from ..imaging.formation import draw_effects, form
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
        transmission: [row, column] in the camera frame, air at about 1.
        carm: its geometry, `intensity` filled in.
        truth: the true pose.
        nominal: the pose in the middle of the box: what the operator set.
        center: (3,) RAS mm, where the nominal view has its isocentre.
    """

    transmission: NDArray[np.float32]
    carm: CArm
    truth: Pose
    nominal: Pose
    center: NDArray[np.float64]

    @property
    def stored(self) -> NDArray[np.uint16]:
        """[row, column] as a detector with this C-arm stores it."""
        seen = self.transmission.astype(float)
        if self.carm.intensity == "attenuation":
            darkest = np.exp(-_ATTENUATION_MAX)
            seen = -np.log(np.maximum(seen, darkest)) / _ATTENUATION_MAX
        return to_stored(np.rint(seen * _WHITE).astype(np.uint16), self.carm)

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
    exposure: Exposure | None = CLEAN,
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
        exposure: scatter, noise and so on; None for all that training draws (`imaging.formation`): beam hardening,
            blur, scatter, noise, display curves, and at times instruments, collimators and limbs.
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
        pose = Pose.about(nominal, center, carm, sample_offsets(rng, 1, rotation, translation, carm)[0])
        paths = render(ct, carm, pose, device=device)
        seen = _realistic(paths, carm, rng) if exposure is None else expose(paths, exposure, rng).pixels
        yield Simulated(seen, carm, pose, Pose.about(nominal, center, carm), center)


def _realistic(paths: NDArray[np.float32], carm: CArm, rng: np.random.Generator) -> NDArray[np.float32]:
    """The transmission image of line integrals [row, column] as images for training are formed."""
    effects = draw_effects(rng, 1, carm)
    attenuation, _ = form(paths[None], effects, carm, rng.standard_normal((1, *paths.shape), dtype=np.float32))
    transmission = np.exp(-attenuation[0])
    return np.clip(transmission / np.percentile(transmission, 99.8), 0, 1).astype(np.float32)


def write_simulated(
    images: Iterator[Simulated], folder: Path, ending: str = ".dcm", photometric: str = "MONOCHROME2"
) -> Iterator[Path]:
    """Make the folder and write carm.json, then, image by image, xray_000.dcm (.png, .tiff) and truth_000.json.

    DICOM (with its `photometric` interpretation) states the positioner's angles of the nominal view; its values are LOG
    where the C-arm's intensity is attenuation, else LIN. Gives the path of each image once it is written.
    """
    for number, image in enumerate(images):
        if number == 0:
            folder.mkdir(parents=True, exist_ok=True)
            image.carm.write(folder / "carm.json")
        path = folder / f"xray_{number:03d}{ending}"
        if ending == ".dcm":
            attenuation = -np.log(np.maximum(image.transmission, 1 / _WHITE))
            kind = "LOG" if image.carm.intensity == "attenuation" else "LIN"
            write_dicom_xray(
                path, attenuation, image.carm, image.nominal,
                relationship=kind, photometric=photometric, derived=False,
            )  # fmt: skip
        else:
            write_pixels(path, image.stored, stored_spacing(image.carm))
        write_json(folder / f"truth_{number:03d}.json", image.truth_json())
        yield path
