"""The two datasets of the paper, DeepFluoro and Ljubljana, read into the objects everything else uses.

DeepFluoro (Grupp et al. 2020, doi 10.7281/T1/IFSXNV) and Ljubljana as DiffPose packs it are HDF5 files of hundreds of
megabytes and more that must be fetched by hand; docs/studies.md says what of their layout is known and what is assumed.
Both are read through h5py. 2D landmarks, where a file has them, are compared on reading with what the pose projects.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.coordinates import LPS_FROM_RAS, flip_ras_lps, transform_points
from ..geometry.files import rigid_matrix
from ..geometry.pose import Pose
from ..geometry.se3 import Array, inverse
from ..imaging.ct import CTVolume
from ..imaging.orientation import camera_point
from ..imaging.xray import XrayImage

SPECIMENS = ("17-1882", "18-1109", "18-0725", "18-2799", "18-2800", "17-1905")
LJUBLJANA_VIEWS = ("ap", "lat", "ap-max", "lat-max")
# DeepFluoro's camera has Z towards the source and stores images as seen towards the source: ours mirrored.
DEEPFLUORO_CAMERA = np.diag([-1.0, 1.0, -1.0, 1.0])
# Its collimator's edge, pixels on every side.
DEEPFLUORO_BORDER = 50
# Landmarks that are farther than this from where the pose projects them mean that a convention was misread, pixels.
REPROJECTION_LIMIT = 1.0


@dataclass(frozen=True, eq=False)
class Fluoroscopy:
    """One X-ray of a dataset.

    Attributes:
        name: its place in the file.
        xray: the image with its geometry, in the camera frame.
        pose: what the dataset states as true.
        landmarks: name -> (column, row) in the camera's image; may lie outside of it.
        reprojection: largest distance (pixels) of a 2D landmark from where the pose projects the 3D one; None where
            the file has no 2D landmarks.
    """

    name: str
    xray: XrayImage
    pose: Pose
    landmarks: dict[str, Array]
    reprojection: float | None


@dataclass(frozen=True, eq=False)
class Subject:
    """One specimen or patient of a dataset; its X-rays are read when asked for.

    Attributes:
        name: as the file has it.
        ct: the volume.
        labels: [k, j, i] structure numbers, or None; `structures` names them.
        landmarks: name -> (3,) RAS mm.
        fluoroscopies: the names :meth:`read` takes.
    """

    name: str
    ct: CTVolume
    labels: NDArray[np.uint8] | None
    structures: dict[int, str]
    landmarks: dict[str, Array]
    fluoroscopies: tuple[str, ...]
    _read: Callable[[str], Fluoroscopy] = field(repr=False)

    @property
    def points(self) -> Array:
        """The landmarks as (n, 3) RAS mm: where errors are measured."""
        return np.array(list(self.landmarks.values())).reshape(-1, 3)

    def read(self, name: str) -> Fluoroscopy:
        """One X-ray, its landmarks checked.

        Raises:
            InputError: the file is damaged, or the landmarks do not lie where the pose projects them.
        """
        return self._read(name)


def read_deepfluoro(path: str | os.PathLike[str], specimen: str, limit: float = REPROJECTION_LIMIT) -> Subject:
    """One specimen of `ipcai_2020_full_res_data.h5` or a file of its layout.

    Args:
        path: the file.
        specimen: one of SPECIMENS.
        limit: pixels by which landmarks may miss.

    Raises:
        InputError: no such file, specimen or entry; h5py is missing.
    """
    with _opened(path) as file:
        group = _entry(file, specimen)
        ct = CTVolume.from_array(_values(group, "vol/pixels"), _affine(group, "vol"), specimen)
        labels, structures = None, {}
        if "vol-seg/image/pixels" in group:
            labels = _values(group, "vol-seg/image/pixels").astype(np.uint8)
            names = group.get("vol-seg/labels-def", {})
            structures = {int(number): _text(names[number]) for number in names}
        landmarks = {
            name: transform_points(LPS_FROM_RAS, _values(group, f"vol-landmarks/{name}").reshape(3).astype(float))
            for name in group.get("vol-landmarks", {})
        }
        names = tuple(sorted(_entry(group, "projections")))

    def read(name: str) -> Fluoroscopy:
        with _opened(path) as file:
            return _deepfluoro_projection(file, specimen, name, landmarks, limit)

    return Subject(specimen, ct, labels, structures, landmarks, names, read)


def _deepfluoro_projection(
    file: Any, specimen: str, name: str, landmarks: dict[str, Array], limit: float
) -> Fluoroscopy:
    group = _entry(file, f"{specimen}/projections/{name}")
    stored = _values(group, "image/pixels")
    upside_down = bool(_values(group, "rot-180-for-up")) if "rot-180-for-up" in group else False
    parameters = _entry(file, "proj-params")
    carm = _camera(
        _values(parameters, "intrinsic"),
        stored.shape,
        (float(_values(parameters, "pixel-row-spacing")), float(_values(parameters, "pixel-col-spacing"))),
        mirrored=True,
        rotation=180 if upside_down else 0,
    )
    # Camera (theirs) -> their camera world -> volume, LPS.
    to_world = inverse(rigid_matrix(_values(parameters, "extrinsic"), f"extrinsic of {specimen}"))
    to_volume = rigid_matrix(_values(group, "gt-poses/cam-to-pelvis-vol"), f"pose of {specimen}, {name}")
    turned = np.diag([-1.0, -1.0, 1.0, 1.0]) if upside_down else np.eye(4)
    pose = Pose(LPS_FROM_RAS @ to_volume @ to_world @ DEEPFLUORO_CAMERA @ turned)
    seen = {
        key: np.array(camera_point(tuple(_values(group, f"gt-landmarks/{key}").reshape(2).astype(float)), carm))
        for key in group.get("gt-landmarks", {})
    }
    missed = _check(carm, pose, landmarks, seen, limit, f"{specimen}, {name}")
    border = DEEPFLUORO_BORDER if min(stored.shape) > 8 * DEEPFLUORO_BORDER else 0
    inner = (stored.shape[0] - 2 * border, stored.shape[1] - 2 * border)
    xray = XrayImage.from_array(
        stored[border : border + inner[0], border : border + inner[1]],
        carm.cropped(border, border, inner),
        name=f"{specimen} {name}",
        why="the dataset says so",
    )
    return Fluoroscopy(name, xray, pose, {key: point - border for key, point in seen.items()}, missed)


def read_ljubljana(path: str | os.PathLike[str], subject: str, limit: float = REPROJECTION_LIMIT) -> Subject:
    """One patient of `ljubljana.h5` as DiffPose packs it: "subject01" to "subject10", X-rays named as LJUBLJANA_VIEWS.

    The volume is angiographic: its values are the scanner's, not Hounsfield units, and its axes are taken for LPS.

    Raises:
        InputError: as :func:`read_deepfluoro`.
    """
    with _opened(path) as file:
        group = _entry(file, subject)
        pixels, spacing = _values(group, "volume/pixels"), _values(group, "volume/spacing").ravel().astype(float)
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = spacing / 2  # the corner of the first voxel is the origin
        # Stored [i, j, k].
        ct = CTVolume.from_array(np.ascontiguousarray(pixels.transpose(2, 1, 0)), flip_ras_lps(affine), subject)
        points = _values(group, "points").reshape(-1, 3).astype(float) if "points" in group else np.zeros((0, 3))
        landmarks = {f"{n:02d}": transform_points(LPS_FROM_RAS, point) for n, point in enumerate(points)}
        names = tuple(view for view in LJUBLJANA_VIEWS if f"proj-{view}" in group)

    def read(name: str) -> Fluoroscopy:
        with _opened(path) as file:
            group = _entry(file, f"{subject}/proj-{name}")
            stored = _values(group, "pixels")
            spacing = float(_values(group, "row-spacing")), float(_values(group, "col-spacing"))
            carm = _camera(_values(group, "intrinsic"), stored.shape, spacing)
            to_camera = rigid_matrix(_values(group, "extrinsic"), f"extrinsic of {subject}, {name}")
            pose = Pose(LPS_FROM_RAS @ inverse(to_camera))
            seen = {}
            if "points" in group:  # not in DiffPose's own file; ours for tests have it
                flat = _values(group, "points").reshape(-1, 2).astype(float)
                seen = {key: np.array(point) for key, point in zip(landmarks, flat, strict=True)}
            missed = _check(carm, pose, landmarks, seen, limit, f"{subject}, {name}")
            xray = XrayImage.from_array(stored, carm, name=f"{subject} {name}", why="the dataset says so")
            return Fluoroscopy(name, xray, pose, seen, missed)

    return Subject(subject, ct, None, {}, landmarks, names, read)


def _camera(
    intrinsic: NDArray, size: tuple[int, ...], spacing: tuple[float, float], mirrored: bool = False, rotation: int = 0
) -> CArm:
    """The C-arm of a 3x3 intrinsic matrix in stored pixels. The focal length's sign is a matter of their camera."""
    lengths = abs(float(intrinsic[0, 0])) * spacing[1], abs(float(intrinsic[1, 1])) * spacing[0]
    if not np.isclose(*lengths, rtol=1e-3):
        raise InputError(f"The intrinsic matrix means {lengths[0]:g} and {lengths[1]:g} mm to the detector.")
    carm = CArm(lengths[0], (size[0], size[1]), spacing, intensity="transmission", mirrored=mirrored, rotation=rotation)
    point = camera_point((float(intrinsic[0, 2]), float(intrinsic[1, 2])), carm)
    return CArm(
        lengths[0],
        carm.image_size,
        spacing,
        point,
        intensity="transmission",
        mirrored=mirrored,
        rotation=rotation,
    )


