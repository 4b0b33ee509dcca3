"""Synthetic X-rays: line integrals of attenuation along the rays of a C-arm, and their derivatives by the pose."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..geometry.carm import CArm
from ..geometry.se3 import Array

if TYPE_CHECKING:
    from ..geometry.pose import Pose
    from ..imaging.attenuation import AttenuationGrid
    from ..imaging.ct import CTVolume

FloatArray = NDArray[np.float32]


class Projector:
    """A warm renderer over one grid on one device.

    Args:
        grid: What rays go through, from `CTVolume.level`.
        device: "auto" (a CUDA GPU where Warp finds one, else the CPU), "cpu" or "cuda:N".
        step: mm between samples along a ray; default the grid's smallest voxel size.

    Raises:
        InputError: the grid holds something other than finite numbers from 0 on, or the device does not exist.
    """

    def __init__(self, grid: AttenuationGrid, device: str = "auto", step: float | None = None) -> None:
        self.grid = grid
        self.step = float(step or min(grid.spacing))
        if not 0 < self.step < 1e4:
            raise InputError(f"The step is {step!r} mm: give a positive distance between samples.")
        mu = np.ascontiguousarray(grid.mu, np.float32)
        _check(mu)
        self.center = (grid.affine @ [*((n - 1) / 2 for n in mu.shape[::-1]), 1])[:3]
        corners = np.array([[*bits, 0] for bits in np.ndindex(2, 2, 2)]) * [*mu.shape[::-1], 0]
        self._radius = float(np.linalg.norm((corners - corners[-1] / 2) @ grid.affine.T, axis=1).max())
        length = float(np.median(grid.spacing * (np.array(mu.shape[::-1]) - 2)))
        self._backend = _backend(mu, self.step, length, device)
        self._pixels: tuple[Any, FloatArray] = (None, np.zeros((0, 2), np.float32))

    @property
    def backend(self) -> str:
        """ "warp" or "torch"."""
        return self._backend.name

    @property
    def device(self) -> str:
        """ "cpu", "cuda:0", ..."""
        return self._backend.device

    def project(
        self,
        carm: CArm,
        camera_to_ras: ArrayLike,
        pixels: ArrayLike | None = None,
        center: ArrayLike | None = None,
        jacobian: bool = False,
        intrinsics: bool = False,
    ) -> Any:
        """Line integrals, dimensionless, and on demand their derivatives by the pose.

        Args:
            carm: The camera.
            camera_to_ras: One pose (4, 4) or several (B, 4, 4), rigid, mm.
            pixels: Which rays: (N, 2) as (column, row), fractions allowed; default all pixels, row by row. Pass the
                same array again rather than an equal one: it is looked at once.
            center: c of the twist, (3,) or one per pose (B, 3), RAS mm; default the grid's centre.
            jacobian: Also return derivatives.
            intrinsics: Three more columns: derivatives by the source-to-detector distance (per mm) and by the principal
                point's column and row (per pixel).

        Returns:
            Images (N,) or (B, N), float32; with `jacobian` a tuple of these and (N, 6) or (B, N, 6): by
            xi = (omega, v), rad and mm, where x_cam <- exp(omega) (x_cam - c_cam) + c_cam + v moves the anatomy.
        """
        single, arguments = self._prepare(carm, camera_to_ras, pixels, center)
        images, jacobians = self._backend.project(*arguments, (9 if intrinsics else 6) if jacobian else 0)
        if single:
            images, jacobians = images[0], None if jacobians is None else jacobians[0]
        return (images, jacobians) if jacobian else images

    def project_torch(
        self,
        carm: CArm,
        camera_to_ras: ArrayLike,
        pixels: ArrayLike | None = None,
        center: ArrayLike | None = None,
        jacobian: bool = False,
        intrinsics: bool = False,
    ) -> Any:
        """As :meth:`project`, giving torch tensors on this projector's device, without a copy."""
        single, arguments = self._prepare(carm, camera_to_ras, pixels, center)
        from .torch_backend import project_torch

        images, jacobians = project_torch(self._backend, *arguments, (9 if intrinsics else 6) if jacobian else 0)
        if single:
            images, jacobians = images[0], None if jacobians is None else jacobians[0]
        return (images, jacobians) if jacobian else images

    def _prepare(
        self,
        carm: CArm,
        camera_to_ras: ArrayLike,
        pixels: ArrayLike | None,
        center: ArrayLike | None,
    ) -> Any:
        matrices = np.asarray(camera_to_ras, float)
        single = matrices.ndim == 2
        if single:
            matrices = matrices[None]
        index = self.grid.ras_to_index @ matrices
        poses = np.empty((len(matrices), 16))
        poses[:, :9] = index[:, :3, :3].reshape(-1, 9)
        poses[:, 9:12] = index[:, :3, 3]
        offset = (self.center if center is None else np.asarray(center, float)) - matrices[:, :3, 3]
        poses[:, 12:15] = (offset[:, None] @ matrices[:, :3, :3])[:, 0]  # the centre in the camera
        # Samples are numbered from where the grid can begin at the earliest: small numbers keep float32 exact.
        nearest = np.sqrt(((matrices[:, :3, 3] - self.center) ** 2).sum(-1)) - self._radius
        poses[:, 15] = np.floor(np.maximum(nearest / self.step, 0))
        camera = _camera(carm)
        rows, columns = carm.image_size
        if pixels is None:
            return single, (camera, poses, None, rows * columns, columns)
        known = self._pixels
        if pixels is not known[0]:
            array = np.ascontiguousarray(pixels, np.float32)
            if array.ndim != 2 or array.shape[1] != 2:
                raise InputError(f"Pixels have shape {array.shape}: (N, 2) as (column, row) is needed.")
            self._pixels = known = (pixels, array)
        return single, (camera, poses, known[1], len(known[1]), columns)


