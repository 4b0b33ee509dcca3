"""The renderer in plain PyTorch: the reference for the kernels, and the whole pipeline's fallback without Warp.

Same lattice of samples, same trilinear interpolant, in float32 or float64. The images are differentiable by autograd
with respect to the pose and the camera; the closed-form Jacobian is computed too.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..errors import InputError

# Samples held in memory at once: about 30 temporaries of this many numbers.
_CHUNK = 1 << 20
# The border of the padded grid, where the interpolant is all but zero, is left out by this many voxels.
MARGIN = 1e-3


def directions(camera: torch.Tensor, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors from the source to pixels (N, 3) and distances (N,), camera frame, mm.

    Args:
        camera: (5,): column and row spacing, principal point (column, row), source to detector.
        pixels: (N, 2).
    """
    x, y = (
        (pixels[:, 0] - camera[2]) * camera[0],
        (pixels[:, 1] - camera[3]) * camera[1],
    )
    points = torch.stack([x, y, camera[4].expand_as(x)], -1)
    length = points.norm(dim=-1)
    return points / length[:, None], length


def line_integrals(
    mu: torch.Tensor,
    index_from_camera: torch.Tensor,
    rays: torch.Tensor,
    lengths: torch.Tensor,
    step: float,
    sums: bool = False,
) -> Any:
    """Line integrals (N,) along rays of one pose; differentiable with respect to `index_from_camera` and `rays`.

    Args:
        mu: (nz, ny, nx), padded with zeros.
        index_from_camera: (3, 4): camera mm to index (i, j, k).
        rays: (N, 3) unit vectors in the camera frame.
        lengths: (N,) where rays end, mm.
        step: mm.
        sums: Also return (N, 3) and (N, 3): integrals, along the ray, of the gradient of mu (per index) and of that
            times the distance from the source.
    """
    shape = torch.tensor(mu.shape[::-1], dtype=rays.dtype, device=rays.device)
    source, direction = index_from_camera[:, 3], rays @ index_from_camera[:, :3].T
    with torch.no_grad():  # which samples count does not depend smoothly on anything; it need not: they meet air
        flat = direction.abs() < 1e-12
        safe = torch.where(flat, torch.ones_like(direction), direction)
        a, b = (MARGIN - source) / safe, (shape - 1 - MARGIN - source) / safe
        inside = ((source >= MARGIN) & (source <= shape - 1 - MARGIN)).expand_as(flat)
        infinity = torch.full_like(a, torch.inf)
        first = torch.where(flat, torch.where(inside, -infinity, infinity), torch.minimum(a, b)).amax(-1).clamp(min=0)
        last = torch.minimum(torch.where(flat, infinity, torch.maximum(a, b)).amin(-1), lengths)
        start = torch.ceil(first / step - 0.5)
        count = torch.where(last < first, 0, torch.floor(last / step - 0.5) - start + 1).clamp(min=0)
        most = int(count.max()) if count.numel() else 0
        number = torch.arange(most, dtype=rays.dtype, device=rays.device)
        used = number < count[:, None]
        distance = (torch.where(count > 0, start, 0)[:, None] + number + 0.5) * step
    x = source + direction[:, None] * distance[..., None]
    with torch.no_grad():
        corner = torch.minimum(x.floor().clamp(min=0), shape - 2)
        corner = torch.where(used[..., None], corner, 0).long()
        offset = (corner[..., 2] * mu.shape[1] + corner[..., 1]) * mu.shape[2] + corner[..., 0]
    f = x - corner
    flat_mu = mu.reshape(-1)
    dy, dz = mu.shape[2], mu.shape[1] * mu.shape[2]
    c = [flat_mu[offset + shift] for shift in (0, 1, dy, dy + 1, dz, dz + 1, dz + dy, dz + dy + 1)]
    fx, fy, fz = f.unbind(-1)
    e = [c[1] - c[0], c[3] - c[2], c[5] - c[4], c[7] - c[6]]
    a0, a1, a2, a3 = (
        c[0] + fx * e[0],
        c[2] + fx * e[1],
        c[4] + fx * e[2],
        c[6] + fx * e[3],
    )
    b0, b1 = a0 + fy * (a1 - a0), a2 + fy * (a3 - a2)
    integral = torch.where(used, b0 + fz * (b1 - b0), 0).sum(-1) * step
    if not sums:
        return integral
    h0, h1 = e[0] + fy * (e[1] - e[0]), e[2] + fy * (e[3] - e[2])
    gradient = torch.stack([h0 + fz * (h1 - h0), (a1 - a0) + fz * ((a3 - a2) - (a1 - a0)), b1 - b0], -1)
    gradient = torch.where(used[..., None], gradient, 0) * step
    return integral, gradient.sum(1), (gradient * distance[..., None]).sum(1)