def _check(
    carm: CArm, pose: Pose, landmarks: dict[str, Array], seen: dict[str, Array], limit: float, what: str
) -> float | None:
    """Largest distance in pixels between projected and stated landmarks. Raises InputError beyond `limit`."""
    shared = [name for name in seen if name in landmarks]
    if not shared:
        return None
    points = np.array([landmarks[name] for name in shared])
    expected = carm.project(transform_points(pose.ras_to_camera, points))
    missed = np.linalg.norm(expected - np.array([seen[name] for name in shared]), axis=1)
    worst = float(np.nanmax(missed)) if np.isfinite(missed).all() else float("inf")
    if worst > limit:
        raise InputError(
            f"The landmarks of {what} lie up to {worst:.1f} pixels from where the stated pose projects them (at most "
            f"{limit:g} is allowed): the file's geometry is not that of the layout."
        )
    return worst


def _affine(group: Any, name: str) -> Array:
    """(i, j, k, 1) -> RAS mm of an image stored with LPS spacing, origin and direction."""
    affine = np.eye(4)
    affine[:3, :3] = _values(group, f"{name}/dir-mat").reshape(3, 3) * _values(group, f"{name}/spacing").ravel()
    affine[:3, 3] = _values(group, f"{name}/origin").ravel()
    return flip_ras_lps(affine)


def _opened(path: str | os.PathLike[str]) -> Any:
    try:
        import h5py
    except ImportError:
        raise InputError("Datasets need h5py: run `pip install h5py` and try again.") from None
    try:
        return h5py.File(path, "r")
    except OSError:
        raise InputError(f"The dataset {os.path.basename(path)} is not there or is no HDF5 file.") from None


def _entry(group: Any, name: str) -> Any:
    if name not in group:
        held = ", ".join(list(group)[:12])
        raise InputError(f"The dataset has no entry {group.name.rstrip('/')}/{name}; it holds {held}.")
    return group[name]


def _values(group: Any, name: str) -> NDArray:
    return np.asarray(_entry(group, name)[()])


def _text(entry: Any) -> str:
    value = entry[()]
    return value.decode() if isinstance(value, bytes) else str(value)