def render(
    ct: CTVolume,
    carm: CArm,
    pose: Pose,
    *,
    jacobian: bool = False,
    spacing: float | None = None,
    step: float | None = None,
    pixels: ArrayLike | None = None,
    device: str = "auto",
    mode: str = "trilinear",
    output: str = "attenuation",
) -> Any:
    """One synthetic X-ray of a CT.

    Args:
        ct: The CT.
        carm: The camera.
        pose: Where it is.
        jacobian: Also return derivatives by the pose, about `ct.center`.
        spacing: Average the CT to about this voxel size first, mm; default its own resolution.
        step: mm between samples along a ray; default the smallest voxel size.
        pixels: (N, 2) as (column, row): only these rays.
        device: "auto", "cpu" or "cuda:N".
        mode: "trilinear": samples of the interpolated CT; "exact": every voxel's value times the length of the ray
            within it (Siddon), slower and without derivatives.
        output: "attenuation": line integrals, bone bright; "transmission": their exp(-x), air 1.

    Returns:
        (rows, columns) float32, dimensionless (with `pixels`: (N,)); with `jacobian` a tuple with (rows, columns, 6),
        columns as :meth:`Projector.project` has them.

    Raises:
        InputError: an unknown mode, output or device, or derivatives of the exact mode.
    """
    if mode not in ("trilinear", "exact") or output not in ("attenuation", "transmission"):
        raise InputError(
            f"The mode is {mode!r} and the output {output!r}: use trilinear or exact, attenuation or transmission."
        )
    grid = ct.level(spacing or 0.0)
    columns: FloatArray | None = None
    if mode == "exact":
        if jacobian:
            raise InputError("The exact mode has no derivatives; use mode='trilinear' with jacobian=True.")
        from .warp_modes import exact

        image = exact(grid.mu, *_rays(grid, carm, pose, pixels), _warp_device(device))[0]
    else:
        image = _warm(grid, device, step).project(carm, pose.camera_to_ras, pixels, ct.center, jacobian)
        if jacobian:
            image, columns = image
    if output == "transmission":
        image = np.exp(-image)
        columns = None if columns is None else -image[..., None] * columns
    if pixels is None:
        image = image.reshape(carm.image_size)
        columns = None if columns is None else columns.reshape(*carm.image_size, 6)
    return image if columns is None else (image, columns)