class TorchBackend:
    """The interface of WarpBackend, on torch. `dtype`, float32 or float64, is what it computes in and returns."""

    name = "torch"

    def __init__(
        self,
        mu: np.ndarray,
        step: float,
        device: str = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if device == "auto":
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
        try:
            self._mu = torch.as_tensor(mu, dtype=dtype).to(device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"The device {device!r} does not exist here: use auto or cpu.") from error
        self.device = device
        self._step = step

    def project(self, *arguments: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """As WarpBackend.project."""
        images, jacobians = self.project_torch(*arguments)
        return (
            images.cpu().numpy(),
            None if jacobians is None else jacobians.cpu().numpy(),
        )

    @torch.no_grad()
    def project_torch(
        self,
        camera: Any,
        poses: Any,
        pixels: Any,
        rays: int,
        columns: int,
        width: int,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As :meth:`project`, tensors on this device."""
        options: dict[str, Any] = {"dtype": self._mu.dtype, "device": self._mu.device}
        if pixels is None:
            number = torch.arange(rays, device=self._mu.device)
            pixels = torch.stack([number % columns, number // columns], -1)
        # Geometry in float64 as the kernels have it, but for devices without.
        wide = torch.float32 if str(self.device).startswith("mps") else torch.float64
        r, lengths = directions(
            torch.as_tensor(camera, dtype=wide, device=self._mu.device),
            torch.as_tensor(pixels, dtype=wide, device=self._mu.device),
        )
        r, lengths = r.to(self._mu.dtype), lengths.to(self._mu.dtype)
        images = torch.empty((len(poses), rays), **options)
        jacobians = torch.empty((len(poses), rays, width), **options) if width else None
        per_ray = max(1, int(sum(n**2 for n in self._mu.shape) ** 0.5 * 2))
        chunk = max(1, _CHUNK // per_ray)
        for b, pose in enumerate(poses):
            pose = torch.as_tensor(pose, **options)
            index_from_camera = torch.cat([pose[:9].reshape(3, 3), pose[9:12, None]], 1)
            for first in range(0, rays, chunk):
                part = slice(first, first + chunk)
                if jacobians is None:
                    images[b, part] = line_integrals(self._mu, index_from_camera, r[part], lengths[part], self._step)
                    continue
                image, g, w = line_integrals(
                    self._mu,
                    index_from_camera,
                    r[part],
                    lengths[part],
                    self._step,
                    True,
                )
                images[b, part] = image
                g, w = g @ index_from_camera[:, :3], w @ index_from_camera[:, :3]
                # Sliding along the ray changes no line integral (see warp_kernels).
                g = g - (g * r[part]).sum(-1, keepdim=True) * r[part]
                jacobians[b, part, :3] = torch.cross(pose[12:15].expand_as(g), g, dim=-1) - torch.cross(
                    r[part], w, dim=-1
                )
                jacobians[b, part, 3:6] = -g
                if width > 6:  # a pixel that moves turns its ray: samples keep their distance from the source
                    w = (w - (w * r[part]).sum(-1, keepdim=True) * r[part]) / lengths[part, None]
                    jacobians[b, part, 6] = w[:, 2]
                    jacobians[b, part, 7] = -float(camera[0]) * w[:, 0]
                    jacobians[b, part, 8] = -float(camera[1]) * w[:, 1]
        return images, jacobians


def project_torch(backend: Any, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a backend projects, as tensors on its device, without a copy."""
    if backend.name == "torch":
        return backend.project_torch(*arguments)
    *_, width = arguments
    if backend.device == "cpu":
        result, derivatives = backend.project(*arguments)
        return torch.from_numpy(result), None if derivatives is None else torch.from_numpy(derivatives)
    shape = (len(arguments[1]), arguments[3])
    images = torch.empty(shape, device=backend.device)
    jacobians = torch.empty((*shape, width), device=backend.device) if width else None
    stream = torch.cuda.current_stream(backend.device)
    backend.project_into(stream, images.data_ptr(), jacobians.data_ptr() if jacobians is not None else 0, arguments)
    return images, jacobians
