"""X-rays by plastimatch: an independent, exact ray tracer to check and challenge our own renderer with.

plastimatch (https://plastimatch.org) sums each voxel's attenuation times the length of the ray within it: no
interpolation, no sampling, nothing in common with our kernels. Tests, benchmarks and the demo use it; get it with
`pip install plastimatch`.

It ignores a volume's direction matrix, so it is given the voxels in a frame of their own (axes i, j, k, origin at the
centre), in which the camera's pose is stated. That serves oblique CTs too.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse
from ..imaging.attenuation import hu_to_mu
from ..imaging.ct import CTVolume

Image = NDArray[np.float32]
AttenuationCurve = Callable[[NDArray], NDArray]


def own_hu_to_mu(hu: ArrayLike) -> Image:
    """plastimatch's own attenuation curve (`-P preprocess`): water 0.022 per mm, nothing at and below -800 HU."""
    values = np.asarray(hu, np.float32)
    return np.where(values <= -800, 0, values * np.float32(0.022 / 1000) + np.float32(0.022)).astype(np.float32)


def executable() -> str:
    """Path of the plastimatch program. Raises InputError where it is not installed."""
    try:
        for file in importlib.metadata.files("plastimatch") or []:
            if file.parts[-2:-1] == ("bin",) and file.parts[0] == "plastimatch" and file.stem == "plastimatch":
                return str(file.locate())
    except importlib.metadata.PackageNotFoundError:
        pass
    found = shutil.which("plastimatch")
    if found is None:
        raise InputError("plastimatch is not installed: run `pip install plastimatch` and try again.")
    return found


class Plastimatch:
    """One CT, handed to plastimatch once, for any number of X-rays. Use it in a `with` statement, or call `close`.

    Args:
        ct: The CT; its voxel axes must be orthogonal, in whatever direction.
        hu_to_mu: The attenuation curve, HU to 1/mm: our own by default; :func:`own_hu_to_mu` for plastimatch's.

    Raises:
        InputError: the CT is sheared, or plastimatch is not installed.
    """

    def __init__(self, ct: CTVolume, hu_to_mu: AttenuationCurve = hu_to_mu) -> None:
        self._program = executable()
        self._grid_from_ras, voxels = _own_frame(ct)
        self._folder = tempfile.TemporaryDirectory(prefix="plastimatch-")
        self._volume = Path(self._folder.name, "volume.mha")
        _write_mha(self._volume, np.asarray(hu_to_mu(voxels), np.float32), ct.spacing)

    def drr(self, carm: CArm, pose: Pose) -> Image:
        """Line integrals (dimensionless, bone bright) as the camera sees them: (rows, columns) float32."""
        rows, columns = carm.image_size
        row, column = carm.pixel_spacing
        u0, v0 = carm.principal_point
        camera = self._grid_from_ras @ pose.camera_to_ras
        source, (_, down, beam) = camera[:3, 3], camera[:3, :3].T
        # The point named isocentre only serves to state where the source is: any point on the central ray will do.
        depth = carm.source_to_isocenter
        prefix = Path(self._folder.name, "drr")
        arguments = {
            "--threading": "cpu",
            "--algorithm": "exact",
            "--hu-conversion": "none",
            "--output-format": "pfm",
            # Its help says "row col" for these three; it takes columns first.
            "--dim": (columns, rows),
            "--detector-size": (columns * column, rows * row),
            "--image-center": (u0, v0),
            "--sad": depth,
            "--sid": carm.source_to_detector,
            "--isocenter": source + depth * beam,
            "--nrm": -beam,
            "--vup": -down,
            "--input": self._volume,
            "--output": prefix,
        }
        command = [self._program, "drr", *(word for pair in arguments.items() for word in map(_word, pair))]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        files = sorted(prefix.parent.glob("drr*.pfm"))
        if done.returncode or not files:
            raise RuntimeError(f"plastimatch failed ({done.returncode}): {(done.stderr or done.stdout)[-500:]}")
        try:
            # It states centimetres, we millimetres.
            return 10 * _read_pfm(files[0], rows, columns)
        finally:
            for file in prefix.parent.glob("drr*"):
                file.unlink()

    def close(self) -> None:
        """Remove the temporary files."""
        self._folder.cleanup()

    def __enter__(self) -> Plastimatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def plastimatch_drr(ct: CTVolume, carm: CArm, pose: Pose, hu_to_mu: AttenuationCurve = hu_to_mu) -> Image:
    """One X-ray by plastimatch: line integrals, (rows, columns) float32. Arguments and errors as of the class above."""
    with Plastimatch(ct, hu_to_mu) as xrays:
        return xrays.drr(carm, pose)