def render_structures(
    ct: CTVolume,
    labels: ArrayLike,
    carm: CArm,
    pose: Pose,
    *,
    step: float | None = None,
    pixels: ArrayLike | None = None,
    device: str = "auto",
) -> FloatArray:
    """What each structure of a segmented CT adds to its X-ray, in one pass.

    Args:
        ct: The CT, rendered at its own resolution.
        labels: [k, j, i], shaped like `ct.hu`: whole numbers from 0 (no structure) to at most 255.
        carm, pose, step, pixels, device: As :func:`render` has them.

    Returns:
        (rows, columns, C) float32 with C one more than the largest label (with `pixels`: (N, C)). The channels add up
        to the image of :func:`render`.

    Raises:
        InputError: labels of another shape or out of range.
    """
    from .warp_modes import structures

    values = np.asarray(labels)
    if values.shape != ct.hu.shape:
        raise InputError(f"The labels have shape {values.shape}, the CT {ct.hu.shape}: they must be the same.")
    if values.min() < 0 or values.max() > 255:
        raise InputError(f"The labels run from {values.min()} to {values.max()}: number structures from 0 to 255.")
    grid = ct.level()
    padded = np.pad(values.astype(np.uint8), 1)
    rays = _rays(grid, carm, pose, pixels)
    image = structures(grid.mu, padded, float(step or min(grid.spacing)), *rays, _warp_device(device))[0]
    return image if pixels is not None else image.reshape(*carm.image_size, -1)


def _rays(grid: AttenuationGrid, carm: CArm, pose: Pose, pixels: ArrayLike | None) -> tuple[Array, Array, Array]:
    """Camera (5,), index from camera (1, 4, 4) and pixels (N, 2) as `warp_modes` takes them."""
    matrices = (grid.ras_to_index @ pose.camera_to_ras)[None]
    return _camera(carm), matrices, carm.pixel_grid() if pixels is None else np.asarray(pixels, float)


def _camera(carm: CArm) -> Array:
    """(5,): column and row spacing, principal point (column, row), source to detector."""
    (row, column), (u0, v0) = carm.pixel_spacing, carm.principal_point
    return np.array([column, row, u0, v0, carm.source_to_detector])


def _check(mu: FloatArray) -> None:
    """Raises InputError, with the voxel's place, where a value is not finite or negative."""
    low = mu.min()
    if np.isfinite(low) and np.isfinite(mu.max()) and low >= 0:
        return
    k, j, i = np.argwhere(~(np.isfinite(mu) & (mu >= 0)))[0]
    raise InputError(
        f"The grid holds {mu[k, j, i]} at voxel i={i}, j={j}, k={k}: attenuation must be finite and not negative."
    )


_last: list[tuple[AttenuationGrid, tuple[str, float | None], Projector]] = []  # what `render` used last


def _warm(grid: AttenuationGrid, device: str, step: float | None) -> Projector:
    """A projector, kept for the next call."""
    if not _last or _last[0][0] is not grid or _last[0][1] != (device, step):
        _last.clear()  # before the next one is made: memory may not hold two
        _last.append((grid, (device, step), Projector(grid, device, step)))
    return _last[0][2]


def _warp_device(device: str) -> str:
    """The Warp device a name stands for. Raises InputError where it does not exist; ImportError without Warp."""
    from .warp_backend import cuda_devices

    cuda = cuda_devices()
    if device == "auto":
        return cuda[0] if cuda else "cpu"
    device = "cuda:0" if device == "cuda" else device
    if device not in ("cpu", *cuda):
        raise InputError(f"The device {device!r} does not exist here: use {', '.join(('auto', 'cpu', *cuda))}.")
    return device


def _backend(mu: FloatArray, step: float, length: float, device: str) -> Any:
    """The backend for a device: Warp, or torch where Warp is missing or DIFFPOSESLICER_BACKEND=torch asks for it."""
    if os.environ.get("DIFFPOSESLICER_BACKEND") != "torch":
        try:
            from .warp_backend import WarpBackend
        except ImportError:
            pass
        else:
            return WarpBackend(mu, step, length, _warp_device(device))
    from .torch_backend import TorchBackend

    return TorchBackend(mu, step, device)