def fluoroscopy(
    line_integrals: ArrayLike, rng: np.random.Generator, *, scatter: float = 0.3, photons: float = 5000.0
) -> NDArray[np.uint16]:
    """What a detector would store: a transmission image (air bright) with scatter and quantum noise.

    Scattered photons add a pedestal that varies slowly over the image: the primary image smeared widely. Exposure is
    set, as a C-arm does by itself, so that the bright parts of the image fill the detector's range.

    Args:
        line_integrals: (rows, columns), dimensionless.
        rng: Source of the noise.
        scatter: Scattered over primary photons.
        photons: Photons a pixel where the image is brightest (their square root is the noise).

    Returns:
        (rows, columns) uint16, proportional to intensity.
    """
    primary = np.exp(-np.asarray(line_integrals, float))
    intensity = primary + scatter * _smeared(primary)
    intensity /= np.percentile(intensity, 99.5)
    noisy = rng.poisson(intensity * photons) / photons
    return np.rint(np.clip(noisy * 60000, 0, 65535)).astype(np.uint16)


def _smeared(image: Array) -> Array:
    """A Gaussian blur whose standard deviation is a quarter of each side, mirrored at the borders."""
    for axis in (0, 1):
        n = image.shape[axis]
        offsets = np.arange(n)[:, None] - np.arange(-n, 2 * n)[None]
        weights = np.exp(-0.5 * (offsets / (n / 4)) ** 2)
        folded = weights[:, n : 2 * n] + weights[:, n - 1 :: -1] + weights[:, : 2 * n - 1 : -1]
        image = np.moveaxis(np.tensordot(folded / folded.sum(1, keepdims=True), image, (1, axis)), 0, axis)
    return image


def _own_frame(ct: CTVolume) -> tuple[Array, NDArray]:
    """RAS to a frame along the voxel axes with the CT's centre as origin (4x4, mm), and the voxels in it [k, j, i].

    The frame is right-handed: where the voxel axes are not, the first is reversed.
    """
    voxels, axes = ct.hu, ct.affine[:3, :3] / ct.spacing
    if np.linalg.det(axes) < 0:
        voxels, axes = voxels[:, :, ::-1], axes * [-1, 1, 1]
    skew = np.abs(axes.T @ axes - np.eye(3)).max()
    if skew > 1e-4:
        raise InputError(
            f"The CT's voxel axes are sheared (by {np.degrees(np.arcsin(min(skew, 1))):.2g} degrees), which "
            "plastimatch cannot represent; resample the CT to orthogonal axes first."
        )
    left, _, right = np.linalg.svd(axes)
    to_ras = np.eye(4)
    to_ras[:3, :3], to_ras[:3, 3] = left @ right, ct.center
    return inverse(to_ras), voxels


def _write_mha(path: Path, voxels: Image, spacing: Array) -> None:
    """A MetaImage centred on the origin, with identity direction."""
    size = np.array(voxels.shape[::-1])
    header = {
        "ObjectType": "Image",
        "NDims": 3,
        "BinaryData": True,
        "BinaryDataByteOrderMSB": False,
        "TransformMatrix": np.eye(3).ravel(),
        "Offset": -(size - 1) / 2 * spacing,
        "ElementSpacing": spacing,
        "DimSize": size,
        "ElementType": "MET_FLOAT",
        "ElementDataFile": "LOCAL",
    }
    with open(path, "wb") as file:
        file.write("".join(f"{key} = {_word(value)}\n" for key, value in header.items()).encode())
        file.write(np.ascontiguousarray(voxels, "<f4").data)


def _read_pfm(path: Path, rows: int, columns: int) -> Image:
    """The pixels of plastimatch's PFM files, which run from the top (the format says: from the bottom)."""
    data = path.read_bytes()
    pixels = np.frombuffer(data[len(data) - 4 * rows * columns :], "<f4")
    return pixels.reshape(rows, columns).astype(np.float32)


def _word(value: object) -> str:
    """A command line argument or header value: numbers in full, vectors joined by spaces."""
    if isinstance(value, (str, os.PathLike, bool)):
        return str(value)
    return " ".join(f"{number:.9g}" for number in np.atleast_1d(np.asarray(value, float)))
